//! signalfd(2): pending signals as a file.
//!
//! A read takes signals of the *reader*, and file operations know no task: `syscalls` calls [`SignalFd::read_for`].
//! Readiness is that of the owner: the process that made it, or the one that last used it ([`SignalFd::used_by`]).
//!
//! Locks: `mask` and `owner`, leaves.

use crate::{Process, Task};
use chitin_abi::Errno;
use chitin_abi::fcntl::{O_NONBLOCK, O_RDWR};
use chitin_abi::num::low32;
use chitin_abi::poll::POLLIN;
use chitin_abi::siginfo::SignalfdSiginfo;
use chitin_abi::signal::*;
use chitin_mm::Sink;
use chitin_vfs::{File, FileOps, PollTable, WaitQueue};
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use zerocopy::IntoBytes;

struct Owner {
    task: Weak<Task>,
    process: Weak<Process>,
}

impl Owner {
    fn of(task: &Arc<Task>) -> Owner {
        Owner { task: Arc::downgrade(task), process: Arc::downgrade(&task.process) }
    }

    fn task(&self) -> Option<Arc<Task>> {
        self.task.upgrade().or_else(|| self.process.upgrade()?.leader())
    }
}

pub struct SignalFd {
    mask: Mutex<SigSet>,
    owner: Mutex<Owner>,
    /// Woken when the mask changes.
    changed: WaitQueue,
}

impl SignalFd {
    /// signalfd4(2) for a new descriptor. EINVAL for unknown flags.
    pub fn open(task: &Arc<Task>, mask: SigSet, flags: u32) -> Result<Arc<File>, Errno> {
        if flags & !(SFD_CLOEXEC | SFD_NONBLOCK) != 0 {
            return Err(Errno::EINVAL);
        }
        let mask = Mutex::new(mask.difference(SigSet::UNBLOCKABLE));
        let ops = Arc::new(SignalFd { mask, owner: Mutex::new(Owner::of(task)), changed: WaitQueue::new() });
        Ok(File::anon(ops, "[signalfd]", O_RDWR | (flags & O_NONBLOCK)))
    }

    pub fn mask(&self) -> SigSet {
        *self.mask.lock()
    }

    /// signalfd4(2) for an open descriptor.
    pub fn set_mask(&self, mask: SigSet) {
        *self.mask.lock() = mask.difference(SigSet::UNBLOCKABLE);
        self.changed.wake(POLLIN);
    }

    /// The task asks about readiness: from now on its process's signals count.
    pub fn used_by(&self, task: &Arc<Task>) {
        let mut owner = self.owner.lock();
        if owner.process.as_ptr() != Arc::as_ptr(&task.process) {
            *owner = Owner::of(task);
        }
    }

    /// read(2) by `task`: as many pending signals as fit. EINVAL when not one does, EAGAIN when none is pending.
    pub fn read_for(&self, task: &Arc<Task>, dst: &mut dyn Sink) -> Result<usize, Errno> {
        const SIZE: usize = size_of::<SignalfdSiginfo>();
        if dst.room() < SIZE {
            return Err(Errno::EINVAL);
        }
        let mut count = 0;
        while dst.room() >= SIZE {
            let Some(info) = task.take_signal(self.mask()) else { break };
            // As on Linux a signal that cannot be stored is gone.
            match dst.put(shown(&info).as_bytes()) {
                Ok(SIZE) => count += SIZE,
                _ if count > 0 => break,
                _ => return Err(Errno::EFAULT),
            }
        }
        if count == 0 { Err(Errno::EAGAIN) } else { Ok(count) }
    }
}

/// signalfd_copyinfo(): what a signal's information looks like to a reader.
fn shown(info: &SigInfo) -> SignalfdSiginfo {
    let mut out = SignalfdSiginfo {
        ssi_signo: info.signo(),
        ssi_errno: info.si_errno,
        ssi_code: info.si_code,
        ..SignalfdSiginfo::default()
    };
    let with_value = |out: &mut SignalfdSiginfo| {
        out.ssi_ptr = info.value();
        out.ssi_int = low32(info.value()).cast_signed();
    };
    match (info.si_code, info.signo()) {
        (SI_TIMER, _) => {
            out.ssi_tid = info.timer_id().cast_unsigned();
            out.ssi_overrun = info.overrun().cast_unsigned();
            with_value(&mut out);
        }
        (SI_USER | SI_TKILL, _) => {
            out.ssi_pid = info.pid().cast_unsigned();
            out.ssi_uid = info.uid();
        }
        (code, _) if code < 0 => {
            out.ssi_pid = info.pid().cast_unsigned();
            out.ssi_uid = info.uid();
            with_value(&mut out);
        }
        (SI_KERNEL, _) => {}
        (_, SIGCHLD) => {
            out.ssi_pid = info.pid().cast_unsigned();
            out.ssi_uid = info.uid();
            out.ssi_status = info.status();
            out.ssi_utime = info.utime().cast_unsigned();
            out.ssi_stime = info.stime().cast_unsigned();
        }
        (_, SIGIO) => {
            out.ssi_band = low32(info.band().cast_unsigned());
            out.ssi_fd = info.fd();
        }
        (_, SIGSYS) => {
            out.ssi_call_addr = info.call_addr();
            out.ssi_syscall = info.syscall();
            out.ssi_arch = info.arch();
        }
        (_, SIGILL | SIGFPE | SIGSEGV | SIGTRAP) => out.ssi_addr = info.addr(),
        (_, SIGBUS) => {
            out.ssi_addr = info.addr();
            out.ssi_addr_lsb = info.addr_lsb();
        }
        _ => {
            out.ssi_pid = info.pid().cast_unsigned();
            out.ssi_uid = info.uid();
        }
    }
    out
}

impl FileOps for SignalFd {
    fn poll(&self, table: Option<&mut PollTable>) -> u32 {
        let Some(task) = self.owner.lock().task() else { return 0 };
        if let Some(table) = table {
            let (own, shared) = task.signal_arrivals();
            table.add(&own);
            table.add(&shared);
            table.add(&self.changed);
        }
        if task.pending_signals().intersection(self.mask()).is_empty() { 0 } else { POLLIN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reader_sees() {
        let child = shown(&SigInfo::child(CLD_EXITED, 7, 1000, 3, 11, 12));
        assert_eq!((child.ssi_signo, child.ssi_code, child.ssi_pid), (SIGCHLD, CLD_EXITED, 7));
        assert_eq!((child.ssi_status, child.ssi_utime, child.ssi_stime), (3, 11, 12));
        let queued = shown(&SigInfo::queue(SIGRTMIN, SI_QUEUE, 1, 2, 0x1_0000_0005));
        assert_eq!(
            (queued.ssi_pid, queued.ssi_uid, queued.ssi_int, queued.ssi_ptr),
            (1, 2, 5, 0x1_0000_0005)
        );
        let killed = shown(&SigInfo::kill(SIGTERM, SI_USER, 4, 5));
        assert_eq!((killed.ssi_pid, killed.ssi_uid, killed.ssi_ptr), (4, 5, 0));
        let timer = shown(&SigInfo::timer(SIGALRM, 3, 9, 8));
        assert_eq!((timer.ssi_tid, timer.ssi_overrun, timer.ssi_ptr), (3, 9, 8));
    }
}
