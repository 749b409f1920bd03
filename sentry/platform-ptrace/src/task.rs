//! A guest thread: its state, and what its stops mean in each state.
//!
//! Neighbours: its `tracer` calls [`Task::on_stop`], [`Task::on_end`] and [`Task::execute`] on the one thread that may ask
//! the host about it; `fault` is the part about faults, `calls` runs host calls in it, `control` implements the trait.
//!
//! Life of a system call: the guest runs under SYSEMU, so the instruction stops it with nothing done. The answer goes into
//! the registers, and the guest goes on behind the instruction. What the host shall run is entered once more: there the
//! filter stops it again, what the host is about to do is compared with what the sentry allowed, and the call goes its way.
//!
//! Locks: `st` is a leaf but for `Process::inner`; it is held across ptrace requests, which do not block, never across a
//! waker or the kernel's code: those go to `events`.

use crate::Process;
use crate::calls::List;
use crate::sandbox::Sandbox;
use crate::stub::{AFTER_CALL, KICK};
use crate::sys::{self, UserRegs};
use crate::tracer::{Command, Tracer};
use chitin_platform::{Event, EventKind, Owner, PlatformError};
use chitin_platform_host::reserve;
use parking_lot::{Mutex, MutexGuard};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::task::Waker;

pub const ARCH_X86_64: u32 = 0xc000_003e;
const ARCH_I386: u32 = 0x4000_0003;
/// The code segment of 64-bit programs.
const USER_CS: u64 = 0x33;
const VSYSCALL: u64 = 0xffff_ffff_ff60_0000;

/// Calls after which the kernel wants the whole register file.
const FRAMED: [u64; 5] = [
    libc::SYS_clone as u64,
    libc::SYS_fork as u64,
    libc::SYS_vfork as u64,
    libc::SYS_clone3 as u64,
    libc::SYS_rt_sigreturn as u64,
];

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// About to be traced.
    Born,
    /// Guest code, or about to be let go on.
    Running,
    /// Reported, or about to be.
    Stopped,
    /// Its tracer fetches the rest of its state.
    Fetching,
    /// On its way through a listed call; the mode it goes on in.
    Calls(u32),
    /// The system call instruction is run once more, for the host.
    Native,
    /// A fault's signal is on its way to the slot's signal frame.
    Fault(crate::fault::Pending),
    /// A call through the vsyscall page is being skipped.
    Vsyscall,
    /// A group leader that has exited, kept stopped for the others' sake.
    Limbo,
    Dead,
}

/// The system call that a task stopped at.
#[derive(Clone, Copy, Debug, Default)]
pub struct SysCall {
    pub arch: u32,
    pub nr: u64,
    pub args: [u64; 6],
    pub ip: u64,
}

pub struct St {
    pub phase: Phase,
    /// The registers of a stopped task, as the guest is to see them.
    pub regs: UserRegs,
    /// The FPU state, if it has been fetched.
    pub fp: Option<Vec<u8>>,
    /// It differs from the thread's.
    pub fp_dirty: bool,
    pub call: SysCall,
    /// Stopped at `call`, and nobody has changed its registers: the guest's own instruction can make the call.
    pub plain: bool,
    /// An `Interrupted` is owed.
    pub interrupt: bool,
    /// A kick is under way.
    pub kicked: bool,
    /// The file for a native mmap.
    pub native_fd: Option<Arc<OwnedFd>>,
    pub list: Option<Box<List>>,
    pub results: Vec<i64>,
    pub waker: Option<Waker>,
    pub owner: Option<Owner>,
    /// Operations that come to their end whoever has ended meanwhile.
    pub ops: u32,
    /// The kernel has ended it amid one.
    pub exit_due: bool,
}

pub struct Task {
    pub(crate) me: Weak<Task>,
    pub sb: Arc<Sandbox>,
    pub proc: Arc<Process>,
    pub tid: i32,
    pub tracer: Arc<Tracer>,
    pub st: Mutex<St>,
}

impl Task {
    pub fn new(
        sb: &Arc<Sandbox>,
        proc: &Arc<Process>,
        tid: i32,
        tracer: Arc<Tracer>,
        phase: Phase,
        regs: UserRegs,
    ) -> Arc<Task> {
        let t = Arc::new_cyclic(|me| Task {
            me: me.clone(),
            sb: sb.clone(),
            proc: proc.clone(),
            tid,
            tracer,
            st: Mutex::new(St {
                phase,
                regs,
                fp: None,
                fp_dirty: false,
                call: SysCall::default(),
                plain: false,
                interrupt: false,
                kicked: false,
                native_fd: None,
                list: None,
                results: Vec::new(),
                waker: None,
                owner: None,
                ops: 0,
                exit_due: false,
            }),
        });
        proc.add(&t);
        sb.table.insert(tid as u32, t.clone());
        t
    }

    pub fn post(&self, command: Command) {
        if let Some(me) = self.me.upgrade() {
            self.tracer.post(me, command);
        }
    }

    /// Sends the kick; the caller holds the task's lock and it is not dead, so the pid is still ours.
    pub fn kick(&self, st: &mut St) {
        st.kicked = true;
        let _ = sys::tgkill(self.proc.pid, self.tid, KICK);
    }

    pub fn event(&self, st: &mut St, kind: EventKind) {
        st.phase = Phase::Stopped;
        match st.owner.clone() {
            Some(owner) => self.sb.events.event(Event { owner, kind }),
            None => {
                tracing::error!(tid = self.tid, "event of a task without owner; killing its process");
                self.proc.kill(false);
            }
        }
    }

    /// The guest does what no guest can do by accident.
    pub fn corrupt(&self, what: &'static str) -> bool {
        tracing::warn!(tid = self.tid, what, "killing a guest process");
        self.proc.kill(false);
        false
    }

    /// Wakes the operation that waits for the task.
    pub fn wake(&self, st: &mut St) {
        if let Some(waker) = st.waker.take() {
            self.sb.events.wake(waker);
        }
    }

    /// A ptrace request that lets it go on; whether it runs now. A request that fails finds the task killed.
    pub fn go(&self, how: u32, signal: i32) -> bool {
        sys::go(how, self.tid, signal).is_ok()
    }

    /// Starts to trace it; `false`: it is dead. One that has been killed meanwhile is traced, too, so that somebody reaps it.
    pub fn adopt(&self) -> bool {
        let traced = sys::seize(self.tid);
        let mut st = self.st.lock();
        if traced.is_ok() && (st.phase != Phase::Born || sys::interrupt(self.tid).is_ok()) {
            return true;
        }
        self.proc.kill(true);
        self.bury(&mut st);
        drop(st);
        if self.tid == self.proc.pid {
            self.end_process(libc::SIGKILL);
        }
        false
    }

    /// Nothing of this thread is reported or touched any more.
    pub fn bury(&self, st: &mut St) -> Option<Owner> {
        st.phase = Phase::Dead;
        st.list = None;
        st.native_fd = None;
        self.wake(st);
        self.sb.table.remove_if(self.tid as u32, |t| std::ptr::eq(Arc::as_ptr(t), self));
        st.owner.take()
    }

    /// The thread is dead for certain, and not yet reaped.
    pub fn on_end(&self, signal: i32) {
        let mut st = self.st.lock();
        self.release_fault(&st);
        let was_dead = st.phase == Phase::Dead;
        let owner = self.bury(&mut st);
        drop(st);
        if let Some(owner) = owner.filter(|_| !was_dead && !self.proc.ending()) {
            self.sb.events.event(Event { owner, kind: EventKind::Exited { signal } });
        }
        if self.tid == self.proc.pid {
            self.end_process(signal);
        }
    }

    fn end_process(&self, signal: i32) {
        let given_up = (signal == libc::SIGKILL && !self.proc.ending()).then(reserve::give_up);
        self.proc.space.mem.remove_reader(self.proc.pid);
        drop(given_up);
        let wanted = self.proc.set_dead();
        let lost = self.sb.origins.lock().remove(&self.proc.pid);
        let closing = self.sb.closing.load(std::sync::atomic::Ordering::Relaxed);
        if let Some(lost) = lost.filter(|_| !wanted && !closing) {
            lost(signal);
        }
    }

    /// What a stop means; returns whether the thread runs again.
    pub fn on_stop(&self, status: i32) -> bool {
        let mut st = self.st.lock();
        match (status >> 8, status & 0xff) {
            (sys::EVENT_SECCOMP, _) => self.seccomp_stop(&mut st),
            (sys::EVENT_STOP, _) => self.event_stop(&mut st),
            (0, 0x85) => self.syscall_stop(st),
            (0, signal) => self.signal_stop(&mut st, signal),
            _ => self.again(&st),
        }
    }

    /// Goes on as before, without a signal.
    pub fn again(&self, st: &St) -> bool {
        match st.phase {
            Phase::Running | Phase::Vsyscall => self.go(sys::SYSEMU, 0),
            Phase::Native | Phase::Born => self.go(sys::CONT, 0),
            Phase::Calls(how) => self.go(how, 0),
            Phase::Fault(_) => self.corrupt("it stopped on the way to a signal frame"),
            Phase::Stopped | Phase::Fetching | Phase::Limbo | Phase::Dead => false,
        }
    }

    fn syscall_stop(&self, mut st: MutexGuard<'_, St>) -> bool {
        match st.phase {
            Phase::Running => {}
            Phase::Calls(_) => return self.call_done(&mut st),
            Phase::Dead => return false,
            _ => return self.corrupt("a system call while it was stopped"),
        }
        let Ok(regs) = sys::get_regs(self.tid) else { return false };
        st.regs = regs;
        st.fp = None;
        st.call = self.decode(&regs);
        st.plain = st.call.arch == ARCH_X86_64;
        if FRAMED.contains(&st.call.nr) {
            self.fetch(&mut st);
        }
        if st.call.nr == libc::SYS_exit as u64 && self.forget_rseq(&mut st) {
            return self.next_call(&mut st);
        }
        self.report_call(&mut st);
        false
    }

    pub fn report_call(&self, st: &mut St) {
        let SysCall { arch, nr, args, ip } = st.call;
        self.event(st, EventKind::Syscall { arch, nr, args, ip });
    }

    fn decode(&self, regs: &UserRegs) -> SysCall {
        // SYSCALL leaves these two; a guest that fakes them makes a call of x86-64, and is treated as making one.
        let plain = regs.cs == USER_CS && regs.rcx == regs.rip && regs.r11 == regs.eflags;
        let arch = if plain { ARCH_X86_64 } else { sys::syscall_arch(self.tid).unwrap_or(ARCH_I386) };
        let args = if arch == ARCH_X86_64 {
            [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9]
        } else {
            [regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rbp].map(|v| v & 0xffff_ffff)
        };
        // The host looks at the low half of the number.
        SysCall { arch, nr: regs.orig_rax as i32 as u64, args, ip: regs.rip }
    }

    /// What the host is about to do is what the sentry allowed?
    fn as_allowed(&self, nr: u64, args: &[u64; 6], ip: u64) -> bool {
        sys::get_regs(self.tid).is_ok_and(|r| {
            let call = self.decode(&r);
            call.arch == ARCH_X86_64 && call.nr == nr && call.args == *args && r.rip == ip
        })
    }

    fn seccomp_stop(&self, st: &mut St) -> bool {
        match st.phase {
            Phase::Calls(_) => {
                let wanted = st.list.as_ref().and_then(|list| list.current());
                if !wanted.is_some_and(|(nr, args)| self.as_allowed(nr, &args, AFTER_CALL)) {
                    return self.corrupt("a host call that was not asked for");
                }
                st.phase = Phase::Calls(sys::SYSCALL);
                self.go(sys::SYSCALL, 0)
            }
            Phase::Native => {
                let SysCall { nr, args, ip, .. } = st.call;
                if !self.as_allowed(nr, &args, ip) {
                    return self.corrupt("a system call that changed while it was looked at");
                }
                st.phase = Phase::Running;
                if st.interrupt && !st.kicked {
                    self.kick(st);
                }
                self.go(sys::SYSEMU, 0)
            }
            Phase::Running => {
                // The host emulates the vsyscall page without asking SYSEMU; no other call comes here.
                let Ok(mut regs) = sys::get_regs(self.tid) else { return false };
                if regs.rip & !0xfff != VSYSCALL {
                    return self.corrupt("a system call by the emulation's side");
                }
                st.call = self.decode(&regs);
                st.call.arch = ARCH_X86_64;
                st.call.args = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
                // Skip it, and stop behind it, where the registers may be changed at will.
                regs.orig_rax = u64::MAX;
                if sys::set_regs(self.tid, &regs).and_then(|()| sys::interrupt(self.tid)).is_err() {
                    return false;
                }
                st.phase = Phase::Vsyscall;
                self.go(sys::SYSEMU, 0)
            }
            _ => self.again(st),
        }
    }

    fn event_stop(&self, st: &mut St) -> bool {
        match st.phase {
            Phase::Born => {
                self.fetch(st);
                st.phase = Phase::Stopped;
                self.wake(st);
                false
            }
            Phase::Vsyscall => {
                let Ok(regs) = sys::get_regs(self.tid) else { return false };
                st.regs = regs;
                st.fp = None;
                st.plain = false;
                let SysCall { arch, nr, args, ip } = st.call;
                self.event(st, EventKind::Syscall { arch, nr, args, ip });
                false
            }
            _ => self.again(st),
        }
    }

    fn signal_stop(&self, st: &mut St, signal: i32) -> bool {
        if signal == KICK {
            st.kicked = false;
            if st.phase == Phase::Running && st.interrupt {
                let Ok(regs) = sys::get_regs(self.tid) else { return false };
                st.interrupt = false;
                st.regs = regs;
                st.fp = None;
                st.plain = false;
                self.fetch(st);
                self.event(st, EventKind::Interrupted);
                return false;
            }
            return self.again(st);
        }
        self.fault_stop(st, signal)
    }

    /// Fetches the FPU state of a stopped thread.
    pub fn fetch(&self, st: &mut St) {
        if st.fp.is_none() {
            let mut state = Vec::new();
            if sys::get_xstate(self.tid, &mut state).is_ok() {
                st.fp = Some(state);
                st.fp_dirty = false;
            }
        }
    }

    /// Does what was posted to its tracer; returns whether it runs now.
    pub fn execute(&self, command: Command) -> bool {
        let mut st = self.st.lock();
        match (command, st.phase) {
            (Command::Go, Phase::Running) => self.let_go(&mut st),
            (Command::Native, Phase::Native) => {
                let mut regs = st.regs;
                regs.rip = regs.rip.wrapping_sub(2);
                regs.rax = st.call.nr;
                regs.orig_rax = u64::MAX;
                if sys::set_regs(self.tid, &regs).is_err() {
                    return false;
                }
                self.go(sys::CONT, 0)
            }
            (Command::Fetch { report }, Phase::Fetching) => {
                self.fetch(&mut st);
                if report {
                    self.event(&mut st, EventKind::Interrupted);
                } else {
                    st.phase = Phase::Stopped;
                    self.wake(&mut st);
                }
                false
            }
            (Command::Calls, Phase::Calls(_)) => self.next_call(&mut st),
            _ => false,
        }
    }

    fn let_go(&self, st: &mut St) -> bool {
        if let Some(state) = st.fp.take().filter(|_| st.fp_dirty) {
            st.fp_dirty = false;
            match sys::set_xstate(self.tid, &state) {
                Err(libc::ESRCH) | Ok(()) => {}
                Err(errno) => {
                    tracing::error!(errno, tid = self.tid, "the host refuses an FPU state");
                    return self.corrupt("an FPU state that the host refuses");
                }
            }
        }
        st.regs.orig_rax = u64::MAX;
        match sys::set_regs(self.tid, &st.regs) {
            Ok(()) => self.go(sys::SYSEMU, 0),
            Err(libc::ESRCH) => false,
            Err(_) => self.corrupt("registers that the host refuses"),
        }
    }

    pub fn stopped(st: &St) -> Result<(), PlatformError> {
        match st.phase {
            Phase::Stopped => Ok(()),
            Phase::Dead => Err(PlatformError::Gone),
            _ => Err(PlatformError::Corrupt("the task is not stopped")),
        }
    }
}
