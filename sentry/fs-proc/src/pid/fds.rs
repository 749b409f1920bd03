//! fd/ and fdinfo/.

use super::Subject;
use super::node::link_bits;
use crate::format::put;
use chitin_abi::Errno;
use chitin_abi::fcntl::{O_CLOEXEC, O_LARGEFILE};
use chitin_kernel::signalfd::SignalFd;
use chitin_kernel::timerfd::TimerFd;
use chitin_kernel::{Fd, pidfd::PidFd};
use chitin_vfs::epoll::Epoll;
use chitin_vfs::eventfd::EventFd;
use chitin_vfs::notify::Inotify;

/// The numbers in use, in order.
pub(super) fn numbers(subject: &Subject) -> Vec<i32> {
    subject.task.as_ref().map(|task| task.files().numbers()).unwrap_or_default()
}

pub(super) fn get(subject: &Subject, fd: i32) -> Option<Fd> {
    subject.task.as_ref()?.files().get_fd(fd).ok()
}

/// The mode of a link in fd/: what the file is open for.
pub(super) fn link_perm(subject: &Subject, fd: u32) -> u32 {
    get(subject, fd.cast_signed()).map_or(0, |fd| link_bits(fd.file.readable(), fd.file.writable()))
}

/// fdinfo/N (seq_show() in fs/proc/fd.c, and the files' own show_fdinfo).
pub(super) fn info(subject: &Subject, fd: u32, out: &mut Vec<u8>) -> Result<(), Errno> {
    let Fd { file, cloexec } = get(subject, fd.cast_signed()).ok_or(Errno::ENOENT)?;
    let mut flags = file.flags();
    if file.path().is_some() && !file.is_path_only() {
        flags |= O_LARGEFILE;
    }
    if cloexec {
        flags |= O_CLOEXEC;
    }
    // Pseudo files lie on a mount of the kernel's own, which no namespace has.
    let mount = file.path().map_or(15, |path| path.mount.id());
    let pos = if file.ops().seekable() { *file.position() } else { 0 };
    put!(out, "pos:\t{pos}\nflags:\t0{flags:o}\nmnt_id:\t{mount}\nino:\t{}\n", file.inode().ino());
    locks(subject, &file, out);
    if let Some(event) = file.downcast::<EventFd>() {
        let semaphore = i32::from(event.is_semaphore());
        put!(out, "eventfd-count: {:16x}\neventfd-semaphore: {semaphore}\n", event.count());
    } else if let Some(epoll) = file.downcast::<Epoll>() {
        for item in epoll.items() {
            put!(
                out,
                "tfd: {:8} events: {:8x} data: {:16x}  pos:0 ino:{:x} sdev:0\n",
                item.fd,
                item.events,
                item.data,
                item.ino
            );
        }
    } else if let Some(inotify) = file.downcast::<Inotify>() {
        for watch in inotify.watches() {
            put!(
                out,
                "inotify wd:{:x} ino:{:x} sdev:{:x} mask:{:x} ignored_mask:0\n",
                watch.wd,
                watch.ino,
                watch.dev,
                watch.mask
            );
        }
    } else if let Some(timer) = file.downcast::<TimerFd>() {
        let (clock, ticks, flags, setting) = timer.info();
        let (value, interval) = (setting.it_value, setting.it_interval);
        put!(
            out,
            "clockid: {clock}\nticks: {ticks}\nsettime flags: 0{flags:o}\nit_value: ({}, {})\n\
             it_interval: ({}, {})\n",
            value.tv_sec,
            value.tv_nsec,
            interval.tv_sec,
            interval.tv_nsec
        );
    } else if let Some(signals) = file.downcast::<SignalFd>() {
        put!(out, "sigmask:\t{:016x}\n", signals.mask().0);
    } else if let Some(pidfd) = file.downcast::<PidFd>() {
        let process = pidfd.process();
        if subject.shared.kernel.process_by_kid(process.kid()).is_none() {
            out.extend_from_slice(b"Pid:\t-1\nNSpid:\t-1\n");
            return Ok(());
        }
        put!(out, "Pid:\t{}\nNSpid:", process.pid_in(&subject.shared.ns));
        let numbers = process.id.numbers_from(&subject.shared.ns);
        // One that is not visible has no numbers here.
        let numbers = if process.pid_in(&subject.shared.ns) == 0 { vec![0] } else { numbers };
        numbers.iter().for_each(|nr| put!(out, "\t{nr}"));
        out.push(b'\n');
    }
    Ok(())
}

/// Locks that the process holds on the file's inode, as lines of /proc/locks.
fn locks(subject: &Subject, file: &chitin_vfs::File, out: &mut Vec<u8>) {
    if file.path().is_none() {
        return;
    }
    let Ok(attr) = file.inode().attr() else { return };
    let mut count = 0;
    for lock in chitin_vfs::locks::all_locks() {
        let ours = lock.pid == subject.process.kid() || lock.pid == -1;
        if ours && lock.dev == attr.dev && lock.ino == attr.ino {
            count += 1;
            out.extend_from_slice(b"lock:\t");
            let nr = subject.nr(lock.pid);
            crate::system::lock_line(count, &lock, nr, out);
        }
    }
}
