//! SECCOMP_RET_USER_NOTIF: a supervisor with the filter's listener decides what becomes of a call.
//!
//! A notification lives in its listener's table as long as the call waits: the waiting future owns it, and takes it out
//! when it ends for whatever reason. Ids are never used twice.

use super::enter::{Then, failure};
use super::filter::Filter;
use crate::Task;
use crate::kernel::SyscallArgs;
use crate::result::{Interrupted, Outcome, Restart, SysError, SysResult};
use chitin_abi::Errno;
use chitin_abi::fcntl::{O_CLOEXEC, O_RDWR};
use chitin_abi::limits::PAGE_SIZE;
use chitin_abi::num::sign_extend;
use chitin_abi::poll::{POLLHUP, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM};
use chitin_abi::seccomp::*;
use chitin_vfs::{File, FileOps, PollTable, WaitQueue};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use zerocopy::{FromBytes, IntoBytes};

/// What was answered.
#[derive(Clone, Copy)]
enum Answer {
    /// The call's raw value.
    Value(u64),
    Continue,
}

enum State {
    /// Not yet received.
    Init,
    Sent,
    Replied(Answer),
}

struct Entry {
    task: Weak<Task>,
    data: SeccompData,
    state: State,
    /// Its task waits here.
    answered: WaitQueue,
}

#[derive(Default)]
struct Table {
    entries: BTreeMap<u64, Entry>,
    next_id: u64,
    /// Notifications not yet asked for, those that were interrupted meanwhile included.
    requests: usize,
    /// The listener's file is closed.
    closed: bool,
    /// No task has the filter any more.
    abandoned: bool,
}

/// A filter's end of the connection.
pub struct Listener {
    table: Mutex<Table>,
    /// Receivers and polls.
    events: WaitQueue,
}

impl Listener {
    pub(super) fn new() -> Result<Arc<Listener>, Errno> {
        // Half of the numbers: they are never used up.
        let next_id = chitin_host::random::number().map_err(|_| Errno::ENOMEM)? >> 1;
        let table = Mutex::new(Table { next_id, ..Table::default() });
        Ok(Arc::new(Listener { table, events: WaitQueue::new() }))
    }

    /// The last task that had the filter has ended.
    pub(super) fn abandoned(&self) {
        self.table.lock().abandoned = true;
        self.events.wake(POLLHUP);
    }

    fn sent(&self, id: u64) -> bool {
        self.table.lock().entries.get(&id).is_some_and(|entry| matches!(entry.state, State::Sent))
    }
}

/// Has the filter's supervisor decide.
pub(super) fn ask(
    task: &Arc<Task>,
    by: &Arc<Filter>,
    call: SyscallArgs,
    data: SeccompData,
    then: Then,
) -> Outcome {
    let Some(listener) = by.listener.clone() else { return Outcome::error(Errno::ENOSYS) };
    let (task, wait_killable) = (task.clone(), by.wait_killable);
    // While it waits its task has the filter, which must not keep the listener from hanging up after the task's end.
    Outcome::block_outcome(async move {
        let Some(pending) = Pending::new(&listener, &task, data) else {
            return Outcome::error(Errno::ENOSYS);
        };
        let answer = pending.wait(&task, wait_killable).await;
        drop(pending);
        match answer {
            Ok(Answer::Continue) => then.go(&task, call),
            Ok(Answer::Value(value)) => Outcome::value(value),
            Err(Interrupted) => Outcome::Done(Err(SysError::Restart(Restart::Sys))),
        }
    })
}

/// A notification in its listener's table.
struct Pending {
    listener: Arc<Listener>,
    id: u64,
    answered: WaitQueue,
}

impl Pending {
    /// `None`: nobody listens.
    fn new(listener: &Arc<Listener>, task: &Arc<Task>, data: SeccompData) -> Option<Pending> {
        let answered = WaitQueue::new();
        let id = {
            let mut table = listener.table.lock();
            if table.closed {
                return None;
            }
            let id = table.next_id;
            table.next_id = id.wrapping_add(1);
            let entry =
                Entry { task: Arc::downgrade(task), data, state: State::Init, answered: answered.clone() };
            table.entries.insert(id, entry);
            table.requests = table.requests.saturating_add(1);
            id
        };
        listener.events.wake(POLLIN | POLLRDNORM);
        Some(Pending { listener: listener.clone(), id, answered })
    }

    fn answer(&self) -> Option<Answer> {
        match self.listener.table.lock().entries.get(&self.id)?.state {
            State::Replied(answer) => Some(answer),
            _ => None,
        }
    }

    async fn wait(&self, task: &Arc<Task>, wait_killable: bool) -> Result<Answer, Interrupted> {
        loop {
            // Once it was received, only the end of the task interrupts: if the filter asked for that.
            let only_fatal = wait_killable && self.listener.sent(self.id);
            let until = self.answered.wait_until(|| self.answer());
            let got = if only_fatal { task.killable(until).await } else { task.interruptible(until).await };
            match got {
                Err(Interrupted) if !only_fatal && wait_killable && self.listener.sent(self.id) => {}
                got => return got,
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let entry = self.listener.table.lock().entries.remove(&self.id);
        drop(entry);
    }
}

/// What seccomp(2) returns for SECCOMP_FILTER_FLAG_NEW_LISTENER.
struct ListenerFile(Arc<Listener>);

pub(super) fn file(listener: &Arc<Listener>) -> Arc<File> {
    File::anon(Arc::new(ListenerFile(listener.clone())), "[seccomp notify]", O_RDWR)
}

impl FileOps for ListenerFile {
    fn poll(&self, poll: Option<&mut PollTable>) -> u32 {
        if let Some(poll) = poll {
            poll.add(&self.0.events);
        }
        let table = self.0.table.lock();
        let mut shown = 0;
        for entry in table.entries.values() {
            match entry.state {
                State::Init => shown |= POLLIN | POLLRDNORM,
                State::Sent => shown |= POLLOUT | POLLWRNORM,
                State::Replied(_) => {}
            }
        }
        if table.abandoned {
            shown |= POLLHUP;
        }
        shown
    }
}

impl Drop for ListenerFile {
    /// Nobody will answer: what waits gets ENOSYS.
    fn drop(&mut self) {
        let waiting: Vec<WaitQueue> = {
            let mut table = self.0.table.lock();
            table.closed = true;
            let unanswered =
                table.entries.values_mut().filter(|entry| !matches!(entry.state, State::Replied(_)));
            unanswered
                .map(|entry| {
                    entry.state = State::Replied(Answer::Value(failure(Errno::ENOSYS.raw().cast_unsigned())));
                    entry.answered.clone()
                })
                .collect()
        };
        for queue in waiting {
            queue.wake(0);
        }
    }
}

const ADDFD_SIZE: usize = size_of::<SeccompNotifAddfd>();
/// The number that headers before Linux 5.9 gave for ID_VALID, with the wrong direction.
const ID_VALID_WRONG_DIR: u32 = 0x8008_2102;

/// ioctl(2) on a listener; `None`: the file is none.
pub fn ioctl(task: &Arc<Task>, file: &Arc<File>, cmd: u32, arg: u64) -> Option<Outcome> {
    let listener = file.downcast::<ListenerFile>()?.0.clone();
    Some(match cmd {
        SECCOMP_IOCTL_NOTIF_RECV => return Some(receive(task, listener, arg)),
        SECCOMP_IOCTL_NOTIF_SEND => send(task, &listener, arg).into(),
        SECCOMP_IOCTL_NOTIF_ID_VALID | ID_VALID_WRONG_DIR => id_valid(task, &listener, arg).into(),
        SECCOMP_IOCTL_NOTIF_SET_FLAGS => set_flags(arg).into(),
        // Sized: the structure may grow.
        cmd if cmd & !SIZE_MASK == SECCOMP_IOCTL_NOTIF_ADDFD & !SIZE_MASK => {
            add_fd(task, &listener, arg, ((cmd & SIZE_MASK) >> 16) as usize).into()
        }
        _ => Outcome::error(Errno::EINVAL),
    })
}

/// The bits of a request number that tell the size of its structure.
const SIZE_MASK: u32 = 0x3fff << 16;

/// How SYNC_WAKE_UP schedules the two sides does not show here: both run on the host's threads.
fn set_flags(flags: u64) -> Result<u64, Errno> {
    if flags & !u64::from(SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP) != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(0)
}

fn receive(task: &Arc<Task>, listener: Arc<Listener>, arg: u64) -> Outcome {
    match task.mm().read_vec(arg, size_of::<SeccompNotif>()) {
        Err(errno) => return Outcome::error(errno),
        Ok(bytes) if bytes.iter().any(|byte| *byte != 0) => return Outcome::error(Errno::EINVAL),
        Ok(_) => {}
    }
    let task = task.clone();
    Outcome::block(async move {
        let due = || {
            let mut table = listener.table.lock();
            if table.requests == 0 {
                return table.abandoned.then_some(());
            }
            table.requests -= 1;
            Some(())
        };
        task.interruptible(listener.events.wait_until(due)).await?;
        take(&task, &listener, arg)
    })
}

/// Hands over the oldest notification that nobody has received; ENOENT when it was interrupted meanwhile.
fn take(task: &Arc<Task>, listener: &Listener, arg: u64) -> SysResult {
    let notif = {
        let mut table = listener.table.lock();
        let fresh = table.entries.iter_mut().find(|(_, entry)| matches!(entry.state, State::Init));
        let (id, entry) = fresh.ok_or(Errno::ENOENT)?;
        entry.state = State::Sent;
        let pid = entry.task.upgrade().map_or(0, |asker| asker.tid());
        SeccompNotif { id: *id, pid: pid.cast_unsigned(), flags: 0, data: entry.data }
    };
    if let Err(errno) = task.mm().write_bytes(arg, notif.as_bytes()) {
        let mut table = listener.table.lock();
        if let Some(entry) = table.entries.get_mut(&notif.id)
            && matches!(entry.state, State::Sent)
        {
            entry.state = State::Init;
            table.requests = table.requests.saturating_add(1);
        }
        drop(table);
        listener.events.wake(POLLIN | POLLRDNORM);
        return Err(errno.into());
    }
    listener.events.wake(POLLOUT | POLLWRNORM);
    Ok(0)
}

/// The notification with this id, received and not yet answered.
fn sent(table: &mut Table, id: u64) -> Result<&mut Entry, Errno> {
    let entry = table.entries.get_mut(&id).ok_or(Errno::ENOENT)?;
    if matches!(entry.state, State::Sent) { Ok(entry) } else { Err(Errno::EINPROGRESS) }
}

fn send(task: &Arc<Task>, listener: &Listener, arg: u64) -> Result<u64, Errno> {
    let response: SeccompNotifResp = task.mm().read(arg)?;
    if response.flags & !SECCOMP_USER_NOTIF_FLAG_CONTINUE != 0 {
        return Err(Errno::EINVAL);
    }
    let goes_on = response.flags != 0;
    if goes_on && (response.error != 0 || response.val != 0) {
        return Err(Errno::EINVAL);
    }
    let answer = match response.error {
        _ if goes_on => Answer::Continue,
        0 => Answer::Value(response.val.cast_unsigned()),
        error => Answer::Value(i64::from(error).cast_unsigned()),
    };
    let queue = {
        let mut table = listener.table.lock();
        let entry = sent(&mut table, response.id)?;
        entry.state = State::Replied(answer);
        entry.answered.clone()
    };
    queue.wake(0);
    Ok(0)
}

fn id_valid(task: &Arc<Task>, listener: &Listener, arg: u64) -> Result<u64, Errno> {
    let id: u64 = task.mm().read(arg)?;
    if listener.sent(id) { Ok(0) } else { Err(Errno::ENOENT) }
}

/// Puts a file of the supervisor into the table of the task that waits.
fn add_fd(task: &Arc<Task>, listener: &Listener, arg: u64, size: usize) -> Result<u64, Errno> {
    if size < ADDFD_SIZE || size as u64 >= PAGE_SIZE {
        return Err(Errno::EINVAL);
    }
    let bytes = task.mm().read_vec(arg, size)?;
    let (addfd, rest) = SeccompNotifAddfd::read_from_prefix(&bytes).map_err(|_| Errno::EINVAL)?;
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Errno::E2BIG);
    }
    let known = SECCOMP_ADDFD_FLAG_SETFD | SECCOMP_ADDFD_FLAG_SEND;
    if addfd.newfd_flags & !O_CLOEXEC != 0 || addfd.flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let at = addfd.flags & SECCOMP_ADDFD_FLAG_SETFD != 0;
    if addfd.newfd != 0 && !at {
        return Err(Errno::EINVAL);
    }
    let file = task.file(i32::try_from(addfd.srcfd).map_err(|_| Errno::EBADF)?)?;
    let cloexec = addfd.newfd_flags & O_CLOEXEC != 0;
    let (fd, queue, replaced) = {
        // The task cannot leave its call meanwhile: it takes the notification out of this table first.
        let mut table = listener.table.lock();
        let entry = sent(&mut table, addfd.id)?;
        let target = entry.task.upgrade().ok_or(Errno::ENOENT)?;
        let (files, limit) = (target.files(), target.process.nofile());
        let (fd, replaced) = if at {
            let fd = i32::try_from(addfd.newfd).map_err(|_| Errno::EBADF)?;
            (fd, files.set(fd, file, cloexec, limit)?.map(|old| (files, old)))
        } else {
            (files.add(file, cloexec, 0, limit)?, None)
        };
        let reply = addfd.flags & SECCOMP_ADDFD_FLAG_SEND != 0;
        if reply {
            entry.state = State::Replied(Answer::Value(sign_extend(fd)));
        }
        (fd, reply.then(|| entry.answered.clone()), replaced)
    };
    if let Some((files, old)) = replaced {
        // As for dup2, nobody hears of an error of this close.
        let _ = files.close_file(old);
    }
    if let Some(queue) = queue {
        queue.wake(0);
    }
    Ok(sign_extend(fd))
}
