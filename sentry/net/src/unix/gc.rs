//! Descriptors on their way (SCM_RIGHTS): how many there are, and those that nobody can ever receive.
//!
//! A socket whose only references lie in queues of sockets of the same kind is garbage: nobody can receive it. Reference
//! counts alone never free a cycle of such, so from time to time [`collect`] finds them:
//!
//! 1. Candidates are sockets all of whose references are on their way.
//! 2. Each candidate's queue is looked through once; the references found are edges between candidates.
//! 3. A candidate with more references on their way than edges lead to it is in a queue that can be read; so is what
//!    hangs on it. The rest is garbage, and its queues' descriptors are dropped.
//!
//! The list is locked meanwhile, and nothing enters or leaves it: a descriptor is listed before it is queued, and
//! unlisted after it was taken out. So whatever moves during the collection counts as reachable.
//!
//! Locks: the list (`LIST`) is taken before any socket's state.

use super::{UnixSock, of_file};
use chitin_abi::Errno;
use chitin_vfs::File;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Weak};

/// Descriptors on their way in the whole sandbox: descriptor limits do not bound them, so something must.
const TOTAL_LIMIT: usize = 1 << 16;

#[derive(Default)]
struct List {
    /// AF_UNIX sockets on their way, by address.
    sockets: HashMap<usize, Entry>,
    /// Descriptors on their way, by user.
    users: HashMap<u32, usize>,
    total: usize,
    /// Sockets closed since the last collection, and sockets it left.
    closed: usize,
    left: usize,
}

struct Entry {
    sock: Weak<UnixSock>,
    file: Weak<File>,
    count: usize,
}

static LIST: LazyLock<Mutex<List>> = LazyLock::new(Mutex::default);

fn key(sock: &UnixSock) -> usize {
    std::ptr::from_ref(sock).addr()
}

/// Descriptors that lie in queues, in the whole sandbox.
pub fn in_flight() -> usize {
    LIST.lock().total
}

/// Descriptors in a message. Dropping it drops them.
pub(super) struct Rights {
    files: Vec<Arc<File>>,
    user: u32,
}

impl Rights {
    /// Lists `files`, which are left empty: ETOOMANYREFS, and left alone, if the user has too many on their way.
    pub fn register(files: &mut Vec<Arc<File>>, user: u32, limit: usize) -> Result<Rights, Errno> {
        let mut list = LIST.lock();
        let total = list.total.saturating_add(files.len());
        if total > TOTAL_LIMIT || list.users.get(&user).is_some_and(|&count| count > limit) {
            return Err(Errno::ETOOMANYREFS);
        }
        list.total = total;
        let count = list.users.entry(user).or_default();
        *count = count.saturating_add(files.len());
        for file in files.iter() {
            let Some(sock) = of_file(file) else { continue };
            let new = || Entry { sock: sock.me.clone(), file: Arc::downgrade(file), count: 0 };
            list.sockets.entry(key(sock)).or_insert_with(new).count += 1;
        }
        Ok(Rights { files: std::mem::take(files), user })
    }

    pub fn files(&self) -> &[Arc<File>] {
        &self.files
    }

    /// The files, no longer on their way.
    pub fn take(mut self) -> Vec<Arc<File>> {
        self.unlist();
        std::mem::take(&mut self.files)
    }

    fn unlist(&self) {
        let mut list = LIST.lock();
        list.total = list.total.saturating_sub(self.files.len());
        if let Some(count) = list.users.get_mut(&self.user) {
            *count = count.saturating_sub(self.files.len());
            if *count == 0 {
                list.users.remove(&self.user);
            }
        }
        for sock in self.files.iter().filter_map(|file| of_file(file)) {
            if let Some(entry) = list.sockets.get_mut(&key(sock)) {
                entry.count = entry.count.saturating_sub(1);
                if entry.count == 0 {
                    list.sockets.remove(&key(sock));
                }
            }
        }
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        if !self.files.is_empty() {
            self.unlist();
            crate::trash::discard(std::mem::take(&mut self.files));
        }
    }
}

/// A socket was closed: collects if enough happened since the last time to be worth the look.
pub(super) fn hint() {
    {
        let mut list = LIST.lock();
        if list.sockets.is_empty() {
            return;
        }
        list.closed += 1;
        if list.closed < list.left {
            return;
        }
        list.closed = 0;
    }
    collect();
}

struct Candidate {
    sock: Arc<UnixSock>,
    count: usize,
    /// References found in candidates' queues.
    found: usize,
    edges: Vec<usize>,
    live: bool,
}

/// Drops the descriptors that nobody can receive any more.
fn collect() {
    let mut garbage = Vec::new();
    let candidates = {
        let mut list = LIST.lock();
        let mut candidates: HashMap<usize, Candidate> = HashMap::new();
        for (&key, entry) in &list.sockets {
            if entry.file.strong_count() == entry.count
                && let Some(sock) = entry.sock.upgrade()
            {
                let new = Candidate { sock, count: entry.count, found: 0, edges: Vec::new(), live: false };
                candidates.insert(key, new);
            }
        }
        let keys: Vec<usize> = candidates.keys().copied().collect();
        for key in keys {
            let Some(sock) = candidates.get(&key).map(|one| one.sock.clone()) else { continue };
            let edges = sock.sockets_queued();
            for edge in &edges {
                if let Some(target) = candidates.get_mut(edge) {
                    target.found += 1;
                }
            }
            if let Some(one) = candidates.get_mut(&key) {
                one.edges = edges;
            }
        }
        let reachable = candidates.iter().filter(|(_, one)| one.found < one.count);
        let mut todo: Vec<usize> = reachable.map(|(&key, _)| key).collect();
        while let Some(key) = todo.pop() {
            if let Some(one) = candidates.get_mut(&key)
                && !one.live
            {
                one.live = true;
                todo.extend_from_slice(&one.edges);
            }
        }
        let mut dead = 0usize;
        for one in candidates.values().filter(|one| !one.live) {
            dead += 1;
            one.sock.take_rights(&mut garbage);
        }
        list.left = list.sockets.len().saturating_sub(dead);
        candidates
    };
    drop(candidates);
    drop(garbage);
}

impl UnixSock {
    /// Itself and the connections that wait to be accepted, whose queues count as its own.
    fn each_queue(&self, visit: &mut dyn FnMut(&mut super::State)) {
        let pending: Vec<Arc<UnixSock>> = {
            let mut state = self.state.lock();
            visit(&mut state);
            state.pending.iter().cloned().collect()
        };
        for embryo in pending {
            visit(&mut embryo.state.lock());
        }
    }

    /// The AF_UNIX sockets in its queues, by address; one found twice is there twice.
    fn sockets_queued(&self) -> Vec<usize> {
        let mut found = Vec::new();
        self.each_queue(&mut |state| {
            let rights = state.queue.iter().filter_map(|message| message.rights.as_ref());
            found.extend(rights.flat_map(Rights::files).filter_map(|file| of_file(file)).map(key));
        });
        found
    }

    /// Takes all descriptors out of its queues.
    fn take_rights(&self, out: &mut Vec<Rights>) {
        self.each_queue(&mut |state| {
            for message in &mut state.queue {
                out.extend(message.rights.take());
            }
        });
    }
}
