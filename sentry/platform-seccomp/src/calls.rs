//! Host calls that the sentry has a stopped task's stub make.
//!
//! Neighbours: `stub` (the loop that runs the list), `task` (dispatches the notifications), `mapping` and `spawn` (users).
//!
//! Invariant: each call is notified and compared with the sentry's own copy, number and all arguments, before the host
//! may run it; what the guest does to the list in its window can only get it killed. Results are untrusted.

use crate::frame;
use crate::restart::{Reply, wound_back};
use crate::stub::{DOORBELL, OFFER, PRIVATE_FD, cmd, ctl};
use crate::sys::Notif;
use crate::task::{After, Phase, St, Task, wake, wake_word};
use chitin_platform::PlatformError;
use chitin_platform_host::calls::{Call, Results, failed};
use parking_lot::MutexGuard;
use std::future::poll_fn;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::task::Poll;

pub struct List {
    calls: Vec<Call>,
    pos: usize,
}

impl Task {
    /// Runs calls on a stopped task with a frame.
    pub async fn run(self: &Arc<Self>, calls: Vec<Call>) -> Result<Results, PlatformError> {
        let mut all = Vec::with_capacity(calls.len());
        for part in calls.chunks(ctl::MAX_CALLS) {
            self.start_list(part).await?;
            let got = self.settled().await?;
            let stop = got.last().is_none_or(|r| failed(*r).is_some()) || got.len() < part.len();
            all.extend(got);
            if stop {
                break;
            }
        }
        Ok(all)
    }

    async fn start_list(self: &Arc<Self>, calls: &[Call]) -> Result<(), PlatformError> {
        poll_fn(|cx| {
            let mut st = self.st.lock();
            match (st.phase, st.frame) {
                (Phase::Stopped, Some(_)) => {}
                (Phase::Bell | Phase::Parked, _) => {
                    if st.phase == Phase::Parked {
                        self.unpark_for_frame(&mut st);
                    }
                    st.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                (Phase::Dead, _) => return Poll::Ready(Err(PlatformError::Gone)),
                _ => {
                    return Poll::Ready(Err(PlatformError::Corrupt(
                        "host calls on a task that is not stopped",
                    )));
                }
            }
            for (i, c) in calls.iter().enumerate() {
                let at = ctl::CALLS + i * ctl::CALL_SIZE;
                st.win.put(at, c.nr);
                for (j, a) in c.args.iter().enumerate() {
                    st.win.put(at + 8 + j * 8, *a);
                }
                st.win.put(at + 56, 0);
            }
            st.win.put(ctl::COUNT, calls.len() as u64);
            st.results.clear();
            self.uncount(&mut st);
            st.list = Some(Box::new(List { calls: calls.to_vec(), pos: 0 }));
            st.phase = Phase::Calls;
            match st.newborn {
                true => self.let_in(&mut st, wake_word(cmd::LIST)),
                false => self.command(&mut st, cmd::LIST),
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Lets the clone run that the task has offered; its result is that of [`Task::run`] with one call. `false`: there is no
    /// offer (any more).
    pub fn take_offer(&self) -> bool {
        let mut st = self.st.lock();
        let Some(args) = st.offer.take().filter(|_| st.phase == Phase::Stopped && st.frame.is_some()) else {
            return false;
        };
        st.results.clear();
        self.uncount(&mut st);
        st.list = Some(Box::new(List { calls: vec![Call::new(OFFER as i64, args)], pos: 1 }));
        st.phase = Phase::Calls;
        self.reply(&mut st, Reply::Native);
        true
    }

    /// Waits until an operation on the task has come to its end.
    pub async fn settled(self: &Arc<Self>) -> Result<Results, PlatformError> {
        poll_fn(|cx| {
            let mut st = self.st.lock();
            match st.phase {
                Phase::Stopped => Poll::Ready(Ok(std::mem::take(&mut st.results))),
                Phase::Dead => Poll::Ready(Err(PlatformError::Gone)),
                _ => {
                    st.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Gives a stopped task a frame.
    pub async fn frame_up(self: &Arc<Self>) -> Result<(), PlatformError> {
        {
            let mut st = self.st.lock();
            // While an operation is under way the task must not be parked.
            self.uncount(&mut st);
            match st.phase {
                Phase::Stopped if st.frame.is_some() => return Ok(()),
                Phase::Stopped => {
                    if !st.kicked {
                        self.kick(&mut st);
                    }
                    st.phase = Phase::AwaitFrame;
                    st.after = After::Op;
                    if self.killable() && st.request.is_none() {
                        self.reply(&mut st, Reply::Value(0));
                    }
                }
                Phase::Parked => self.unpark_for_frame(&mut st),
                Phase::Bell => {}
                Phase::AwaitFrame if st.after == After::Park => st.after = After::Op,
                Phase::Dead => return Err(PlatformError::Gone),
                _ => return Err(PlatformError::Corrupt("a frame was wanted of a task that runs")),
            }
        }
        self.settled().await.map(drop)
    }

    /// The operation is over and the task stays stopped: it may be parked again.
    pub fn op_over(&self) {
        let mut st = self.st.lock();
        if st.phase == Phase::Stopped && st.owner.is_some() {
            self.count(&mut st);
        }
    }

    /// A notification while the list runs. A call may come twice: the host winds it back (`restart`).
    pub fn listed_call<'a>(self: &'a Arc<Self>, mut st: MutexGuard<'a, St>, n: &Notif, in_stub: bool) {
        let is = |c: &Call| in_stub && c.nr == n.nr as u64 && c.args == n.args && c.nr != DOORBELL;
        let expected = st.list.as_mut().and_then(|l| {
            if let Some(next) = l.calls.get(l.pos).filter(|c| is(c)).cloned() {
                l.pos += 1;
                return Some(next);
            }
            l.calls.get(l.pos.checked_sub(1)?).filter(|c| is(c)).cloned()
        });
        let Some(call) = expected else {
            return self.corrupt("a host call that was not asked for");
        };
        st.id = n.id;
        if call.nr == libc::SYS_exit as u64 {
            drop(self.bury(st));
            let _ = self.line.listener.go_on(n.id);
            self.release_window();
            return;
        }
        let mut how = Reply::Native;
        if let Some((file, at)) = &call.file {
            // Installing a descriptor waits for the stub's thread to be scheduled.
            drop(st);
            match self.line.listener.add_fd(n.id, file.as_fd(), *at) {
                Ok(()) => {}
                Err(errno) if wound_back(errno) => return,
                Err(errno) => {
                    tracing::debug!(errno, at, "installing a descriptor in the stub failed");
                    how = Reply::Value(-i64::from(errno));
                }
            }
            st = self.st.lock();
            if st.id != n.id {
                return; // The call has been made again meanwhile.
            }
        }
        self.reply(&mut st, how);
    }

    /// The list's doorbell.
    pub fn list_done(self: &Arc<Self>, mut st: MutexGuard<'_, St>) {
        let n = st.list.take().map_or(0, |l| l.pos);
        let results = (0..n).map(|i| st.win.get(ctl::CALLS + i * ctl::CALL_SIZE + 56) as i64).collect();
        st.results = results;
        st.phase = Phase::Stopped;
        wake(st);
    }

    /// What resuming natively means for a task with a frame (or with a file that does not fit the guest's number): the
    /// stub makes the very call, and its result goes into the frame.
    pub async fn native_by_list(self: Arc<Self>) {
        let file = self.st.lock().native_fd.take();
        if self.frame_up().await.is_err() {
            return;
        }
        let (nr, mut args) = {
            let st = self.st.lock();
            (st.nr, st.args)
        };
        let mut calls = Vec::new();
        let mut fd = None;
        if let Some(f) = file {
            fd = self.proc.space.take_fd();
            let Some(at) = fd else { return self.finish_with(-i64::from(libc::ENOMEM)) };
            args[4] = at.into();
            calls.push(Call { nr, args, file: Some((f, at)) });
            calls.push(close_call(at));
        } else {
            calls.push(Call { nr, args, file: None });
        }
        let got = self.run(calls).await;
        if let Some(at) = fd {
            self.proc.space.put_fd(at);
        }
        if let Ok(r) = got {
            self.finish_with(r.first().copied().unwrap_or(-i64::from(libc::ENOMEM)));
        }
    }

    pub(crate) fn finish_with(self: &Arc<Self>, v: i64) {
        let st = self.st.lock();
        if let (Phase::Stopped, Some(uc)) = (st.phase, st.frame) {
            frame::set_rax(&st.win, uc, v as u64);
            self.finish(st);
        }
    }

    /// Without FSGSBASE: has the host set the segment bases, then goes on.
    pub async fn set_bases_and_finish(self: Arc<Self>) {
        let (fs, gs) = {
            let mut st = self.st.lock();
            st.bases_dirty = false;
            (st.fs, st.gs)
        };
        let call = |code: u64, v: u64| Call::new(libc::SYS_arch_prctl, [code, v, 0, 0, 0, 0]);
        if self.run(vec![call(0x1002, fs), call(0x1001, gs)]).await.is_ok() {
            let st = self.st.lock();
            if st.phase == Phase::Stopped && st.frame.is_some() {
                self.finish(st);
            }
        }
    }

    /// Ends the thread alone.
    pub async fn exit_by_list(self: Arc<Self>) {
        let busy = {
            let st = self.st.lock();
            st.phase == Phase::Calls || st.phase == Phase::AwaitFrame && st.after == After::Op
        };
        // Calls that nobody waits for any more, since the task ends, come to their end first.
        if busy && self.settled().await.is_err() {
            return;
        }
        if self.frame_up().await.is_ok() {
            let _ = self.run(vec![Call::new(libc::SYS_exit, [0; 6])]).await;
        }
    }
}

/// Closes a private descriptor of the stub.
pub fn close_call(fd: u32) -> Call {
    debug_assert!(fd >= PRIVATE_FD);
    Call::new(libc::SYS_close, [fd.into(), 0, 0, 0, 0, 0])
}
