//! POSIX message queues (ipc/mqueue.c, mq_overview(7)).
//!
//! [`queue`] is one queue, [`fs`] the file system `mqueue` that names them: each IPC namespace has one, which mq_open(2) and
//! all mounts of it show. Neighbours: `syscalls` translates; `fdtable` tells when a process closes a queue ([`closed`]).
//!
//! Locks: the directory's list of names, then one queue's state; both are leaves. Wait queues are woken with a queue's
//! state unlocked.

mod fs;
mod queue;

pub use fs::MqueueFs;
pub use queue::{Notification, Notify};

use crate::time::{Deadline, with_timeout};
use crate::{SysError, Task};
use chitin_abi::Errno;
use chitin_abi::capability::CAP_SYS_RESOURCE;
use chitin_abi::fcntl::*;
use chitin_abi::ipc::*;
use chitin_abi::resource::RLIMIT_MSGQUEUE;
use chitin_vfs::creds::{MAY_EXEC, MAY_WRITE};
use chitin_vfs::ops::Opened;
use chitin_vfs::{Context, File, Mount, Path};
use queue::{Limits, Message, Queue};
use std::sync::{Arc, OnceLock};

/// The queues of an IPC namespace.
#[derive(Default)]
pub struct Table {
    mount: OnceLock<Arc<Mount>>,
}

impl Table {
    fn mount(&self) -> &Arc<Mount> {
        self.mount.get_or_init(|| Mount::new(MqueueFs::new(), b"mqueue", 0))
    }

    /// What mount(2) of the type `mqueue` shows.
    pub fn file_system(&self) -> Arc<dyn chitin_vfs::FileSystem> {
        self.mount().fs().clone()
    }

    fn root(&self) -> Path {
        let mount = self.mount().clone();
        Path { dentry: mount.root().clone(), mount }
    }
}

/// The queue behind a descriptor's file: EBADF if it is none.
fn queue_of(file: &File) -> Result<Arc<Queue>, Errno> {
    file.downcast::<queue::Handle>().map(|handle| handle.queue().clone()).ok_or(Errno::EBADF)
}

/// As lookup_one_len() has it: a queue's name is one component.
fn check_name(name: &[u8]) -> Result<(), Errno> {
    match name {
        b"" => Err(Errno::ENOENT),
        b"." | b".." => Err(Errno::EACCES),
        name if name.contains(&b'/') => Err(Errno::EACCES),
        name if name.len() > chitin_abi::limits::NAME_MAX => Err(Errno::ENAMETOOLONG),
        _ => Ok(()),
    }
}

/// How large a queue may become: mq_attr_ok().
fn limits(task: &Task, attr: Option<MqAttr>) -> Result<Limits, Errno> {
    let Some(attr) = attr else { return Ok(Limits::default()) };
    let privileged = task.creds().capable(CAP_SYS_RESOURCE);
    let (most, largest) =
        if privileged { (HARD_MSGMAX, HARD_MSGSIZEMAX) } else { (DFLT_MSGMAX, DFLT_MSGSIZEMAX) };
    let within = |value: i64, max: u32| u32::try_from(value).ok().filter(|n| (1..=max).contains(n));
    let count = within(attr.mq_maxmsg, most).ok_or(Errno::EINVAL)?;
    let size = within(attr.mq_msgsize, largest).ok_or(Errno::EINVAL)?;
    Ok(Limits { count: count as usize, size: size as usize })
}

/// mq_open(2). `perm` is before the umask.
pub fn open(
    task: &Arc<Task>,
    name: &[u8],
    flags: u32,
    perm: u32,
    attr: Option<MqAttr>,
) -> Result<Arc<File>, Errno> {
    check_name(name)?;
    if flags & O_ACCMODE == O_ACCMODE {
        return Err(Errno::EINVAL);
    }
    let ipc = task.ipc();
    let ctx = task.context();
    let root = ipc.mq.root();
    let guard = root.dentry.lock_dir();
    let (dentry, created) = match root.dentry.lookup_locked(&[name])? {
        Some(_) if flags & (O_CREAT | O_EXCL) == O_CREAT | O_EXCL => return Err(Errno::EEXIST),
        Some(found) => (found, false),
        None if flags & O_CREAT == 0 => return Err(Errno::ENOENT),
        None => {
            let queue = create(task, &ctx, &root, name, perm & 0o7777 & !ctx.umask, attr)?;
            (root.dentry.adopt(name, queue), true)
        }
    };
    drop(guard);
    let path = Path { dentry, mount: root.mount };
    match ctx.open_path(path, flags & (O_ACCMODE | O_NONBLOCK), created)? {
        Opened::File(file) => Ok(file),
        Opened::Fifo { .. } => Err(Errno::EINVAL),
    }
}

fn create(
    task: &Arc<Task>,
    ctx: &Context,
    root: &Path,
    name: &[u8],
    perm: u32,
    attr: Option<MqAttr>,
) -> Result<Arc<Queue>, Errno> {
    ctx.may(root.inode(), MAY_WRITE | MAY_EXEC)?;
    let fs: Arc<dyn std::any::Any + Send + Sync> = root.dentry.fs().clone();
    let fs = fs.downcast::<MqueueFs>().map_err(|_| Errno::EINVAL)?;
    let creds = task.creds();
    let maker = queue::Maker {
        user: creds.uid,
        uid: creds.fsuid,
        gid: creds.fsgid,
        allowed: task.process.rlimit(RLIMIT_MSGQUEUE).rlim_cur,
        unbounded: creds.capable(CAP_SYS_RESOURCE),
    };
    fs.create(name, perm, limits(task, attr)?, &maker)
}

/// mq_unlink(2).
pub fn unlink(task: &Arc<Task>, name: &[u8]) -> Result<(), Errno> {
    check_name(name)?;
    task.context().unlink(&task.ipc().mq.root(), name)
}

/// mq_timedsend(2).
pub async fn send(
    task: &Arc<Task>,
    file: Arc<File>,
    text: Vec<u8>,
    priority: u32,
    deadline: Option<Deadline>,
) -> Result<(), SysError> {
    let queue = queue_of(&file)?;
    let mut slot = Some(Message::new(text)?);
    let mut attempt = || match queue.put(priority, &mut slot) {
        Err(Errno::EAGAIN) if file.flags() & O_NONBLOCK == 0 => None,
        result => Some(result),
    };
    let was_empty = match attempt() {
        Some(result) => result?,
        None => {
            let room = queue.senders.wait_until(attempt);
            task.interruptible(with_timeout(task.kernel.reactor.timers(), room, deadline))
                .await?
                .ok_or(Errno::ETIMEDOUT)??
        }
    };
    queue.arrived(task, was_empty);
    Ok(())
}

/// mq_timedreceive(2): the message and its priority. The caller has checked its room against the queue's message size.
pub async fn receive(
    task: &Arc<Task>,
    file: Arc<File>,
    deadline: Option<Deadline>,
) -> Result<(Vec<u8>, u32), SysError> {
    let queue = queue_of(&file)?;
    let attempt = || match queue.take() {
        None if file.flags() & O_NONBLOCK == 0 => None,
        result => Some(result.ok_or(Errno::EAGAIN)),
    };
    let (priority, message) = match attempt() {
        Some(result) => result?,
        None => {
            let _waiting = queue.waiting();
            let some = queue.receivers.wait_until(attempt);
            task.interruptible(with_timeout(task.kernel.reactor.timers(), some, deadline))
                .await?
                .ok_or(Errno::ETIMEDOUT)??
        }
    };
    queue.taken();
    Ok((message.text, priority))
}

/// The largest message of the queue behind a file, for the checks before sending (`writes`) and receiving.
pub fn message_size(file: &File, writes: bool) -> Result<usize, Errno> {
    let queue = queue_of(file)?;
    let open = if writes { file.writable() } else { file.readable() };
    if open { Ok(queue.limits.size) } else { Err(Errno::EBADF) }
}

/// mq_notify(2): `None` takes the caller's registration back.
pub fn notify(task: &Arc<Task>, file: &File, wanted: Option<Notify>) -> Result<(), Errno> {
    let queue = queue_of(file)?;
    let owner = task.files().lock_owner();
    match wanted {
        Some(notify) => queue.register(Notification::new(task, owner, notify)),
        None => {
            queue.unregister(owner);
            Ok(())
        }
    }
}

/// mq_getsetattr(2): the attributes before; of new ones only O_NONBLOCK counts.
pub fn getsetattr(file: &File, new: Option<MqAttr>) -> Result<MqAttr, Errno> {
    let queue = queue_of(file)?;
    let nonblocking = i64::from(O_NONBLOCK);
    if new.is_some_and(|attr| attr.mq_flags & !nonblocking != 0) {
        return Err(Errno::EINVAL);
    }
    let mut old = queue.attr();
    old.mq_flags = i64::from(file.flags() & O_NONBLOCK);
    if let Some(attr) = new {
        let rest = file.flags() & !O_NONBLOCK;
        file.set_flags(if attr.mq_flags == 0 { rest } else { rest | O_NONBLOCK })?;
    }
    Ok(old)
}

/// A process whose descriptors belong to `owner` has closed one for `file`: its registration goes (mqueue_flush_file()).
pub(crate) fn closed(file: &File, owner: u64) {
    if let Ok(queue) = queue_of(file) {
        queue.unregister(owner);
    }
}
