//! [`PlatformTask`]: what the kernel can do with a task.
//!
//! Neighbours: `task` (state), `calls` (host calls in it), `spawn` (new tasks).

use crate::calls::close_over;
use crate::sys::UserRegs;
use crate::task::{Phase, St, Task};
use crate::tracer::Command;
use crate::xstate;
use chitin_platform::{
    BRIEFLY, BoxFuture, CpuTimes, OnLost, Owner, PlatformError, PlatformTask, Registers, Resume, Spawn,
    Spawned,
};
use chitin_platform_host::calls::Call;
use chitin_platform_host::detach::detach;
use chitin_platform_host::group::Zygote;
use chitin_platform_host::layout::USER_TOP;
use chitin_platform_host::thread;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// The flag bits user mode may set: what the host's own rt_sigreturn accepts.
const USER_FLAGS: u64 = 0x0005_0dd5;

fn from_host(r: &UserRegs) -> Registers {
    Registers {
        r15: r.r15,
        r14: r.r14,
        r13: r.r13,
        r12: r.r12,
        rbp: r.rbp,
        rbx: r.rbx,
        r11: r.r11,
        r10: r.r10,
        r9: r.r9,
        r8: r.r8,
        rax: r.rax,
        rcx: r.rcx,
        rdx: r.rdx,
        rsi: r.rsi,
        rdi: r.rdi,
        rip: r.rip,
        eflags: r.eflags,
        rsp: r.rsp,
        fs_base: r.fs_base,
        gs_base: r.gs_base,
    }
}

fn to_host(old: &UserRegs, r: &Registers) -> UserRegs {
    UserRegs {
        r15: r.r15,
        r14: r.r14,
        r13: r.r13,
        r12: r.r12,
        rbp: r.rbp,
        rbx: r.rbx,
        r11: r.r11,
        r10: r.r10,
        r9: r.r9,
        r8: r.r8,
        rax: r.rax,
        rcx: r.rcx,
        rdx: r.rdx,
        rsi: r.rsi,
        rdi: r.rdi,
        rip: r.rip,
        eflags: (r.eflags & USER_FLAGS) | (old.eflags & !USER_FLAGS) | 0x202,
        rsp: r.rsp,
        fs_base: r.fs_base,
        gs_base: r.gs_base,
        ..*old
    }
}

impl Task {
    fn with_stopped<R>(
        &self,
        f: impl FnOnce(&mut St) -> Result<R, PlatformError>,
    ) -> Result<R, PlatformError> {
        let mut st = self.st.lock();
        Task::stopped(&st)?;
        f(&mut st)
    }
}

fn no_frame() -> PlatformError {
    PlatformError::Corrupt("the task has no frame now")
}

impl Task {
    /// Does something with it to the end; if the kernel ends it meanwhile, its thread ends after that.
    pub(crate) async fn whole<T>(self: Arc<Self>, operation: impl Future<Output = T>) -> T {
        self.st.lock().ops += 1;
        let done = operation.await;
        let due = {
            let mut st = self.st.lock();
            st.ops -= 1;
            st.ops == 0 && st.exit_due
        };
        if due {
            self.exit_thread();
        }
        done
    }
}

impl PlatformTask for Task {
    fn set_owner(&self, owner: Owner) {
        let old = self.st.lock().owner.replace(owner);
        drop(old);
    }

    fn resume(&self, how: Resume) {
        let mut st = self.st.lock();
        if st.phase != Phase::Stopped {
            if st.phase != Phase::Dead {
                tracing::error!(tid = self.tid, phase = ?st.phase, "resume of a task that is not stopped");
            }
            return;
        }
        match how {
            Resume::Native => {
                if st.native_fd.is_some() || !st.plain {
                    drop(st);
                    if let Some(me) = self.me.upgrade() {
                        detach(Box::pin(me.native_by_list()));
                    }
                    return;
                }
                st.phase = Phase::Native;
                return self.post(Command::Native);
            }
            Resume::Return(v) => st.regs.rax = v as u64,
            Resume::Frame => {}
        }
        if st.interrupt {
            st.interrupt = false;
            st.plain = false;
            st.phase = Phase::Fetching;
            return self.post(Command::Fetch { report: true });
        }
        st.phase = Phase::Running;
        self.post(Command::Go);
    }

    fn interrupt(&self) {
        let mut st = self.st.lock();
        if st.interrupt {
            return;
        }
        match st.phase {
            Phase::Dead | Phase::Limbo => {}
            Phase::Running => {
                st.interrupt = true;
                if !st.kicked {
                    self.kick(&mut st);
                }
            }
            _ => st.interrupt = true,
        }
    }

    fn has_frame(&self) -> bool {
        let st = self.st.lock();
        st.phase == Phase::Stopped && st.fp.is_some()
    }

    fn ensure_frame(&self) -> BoxFuture<Result<(), PlatformError>> {
        match self.me.upgrade() {
            Some(me) => Box::pin(async move { me.frame_up().await }),
            None => Box::pin(async { Err(PlatformError::Gone) }),
        }
    }

    fn registers(&self) -> Result<Registers, PlatformError> {
        self.with_stopped(|st| Ok(from_host(&st.regs)))
    }

    fn set_registers(&self, regs: &Registers) -> Result<(), PlatformError> {
        self.with_stopped(|st| {
            let user = |v: u64| v < USER_TOP;
            if !(user(regs.fs_base) && user(regs.gs_base)) {
                return Err(PlatformError::Host { op: "set of a segment base", errno: libc::EPERM });
            }
            st.regs = to_host(&st.regs, regs);
            st.plain = false;
            Ok(())
        })
    }

    fn read_fpstate(&self, out: &mut Vec<u8>) -> Result<(), PlatformError> {
        self.with_stopped(|st| {
            xstate::to_frame(st.fp.as_deref().ok_or_else(no_frame)?, &self.sb.form, out);
            Ok(())
        })
    }

    fn write_fpstate(&self, image: &[u8]) -> Result<(), PlatformError> {
        self.with_stopped(|st| {
            let state = st.fp.get_or_insert_default();
            state.resize(self.sb.xstate_len, 0);
            if image.is_empty() {
                xstate::reset(state, &self.sb.form);
            } else if self.sb.form.accepts(image) {
                xstate::from_frame(image, state);
            } else {
                return Err(PlatformError::Corrupt("malformed FPU state"));
            }
            st.fp_dirty = true;
            Ok(())
        })
    }

    fn fpstate_len(&self) -> usize {
        self.sb.form.len
    }

    fn spawn(&self, kind: Spawn) -> BoxFuture<Result<Spawned, PlatformError>> {
        match self.me.upgrade() {
            Some(me) => Box::pin(crate::spawn::spawn(me, kind)),
            None => Box::pin(async { Err(PlatformError::Gone) }),
        }
    }

    fn exit_thread(&self) {
        let mut st = self.st.lock();
        match st.phase {
            Phase::Dead | Phase::Limbo => return,
            _ if st.ops > 0 => {
                st.exit_due = true;
                return;
            }
            Phase::Stopped => {}
            _ => {
                tracing::error!(tid = self.tid, phase = ?st.phase, "exit of a thread that is not stopped");
                return;
            }
        }
        st.exit_due = false;
        let last = self.proc.one_less() == 0;
        let owner = if last {
            let owner = self.bury(&mut st);
            self.proc.kill(true);
            owner
        } else {
            let owner = st.owner.take();
            if self.tid == self.proc.pid {
                // The leader's pid must stay; it remains where it is.
                st.phase = Phase::Limbo;
            } else {
                close_over(&mut st, Call::new(libc::SYS_exit, [0; 6]));
                self.post(Command::Calls);
            }
            owner
        };
        drop(st);
        drop(owner);
    }

    fn kill_process(&self) {
        self.proc.kill(true);
        for t in self.proc.tasks() {
            let mut st = t.st.lock();
            t.release_fault(&st);
            let owner = t.bury(&mut st);
            drop(st);
            drop(owner);
        }
    }

    fn cpu_times(&self) -> CpuTimes {
        let by_file = || thread::cpu_times(self.sb.host.proc_dir.as_fd(), self.proc.pid, self.tid);
        self.proc.single_cpu_times().unwrap_or_else(by_file)
    }

    fn preemptions(&self) -> u64 {
        thread::preemptions(self.sb.host.proc_dir.as_fd(), self.proc.pid, self.tid)
    }

    fn affinity(&self, set: Option<&[u8]>) -> Result<Vec<u8>, PlatformError> {
        let st = self.st.lock();
        if st.phase == Phase::Dead {
            return Err(PlatformError::Gone);
        }
        thread::affinity(self.tid, set)
    }

    fn set_nice(&self, nice: i32) -> Result<(), PlatformError> {
        let st = self.st.lock();
        if st.phase == Phase::Dead {
            return Err(PlatformError::Gone);
        }
        thread::set_nice(self.tid, nice)
    }

    fn debug_id(&self) -> u64 {
        self.tid as u64
    }

    fn describe(&self) -> String {
        let host = thread::state(self.sb.host.proc_dir.as_fd(), self.proc.pid, self.tid);
        let Some(st) = self.st.try_lock_for(BRIEFLY) else {
            return format!("locked by a thread of the sentry; {host}");
        };
        let mut text = format!("{:?}, call {}", st.phase, st.call.nr.cast_signed());
        for (is, what) in [
            (st.interrupt, ", an interrupt is owed"),
            (st.kicked, ", kicked"),
            (st.list.is_some(), ", calls to make"),
            (st.waker.is_some(), ", somebody waits for it"),
        ] {
            text.push_str(if is { what } else { "" });
        }
        format!("{text}; {host}")
    }
}

impl Zygote for Task {
    fn fork(self: Arc<Self>) -> BoxFuture<Result<Spawned, PlatformError>> {
        Box::pin(crate::spawn::spawn(self, Spawn::Fork))
    }

    fn new_space(self: Arc<Self>) -> BoxFuture<Result<Spawned, PlatformError>> {
        Box::pin(crate::spawn::new_space(self))
    }

    fn find(&self, id: u32) -> Option<Arc<Self>> {
        self.sb.table.get(id)
    }

    fn on_lost(&self, lost: OnLost) {
        self.sb.origins.lock().insert(self.proc.pid, lost);
    }

    fn pidfd(&self) -> Result<OwnedFd, i32> {
        self.proc.pidfd()
    }
}
