//! Signals: numbers, sets, actions, `siginfo`, the x86_64 signal frame, `sigevent` and `signalfd`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use crate::sigframe::{FpState, FpxSwBytes, RtSigFrame, SigContext, UContext, XstateHeader};
pub use crate::siginfo::{SigInfo, SignalfdSiginfo};
// Signal numbers.
pub const SIGHUP: u32 = 1;
pub const SIGINT: u32 = 2;
pub const SIGQUIT: u32 = 3;
pub const SIGILL: u32 = 4;
pub const SIGTRAP: u32 = 5;
pub const SIGABRT: u32 = 6;
pub const SIGIOT: u32 = 6;
pub const SIGBUS: u32 = 7;
pub const SIGFPE: u32 = 8;
pub const SIGKILL: u32 = 9;
pub const SIGUSR1: u32 = 10;
pub const SIGSEGV: u32 = 11;
pub const SIGUSR2: u32 = 12;
pub const SIGPIPE: u32 = 13;
pub const SIGALRM: u32 = 14;
pub const SIGTERM: u32 = 15;
pub const SIGSTKFLT: u32 = 16;
pub const SIGCHLD: u32 = 17;
pub const SIGCONT: u32 = 18;
pub const SIGSTOP: u32 = 19;
pub const SIGTSTP: u32 = 20;
pub const SIGTTIN: u32 = 21;
pub const SIGTTOU: u32 = 22;
pub const SIGURG: u32 = 23;
pub const SIGXCPU: u32 = 24;
pub const SIGXFSZ: u32 = 25;
pub const SIGVTALRM: u32 = 26;
pub const SIGPROF: u32 = 27;
pub const SIGWINCH: u32 = 28;
pub const SIGIO: u32 = 29;
pub const SIGPOLL: u32 = 29;
pub const SIGPWR: u32 = 30;
pub const SIGSYS: u32 = 31;
pub const SIGUNUSED: u32 = 31;
pub const SIGRTMIN: u32 = 32;
pub const SIGRTMAX: u32 = 64;
pub const _NSIG: u32 = 64;

// `sigaction` flags (`sa_flags` is an `unsigned long`).
pub const SA_RESTORER: u64 = 0x0400_0000;
pub const SA_NOCLDSTOP: u64 = 0x0000_0001;
pub const SA_NOCLDWAIT: u64 = 0x0000_0002;
pub const SA_SIGINFO: u64 = 0x0000_0004;
pub const SA_UNSUPPORTED: u64 = 0x0000_0400;
pub const SA_EXPOSE_TAGBITS: u64 = 0x0000_0800;
pub const SA_ONSTACK: u64 = 0x0800_0000;
pub const SA_RESTART: u64 = 0x1000_0000;
pub const SA_NODEFER: u64 = 0x4000_0000;
pub const SA_RESETHAND: u64 = 0x8000_0000;
pub const SA_NOMASK: u64 = 0x4000_0000;
pub const SA_ONESHOT: u64 = 0x8000_0000;

// `sigprocmask`.
pub const SIG_BLOCK: u32 = 0;
pub const SIG_UNBLOCK: u32 = 1;
pub const SIG_SETMASK: u32 = 2;

// Dispositions.
pub const SIG_DFL: u64 = 0;
pub const SIG_IGN: u64 = 1;
pub const SIG_ERR: u64 = u64::MAX;

// `si_code`: senders.
pub const SI_USER: i32 = 0;
pub const SI_KERNEL: i32 = 0x80;
pub const SI_QUEUE: i32 = -1;
pub const SI_TIMER: i32 = -2;
pub const SI_MESGQ: i32 = -3;
pub const SI_ASYNCIO: i32 = -4;
pub const SI_SIGIO: i32 = -5;
pub const SI_TKILL: i32 = -6;
pub const SI_DETHREAD: i32 = -7;
pub const SI_ASYNCNL: i32 = -60;

// `si_code`: faults.
pub const ILL_ILLOPC: i32 = 1;
pub const ILL_ILLOPN: i32 = 2;
pub const ILL_ILLADR: i32 = 3;
pub const ILL_ILLTRP: i32 = 4;
pub const ILL_PRVOPC: i32 = 5;
pub const ILL_PRVREG: i32 = 6;
pub const ILL_COPROC: i32 = 7;
pub const ILL_BADSTK: i32 = 8;
pub const ILL_BADIADDR: i32 = 9;
pub const FPE_INTDIV: i32 = 1;
pub const FPE_INTOVF: i32 = 2;
pub const FPE_FLTDIV: i32 = 3;
pub const FPE_FLTOVF: i32 = 4;
pub const FPE_FLTUND: i32 = 5;
pub const FPE_FLTRES: i32 = 6;
pub const FPE_FLTINV: i32 = 7;
pub const FPE_FLTSUB: i32 = 8;
pub const FPE_FLTUNK: i32 = 14;
pub const FPE_CONDTRAP: i32 = 15;
pub const SEGV_MAPERR: i32 = 1;
pub const SEGV_ACCERR: i32 = 2;
pub const SEGV_BNDERR: i32 = 3;
pub const SEGV_PKUERR: i32 = 4;
pub const SEGV_ACCADI: i32 = 5;
pub const SEGV_ADIDERR: i32 = 6;
pub const SEGV_ADIPERR: i32 = 7;
pub const SEGV_MTEAERR: i32 = 8;
pub const SEGV_MTESERR: i32 = 9;
pub const BUS_ADRALN: i32 = 1;
pub const BUS_ADRERR: i32 = 2;
pub const BUS_OBJERR: i32 = 3;
pub const BUS_MCEERR_AR: i32 = 4;
pub const BUS_MCEERR_AO: i32 = 5;
pub const TRAP_BRKPT: i32 = 1;
pub const TRAP_TRACE: i32 = 2;
pub const TRAP_BRANCH: i32 = 3;
pub const TRAP_HWBKPT: i32 = 4;
pub const TRAP_UNK: i32 = 5;
pub const TRAP_PERF: i32 = 6;
pub const TRAP_PERF_FLAG_ASYNC: i32 = 1 << 0;

// `si_code`: children, descriptors, seccomp.
pub const CLD_EXITED: i32 = 1;
pub const CLD_KILLED: i32 = 2;
pub const CLD_DUMPED: i32 = 3;
pub const CLD_TRAPPED: i32 = 4;
pub const CLD_STOPPED: i32 = 5;
pub const CLD_CONTINUED: i32 = 6;
pub const POLL_IN: i32 = 1;
pub const POLL_OUT: i32 = 2;
pub const POLL_MSG: i32 = 3;
pub const POLL_ERR: i32 = 4;
pub const POLL_PRI: i32 = 5;
pub const POLL_HUP: i32 = 6;
pub const SYS_SECCOMP: i32 = 1;
pub const SYS_USER_DISPATCH: i32 = 2;
pub const EMT_TAGOVF: i32 = 1;

// Alternate stack.
pub const SS_ONSTACK: u32 = 1;
pub const SS_DISABLE: u32 = 2;
pub const SS_AUTODISARM: u32 = 1 << 31;
pub const SS_FLAG_BITS: u32 = 0x8000_0000;

// Alternate stack sizes.
pub const MINSIGSTKSZ: u64 = 2048;
pub const SIGSTKSZ: u64 = 8192;

// `sigevent`.
pub const SIGEV_SIGNAL: u32 = 0;
pub const SIGEV_NONE: u32 = 1;
pub const SIGEV_THREAD: u32 = 2;
pub const SIGEV_THREAD_ID: u32 = 4;

// `signalfd`.
pub const SFD_CLOEXEC: u32 = 0x0008_0000;
pub const SFD_NONBLOCK: u32 = 2048;

// `uc_flags`.
pub const UC_FP_XSTATE: u64 = 1;
pub const UC_SIGCONTEXT_SS: u64 = 2;
pub const UC_STRICT_RESTORE_SS: u64 = 4;

// Marks of extended FPU state in a frame.
pub const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
pub const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;

/// A set of signals: bit `n - 1` stands for signal `n`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, PartialEq, Eq, Hash)]
pub struct SigSet(pub u64);

impl SigSet {
    pub const EMPTY: SigSet = SigSet(0);
    pub const FULL: SigSet = SigSet(u64::MAX);
    /// The two signals that can be neither blocked nor caught.
    pub const UNBLOCKABLE: SigSet = SigSet::of(SIGKILL).union(SigSet::of(SIGSTOP));
    /// Faults and `SIGSYS`, which are delivered before other signals.
    pub const SYNCHRONOUS: SigSet = SigSet::of(SIGSEGV)
        .union(SigSet::of(SIGBUS))
        .union(SigSet::of(SIGILL))
        .union(SigSet::of(SIGTRAP))
        .union(SigSet::of(SIGFPE))
        .union(SigSet::of(SIGSYS));
    /// Signals that stop the process by default.
    pub const STOP: SigSet =
        SigSet::of(SIGSTOP).union(SigSet::of(SIGTSTP)).union(SigSet::of(SIGTTIN)).union(SigSet::of(SIGTTOU));
    /// Signals ignored by default.
    pub const IGNORED: SigSet =
        SigSet::of(SIGCONT).union(SigSet::of(SIGCHLD)).union(SigSet::of(SIGWINCH)).union(SigSet::of(SIGURG));
    /// Signals that dump core by default.
    pub const COREDUMP: SigSet = SigSet::SYNCHRONOUS
        .union(SigSet::of(SIGQUIT))
        .union(SigSet::of(SIGABRT))
        .union(SigSet::of(SIGXCPU))
        .union(SigSet::of(SIGXFSZ));

    /// The set of one signal; empty if there is no such signal.
    pub const fn of(sig: u32) -> SigSet {
        if sig >= 1 && sig <= _NSIG { SigSet(1 << (sig - 1)) } else { SigSet::EMPTY }
    }

    pub const fn contains(self, sig: u32) -> bool {
        self.0 & SigSet::of(sig).0 != 0
    }

    pub const fn add(&mut self, sig: u32) {
        self.0 |= SigSet::of(sig).0;
    }

    pub const fn remove(&mut self, sig: u32) {
        self.0 &= !SigSet::of(sig).0;
    }

    pub const fn union(self, other: SigSet) -> SigSet {
        SigSet(self.0 | other.0)
    }

    pub const fn intersection(self, other: SigSet) -> SigSet {
        SigSet(self.0 & other.0)
    }

    pub const fn difference(self, other: SigSet) -> SigSet {
        SigSet(self.0 & !other.0)
    }

    pub const fn complement(self) -> SigSet {
        SigSet(!self.0)
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The lowest signal in the set.
    pub const fn first(self) -> Option<u32> {
        if self.0 == 0 { None } else { Some(self.0.trailing_zeros() + 1) }
    }

    /// The signals in the set, ascending.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        let mut rest = self;
        core::iter::from_fn(move || {
            let sig = rest.first()?;
            rest.remove(sig);
            Some(sig)
        })
    }
}

/// Whether signals of this number queue up and arrive in order.
pub const fn is_realtime(sig: u32) -> bool {
    sig >= SIGRTMIN && sig <= SIGRTMAX
}

/// `struct sigaction` as `rt_sigaction` takes it. The handler and the restorer are guest addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, PartialEq, Eq)]
pub struct SigAction {
    pub sa_handler: u64,
    pub sa_flags: u64,
    pub sa_restorer: u64,
    pub sa_mask: SigSet,
}

/// Alternate stack of `sigaltstack`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, PartialEq, Eq)]
pub struct StackT {
    pub ss_sp: u64,
    pub ss_flags: u32,
    pub _pad0: u32,
    pub ss_size: u64,
}

impl StackT {
    pub const DISABLED: StackT = StackT { ss_sp: 0, ss_flags: SS_DISABLE, _pad0: 0, ss_size: 0 };

    /// Whether an address lies on the stack (its base excluded, its end included, as the stack
    /// pointer counts downwards).
    pub const fn contains(&self, sp: u64) -> bool {
        sp > self.ss_sp && sp - self.ss_sp <= self.ss_size
    }
}

/// `struct sigevent`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SigEvent {
    pub sigev_value: u64,
    pub sigev_signo: i32,
    pub sigev_notify: i32,
    pub sigev_notify_thread_id: i32,
    pub _pad: [i32; 11],
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{offset_of, size_of};

    #[test]
    fn layouts() {
        assert_eq!(size_of::<SigSet>(), 8);
        assert_eq!(size_of::<SigAction>(), 32);
        assert_eq!(offset_of!(SigAction, sa_mask), 24);
        assert_eq!(size_of::<StackT>(), size_of::<libc::stack_t>());
        assert_eq!(offset_of!(StackT, ss_size), offset_of!(libc::stack_t, ss_size));
        assert_eq!(size_of::<SigEvent>(), size_of::<libc::sigevent>());
        assert_eq!(
            offset_of!(SigEvent, sigev_notify_thread_id),
            offset_of!(libc::sigevent, sigev_notify_thread_id)
        );
    }

    #[test]
    fn sets() {
        let mut set = SigSet::EMPTY;
        set.add(1);
        set.add(64);
        set.add(0);
        set.add(65);
        assert_eq!(set.0, 0x8000_0000_0000_0001);
        assert!(set.contains(64) && !set.contains(2) && !set.contains(0) && !set.contains(65));
        assert_eq!(set.iter().collect::<Vec<_>>(), [1, 64]);
        set.remove(1);
        set.remove(0);
        assert_eq!(set.first(), Some(64));
        assert_eq!(SigSet::UNBLOCKABLE.iter().collect::<Vec<_>>(), [9, 19]);
        assert!(SigSet::FULL.difference(SigSet::FULL).is_empty());
    }

    #[test]
    fn alternate_stack_bounds() {
        let stack = StackT { ss_sp: 0x1000, ss_size: 0x1000, ..StackT::default() };
        assert!(!stack.contains(0x1000) && stack.contains(0x1001));
        assert!(stack.contains(0x2000) && !stack.contains(0x2001));
        assert!(!stack.contains(0));
    }
}
