//! Sockets.
use crate::Args;
use chitin_abi::Errno;
use chitin_kernel::{Outcome, Task};
use std::sync::Arc;
macro_rules! todo_enosys { ($($n:ident)*) => { $(pub(crate) fn $n(_t: &Arc<Task>, _a: Args) -> Outcome { Outcome::error(Errno::ENOSYS) })* } }
todo_enosys!(socket socketpair bind listen accept accept4 connect getsockname getpeername sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg shutdown getsockopt setsockopt);
