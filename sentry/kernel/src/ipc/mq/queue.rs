//! One POSIX message queue: an inode, its messages, and who wants to be told.

use crate::signal::send_to_process;
use crate::{Process, Task};
use chitin_abi::Errno;
use chitin_abi::ipc::*;
use chitin_abi::poll::{POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM};
use chitin_abi::signal::{SI_MESGQ, SIGEV_NONE, SIGEV_SIGNAL, SIGEV_THREAD, SigInfo};
use chitin_mm::Sink;
use chitin_vfs::bounds::{MESSAGE_BYTES, MQUEUE_BYTES, MQUEUES, Share};
use chitin_vfs::{Attr, FileKind, FileOps, Inode, InodeState, PollTable, SetAttr, WaitQueue};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// What stat(2) shows as the size (FILENT_SIZE).
const TEXT_SIZE: usize = 80;
/// What a message takes up beside its text, and a priority of its own (`struct msg_msg`, `struct posix_msg_tree_node`).
const HEAD: usize = 48;
const NODE: usize = 48;

/// How many messages, and of what size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub count: usize,
    pub size: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { count: DFLT_MSGMAX as usize, size: DFLT_MSGSIZEMAX as usize }
    }
}

impl Limits {
    /// What RLIMIT_MSGQUEUE counts.
    fn bytes(&self) -> usize {
        let heads = self.count.saturating_mul(HEAD);
        let nodes = self.count.min(MQ_PRIO_MAX as usize).saturating_mul(NODE);
        self.count.saturating_mul(self.size).saturating_add(heads).saturating_add(nodes)
    }
}

/// Who makes a queue.
pub(super) struct Maker {
    /// Whose RLIMIT_MSGQUEUE it counts to.
    pub user: u32,
    pub uid: u32,
    pub gid: u32,
    pub allowed: u64,
    /// CAP_SYS_RESOURCE.
    pub unbounded: bool,
}

/// A message, and its part of what all messages may take up.
pub(super) struct Message {
    pub text: Vec<u8>,
    _share: Option<Share>,
}

impl Message {
    /// ENOMEM beyond what the sandbox's messages may take up.
    pub fn new(text: Vec<u8>) -> Result<Message, Errno> {
        let share = MESSAGE_BYTES.share(text.len().saturating_add(HEAD)).ok_or(Errno::ENOMEM)?;
        Ok(Message { text, _share: Some(share) })
    }
}

/// How a process wants to be told of a message in an empty queue.
#[derive(Clone)]
pub enum Notify {
    Nothing,
    Signal {
        number: u32,
        value: u64,
    },
    /// A netlink socket takes the cookie, its last byte saying what happened (NOTIFY_WOKENUP, NOTIFY_REMOVED).
    Thread {
        cookie: [u8; NOTIFY_COOKIE_LEN as usize],
        socket: Arc<dyn Fn(&[u8]) + Send + Sync>,
    },
}

impl Notify {
    fn tell(&self, code: u32) {
        if let Notify::Thread { cookie, socket } = self {
            let mut cookie = *cookie;
            if let Some(last) = cookie.last_mut() {
                *last = chitin_abi::num::low8(code);
            }
            socket(&cookie);
        }
    }

    /// SIGEV_* and the signal's number, as read(2) of the queue shows them.
    fn shown(&self) -> (u32, u32) {
        match self {
            Notify::Nothing => (SIGEV_NONE, 0),
            Notify::Signal { number, .. } => (SIGEV_SIGNAL, *number),
            Notify::Thread { .. } => (SIGEV_THREAD, 0),
        }
    }
}

/// A registration of mq_notify(2).
pub struct Notification {
    process: Weak<Process>,
    /// The descriptor table it was made from: a close of it takes the registration along.
    owner: u64,
    notify: Notify,
}

impl Notification {
    pub(super) fn new(task: &Arc<Task>, owner: u64, notify: Notify) -> Notification {
        Notification { process: Arc::downgrade(&task.process), owner, notify }
    }

    fn process(&self) -> Option<Arc<Process>> {
        self.process.upgrade().filter(|process| !process.is_zombie())
    }

    fn fire(&self, sender: &Task) {
        if let Notify::Signal { number, value } = self.notify
            && let Some(process) = self.process()
        {
            let pid = sender.process.pid_in(process.pid_ns());
            let info = SigInfo::queue(number, SI_MESGQ, pid, sender.creds().uid, value);
            send_to_process(&process, info);
        }
        self.notify.tell(NOTIFY_WOKENUP);
    }
}

#[derive(Default)]
struct State {
    /// By priority; no list is empty.
    messages: BTreeMap<u32, VecDeque<Message>>,
    count: usize,
    bytes: usize,
    notification: Option<Notification>,
}

pub(super) struct Queue {
    ino: u64,
    pub limits: Limits,
    user: u32,
    attr: Mutex<Attr>,
    state: Mutex<State>,
    inode: InodeState,
    /// Receivers that wait: a message for one of them is no news for who registered.
    waiting: AtomicUsize,
    pub senders: WaitQueue,
    pub receivers: WaitQueue,
}

impl Queue {
    /// EMFILE beyond the maker's RLIMIT_MSGQUEUE, ENOSPC beyond the number of queues of the sandbox.
    pub fn new(dev: u64, ino: u64, perm: u32, limits: Limits, maker: &Maker) -> Result<Arc<Queue>, Errno> {
        let mut attr = Attr::plain(dev, ino, FileKind::Regular, perm);
        (attr.uid, attr.gid, attr.size) = (maker.uid, maker.gid, TEXT_SIZE as u64);
        let now = crate::time::to_timespec(crate::time::realtime());
        (attr.atime, attr.mtime, attr.ctime, attr.btime) = (now, now, now, now);
        let bytes = limits.bytes();
        let total = MQUEUE_BYTES.add(maker.user, bytes);
        if u64::try_from(total).is_ok_and(|total| total > maker.allowed) {
            MQUEUE_BYTES.sub(maker.user, bytes);
            return Err(Errno::EMFILE);
        }
        if !MQUEUES.take(1) {
            MQUEUE_BYTES.sub(maker.user, bytes);
            return Err(Errno::ENOSPC);
        }
        Ok(Arc::new(Queue {
            ino,
            limits,
            user: maker.user,
            attr: Mutex::new(attr),
            state: Mutex::default(),
            inode: InodeState::default(),
            waiting: AtomicUsize::new(0),
            senders: WaitQueue::new(),
            receivers: WaitQueue::new(),
        }))
    }

    /// Takes the message out of `slot`; EAGAIN if the queue is full. Answers whether it was empty.
    pub fn put(&self, priority: u32, slot: &mut Option<Message>) -> Result<bool, Errno> {
        let mut state = self.state.lock();
        if state.count >= self.limits.count {
            return Err(Errno::EAGAIN);
        }
        let Some(message) = slot.take() else { return Ok(false) };
        let was_empty = state.count == 0;
        state.count = state.count.saturating_add(1);
        state.bytes = state.bytes.saturating_add(message.text.len());
        state.messages.entry(priority).or_default().push_back(message);
        Ok(was_empty)
    }

    /// The oldest message of the highest priority.
    pub fn take(&self) -> Option<(u32, Message)> {
        let mut state = self.state.lock();
        let mut list = state.messages.last_entry()?;
        let priority = *list.key();
        let message = list.get_mut().pop_front();
        if list.get().is_empty() {
            list.remove();
        }
        let message = message?;
        state.count = state.count.saturating_sub(1);
        state.bytes = state.bytes.saturating_sub(message.text.len());
        Some((priority, message))
    }

    /// After a [`Queue::put`] that `sender` made: wakes receivers, or tells who registered.
    pub fn arrived(&self, sender: &Task, was_empty: bool) {
        if was_empty && self.waiting.load(Ordering::SeqCst) == 0 {
            let notification = self.state.lock().notification.take();
            if let Some(notification) = notification {
                notification.fire(sender);
            }
        }
        self.receivers.wake(POLLIN | POLLRDNORM);
    }

    /// After a [`Queue::take`].
    pub fn taken(&self) {
        self.senders.wake(POLLOUT | POLLWRNORM);
    }

    /// Counts a receiver that waits, as long as the answer lives.
    pub fn waiting(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Waiting(self)
    }

    pub fn register(&self, notification: Notification) -> Result<(), Errno> {
        let mut state = self.state.lock();
        // One whose process has ended counts no longer.
        if state.notification.as_ref().is_some_and(|known| known.process().is_some()) {
            return Err(Errno::EBUSY);
        }
        let old = state.notification.replace(notification);
        drop(state);
        drop(old);
        Ok(())
    }

    pub fn unregister(&self, owner: u64) {
        let mut state = self.state.lock();
        if state.notification.as_ref().is_none_or(|known| known.owner != owner) {
            return;
        }
        let old = state.notification.take();
        drop(state);
        if let Some(old) = old {
            old.notify.tell(NOTIFY_REMOVED);
        }
    }

    pub fn attr(&self) -> MqAttr {
        let int = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        MqAttr {
            mq_maxmsg: int(self.limits.count),
            mq_msgsize: int(self.limits.size),
            mq_curmsgs: int(self.state.lock().count),
            ..MqAttr::default()
        }
    }

    /// What read(2) shows.
    fn text(&self) -> String {
        let state = self.state.lock();
        let (mut pid, mut shown) = (0, (0, 0));
        if let Some(notification) = &state.notification
            && let Some(process) = notification.process()
        {
            (pid, shown) = (process.pid(), notification.notify.shown());
        }
        format!(
            "QSIZE:{:<10} NOTIFY:{:<5} SIGNO:{:<5} NOTIFY_PID:{:<6}\n",
            state.bytes, shown.0, shown.1, pid
        )
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        MQUEUE_BYTES.sub(self.user, self.limits.bytes());
        MQUEUES.give(1);
    }
}

/// See [`Queue::waiting`].
pub(super) struct Waiting<'a>(&'a Queue);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Inode for Queue {
    fn ino(&self) -> u64 {
        self.ino
    }
    fn kind(&self) -> FileKind {
        FileKind::Regular
    }
    fn attr(&self) -> Result<Attr, Errno> {
        Ok(*self.attr.lock())
    }
    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        let mut attr = self.attr.lock();
        let now = crate::time::to_timespec(crate::time::realtime());
        attr.perm = change.perm.unwrap_or(attr.perm);
        attr.uid = change.uid.unwrap_or(attr.uid);
        attr.gid = change.gid.unwrap_or(attr.gid);
        attr.ctime = now;
        Ok(())
    }
    fn state(&self) -> &InodeState {
        &self.inode
    }
    fn open(self: Arc<Self>, _flags: u32) -> Result<Arc<dyn FileOps>, Errno> {
        Ok(Arc::new(Handle { queue: self }))
    }
}

/// The operations of an open queue.
pub(super) struct Handle {
    queue: Arc<Queue>,
}

impl Handle {
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }
}

impl FileOps for Handle {
    fn read(&self, pos: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        let text = self.queue.text();
        let rest = usize::try_from(pos).ok().and_then(|pos| text.as_bytes().get(pos..)).unwrap_or_default();
        if rest.is_empty() { Ok(0) } else { dst.put(rest) }
    }
    fn seekable(&self) -> bool {
        true
    }
    fn size(&self) -> Result<u64, Errno> {
        Ok(TEXT_SIZE as u64)
    }
    fn pollable(&self) -> bool {
        true
    }
    fn poll(&self, table: Option<&mut PollTable>) -> u32 {
        if let Some(table) = table {
            table.add(&self.queue.receivers);
            table.add(&self.queue.senders);
        }
        let count = self.queue.state.lock().count;
        let input = if count > 0 { POLLIN | POLLRDNORM } else { 0 };
        input | if count < self.queue.limits.count { POLLOUT | POLLWRNORM } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maker(user: u32) -> Maker {
        Maker { user, uid: user, gid: 0, allowed: u64::from(MQ_BYTES_MAX), unbounded: false }
    }

    fn queue(count: usize) -> Arc<Queue> {
        Queue::new(1, 1, 0o600, Limits { count, size: 8 }, &maker(77)).unwrap()
    }

    fn put(queue: &Queue, priority: u32, text: &[u8]) -> Result<bool, Errno> {
        queue.put(priority, &mut Some(Message::new(text.to_vec()).unwrap()))
    }

    #[test]
    fn by_priority_then_age() {
        let queue = queue(4);
        assert_eq!(put(&queue, 1, b"a"), Ok(true));
        assert_eq!(put(&queue, 9, b"b"), Ok(false));
        assert_eq!(put(&queue, 1, b"c"), Ok(false));
        assert_eq!(put(&queue, 9, b"d"), Ok(false));
        assert_eq!(put(&queue, 0, b"e"), Err(Errno::EAGAIN));
        let order: Vec<_> = std::iter::from_fn(|| queue.take()).map(|(p, m)| (p, m.text)).collect();
        let want = [(9, b"b"), (9, b"d"), (1, b"a"), (1, b"c")].map(|(p, t)| (p, t.to_vec()));
        assert_eq!(order, want);
        assert_eq!(queue.attr().mq_curmsgs, 0);
    }

    #[test]
    fn a_user_has_a_limit() {
        let limits = Limits { count: 10, size: 8192 };
        let nine: Vec<_> = (0..9).map(|_| Queue::new(1, 1, 0, limits, &maker(78)).unwrap()).collect();
        assert_eq!(Queue::new(1, 1, 0, limits, &maker(78)).err(), Some(Errno::EMFILE));
        assert!(Queue::new(1, 1, 0, limits, &maker(79)).is_ok());
        drop(nine);
        assert_eq!(MQUEUE_BYTES.of(78), 0);
    }

    #[test]
    fn text_as_linux_shows_it() {
        let queue = queue(2);
        put(&queue, 0, b"12345").unwrap();
        assert_eq!(queue.text(), "QSIZE:5          NOTIFY:0     SIGNO:0     NOTIFY_PID:0     \n");
    }
}
