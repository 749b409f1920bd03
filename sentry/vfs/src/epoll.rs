//! epoll(7).
//!
//! An item registers once with its file's wait queues; a wake-up only puts the item's key in the ready set. Whether it is
//! really ready is asked of the file when events are collected, as Linux does. An item does not keep its file open: it
//! goes with the open file description.
//!
//! Locks (outer first): `NESTING` → `Core::items` (held while files are polled, so before any file's locks; a nested
//! epoll's comes after its parent's) → `Core::parents`; `Core::ready` is a leaf that wake-ups take. Nothing that a
//! wake-up does takes `items`.

mod nesting;
mod ready;
#[cfg(test)]
mod tests;

use crate::bounds::EPOLL_ITEMS;
use crate::wait::{Notify, Registration};
use crate::{File, FileOps, PollTable, WaitQueue};
use chitin_abi::Errno;
use chitin_abi::epoll::*;
use chitin_abi::fcntl::O_RDWR;
use chitin_abi::poll::{POLLIN, POLLRDNORM};
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use ready::Ready;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// Bits of an item that say how to report, not what (EP_PRIVATE_BITS).
const PRIVATE: u32 = EPOLLWAKEUP | EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE;
/// What may go with EPOLLEXCLUSIVE (EPOLLEXCLUSIVE_OK_BITS).
const EXCLUSIVE_OK: u32 = EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE;
/// Items that are taken from the ready queue at a time.
const BATCH: usize = 16;
/// Room for files under way that a thread keeps.
const KEPT: usize = 1024;
/// A descriptor number and the identity of the open file description behind it.
type Key = (i32, u64);

/// An epoll instance: the operations of its open file.
pub struct Epoll {
    core: Arc<Core>,
}

struct Core {
    items: Mutex<Items>,
    ready: Mutex<Ready>,
    /// Whoever waits for events: epoll_wait(2), and pollers of the epoll file.
    queue: WaitQueue,
    /// Epolls that watch this one, once for each item.
    parents: Mutex<Vec<Weak<Core>>>,
}

#[derive(Default)]
struct Items {
    map: HashMap<Key, Item, RandomState>,
    /// At this many items, those of closed files are swept out.
    sweep_at: usize,
}

struct Item {
    file: Weak<File>,
    hook: Arc<Hook>,
    data: u64,
    /// The events asked for, whether or not a one-shot has fired.
    asked: u32,
    /// The watched epoll, if it is one.
    nested: Option<Weak<Core>>,
    _registrations: Vec<Registration>,
}

/// What the file's wait queues hold of an item: no more than is needed to mark it ready.
struct Hook {
    /// A circle until the item is removed, with the epoll at the latest.
    core: Arc<Core>,
    key: Key,
    /// The events asked for with PRIVATE bits; only the latter when a one-shot has fired.
    events: AtomicU32,
    /// Place in the ready queue, 0 for none. Only looked at and changed under `Core::ready`.
    place: AtomicU64,
}

/// One line of /proc/PID/fdinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpollItemInfo {
    pub fd: i32,
    pub events: u32,
    pub data: u64,
    pub ino: u64,
}

impl Notify for Hook {
    fn notify(&self, events: u32) {
        let wanted = self.events.load(Ordering::Relaxed);
        if wanted & !PRIVATE == 0 || (events != 0 && events & wanted == 0) {
            return;
        }
        self.core.mark(self);
        // Who waits looks under `Core::ready`.
        self.core.queue.wake_if_any(POLLIN | POLLRDNORM);
    }
}

thread_local! {
    /// Kept for the next [`Epoll::collect`].
    static HELD: Cell<Vec<Arc<File>>> = const { Cell::new(Vec::new()) };
}

impl Hook {
    fn place(&self) -> u64 {
        self.place.load(Ordering::Relaxed)
    }
    fn set_place(&self, place: u64) {
        self.place.store(place, Ordering::Relaxed);
    }
}

impl Core {
    /// Puts an item at the end of the ready queue, if it is not in it.
    fn mark(&self, hook: &Hook) {
        let mut ready = self.ready.lock();
        if hook.place() == 0 {
            hook.set_place(ready.push(hook.key));
        }
    }

    fn unmark(&self, hook: &Hook) {
        let mut ready = self.ready.lock();
        if hook.place() != 0 {
            ready.remove(hook.place());
            hook.set_place(0);
        }
    }

    /// Takes the first of the ready queue that was queued up to `last`: its place, key and, if it is still there, item.
    fn pop<'a>(&self, items: &'a Items, last: u64) -> Option<(u64, Key, Option<&'a Item>)> {
        let mut ready = self.ready.lock();
        let (place, key) = ready.pop(last)?;
        let item = items.map.get(&key);
        if let Some(item) = item {
            item.hook.set_place(0);
        }
        Some((place, key, item))
    }

    /// As [`Core::pop`] for as many as there is room for; answers how many.
    fn pop_many(&self, items: &Items, last: &mut Option<u64>, keys: &mut [Key]) -> usize {
        let mut ready = self.ready.lock();
        let last = *last.get_or_insert(ready.last());
        let mut count = 0;
        for slot in keys {
            let Some((_, key)) = ready.pop(last) else { break };
            if let Some(item) = items.map.get(&key) {
                item.hook.set_place(0);
            }
            *slot = key;
            count += 1;
        }
        count
    }

    /// Removes items; the caller drops what it gets without holding locks.
    fn remove(&self, items: &mut Items, key: Key) -> Option<Item> {
        let mut item = items.map.remove(&key)?;
        EPOLL_ITEMS.give(1);
        // Nobody may mark it after it was unmarked.
        item._registrations.clear();
        self.unmark(&item.hook);
        if let Some(nested) = item.nested.as_ref().and_then(Weak::upgrade) {
            nested.remove_parent(self);
        }
        Some(item)
    }

    fn remove_parent(&self, parent: &Core) {
        let mut parents = self.parents.lock();
        if let Some(at) = parents.iter().position(|other| std::ptr::eq(other.as_ptr(), parent)) {
            parents.swap_remove(at);
        }
    }

    /// Drops the items of files that were closed.
    fn sweep(&self, items: &mut Items) {
        let dead: Vec<Key> =
            items.map.iter().filter(|(_, item)| item.file.strong_count() == 0).map(|(key, _)| *key).collect();
        for key in dead {
            self.remove(items, key);
        }
        items.sweep_at = (items.map.len() * 2).max(64);
    }
}

impl Epoll {
    #[allow(clippy::new_ret_no_self)]
    pub fn new() -> Arc<Epoll> {
        Arc::new(Epoll {
            core: Arc::new(Core {
                items: Mutex::default(),
                ready: Mutex::default(),
                queue: WaitQueue::new(),
                parents: Mutex::default(),
            }),
        })
    }

    /// epoll_create1(2): an open file. EINVAL for unknown flags.
    pub fn open(flags: u32) -> Result<Arc<File>, Errno> {
        if flags & !EPOLL_CLOEXEC != 0 {
            return Err(Errno::EINVAL);
        }
        Ok(File::anon(Epoll::new(), "[eventpoll]", O_RDWR))
    }

    /// epoll_ctl(2) for the file that `fd` stands for. EBADF is the caller's; DEL ignores `event`.
    pub fn ctl(&self, op: u32, fd: i32, file: &Arc<File>, event: EpollEvent) -> Result<(), Errno> {
        if file.is_path_only() {
            return Err(Errno::EBADF);
        }
        if !file.ops().pollable() {
            return Err(Errno::EPERM);
        }
        let nested = file.downcast::<Epoll>();
        if nested.is_some_and(|nested| Arc::ptr_eq(&nested.core, &self.core)) {
            return Err(Errno::EINVAL);
        }
        // Nobody may keep this machine awake.
        let events = event.events & !EPOLLWAKEUP;
        if matches!(op, EPOLL_CTL_ADD | EPOLL_CTL_MOD) && events & EPOLLEXCLUSIVE != 0 {
            let fine = op == EPOLL_CTL_ADD && nested.is_none() && events & !EXCLUSIVE_OK == 0;
            if !fine {
                return Err(Errno::EINVAL);
            }
        }
        let events = events | EPOLLERR | EPOLLHUP;
        let key = (fd, file.id());
        match op {
            EPOLL_CTL_ADD => self.add(key, file, nested, events, event.data),
            EPOLL_CTL_MOD => self.modify(key, file, events, event.data),
            EPOLL_CTL_DEL => {
                let mut items = self.core.items.lock();
                let removed = self.core.remove(&mut items, key);
                drop(items);
                removed.map(|_| ()).ok_or(Errno::ENOENT)
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn add(
        &self,
        key: Key,
        file: &Arc<File>,
        nested: Option<&Epoll>,
        events: u32,
        data: u64,
    ) -> Result<(), Errno> {
        let _nesting = match nested {
            Some(nested) => Some(nesting::enter(&self.core, &nested.core)?),
            None => None,
        };
        let mut items = self.core.items.lock();
        if items.map.contains_key(&key) {
            return Err(Errno::EEXIST);
        }
        if items.map.len() >= items.sweep_at {
            self.core.sweep(&mut items);
        }
        if !EPOLL_ITEMS.take(1) {
            return Err(Errno::ENOSPC);
        }
        if let Some(nested) = nested {
            nested.core.parents.lock().push(Arc::downgrade(&self.core));
        }
        let hook = Arc::new(Hook {
            core: self.core.clone(),
            key,
            events: AtomicU32::new(events),
            place: AtomicU64::new(0),
        });
        let mut table = PollTable::new(hook.clone());
        let ready = file.ops().poll(Some(&mut table)) & events != 0;
        let item = Item {
            file: Arc::downgrade(file),
            hook: hook.clone(),
            data,
            asked: events,
            nested: nested.map(|nested| Arc::downgrade(&nested.core)),
            _registrations: table.into_registrations(),
        };
        items.map.insert(key, item);
        if ready {
            self.core.mark(&hook);
        }
        drop(items);
        if ready {
            self.core.queue.wake_if_any(POLLIN | POLLRDNORM);
        }
        Ok(())
    }

    fn modify(&self, key: Key, file: &Arc<File>, events: u32, data: u64) -> Result<(), Errno> {
        let mut items = self.core.items.lock();
        let item = items.map.get_mut(&key).ok_or(Errno::ENOENT)?;
        if item.hook.events.load(Ordering::Relaxed) & EPOLLEXCLUSIVE != 0 {
            return Err(Errno::EINVAL);
        }
        item.data = data;
        item.asked = events;
        // First the new interest, then the look: an event in between marks the item itself.
        item.hook.events.store(events, Ordering::SeqCst);
        let ready = file.ops().poll(None) & events != 0;
        if ready {
            self.core.mark(&item.hook);
        }
        drop(items);
        if ready {
            self.core.queue.wake_if_any(POLLIN | POLLRDNORM);
        }
        Ok(())
    }

    /// Adds up to `max` events that are there now, without waiting; to wait, `wait::ready` on this file for POLLIN.
    pub fn collect(&self, max: usize, out: &mut Vec<EpollEvent>) {
        // Files are let go only after the lock: ours may be the last reference.
        let mut held = HELD.take();
        let mut items = self.core.items.lock();
        let mut last = None;
        let mut keys = [(0, 0); BATCH];
        let end = out.len().saturating_add(max);
        loop {
            let room = keys.get_mut(..end.saturating_sub(out.len()).min(BATCH)).unwrap_or_default();
            let asked = room.len();
            let count = self.core.pop_many(&items, &mut last, room);
            for &key in keys.iter().take(count) {
                self.collect_one(&mut items, key, &mut held, out);
            }
            if asked == 0 || count < asked {
                break;
            }
        }
        drop(items);
        held.clear();
        if held.capacity() <= KEPT {
            HELD.set(held);
        }
    }

    /// The event of an item that has been taken from the ready queue, if there is one.
    fn collect_one(&self, items: &mut Items, key: Key, held: &mut Vec<Arc<File>>, out: &mut Vec<EpollEvent>) {
        let Some(item) = items.map.get(&key) else { return };
        let Some(file) = item.file.upgrade() else {
            self.core.remove(items, key);
            return;
        };
        let wanted = item.hook.events.load(Ordering::Relaxed);
        let shown = file.ops().poll(None) & wanted & !PRIVATE;
        held.push(file);
        if shown == 0 {
            return;
        }
        out.push(EpollEvent { events: shown, data: item.data });
        if wanted & EPOLLONESHOT != 0 {
            item.hook.events.store(wanted & PRIVATE, Ordering::Relaxed);
        } else if wanted & EPOLLET == 0 {
            // Level-triggered items stay, behind those that had no turn.
            self.core.mark(&item.hook);
        }
    }

    /// Takes back events that could not be stored in user memory: their items are looked at again next time.
    pub fn put_back(&self, events: &[EpollEvent]) {
        let data: HashSet<u64> = events.iter().map(|event| event.data).collect();
        let items = self.core.items.lock();
        for item in items.map.values().filter(|item| data.contains(&item.data)) {
            item.hook.events.store(item.asked, Ordering::Relaxed);
            self.core.mark(&item.hook);
        }
    }

    /// The items, for /proc/PID/fdinfo.
    pub fn items(&self) -> Vec<EpollItemInfo> {
        let items = self.core.items.lock();
        let mut found: Vec<(Arc<File>, EpollItemInfo)> = Vec::new();
        for (&(fd, _), item) in &items.map {
            if let Some(file) = item.file.upgrade() {
                let events = item.hook.events.load(Ordering::Relaxed);
                let ino = file.inode().ino();
                found.push((file, EpollItemInfo { fd, events, data: item.data, ino }));
            }
        }
        drop(items);
        let mut infos: Vec<EpollItemInfo> = found.into_iter().map(|(_, info)| info).collect();
        infos.sort_by_key(|info| info.fd);
        infos
    }
}

impl FileOps for Epoll {
    fn poll(&self, table: Option<&mut PollTable>) -> u32 {
        if let Some(table) = table {
            table.add(&self.core.queue);
        }
        let mut held = Vec::new();
        let mut items = self.core.items.lock();
        let last = self.core.ready.lock().last();
        let mut mask = 0;
        // What turns out not to be ready leaves the queue; the first that is goes back to where it was. All are taken out
        // before the look, so that an event in between marks them again.
        while let Some((place, key, item)) = self.core.pop(&items, last) {
            let Some(item) = item else { continue };
            let Some(file) = item.file.upgrade() else {
                self.core.remove(&mut items, key);
                continue;
            };
            let shown = file.ops().poll(None) & item.hook.events.load(Ordering::Relaxed) & !PRIVATE;
            held.push(file);
            if shown != 0 {
                let mut ready = self.core.ready.lock();
                ready.remove(item.hook.place());
                ready.put_back(place, key);
                item.hook.set_place(place);
                mask = POLLIN | POLLRDNORM;
                break;
            }
        }
        drop(items);
        drop(held);
        mask
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        // Not left to `Core`: a wake-up under way may hold it last, in the midst of a wait queue.
        let mut items = self.core.items.lock();
        let keys: Vec<Key> = items.map.keys().copied().collect();
        for key in keys {
            self.core.remove(&mut items, key);
        }
    }
}
