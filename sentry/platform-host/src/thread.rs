//! What is asked of a guest thread that is a host thread, wherever it stands. The caller makes sure that it lives.

use crate::sys;
use chitin_platform::PlatformError;

/// An errno of the host as an error; a thread that is gone is no other.
fn host(op: &'static str) -> impl Fn(i32) -> PlatformError {
    move |errno| if errno == libc::ESRCH { PlatformError::Gone } else { PlatformError::Host { op, errno } }
}

/// Reads, or sets and reads, the CPUs it may run on.
pub fn affinity(tid: i32, set: Option<&[u8]>) -> Result<Vec<u8>, PlatformError> {
    if let Some(mask) = set {
        sys::set_affinity(tid, mask).map_err(host("sched_setaffinity"))?;
    }
    sys::get_affinity(tid).map_err(host("sched_getaffinity"))
}

pub fn set_nice(tid: i32, nice: i32) -> Result<(), PlatformError> {
    sys::set_nice(tid, nice).map_err(host("setpriority"))
}
