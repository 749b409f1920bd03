//! Host calls that the sentry has a stopped task make, from the stub's page.
//!
//! Neighbours: `task` (the stops of a call), `mapping` and `spawn` (users).
//!
//! Invariant: each call is compared with the sentry's own copy, number and all arguments, when the host is about to run
//! it (`Task::on_stop`); its result is read from the thread's registers, which no guest can write.

use crate::stub::{CALL, MESSAGE, SOCKET_FD};
use crate::sys;
use crate::task::{Phase, St, Task};
use crate::tracer::Command;
use chitin_platform::{PlatformError, PlatformTask, Resume};
use chitin_platform_host::calls::{Call, Results, failed};
use std::future::poll_fn;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::Poll;

pub struct List {
    calls: Vec<Call>,
    results: Results,
    then: Then,
}

/// What happens at a list's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// Somebody waits.
    Wake,
    /// The system call that the task stopped at is reported.
    Report,
}

impl List {
    /// Number and arguments of the call under way.
    pub fn current(&self) -> Option<(u64, [u64; 6])> {
        self.calls.get(self.results.len()).map(|c| (c.nr, c.args))
    }
}

/// Puts one last call in the place of whatever the task would do next.
pub fn close_over(st: &mut St, call: Call) {
    st.list = Some(Box::new(List { calls: vec![call], results: Vec::new(), then: Then::Wake }));
    st.phase = Phase::Calls(sys::CONT);
}

/// The trap flag: a guest's own, which the stub's code must not have.
const TRAP_FLAG: u64 = 0x100;

/// Where a file that has just arrived is: the lowest number there is, as no other is open but the socket.
const FILE_FD: u64 = 0;

impl Task {
    /// Starts the next listed call; on the tracer's thread.
    pub(crate) fn next_call(&self, st: &mut St) -> bool {
        let Some((nr, args)) = st.list.as_ref().and_then(|list| list.current()) else {
            self.list_done(st);
            return false;
        };
        let mut regs = st.regs;
        regs.rip = CALL;
        regs.eflags &= !TRAP_FLAG;
        (regs.rax, regs.orig_rax) = (nr, u64::MAX);
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = args;
        st.phase = Phase::Calls(sys::CONT);
        sys::set_regs(self.tid, &regs).is_ok() && self.go(sys::CONT, 0)
    }

    /// The stop at a call's end.
    pub(crate) fn call_done(&self, st: &mut St) -> bool {
        let Ok(regs) = sys::get_regs(self.tid) else { return false };
        let result = regs.rax as i64;
        if let Some(list) = st.list.as_mut() {
            list.results.push(result);
        }
        if failed(result).is_some() {
            self.list_done(st);
            return false;
        }
        self.next_call(st)
    }

    /// Before a thread's end is known to anybody: has the host forget its restartable-sequences area, which others may
    /// then unmap while the thread itself is still on its way out. Returns whether there is one.
    pub(crate) fn forget_rseq(&self, st: &mut St) -> bool {
        const UNREGISTER: u64 = 1;
        let Some(area) = sys::rseq(self.tid) else { return false };
        let args = [area.pointer, area.size.into(), UNREGISTER, area.signature.into(), 0, 0];
        let calls = vec![Call::new(libc::SYS_rseq, args)];
        st.list = Some(Box::new(List { calls, results: Vec::new(), then: Then::Report }));
        true
    }

    fn list_done(&self, st: &mut St) {
        let list = st.list.take();
        if list.as_ref().is_some_and(|list| list.then == Then::Report) {
            return self.report_call(st);
        }
        st.results = list.map_or_else(Vec::new, |list| list.results);
        st.phase = Phase::Stopped;
        self.wake(st);
    }

    /// Runs calls on a stopped task, up to the first failure.
    pub async fn run(&self, calls: Vec<Call>) -> Result<Results, PlatformError> {
        {
            let mut st = self.st.lock();
            Task::stopped(&st)?;
            st.list = Some(Box::new(List { calls, results: Vec::new(), then: Then::Wake }));
            st.phase = Phase::Calls(sys::CONT);
        }
        self.post(Command::Calls);
        self.settled().await
    }

    /// Waits until an operation on the task has come to its end.
    pub async fn settled(&self) -> Result<Results, PlatformError> {
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

    /// Fetches the FPU state of a stopped task.
    pub async fn frame_up(&self) -> Result<(), PlatformError> {
        {
            let mut st = self.st.lock();
            Task::stopped(&st)?;
            if st.fp.is_some() {
                return Ok(());
            }
            st.phase = Phase::Fetching;
        }
        self.post(Command::Fetch { report: false });
        self.settled().await.map(drop)
    }

    /// Runs one call with a file, whose number takes the place of argument `at`. Not to be dropped on the way; callers
    /// take turns by the space's `files`.
    pub async fn run_with_file(
        &self,
        mut call: Call,
        at: usize,
        file: Arc<OwnedFd>,
    ) -> Result<i64, PlatformError> {
        let host = |op| move |errno| PlatformError::Host { op, errno };
        {
            let _one = self.sb.files_lock.lock().await;
            let [ours, theirs] = &self.sb.files;
            self.prepare_message().map_err(host("room for a message in the stub"))?;
            sys::send_fd(ours.as_fd(), file.as_fd()).map_err(host("sending a file to the stub"))?;
            let args = [SOCKET_FD.into(), MESSAGE, libc::MSG_DONTWAIT as u64, 0, 0, 0];
            let got = self.run(vec![Call::new(libc::SYS_recvmsg, args)]).await;
            // What a dying or cheating stub has not taken is not for the next one.
            sys::drain(theirs.as_fd());
            let got = got?.first().copied().unwrap_or(-i64::from(libc::EIO));
            if let Some(errno) = failed(got) {
                return Err(host("receiving a file in the stub")(errno));
            }
        }
        if let Some(arg) = call.args.get_mut(at) {
            *arg = FILE_FD;
        }
        let result = self.run(vec![call]).await?.first().copied().unwrap_or(-i64::from(libc::EIO));
        self.run(vec![Call::new(libc::SYS_close, [FILE_FD, 0, 0, 0, 0, 0])]).await?;
        Ok(result)
    }

    /// A `struct msghdr` with room for a byte and a descriptor. The guest may write there, too, and be it to receive the
    /// message elsewhere: in its own memory.
    fn prepare_message(&self) -> Result<(), i32> {
        const IOV: u64 = 64;
        const BYTE: u64 = 96;
        const CONTROL: u64 = 128;
        let words = [0, 0, MESSAGE + IOV, 1, MESSAGE + CONTROL, 24, 0, 0, MESSAGE + BYTE, 1];
        let mut bytes = [0u8; 80];
        for (to, from) in bytes.chunks_mut(8).zip(words) {
            to.copy_from_slice(&from.to_le_bytes());
        }
        let iov = libc::iovec { iov_base: MESSAGE as *mut _, iov_len: bytes.len() };
        sys::vm_write(self.proc.pid, &bytes, &[iov]).map(drop)
    }

    /// What resuming natively means where the guest's own instruction cannot do it.
    pub async fn native_by_list(self: Arc<Self>) {
        let (file, call) = {
            let mut st = self.st.lock();
            (st.native_fd.take(), Call::new(st.call.nr as i64, st.call.args))
        };
        let result = match file {
            Some(file) => {
                let _turn = self.proc.space.files.lock().await;
                self.run_with_file(call, 4, file).await
            }
            None => {
                self.run(vec![call]).await.map(|r| r.first().copied().unwrap_or(-i64::from(libc::ENOMEM)))
            }
        };
        match result {
            Ok(value) => self.resume(Resume::Return(value)),
            Err(PlatformError::Gone) => {}
            Err(error) => {
                tracing::warn!(tid = self.tid, %error, "a file could not be mapped");
                self.resume(Resume::Return(-i64::from(libc::ENOMEM)));
            }
        }
    }
}
