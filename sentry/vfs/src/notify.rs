//! inotify(7): watches on inodes and the events that the VFS sends them.
//!
//! Neighbours: `file.rs` and `ops` call the hooks ([`inode_event`], [`dir_event`], [`self_event`]), which cost one atomic
//! load while nobody watches anything. A watch keeps its inode alive; the inode's list refers to the instance weakly.
//!
//! Locks (outer first): `Core::watches` → `InodeWatches::list` → `Core::events`. The hooks take one at a time, and no
//! inode is let go while one is held.

mod events;
#[cfg(test)]
mod tests;

use crate::bounds::WATCHES;
use crate::{File, FileKind, FileOps, Inode, InodeState, Path, PollTable, WaitQueue};
use chitin_abi::Errno;
use chitin_abi::fcntl::{O_NONBLOCK, O_RDONLY};
use chitin_abi::inotify::*;
use chitin_abi::poll::{POLLIN, POLLRDNORM};
use chitin_mm::Sink;
use events::Queue;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// Events an instance holds before it overflows (fs.inotify.max_queued_events).
const MAX_EVENTS: usize = 16384;
/// Instances in the whole sandbox (fs.inotify.max_user_instances).
const MAX_INSTANCES: usize = 128;

static INSTANCES: AtomicUsize = AtomicUsize::new(0);

/// Bits that a watch mask may have.
const VALID: u32 = IN_ALL_EVENTS
    | IN_UNMOUNT
    | IN_Q_OVERFLOW
    | IN_IGNORED
    | IN_ONLYDIR
    | IN_DONT_FOLLOW
    | IN_EXCL_UNLINK
    | IN_MASK_ADD
    | IN_MASK_CREATE
    | IN_ISDIR
    | IN_ONESHOT;
/// What is kept of it.
const KEPT: u32 = IN_ALL_EVENTS | IN_EXCL_UNLINK | IN_ONESHOT;

/// The watches on one inode.
#[derive(Default)]
pub struct InodeWatches {
    list: Mutex<Vec<Arc<Watch>>>,
}

struct Watch {
    core: Weak<Core>,
    wd: i32,
    mask: AtomicU32,
    /// A one-shot watch has fired, or the watch was removed: no events any more.
    spent: AtomicBool,
}

/// An inotify instance: the operations of its open file.
pub struct Inotify {
    core: Arc<Core>,
}

struct Core {
    watches: Mutex<Watches>,
    events: Mutex<Queue>,
    queue: WaitQueue,
}

#[derive(Default)]
struct Watches {
    last: i32,
    map: HashMap<i32, (Arc<Watch>, Arc<dyn Inode>)>,
}

/// One line of /proc/PID/fdinfo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchInfo {
    pub wd: i32,
    pub ino: u64,
    pub dev: u64,
    pub mask: u32,
}

impl Core {
    fn send(&self, wd: i32, mask: u32, cookie: u32, name: &[u8]) {
        if self.events.lock().push(wd, mask, cookie, name) {
            self.queue.wake(POLLIN | POLLRDNORM);
        }
    }

    /// Takes a watch away and says so with IN_IGNORED. EINVAL when there is none.
    fn remove(&self, wd: i32) -> Result<(), Errno> {
        let removed = self.watches.lock().map.remove(&wd);
        let (watch, inode) = removed.ok_or(Errno::EINVAL)?;
        detach(&watch, &inode);
        self.send(wd, IN_IGNORED, 0, b"");
        Ok(())
    }
}

fn detach(watch: &Arc<Watch>, inode: &Arc<dyn Inode>) {
    WATCHES.give(1);
    watch.spent.store(true, Ordering::Relaxed);
    if let Some(extras) = inode.state().extras_if_any() {
        extras.watches.list.lock().retain(|other| !Arc::ptr_eq(other, watch));
    }
}

impl Inotify {
    /// EMFILE when there are too many instances.
    #[allow(clippy::new_ret_no_self)]
    pub fn new() -> Result<Arc<Inotify>, Errno> {
        if INSTANCES.fetch_add(1, Ordering::Relaxed) >= MAX_INSTANCES {
            INSTANCES.fetch_sub(1, Ordering::Relaxed);
            return Err(Errno::EMFILE);
        }
        let core = Core {
            watches: Mutex::default(),
            events: Mutex::new(Queue::new(MAX_EVENTS)),
            queue: WaitQueue::new(),
        };
        Ok(Arc::new(Inotify { core: Arc::new(core) }))
    }

    /// inotify_init1(2): an open file. EINVAL for unknown flags.
    pub fn open(flags: u32) -> Result<Arc<File>, Errno> {
        if flags & !(IN_CLOEXEC | IN_NONBLOCK) != 0 {
            return Err(Errno::EINVAL);
        }
        Ok(File::anon(Inotify::new()?, "inotify", O_RDONLY | (flags & O_NONBLOCK)))
    }

    /// Whether inotify_add_watch(2) takes this mask; to be asked before the path is walked (with IN_ONLYDIR and
    /// IN_DONT_FOLLOW, which are the walk's).
    pub fn check_mask(mask: u32) -> Result<(), Errno> {
        let both = IN_MASK_ADD | IN_MASK_CREATE;
        if mask & !VALID != 0 || mask & VALID == 0 || mask & both == both {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// inotify_add_watch(2): the watch descriptor. The caller has walked the path and checked read permission.
    pub fn add_watch(&self, inode: &Arc<dyn Inode>, mask: u32) -> Result<i32, Errno> {
        Inotify::check_mask(mask)?;
        let mut watches = self.core.watches.lock();
        let mut list = inode.state().extras().watches.list.lock();
        let mine = |watch: &&Arc<Watch>| std::ptr::eq(watch.core.as_ptr(), Arc::as_ptr(&self.core));
        if let Some(watch) = list.iter().find(mine) {
            if mask & IN_MASK_CREATE != 0 {
                return Err(Errno::EEXIST);
            }
            let old = if mask & IN_MASK_ADD != 0 { watch.mask.load(Ordering::Relaxed) } else { 0 };
            watch.mask.store(old | (mask & KEPT), Ordering::Relaxed);
            return Ok(watch.wd);
        }
        if !WATCHES.take(1) {
            return Err(Errno::ENOSPC);
        }
        // Descriptors go up and around, so that an old one is not soon another watch.
        let mut wd = watches.last;
        loop {
            wd = if wd == i32::MAX { 1 } else { wd + 1 };
            if !watches.map.contains_key(&wd) {
                break;
            }
        }
        watches.last = wd;
        let watch = Arc::new(Watch {
            core: Arc::downgrade(&self.core),
            wd,
            mask: AtomicU32::new(mask & KEPT),
            spent: AtomicBool::new(false),
        });
        list.push(watch.clone());
        watches.map.insert(wd, (watch, inode.clone()));
        Ok(wd)
    }

    /// inotify_rm_watch(2): EINVAL when there is no such watch; the reader gets IN_IGNORED.
    pub fn rm_watch(&self, wd: i32) -> Result<(), Errno> {
        self.core.remove(wd)
    }

    /// The watches, for /proc/PID/fdinfo.
    pub fn watches(&self) -> Vec<WatchInfo> {
        let entries: Vec<_> = self.core.watches.lock().map.values().cloned().collect();
        let mut infos: Vec<WatchInfo> = entries
            .iter()
            .map(|(watch, inode)| WatchInfo {
                wd: watch.wd,
                ino: inode.ino(),
                dev: inode.attr().map_or(0, |attr| attr.dev),
                mask: watch.mask.load(Ordering::Relaxed),
            })
            .collect();
        infos.sort_by_key(|info| info.wd);
        infos
    }
}

impl FileOps for Inotify {
    fn read(&self, _pos: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        self.core.events.lock().read(dst)
    }

    fn signals(&self) -> bool {
        true
    }

    fn poll(&self, table: Option<&mut PollTable>) -> u32 {
        if let Some(table) = table {
            table.add(&self.core.queue);
        }
        if self.core.events.lock().is_empty() { 0 } else { POLLIN | POLLRDNORM }
    }

    fn readable_bytes(&self) -> Result<u64, Errno> {
        Ok(self.core.events.lock().bytes())
    }
}

impl Drop for Inotify {
    fn drop(&mut self) {
        // Not left to `Core`: an event under way may hold it last, in the midst of the VFS.
        let watches = std::mem::take(&mut self.core.watches.lock().map);
        for (watch, inode) in watches.into_values() {
            detach(&watch, &inode);
        }
        INSTANCES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sends an event to the watches of one inode. `unlinked`: it happened to a child whose name is gone.
fn send(state: &InodeState, event: u32, cookie: u32, name: &[u8], unlinked: bool) {
    let Some(extras) = state.extras_if_any() else { return };
    let kind = event & (IN_ALL_EVENTS | IN_UNMOUNT);
    let watching: Vec<Arc<Watch>> = {
        let list = extras.watches.list.lock();
        let wants = |watch: &&Arc<Watch>| {
            let mask = watch.mask.load(Ordering::Relaxed) | IN_UNMOUNT;
            kind & mask != 0 && !(unlinked && mask & IN_EXCL_UNLINK != 0)
        };
        list.iter().filter(wants).cloned().collect()
    };
    for watch in watching {
        let Some(core) = watch.core.upgrade() else { continue };
        let one_shot = watch.mask.load(Ordering::Relaxed) & IN_ONESHOT != 0;
        let spent = if one_shot {
            watch.spent.swap(true, Ordering::Relaxed)
        } else {
            watch.spent.load(Ordering::Relaxed)
        };
        if spent {
            continue;
        }
        core.send(watch.wd, event, cookie, name);
        if one_shot {
            let _gone_already = core.remove(watch.wd);
        }
    }
}

/// Tells the watches of an inode, and of the directory that `path` lies in, about one event.
pub fn inode_event(state: &InodeState, path: Option<&Path>, event: u32) {
    if WATCHES.used() == 0 {
        return;
    }
    let mut event = event;
    if let Some(path) = path {
        if path.inode().kind() == FileKind::Directory {
            event |= IN_ISDIR;
        }
        let (name, parent) = path.dentry.place();
        if let Some(parent) = parent {
            send(parent.inode().state(), event, 0, &name, path.dentry.is_dead());
        }
    }
    send(state, event, 0, b"", false);
}

/// Tells the watches of a directory about one of its names: IN_CREATE, IN_DELETE, IN_MOVED_FROM, IN_MOVED_TO (these two
/// share a `cookie`), with IN_ISDIR where the name is a directory's.
pub fn dir_event(dir: &Arc<dyn Inode>, name: &[u8], event: u32, cookie: u32) {
    if WATCHES.used() == 0 {
        return;
    }
    send(dir.state(), event, cookie, name, false);
}

/// Tells the watches of an inode what became of it: IN_ATTRIB, IN_MOVE_SELF, IN_DELETE_SELF, IN_UNMOUNT, one event for
/// each bit. After the last two the watches are gone (IN_IGNORED).
pub fn self_event(inode: &Arc<dyn Inode>, events: u32) {
    if WATCHES.used() == 0 {
        return;
    }
    // Linux adds IN_ISDIR only to events that may come with a directory's name.
    let dir = if inode.kind() == FileKind::Directory { IN_ISDIR } else { 0 };
    for bit in [IN_ATTRIB, IN_MOVE_SELF, IN_DELETE_SELF, IN_UNMOUNT] {
        if events & bit != 0 {
            send(inode.state(), bit | if bit == IN_ATTRIB { dir } else { 0 }, 0, b"", false);
        }
    }
    if events & (IN_DELETE_SELF | IN_UNMOUNT) != 0
        && let Some(extras) = inode.state().extras_if_any()
    {
        let watches = extras.watches.list.lock().clone();
        for watch in watches {
            if let Some(core) = watch.core.upgrade() {
                let _gone_already = core.remove(watch.wd);
            }
        }
    }
}
