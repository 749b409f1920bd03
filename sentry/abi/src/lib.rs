//! The Linux user-space interface on x86_64, as guests see it: constants and plain structures.
//!
//! There is no logic here beyond tiny helpers, and nothing of the host: these are the numbers of
//! the kernel that we are, not of the one we run on. Everything above may use this crate; it uses
//! no other.
//!
//! Names are Linux's. Constants are `u32` unless the field they live in is wider or signed in the
//! kernel's own structures (`sa_flags`, `rlim_t`, `AT_FDCWD`, `si_code`). Structures are
//! `#[repr(C)]` with every padding byte a named field, so each one is safe to copy from and to
//! guest memory as bytes and never leaks uninitialised memory. A structure's fields are what the
//! guest wrote: unchecked.

// Guest data must neither panic the sentry nor be cut silently; tests may.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::unimplemented,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

pub mod auxv;
pub mod capability;
pub mod elf;
pub mod epoll;
pub mod errno;
pub mod eventfd;
pub mod fcntl;
pub mod futex;
pub mod inet;
pub mod inotify;
#[allow(non_snake_case)]
pub mod ioctl;
pub mod ipc;
pub mod keyctl;
pub mod landlock;
pub mod limits;
pub mod mman;
pub mod mount;
pub mod netdevice;
pub mod netlink;
pub mod nr;
pub mod num;
pub mod personality;
pub mod poll;
pub mod prctl;
pub mod ptrace;
pub mod random;
pub mod resource;
pub mod rtnetlink;
pub mod sched;
pub mod seccomp;
pub mod sigframe;
pub mod siginfo;
pub mod signal;
#[allow(non_snake_case)]
pub mod socket;
#[allow(non_snake_case)]
pub mod stat;
pub mod termios;
pub mod time;
pub mod uio;
pub mod utsname;
pub mod wait;

pub use errno::Errno;
