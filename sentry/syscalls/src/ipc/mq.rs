//! mq_open, mq_unlink, mq_timedsend, mq_timedreceive, mq_notify, mq_getsetattr.

use crate::fd::install;
use crate::{Args, done, unit};
use chitin_abi::Errno;
use chitin_abi::fcntl::O_CREAT;
use chitin_abi::ipc::{MQ_PRIO_MAX, MqAttr, NOTIFY_COOKIE_LEN};
use chitin_abi::signal::{_NSIG, SIGEV_NONE, SIGEV_SIGNAL, SIGEV_THREAD, SigEvent};
use chitin_abi::time::Timespec;
use chitin_kernel::ipc::mq::{self, Notify};
use chitin_kernel::time::{Base, Deadline, from_timespec};
use chitin_kernel::{Outcome, Task};
use std::sync::Arc;

pub(crate) fn mq_open(task: &Arc<Task>, args: Args) -> Outcome {
    done((|| {
        let mm = task.mm();
        let flags = args.u32(1);
        let attr = match args.opt::<MqAttr>(3).filter(|_| flags & O_CREAT != 0) {
            Some(addr) => Some(mm.read(addr)?),
            None => None,
        };
        let name = mm.read_path(args.u64(0))?;
        // As Linux has it, every such descriptor is closed by execve(2).
        install(task, mq::open(task, &name, flags, args.u32(2), attr)?, true)
    })())
}

pub(crate) fn mq_unlink(task: &Arc<Task>, args: Args) -> Outcome {
    unit(task.mm().read_path(args.u64(0)).and_then(|name| mq::unlink(task, &name)))
}

/// An absolute time of the real-time clock; `None`: for ever.
fn deadline(task: &Task, at: u64) -> Result<Option<Deadline>, Errno> {
    if at == 0 {
        return Ok(None);
    }
    let time = task.mm().read::<Timespec>(at)?;
    Ok(Some(Deadline { base: Base::Realtime, ns: from_timespec(&time)? }))
}

pub(crate) fn mq_timedsend(task: &Arc<Task>, args: Args) -> Outcome {
    let prepare = || {
        let deadline = deadline(task, args.u64(4))?;
        let priority = args.u32(3);
        if priority >= MQ_PRIO_MAX {
            return Err(Errno::EINVAL);
        }
        let file = task.io_file(args.i32(0))?;
        let size = mq::message_size(&file, true)?;
        let len = usize::try_from(args.u64(2)).ok().filter(|&len| len <= size).ok_or(Errno::EMSGSIZE)?;
        Ok((file, task.mm().read_vec(args.u64(1), len)?, priority, deadline))
    };
    match prepare() {
        Err(error) => Outcome::error(error),
        Ok((file, text, priority, deadline)) => {
            let task = task.clone();
            Outcome::block(async move {
                mq::send(&task, file, text, priority, deadline).await?;
                Ok(0)
            })
        }
    }
}

pub(crate) fn mq_timedreceive(task: &Arc<Task>, args: Args) -> Outcome {
    let prepare = || {
        let deadline = deadline(task, args.u64(4))?;
        let file = task.io_file(args.i32(0))?;
        let size = mq::message_size(&file, false)?;
        if args.u64(2) < size as u64 {
            return Err(Errno::EMSGSIZE);
        }
        Ok((file, deadline))
    };
    let (file, deadline) = match prepare() {
        Ok(prepared) => prepared,
        Err(error) => return Outcome::error(error),
    };
    let (task, at, priority_at) = (task.clone(), args.u64(1), args.opt::<u32>(3));
    Outcome::block(async move {
        let (text, priority) = mq::receive(&task, file, deadline).await?;
        let mm = task.mm();
        if let Some(addr) = priority_at {
            mm.write(addr, &priority)?;
        }
        mm.write_bytes(at, &text)?;
        Ok(text.len() as u64)
    })
}

fn notify_of(task: &Task, event: &SigEvent) -> Result<Notify, Errno> {
    match u32::try_from(event.sigev_notify).map_err(|_| Errno::EINVAL)? {
        SIGEV_NONE => Ok(Notify::Nothing),
        SIGEV_SIGNAL => {
            let number = u32::try_from(event.sigev_signo).ok().filter(|n| (1..=_NSIG).contains(n));
            Ok(Notify::Signal { number: number.ok_or(Errno::EINVAL)?, value: event.sigev_value })
        }
        SIGEV_THREAD => {
            let cookie = task.mm().read::<[u8; NOTIFY_COOKIE_LEN as usize]>(event.sigev_value)?;
            let file = task.io_file(event.sigev_signo)?;
            if !chitin_net::netlink::is_netlink(&file) {
                return Err(Errno::ENOTSOCK);
            }
            let socket = move |packet: &[u8]| {
                // A full socket loses it, as on Linux.
                let _ = chitin_net::netlink::deliver(&file, packet);
            };
            Ok(Notify::Thread { cookie, socket: Arc::new(socket) })
        }
        _ => Err(Errno::EINVAL),
    }
}

pub(crate) fn mq_notify(task: &Arc<Task>, args: Args) -> Outcome {
    unit((|| {
        let notify = match args.opt::<SigEvent>(1) {
            Some(addr) => Some(notify_of(task, &task.mm().read(addr)?)?),
            None => None,
        };
        mq::notify(task, &*task.io_file(args.i32(0))?, notify)
    })())
}

pub(crate) fn mq_getsetattr(task: &Arc<Task>, args: Args) -> Outcome {
    unit((|| {
        let mm = task.mm();
        let new = match args.opt::<MqAttr>(1) {
            Some(addr) => Some(mm.read(addr)?),
            None => None,
        };
        let old = mq::getsetattr(&*task.io_file(args.i32(0))?, new)?;
        match args.opt::<MqAttr>(2) {
            Some(addr) => mm.write(addr, &old),
            None => Ok(()),
        }
    })())
}
