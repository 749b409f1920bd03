//! How long a socket call waits, and what it answers when that was in vain (sock_rcvtimeo(), sock_intr_errno()).

use chitin_abi::Errno;
use chitin_abi::poll::POLLOUT;
use chitin_abi::socket::{MSG_DONTWAIT, MSG_ERRQUEUE};
use chitin_kernel::time::{Deadline, with_timeout};
use chitin_kernel::{SysError, Task};
use chitin_net::WaitOn;
use chitin_vfs::wait::Registration;
use chitin_vfs::{File, PollTable};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// O_NONBLOCK, MSG_DONTWAIT and SO_RCVTIMEO or SO_SNDTIMEO of one call.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    waits: bool,
    deadline: Option<Deadline>,
    /// What the call answers at the deadline.
    late: Errno,
}

impl Patience {
    /// `timeout`: `None` waits for ever, zero not at all.
    pub(super) fn new(file: &File, flags: u32, timeout: Option<Duration>) -> Patience {
        // Nobody waits for errors.
        let waits = flags & (MSG_DONTWAIT | MSG_ERRQUEUE) == 0
            && !file.nonblocking()
            && timeout != Some(Duration::ZERO);
        let deadline = timeout
            .filter(|_| waits)
            .map(|timeout| Deadline::after(u64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX as u64)));
        Patience { waits, deadline, late: Errno::EAGAIN }
    }

    pub(super) fn waits(&self) -> bool {
        self.waits
    }

    /// Another error at the deadline.
    pub(super) fn late(mut self, error: Errno) -> Patience {
        self.late = error;
        self
    }

    /// Tries until `attempt` answers something. It runs with the file's wait queues registered, and those of what it
    /// leaves in its argument; `Ok(None)` means "not yet".
    pub(super) async fn wait<T>(
        &self,
        task: &Arc<Task>,
        file: &Arc<File>,
        mut attempt: impl FnMut(&mut WaitOn) -> Result<Option<T>, Errno>,
    ) -> Result<T, SysError> {
        let mut held: Vec<Registration> = Vec::new();
        let tries = poll_fn(|cx| {
            let mut table = PollTable::for_waker(cx.waker());
            file.ops().poll(Some(&mut table));
            held = table.into_registrations();
            let mut wait_on = None;
            match attempt(&mut wait_on) {
                Ok(None) => {}
                Ok(Some(value)) => {
                    held.clear();
                    return Poll::Ready(Ok(value));
                }
                Err(error) => {
                    held.clear();
                    return Poll::Ready(Err(error));
                }
            }
            if let Some(other) = wait_on {
                let mut table = PollTable::for_waker(cx.waker());
                let ready = other.poll(Some(&mut table)) & POLLOUT != 0;
                held.extend(table.into_registrations());
                if ready {
                    // It became so since the attempt: once more, after whoever else is due.
                    cx.waker().wake_by_ref();
                }
            }
            Poll::Pending
        });
        let timed = with_timeout(task.kernel.reactor.timers(), tries, self.deadline);
        match task.interruptible(timed).await {
            Ok(Some(result)) => Ok(result?),
            Ok(None) => Err(self.late.into()),
            // A call with a timeout is not made again: it would wait anew.
            Err(_) if self.deadline.is_some() => Err(Errno::EINTR.into()),
            Err(interrupted) => Err(interrupted.into()),
        }
    }
}
