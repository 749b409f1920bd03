//! What a system call handler answers.

use chitin_abi::Errno;
use std::future::Future;
use std::pin::Pin;

/// How a call that a signal interrupted goes on (the kernel's ERESTART* codes); never visible to the guest.
pub enum Restart {
    /// ERESTARTSYS: again, unless a handler without SA_RESTART ran.
    Sys,
    /// ERESTARTNOINTR: always again.
    NoIntr,
    /// ERESTARTNOHAND: again, unless any handler ran.
    NoHand,
    /// ERESTART_RESTARTBLOCK: goes on with what is left, unless a handler ran.
    Block(Blocking),
}

/// Why a call failed.
pub enum SysError {
    Errno(Errno),
    Restart(Restart),
}

impl From<Errno> for SysError {
    fn from(errno: Errno) -> SysError {
        SysError::Errno(errno)
    }
}

/// The signal that [`crate::Task::interruptible`] answers when the task has to look at its signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

/// A bare `?` on an interruption means ERESTARTSYS, what most calls want.
impl From<Interrupted> for SysError {
    fn from(_: Interrupted) -> SysError {
        SysError::Restart(Restart::Sys)
    }
}

/// A raw value, or why there is none.
pub type SysResult = Result<u64, SysError>;

/// A parked call.
pub type Blocking = Pin<Box<dyn Future<Output = Outcome> + Send + 'static>>;

/// What a handler tells the run loop.
pub enum Outcome {
    /// The call is finished.
    Done(SysResult),
    /// The host runs the call as the guest made it.
    Native,
    /// The call goes on later; to be polled.
    Block(Blocking),
    /// The frame holds the registers to go on with (sigreturn, execve).
    Frame,
    /// The task has ended.
    Gone,
}

impl Outcome {
    /// A future that answers a plain result.
    pub fn block<F: Future<Output = SysResult> + Send + 'static>(future: F) -> Outcome {
        Outcome::Block(Box::pin(async move { Outcome::Done(future.await) }))
    }

    /// A future that answers an outcome.
    pub fn block_outcome<F: Future<Output = Outcome> + Send + 'static>(future: F) -> Outcome {
        Outcome::Block(Box::pin(future))
    }

    pub fn error(errno: Errno) -> Outcome {
        Outcome::Done(Err(SysError::Errno(errno)))
    }

    pub fn value(value: u64) -> Outcome {
        Outcome::Done(Ok(value))
    }
}

impl From<SysResult> for Outcome {
    fn from(result: SysResult) -> Outcome {
        Outcome::Done(result)
    }
}

impl From<Result<u64, Errno>> for Outcome {
    fn from(result: Result<u64, Errno>) -> Outcome {
        Outcome::Done(result.map_err(SysError::Errno))
    }
}

/// How a process (or thread) ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    Exited(u8),
    Signaled { signal: u32, core: bool },
}

impl ExitStatus {
    /// The status word of wait4(2).
    pub fn wait_word(self) -> i32 {
        match self {
            ExitStatus::Exited(code) => i32::from(code) << 8,
            ExitStatus::Signaled { signal, core } => {
                (signal & 0x7f).cast_signed() | if core { 0x80 } else { 0 }
            }
        }
    }
}
