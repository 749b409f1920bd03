//! [`PlatformTask`]: what the kernel can do with a task.
//!
//! Neighbours: `task` (state), `calls` (host calls in the stub), `spawn` (new tasks).

use crate::frame;
use crate::parcel;
use crate::restart::Reply;
use crate::stub::{cmd, ctl};
use crate::sys;
use crate::task::{After, Phase, St, Task, wake_word};
use chitin_platform::{
    BRIEFLY, BoxFuture, CpuTimes, OnLost, Owner, PlatformError, PlatformTask, Registers, Resume, Spawn,
    Spawned,
};
use chitin_platform_host::detach::detach;
use chitin_platform_host::group::Zygote;
use chitin_platform_host::thread;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

impl Task {
    fn arc(&self) -> Option<Arc<Task>> {
        self.me.upgrade()
    }

    fn with_frame<R>(
        &self,
        f: impl FnOnce(&mut St, usize) -> Result<R, PlatformError>,
    ) -> Result<R, PlatformError> {
        let mut st = self.st.lock();
        let uc = Task::stopped_with_frame(&st)?;
        f(&mut st, uc)
    }

    /// Writes the wake-up word of a parked task and kicks it; its frame must be ready.
    fn unpark(&self, st: &mut St) {
        st.phase = Phase::Running;
        let how = self.with_bases(st);
        st.frame = None;
        st.win.put(ctl::WAKE, wake_word(how));
        let _ = sys::tgkill(self.proc.pid, self.tid, crate::stub::KICK);
    }

    /// A parked task rings again, so that it is stopped as any other with a frame.
    pub(crate) fn unpark_for_frame(&self, st: &mut St) {
        st.phase = Phase::Bell;
        st.win.put(ctl::WAKE, 0);
        let _ = sys::tgkill(self.proc.pid, self.tid, crate::stub::KICK);
    }
}

impl PlatformTask for Task {
    fn set_owner(&self, owner: Owner) {
        let old = self.st.lock().owner.replace(owner);
        drop(old);
    }

    fn resume(&self, how: Resume) {
        let written = parcel::close(self);
        let mut st = self.st.lock();
        if let (Resume::Return(v), Phase::Stopped, None, Some(request)) =
            (how, st.phase, st.frame, st.request)
        {
            self.uncount(&mut st);
            return self.answer_request(&mut st, request, v, written);
        }
        let Some(me) = self.arc() else { return };
        let _taken_away = written.deliver();
        if st.phase == Phase::AwaitFrame && st.after == After::Park {
            // It was about to be parked: the doorbell brings the frame that takes the result.
            match how {
                Resume::Return(v) => {
                    st.after = After::Finish(v);
                    return;
                }
                _ => {
                    drop(st);
                    return detach(Box::pin(me.native_by_list()));
                }
            }
        }
        if st.phase == Phase::Parked {
            match (how, st.frame) {
                (Resume::Return(v), Some(uc)) => {
                    frame::set_rax(&st.win, uc, v as u64);
                    if st.interrupt {
                        // Ring instead of returning: the doorbell is the owed report.
                        st.phase = Phase::Running;
                        st.win.put(ctl::WAKE, 0);
                        let _ = sys::tgkill(self.proc.pid, self.tid, crate::stub::KICK);
                        return;
                    }
                    return self.unpark(&mut st);
                }
                _ => {
                    drop(st);
                    return detach(Box::pin(me.native_by_list()));
                }
            }
        }
        if st.phase != Phase::Stopped {
            if st.phase != Phase::Dead {
                tracing::error!(tid = self.tid, phase = ?st.phase, "resume of a task that is not stopped");
            }
            return;
        }
        let id = st.id;
        self.uncount(&mut st);
        if let Some(uc) = st.frame {
            if how == Resume::Native {
                drop(st);
                return detach(Box::pin(me.native_by_list()));
            }
            if let Resume::Return(v) = how {
                frame::set_rax(&st.win, uc, v as u64);
            }
            if st.bases_dirty && !self.sb.features.fsgsbase {
                drop(st);
                return detach(Box::pin(me.set_bases_and_finish()));
            }
            return me.finish(st);
        }
        match how {
            Resume::Return(v) => {
                if let Some(wanted) = st.wanted.take()
                    && !st.interrupt
                    && !st.kicked
                    && let Some(range) = self.may_patch(wanted)
                {
                    drop(st);
                    return detach(Box::pin(me.patch_and_finish(wanted, range, v)));
                }
                if st.interrupt && !st.kicked {
                    self.kick(&mut st);
                }
                if st.kicked && !self.killable() {
                    st.phase = Phase::AwaitFrame;
                    st.after = After::Answer(v);
                    return;
                }
                st.phase = Phase::Running;
                if self.killable() {
                    // Not under the lock: its next call may be with another worker before we are back.
                    drop(st);
                    let _gone = self.line.listener.answer(id, v);
                } else {
                    self.reply(&mut st, Reply::Value(v));
                }
            }
            Resume::Native => {
                if st.native_fd.is_some()
                    || st.request.is_some()
                    || (!self.killable() && (st.interrupt || st.kicked))
                {
                    drop(st);
                    return detach(Box::pin(me.native_by_list()));
                }
                if st.interrupt && !st.kicked {
                    self.kick(&mut st);
                }
                if !self.sb.features.fsgsbase && st.nr == libc::SYS_arch_prctl as u64 {
                    match st.args[0] {
                        0x1002 => st.fs = st.args[1],
                        0x1001 => st.gs = st.args[1],
                        _ => {}
                    }
                }
                st.phase = Phase::Running;
                self.reply(&mut st, Reply::Native);
            }
            Resume::Frame => {
                drop(st);
                self.corrupt("resumed by a frame it does not have");
            }
        }
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
        matches!(st.phase, Phase::Stopped | Phase::Parked) && st.frame.is_some()
    }

    fn ensure_frame(&self) -> BoxFuture<Result<(), PlatformError>> {
        match self.arc() {
            Some(me) => Box::pin(async move {
                let r = me.frame_up().await;
                me.op_over();
                r
            }),
            None => Box::pin(async { Err(PlatformError::Gone) }),
        }
    }

    fn registers(&self) -> Result<Registers, PlatformError> {
        self.with_frame(|st, uc| Ok(frame::registers(&st.win, uc, st.fs, st.gs)))
    }

    fn set_registers(&self, regs: &Registers) -> Result<(), PlatformError> {
        self.with_frame(|st, uc| {
            let changed = (st.fs, st.gs) != (regs.fs_base, regs.gs_base);
            let user = |v: u64| v < 0x7fff_ffff_f000;
            if changed && !(user(regs.fs_base) && user(regs.gs_base)) {
                return Err(PlatformError::Host { op: "set of a segment base", errno: libc::EPERM });
            }
            frame::set_registers(&st.win, uc, regs);
            if changed {
                st.fs = regs.fs_base;
                st.gs = regs.gs_base;
                st.bases_dirty = true;
            }
            Ok(())
        })
    }

    fn read_fpstate(&self, out: &mut Vec<u8>) -> Result<(), PlatformError> {
        self.with_frame(|st, uc| frame::read_fp(&st.win, uc, &self.sb.layout(), out))
    }

    fn write_fpstate(&self, image: &[u8]) -> Result<(), PlatformError> {
        self.with_frame(|st, uc| frame::write_fp(&st.win, uc, &self.sb.layout(), image))
    }

    fn fpstate_len(&self) -> usize {
        frame::fp_len(&self.sb.layout())
    }

    fn spawn(&self, kind: Spawn) -> BoxFuture<Result<Spawned, PlatformError>> {
        match self.arc() {
            Some(me) => Box::pin(async move {
                let r = crate::spawn::spawn(me.clone(), kind).await;
                me.op_over();
                r
            }),
            None => Box::pin(async { Err(PlatformError::Gone) }),
        }
    }

    fn exit_thread(&self) {
        let Some(me) = self.arc() else { return };
        let mut st = self.st.lock();
        match st.phase {
            Phase::Dead | Phase::Limbo => return,
            Phase::Running => {
                tracing::error!(tid = self.tid, "exit of a thread that is not stopped");
                return;
            }
            _ => {}
        }
        self.uncount(&mut st);
        if self.proc.one_less() == 0 {
            let exits = st.nr == libc::SYS_exit as u64 || st.nr == libc::SYS_exit_group as u64;
            let native =
                st.phase == Phase::Stopped && st.frame.is_none() && exits && self.tid == self.proc.pid;
            let id = st.id;
            let owner = me.bury(st);
            if native && self.line.listener.go_on(id).is_ok() {
                drop(owner);
                return;
            }
            self.proc.kill(true);
            self.sb.fail_pending(self.proc.pid);
            drop(owner);
            return;
        }
        if self.tid == self.proc.pid {
            // The leader's pid must stay; it waits where it is, off the list if it can.
            let owner = st.owner.take();
            st.win.put(ctl::WAKE, 0);
            if st.phase == Phase::Stopped && st.frame.is_some() {
                self.command(&mut st, cmd::PARK);
            } else if st.phase == Phase::Stopped {
                if !st.kicked {
                    self.kick(&mut st);
                }
                if self.killable() && st.request.is_none() {
                    self.reply(&mut st, Reply::Value(0));
                }
            }
            st.phase = Phase::Limbo;
            drop(st);
            drop(owner);
            return;
        }
        let native = st.phase == Phase::Stopped && st.frame.is_none() && st.nr == libc::SYS_exit as u64;
        if native {
            let id = st.id;
            let owner = me.bury(st);
            let _ = self.line.listener.go_on(id);
            self.release_window();
            drop(owner);
            return;
        }
        let owner = st.owner.take();
        drop(st);
        drop(owner);
        detach(Box::pin(me.exit_by_list()));
    }

    fn kill_process(&self) {
        self.proc.kill(true);
        for t in self.proc.tasks() {
            let st = t.st.lock();
            let owner = t.bury(st);
            drop(owner);
        }
        self.sb.fail_pending(self.proc.pid);
    }

    fn cpu_times(&self) -> CpuTimes {
        let by_file = || thread::cpu_times(self.sb.host.proc_dir.as_fd(), self.proc.pid, self.tid);
        self.proc.single_cpu_times().unwrap_or_else(by_file)
    }

    fn preemptions(&self) -> u64 {
        thread::preemptions(self.sb.host.proc_dir.as_fd(), self.proc.pid, self.tid)
    }

    fn affinity(&self, set: Option<&[u8]>) -> Result<Vec<u8>, PlatformError> {
        let mut st = self.st.lock();
        if st.phase == Phase::Dead {
            return Err(PlatformError::Gone);
        }
        self.change_affinity(&mut st, set)
    }

    fn set_nice(&self, nice: i32) -> Result<(), PlatformError> {
        let st = self.st.lock();
        if st.phase == Phase::Dead {
            return Err(PlatformError::Gone);
        }
        thread::set_nice(self.tid, nice)
    }

    fn set_aside(&self) {
        let _taken_away = parcel::close(self).deliver();
    }

    fn debug_id(&self) -> u64 {
        self.tid as u64
    }

    fn describe(&self) -> String {
        let host = thread::state(self.sb.host.proc_dir.as_fd(), self.proc.pid, self.tid);
        let Some(st) = self.st.try_lock_for(BRIEFLY) else {
            return format!("locked by a thread of the sentry; {host}");
        };
        let mut text = format!("{:?}, notification {:#x} of call {}", st.phase, st.id, st.nr.cast_signed());
        for (is, what) in [
            (st.frame.is_some(), ", frame"),
            (st.request.is_some(), ", by a request"),
            (st.interrupt, ", an interrupt is owed"),
            (st.kicked, ", kicked"),
            (st.newborn, ", newborn"),
            (st.list.is_some(), ", calls to make"),
            (st.waker.is_some(), ", somebody waits for it"),
        ] {
            text.push_str(if is { what } else { "" });
        }
        if st.phase == Phase::AwaitFrame {
            text.push_str(&format!(", then {:?}", st.after));
        }
        format!("{text}; {host}")
    }
}

impl Zygote for Task {
    fn fork(self: Arc<Self>) -> BoxFuture<Result<Spawned, PlatformError>> {
        Box::pin(crate::spawn::spawn(self, Spawn::Fork))
    }

    fn new_space(self: Arc<Self>) -> BoxFuture<Result<Spawned, PlatformError>> {
        crate::spawn::new_space(self)
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
