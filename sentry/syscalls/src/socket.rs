//! Sockets (net/socket.c): calls that make, name and set them; [`send`] and [`recv`] move messages.
//!
//! The families in `net` never wait. Waiting, timeouts, signals and descriptors are dealt with here. Neighbours: `io`
//! hands read(2) and write(2) on sockets to [`recv::read_file`] and [`send::write_file`], `fd` the ioctls of [`ioctl`].

mod many;
mod recv;
mod send;
mod wait;

pub(crate) use recv::{read_file, recvfrom, recvmmsg, recvmsg};
pub(crate) use send::{sendmmsg, sendmsg, sendto, write_file};

use crate::fd::install;
use crate::{Args, done, unit};
use chitin_abi::Errno;
use chitin_abi::ioctl::{FIOGETOWN, FIOSETOWN, SIOCGPGRP, SIOCSPGRP};
use chitin_abi::seccomp::{BPF_MAXINSNS, SockFilter, SockFprog};
use chitin_abi::socket::*;
use chitin_kernel::{Outcome, Task};
use chitin_mm::{Mm, Source, UserIo};
use chitin_net::{NetNs, OptValue, SockAddr, SocketFile};
use chitin_vfs::File;
use chitin_vfs::userns::INVALID_ID;
use std::sync::Arc;
use wait::Patience;
use zerocopy::FromBytes;

/// `struct sockaddr_storage`.
const MAX_ADDR: usize = 128;
/// The longest option value that any level takes.
const MAX_OPTION: u64 = 512;

/// An open file that is a socket.
pub(crate) fn is_socket(file: &File) -> bool {
    SocketFile::of(file).is_ok()
}

/// sockfd_lookup(): EBADF, ENOTSOCK.
fn lookup(task: &Task, fd: i32) -> Result<Arc<File>, Errno> {
    let file = task.io_file(fd)?;
    SocketFile::of(&file)?;
    Ok(file)
}

fn net(task: &Task) -> Result<Arc<NetNs>, Errno> {
    task.net().stack.clone().downcast().map_err(|_| Errno::EAFNOSUPPORT)
}

/// move_addr_to_kernel()
fn read_addr(mm: &Mm, addr: u64, len: i32) -> Result<Vec<u8>, Errno> {
    let len = usize::try_from(len).ok().filter(|&len| len <= MAX_ADDR).ok_or(Errno::EINVAL)?;
    mm.read_vec(addr, len)
}

/// move_addr_to_user(): as much as fits in the guest's buffer, and the whole length. `None`: an address of no length.
fn write_addr(mm: &Mm, value: Option<&SockAddr>, addr: u64, len_at: u64) -> Result<(), Errno> {
    let raw = value.map(SockAddr::encode).unwrap_or_default();
    let room = usize::try_from(mm.read::<i32>(len_at)?).map_err(|_| Errno::EINVAL)?;
    mm.write_bytes(addr, raw.get(..room.min(raw.len())).unwrap_or_default())?;
    mm.write(len_at, &u32::try_from(raw.len()).unwrap_or(0))
}

pub(crate) fn socket(task: &Arc<Task>, args: Args) -> Outcome {
    let kind = args.u32(1);
    let work = || {
        let file = chitin_net::create(&net(task)?, args.i32(0), kind, args.i32(2), &task.caller())?;
        install(task, file, kind & SOCK_CLOEXEC != 0)
    };
    done(work())
}

pub(crate) fn socketpair(task: &Arc<Task>, args: Args) -> Outcome {
    let kind = args.u32(1);
    let work = || {
        let pair = chitin_net::create_pair(&net(task)?, args.i32(0), kind, args.i32(2), &task.caller())?;
        let (files, limit) = (task.files(), task.process.nofile());
        let mut fds = Vec::with_capacity(2);
        let installed = pair.into_iter().try_for_each(|file| {
            fds.push(files.add(file, kind & SOCK_CLOEXEC != 0, 0, limit)?);
            Ok(())
        });
        installed.and_then(|()| task.mm().write_array(args.u64(3), &fds)).inspect_err(|_| {
            for &fd in &fds {
                // Another thread may have closed it already.
                drop(files.remove(fd));
            }
        })
    };
    unit(work())
}

pub(crate) fn bind(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        let file = lookup(task, args.i32(0))?;
        let addr = SockAddr::parse(&read_addr(&task.mm(), args.u64(1), args.i32(2))?);
        SocketFile::of(&file)?.bind(&task.context(), &addr)
    };
    unit(work())
}

pub(crate) fn listen(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        let file = lookup(task, args.i32(0))?;
        SocketFile::of(&file)?.listen(args.i32(1), &task.caller())
    };
    unit(work())
}

pub(crate) fn accept(task: &Arc<Task>, args: Args) -> Outcome {
    start_accept(task, args, 0)
}

pub(crate) fn accept4(task: &Arc<Task>, args: Args) -> Outcome {
    start_accept(task, args, args.u32(3))
}

fn start_accept(task: &Arc<Task>, args: Args, flags: u32) -> Outcome {
    let prepare = || {
        let file = task.io_file(args.i32(0))?;
        if flags & !(SOCK_CLOEXEC | SOCK_NONBLOCK) != 0 {
            return Err(Errno::EINVAL);
        }
        // Whoever was accepted could not be put back.
        task.files().check_room(task.process.nofile())?;
        let timeout = SocketFile::of(&file)?.timeouts().0;
        Ok((Patience::new(&file, 0, timeout), file))
    };
    let (patience, file) = match prepare() {
        Ok(prepared) => prepared,
        Err(error) => return Outcome::error(error),
    };
    match SocketFile::of(&file).and_then(|socket| socket.accept(flags, &task.caller())) {
        Err(Errno::EAGAIN) if patience.waits() => {}
        result => return done(result.and_then(|new| finish_accept(task, new, args, flags))),
    }
    let task = task.clone();
    Outcome::block(async move {
        let attempt = |_: &mut _| match SocketFile::of(&file)?.accept(flags, &task.caller()) {
            Err(Errno::EAGAIN) => Ok(None),
            result => result.map(Some),
        };
        let new = patience.wait(&task, &file, attempt).await?;
        Ok(finish_accept(&task, new, args, flags)?)
    })
}

fn finish_accept(task: &Task, new: Arc<File>, args: Args, flags: u32) -> Result<u64, Errno> {
    let (addr, len_at) = (args.u64(1), args.u64(2));
    if addr != 0 {
        let peer = SocketFile::of(&new)?.ops().accepted_name().map_err(|_| Errno::ECONNABORTED)?;
        write_addr(&task.mm(), Some(&peer), addr, len_at)?;
    }
    install(task, new, flags & SOCK_CLOEXEC != 0)
}

pub(crate) fn connect(task: &Arc<Task>, args: Args) -> Outcome {
    let prepare = || {
        let file = task.io_file(args.i32(0))?;
        let addr = SockAddr::parse(&read_addr(&task.mm(), args.u64(1), args.i32(2))?);
        let timeout = SocketFile::of(&file)?.timeouts().1;
        Ok((Patience::new(&file, 0, timeout), file, addr))
    };
    let (patience, file, addr) = match prepare() {
        Ok(prepared) => prepared,
        Err(error) => return Outcome::error(error),
    };
    let ctx = task.context();
    let attempt = |wait_on: &mut _| SocketFile::of(&file)?.connect(&ctx, &addr, wait_on);
    let first = attempt(&mut None);
    if !patience.waits() {
        return unit(first);
    }
    // Under way, and often through already: the next call tells.
    let second = if first == Err(Errno::EINPROGRESS) { attempt(&mut None) } else { first };
    let late = match (first, second) {
        (Err(error @ (Errno::EINPROGRESS | Errno::EALREADY)), Err(Errno::EALREADY)) => error,
        (_, Err(Errno::EAGAIN)) => Errno::EAGAIN,
        (_, result) => return unit(result),
    };
    let task = task.clone();
    Outcome::block(async move {
        let attempt = |wait_on: &mut _| match SocketFile::of(&file)?.connect(&ctx, &addr, wait_on) {
            Err(Errno::EAGAIN | Errno::EINPROGRESS | Errno::EALREADY) => Ok(None),
            result => result.map(Some),
        };
        patience.late(late).wait(&task, &file, attempt).await?;
        Ok(0)
    })
}

pub(crate) fn getsockname(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        let file = lookup(task, args.i32(0))?;
        let name = SocketFile::of(&file)?.getsockname()?;
        write_addr(&task.mm(), Some(&name), args.u64(1), args.u64(2))
    };
    unit(work())
}

pub(crate) fn getpeername(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        let file = lookup(task, args.i32(0))?;
        let name = SocketFile::of(&file)?.getpeername()?;
        write_addr(&task.mm(), Some(&name), args.u64(1), args.u64(2))
    };
    unit(work())
}

pub(crate) fn shutdown(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || SocketFile::of(&*lookup(task, args.i32(0))?)?.shutdown(args.i32(1));
    unit(work())
}

pub(crate) fn setsockopt(task: &Arc<Task>, args: Args) -> Outcome {
    let work = || {
        let file = lookup(task, args.i32(0))?;
        let len = u64::try_from(args.i32(4)).map_err(|_| Errno::EINVAL)?;
        if (args.u32(1), args.u32(2)) == (SOL_SOCKET, SO_ATTACH_FILTER) {
            return attach_filter(task, &file, args.u64(3), len);
        }
        let mut source = UserIo::single(&task.mm(), args.u64(3), len.min(MAX_OPTION));
        let mut value = vec![0; source.left()];
        // A value is shorter than its length claims where the guest's memory ends.
        let count = source.take(&mut value)?;
        value.truncate(count);
        SocketFile::of(&file)?.setsockopt(args.u32(1), args.u32(2), &value, &task.caller())
    };
    unit(work())
}

/// SO_ATTACH_FILTER: the value is a pointer to a program.
fn attach_filter(task: &Task, file: &File, at: u64, len: u64) -> Result<(), Errno> {
    if len != size_of::<SockFprog>() as u64 {
        return Err(Errno::EINVAL);
    }
    let program: SockFprog = task.mm().read(at)?;
    SocketFile::of(file)?.attach_filter(|| {
        let len = usize::from(program.len);
        if program.filter == 0 || len == 0 || len > BPF_MAXINSNS {
            return Err(Errno::EINVAL);
        }
        task.mm().read_array::<SockFilter>(program.filter, len)
    })
}

/// The peer's pid and ids as the caller sees them.
fn show_peer(task: &Task, cred: &mut [u8]) {
    let Ok((cred, _)) = Ucred::mut_from_prefix(cred) else { return };
    cred.pid = task.nr_of(cred.pid);
    // Nobody is nobody everywhere.
    if cred.uid != INVALID_ID {
        let ns = task.creds().user_ns.clone();
        (cred.uid, cred.gid) = (ns.show_uid(cred.uid), ns.show_gid(cred.gid));
    }
}

/// Groups as the caller sees them.
fn show_groups(task: &Task, groups: &mut [u8]) {
    let ns = task.creds().user_ns.clone();
    for gid in groups.as_chunks_mut::<4>().0 {
        *gid = ns.show_gid(u32::from_ne_bytes(*gid)).to_ne_bytes();
    }
}

pub(crate) fn getsockopt(task: &Arc<Task>, args: Args) -> Outcome {
    let (value_at, len_at) = (args.u64(3), args.u64(4));
    let work = || {
        let file = lookup(task, args.i32(0))?;
        let mm = task.mm();
        let room = usize::try_from(mm.read::<i32>(len_at)?).map_err(|_| Errno::EINVAL)?;
        let len = |len: usize| i32::try_from(len).unwrap_or(i32::MAX);
        let (level, name) = (args.u32(1), args.u32(2));
        match SocketFile::of(&file)?.getsockopt(level, name, room)? {
            OptValue::Value(mut value) => {
                if (level, name) == (SOL_SOCKET, SO_PEERCRED) {
                    show_peer(task, &mut value);
                }
                if (level, name) == (SOL_SOCKET, SO_PEERGROUPS) {
                    show_groups(task, &mut value);
                }
                mm.write_bytes(value_at, &value)?;
                mm.write(len_at, &len(value.len()))
            }
            OptValue::Program(code, count) => {
                mm.write_bytes(value_at, &code)?;
                mm.write(len_at, &len(count))
            }
            OptValue::Needs(needed) => {
                mm.write(len_at, &len(needed))?;
                Err(Errno::ERANGE)
            }
        }
    };
    unit(work())
}

/// The ioctls that all sockets have and that concern the descriptor (sock_ioctl()); `None`: another's.
pub(crate) fn ioctl(task: &Task, file: &Arc<File>, cmd: u32, arg: u64) -> Option<Result<(), Errno>> {
    if !is_socket(file) {
        return None;
    }
    Some(match cmd {
        FIOSETOWN | SIOCSPGRP => {
            task.mm().read::<i32>(arg).and_then(|id| crate::fd::set_owner_by_sign(task, file, id))
        }
        FIOGETOWN | SIOCGPGRP => task.mm().write(arg, &crate::fd::signed_owner(task, file)),
        _ => return None,
    })
}
