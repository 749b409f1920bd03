//! What a signal tells about its cause: `siginfo_t` and its form read from a `signalfd`.
//!
//! The union is an array of words with constructors and accessors by kind of cause, so that any bytes
//! a guest passes are a valid value.

use crate::num::low16;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::signal::{SI_KERNEL, SI_TIMER, SIGCHLD, SIGSYS};

/// `siginfo_t`: a head of three numbers, then a union of 112 bytes read according to `si_code`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, PartialEq, Eq)]
pub struct SigInfo {
    pub si_signo: i32,
    pub si_errno: i32,
    pub si_code: i32,
    pub _pad0: u32,
    /// The union, as 32-bit words.
    pub _sifields: [u32; 28],
}

impl SigInfo {
    const fn new(sig: u32, code: i32) -> SigInfo {
        SigInfo { si_signo: sig.cast_signed(), si_errno: 0, si_code: code, _pad0: 0, _sifields: [0; 28] }
    }

    /// Sent by `kill`, `tkill` and `tgkill`: `code` is `SI_USER` or `SI_TKILL`.
    pub const fn kill(sig: u32, code: i32, pid: i32, uid: u32) -> SigInfo {
        let mut info = SigInfo::new(sig, code);
        info._sifields[0] = pid.cast_unsigned();
        info._sifields[1] = uid;
        info
    }

    /// Sent by the kernel for a reason it does not explain.
    pub const fn kernel(sig: u32) -> SigInfo {
        SigInfo::new(sig, SI_KERNEL)
    }

    /// A fault at an address.
    pub const fn fault(sig: u32, code: i32, addr: u64) -> SigInfo {
        SigInfo::new(sig, code).with_u64(0, addr)
    }

    /// A child changed state; the times are in ticks of `USER_HZ`.
    pub const fn child(code: i32, pid: i32, uid: u32, status: i32, utime: i64, stime: i64) -> SigInfo {
        let mut info = SigInfo::kill(SIGCHLD, code, pid, uid);
        info._sifields[2] = status.cast_unsigned();
        info.with_u64(4, utime.cast_unsigned()).with_u64(6, stime.cast_unsigned())
    }

    /// A POSIX timer expired.
    pub const fn timer(sig: u32, timer_id: i32, overrun: i32, value: u64) -> SigInfo {
        let mut info = SigInfo::new(sig, SI_TIMER);
        info._sifields[0] = timer_id.cast_unsigned();
        info._sifields[1] = overrun.cast_unsigned();
        info.with_u64(2, value)
    }

    /// Sent with a value: `code` is `SI_QUEUE`, `SI_MESGQ` or `SI_ASYNCIO`.
    pub const fn queue(sig: u32, code: i32, pid: i32, uid: u32, value: u64) -> SigInfo {
        SigInfo::kill(sig, code, pid, uid).with_u64(2, value)
    }

    /// A descriptor became ready (`F_SETSIG`).
    pub const fn poll(sig: u32, code: i32, band: i64, fd: i32) -> SigInfo {
        let mut info = SigInfo::new(sig, code).with_u64(0, band.cast_unsigned());
        info._sifields[2] = fd.cast_unsigned();
        info
    }

    /// A seccomp filter or syscall user dispatch stopped a call.
    pub const fn sys(code: i32, call_addr: u64, syscall: i32, arch: u32) -> SigInfo {
        let mut info = SigInfo::new(SIGSYS, code).with_u64(0, call_addr);
        info._sifields[2] = syscall.cast_unsigned();
        info._sifields[3] = arch;
        info
    }

    pub const fn set_signo(&mut self, sig: u32) {
        self.si_signo = sig.cast_signed();
    }

    pub const fn signo(&self) -> u32 {
        self.si_signo.cast_unsigned()
    }

    pub const fn pid(&self) -> i32 {
        self._sifields[0].cast_signed()
    }

    pub const fn uid(&self) -> u32 {
        self._sifields[1]
    }

    pub const fn status(&self) -> i32 {
        self._sifields[2].cast_signed()
    }

    pub const fn utime(&self) -> i64 {
        self.u64_at(4).cast_signed()
    }

    pub const fn stime(&self) -> i64 {
        self.u64_at(6).cast_signed()
    }

    pub const fn addr(&self) -> u64 {
        self.u64_at(0)
    }

    pub const fn addr_lsb(&self) -> u16 {
        low16(self._sifields[2])
    }

    /// `si_lower` and `si_upper` of `SEGV_BNDERR`.
    pub const fn bounds(&self) -> (u64, u64) {
        (self.u64_at(4), self.u64_at(6))
    }

    pub const fn value(&self) -> u64 {
        self.u64_at(2)
    }

    pub const fn timer_id(&self) -> i32 {
        self._sifields[0].cast_signed()
    }

    pub const fn overrun(&self) -> i32 {
        self._sifields[1].cast_signed()
    }

    pub const fn set_overrun(&mut self, overrun: i32) {
        self._sifields[1] = overrun.cast_unsigned();
    }

    pub const fn set_pid_uid(&mut self, pid: i32, uid: u32) {
        self._sifields[0] = pid.cast_unsigned();
        self._sifields[1] = uid;
    }

    pub const fn band(&self) -> i64 {
        self.u64_at(0).cast_signed()
    }

    pub const fn fd(&self) -> i32 {
        self._sifields[2].cast_signed()
    }

    pub const fn call_addr(&self) -> u64 {
        self.u64_at(0)
    }

    pub const fn syscall(&self) -> i32 {
        self._sifields[2].cast_signed()
    }

    pub const fn arch(&self) -> u32 {
        self._sifields[3]
    }

    /// Whether a process sent it, rather than the kernel.
    pub const fn is_from_user(&self) -> bool {
        self.si_code <= 0
    }

    const fn u64_at(&self, word: usize) -> u64 {
        match self._sifields.split_at_checked(word) {
            Some((_, [low, high, ..])) => *low as u64 | (*high as u64) << 32,
            _ => 0,
        }
    }

    const fn with_u64(mut self, word: usize, value: u64) -> SigInfo {
        if let Some((_, [low, high, ..])) = self._sifields.split_at_mut_checked(word) {
            (*low, *high) = ((value & 0xffff_ffff) as u32, (value >> 32) as u32);
        }
        self
    }
}

/// What a read of a `signalfd` gives.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SignalfdSiginfo {
    pub ssi_signo: u32,
    pub ssi_errno: i32,
    pub ssi_code: i32,
    pub ssi_pid: u32,
    pub ssi_uid: u32,
    pub ssi_fd: i32,
    pub ssi_tid: u32,
    pub ssi_band: u32,
    pub ssi_overrun: u32,
    pub ssi_trapno: u32,
    pub ssi_status: i32,
    pub ssi_int: i32,
    pub ssi_ptr: u64,
    pub ssi_utime: u64,
    pub ssi_stime: u64,
    pub ssi_addr: u64,
    pub ssi_addr_lsb: u16,
    pub __pad2: u16,
    pub ssi_syscall: i32,
    pub ssi_call_addr: u64,
    pub ssi_arch: u32,
    pub __pad: [u8; 28],
}

impl Default for SigInfo {
    fn default() -> Self {
        FromZeros::new_zeroed()
    }
}

impl Default for SignalfdSiginfo {
    fn default() -> Self {
        FromZeros::new_zeroed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::*;
    use core::mem::{offset_of, size_of};

    fn u32_at(info: &SigInfo, offset: usize) -> u32 {
        u32::read_from_bytes(&info.as_bytes()[offset..offset + 4]).unwrap()
    }

    fn u64_at(info: &SigInfo, offset: usize) -> u64 {
        u64::read_from_bytes(&info.as_bytes()[offset..offset + 8]).unwrap()
    }

    #[test]
    fn layouts() {
        assert_eq!(size_of::<SigInfo>(), 128);
        assert_eq!(offset_of!(SigInfo, _sifields), 16);
        assert_eq!(size_of::<SignalfdSiginfo>(), size_of::<libc::signalfd_siginfo>());
        assert_eq!(offset_of!(SignalfdSiginfo, ssi_arch), offset_of!(libc::signalfd_siginfo, ssi_arch));
        assert_eq!(offset_of!(SignalfdSiginfo, ssi_ptr), offset_of!(libc::signalfd_siginfo, ssi_ptr));
    }

    /// Offsets as `offsetof(siginfo_t, si_…)` gives them in C.
    #[test]
    fn fields_lie_where_c_reads_them() {
        let child = SigInfo::child(CLD_EXITED, 42, 1000, 7, 11, i64::MAX);
        assert_eq!([0, 4, 8, 16, 20, 24].map(|at| u32_at(&child, at)), [17, 0, 1, 42, 1000, 7]);
        assert_eq!([32, 40].map(|at| u64_at(&child, at)), [11, i64::MAX as u64]);

        let fault = SigInfo::fault(SIGSEGV, SEGV_MAPERR, 0x1234_5678_9abc_def0);
        assert_eq!(u64_at(&fault, 16), 0x1234_5678_9abc_def0);

        let queued = SigInfo::queue(SIGRTMIN, SI_QUEUE, 1, 2, 0xdead_beef_0bad_cafe);
        assert_eq!([8, 16, 20].map(|at| u32_at(&queued, at)), [u32::MAX, 1, 2]);
        assert_eq!(u64_at(&queued, 24), 0xdead_beef_0bad_cafe);

        let timer = SigInfo::timer(SIGALRM, 3, 9, 1 << 40);
        assert_eq!([16, 20].map(|at| u32_at(&timer, at)), [3, 9]);
        assert_eq!(u64_at(&timer, 24), 1 << 40);

        let poll = SigInfo::poll(SIGIO, POLL_IN, -2, 5);
        assert_eq!((u64_at(&poll, 16), u32_at(&poll, 24)), (-2i64 as u64, 5));

        let sys = SigInfo::sys(SYS_SECCOMP, 1 << 46, 39, 0xc000_003e);
        assert_eq!((u64_at(&sys, 16), u32_at(&sys, 24), u32_at(&sys, 28)), (1 << 46, 39, 0xc000_003e));
    }

    #[test]
    fn accessors_return_what_constructors_took() {
        let timer = SigInfo::timer(14, 3, 9, u64::MAX - 1);
        assert_eq!((timer.timer_id(), timer.overrun(), timer.value()), (3, 9, u64::MAX - 1));
        let poll = SigInfo::poll(SIGIO, POLL_IN, -2, 5);
        assert_eq!((poll.band(), poll.fd()), (-2, 5));
        let sys = SigInfo::sys(SYS_SECCOMP, 0x4000_0000_0000, 39, 0xc000_003e);
        assert_eq!((sys.call_addr(), sys.syscall(), sys.arch()), (0x4000_0000_0000, 39, 0xc000_003e));
        assert!(SigInfo::kill(15, SI_USER, 1, 0).is_from_user());
        assert!(!SigInfo::kernel(15).is_from_user());
        assert_eq!(SigInfo::read_from_bytes(timer.as_bytes()).map(|i| i == timer), Ok(true));
    }
}
