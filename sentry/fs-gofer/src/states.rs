//! What the VFS hangs on a file, shared by all containers that see it.
//!
//! Two containers of a pod have the same directory of the host mounted, each through a gofer and with inodes of its own. A
//! FIFO in it is one FIFO all the same, and so are a bound socket, locks and watches: in trees that others may change
//! (bind mounts), inodes of the same host file have one [`InodeState`] between them. Files are told apart by device, number
//! and birth, since numbers are used again.
//!
//! Lock: the table's, a leaf.

use chitin_gofer_protocol::Attr;
use chitin_vfs::InodeState;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

type Key = (u64, u64, (i64, u32));

/// One sentry is one sandbox, so one table is enough.
static SHARED: Mutex<BTreeMap<Key, Weak<InodeState>>> = Mutex::new(BTreeMap::new());

/// An inode's state, which goes from the table with the last inode that has it.
pub struct State {
    state: Arc<InodeState>,
    key: Option<Key>,
}

impl State {
    /// `shared`: that of all who see the file.
    pub fn of(attr: &Attr, shared: bool) -> State {
        if !shared {
            return State { state: Arc::default(), key: None };
        }
        let key = key(attr);
        let mut table = SHARED.lock();
        let known = table.get(&key).and_then(Weak::upgrade);
        let state = known.unwrap_or_else(|| {
            let new = Arc::default();
            table.insert(key, Arc::downgrade(&new));
            new
        });
        State { state, key: Some(key) }
    }

    pub fn get(&self) -> &InodeState {
        &self.state
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let mine = std::mem::take(&mut self.state);
        let mut table = SHARED.lock();
        // Nobody can take another one meanwhile, or let one go.
        if Arc::strong_count(&mine) == 1 {
            table.remove(&key);
            drop(table);
            drop(mine);
        } else {
            drop(mine);
            drop(table);
        }
    }
}

fn key(attr: &Attr) -> Key {
    (attr.dev, attr.ino, (attr.btime.sec, attr.btime.nsec))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attr(ino: u64, born: i64) -> Attr {
        let mut attr = Attr { dev: u64::MAX, ino, ..Attr::default() };
        attr.btime.sec = born;
        attr
    }

    #[test]
    fn one_file_has_one_state_as_long_as_anybody_has_it() {
        let same = |a: &State, b: &State| std::ptr::eq(a.get(), b.get());
        let (a, b) = (State::of(&attr(1, 5), true), State::of(&attr(1, 5), true));
        assert!(same(&a, &b));
        // Another file under the same number, another number, a tree of one's own.
        assert!(!same(&a, &State::of(&attr(1, 6), true)));
        assert!(!same(&a, &State::of(&attr(2, 5), true)));
        assert!(!same(&a, &State::of(&attr(1, 5), false)));
        drop(a);
        assert!(SHARED.lock().contains_key(&key(&attr(1, 5))));
        drop(b);
        assert!(
            !SHARED.lock().keys().any(|(dev, ..)| *dev == u64::MAX),
            "what nobody has stays in the table"
        );
    }
}
