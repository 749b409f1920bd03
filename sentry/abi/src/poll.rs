//! `poll`, `select` and their event masks.
//!
//! Masks are `u32`, as the kernel's `__poll_t`; the fields of `PollFd` widen into them losslessly.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

// Events.
pub const POLLIN: u32 = 0x0001;
pub const POLLPRI: u32 = 0x0002;
pub const POLLOUT: u32 = 0x0004;
pub const POLLERR: u32 = 0x0008;
pub const POLLHUP: u32 = 0x0010;
pub const POLLNVAL: u32 = 0x0020;
pub const POLLRDNORM: u32 = 0x0040;
pub const POLLRDBAND: u32 = 0x0080;
pub const POLLWRNORM: u32 = 0x0100;
pub const POLLWRBAND: u32 = 0x0200;
pub const POLLMSG: u32 = 0x0400;
pub const POLLREMOVE: u32 = 0x1000;
pub const POLLRDHUP: u32 = 0x2000;

// What `select` takes for readable, writable and exceptional.
pub const POLLIN_SET: u32 = POLLRDNORM | POLLRDBAND | POLLIN | POLLHUP | POLLERR;
pub const POLLOUT_SET: u32 = POLLWRBAND | POLLWRNORM | POLLOUT | POLLERR;
pub const POLLEX_SET: u32 = POLLPRI;

// `select`.
pub const FD_SETSIZE: usize = 1024;

/// One descriptor of `poll`. The event fields are `short` in C; they are unsigned here so that
/// they widen into masks without sign extension.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PollFd {
    pub fd: i32,
    pub events: u16,
    pub revents: u16,
}

/// What `pselect6` finds behind its sixth argument.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SigsetArgpack {
    pub p: u64,
    pub size: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::size_of;

    #[test]
    fn layouts() {
        assert_eq!(size_of::<PollFd>(), 8);
    }
}
