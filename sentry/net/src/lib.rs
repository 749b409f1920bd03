//! Sockets of the sentry's kernel.
//!
//! [`socket`] has what is common: how sockets are made, the open file around one, and the trait the families implement.
//! [`unix`] is AF_UNIX, [`inet`] AF_INET, AF_INET6 and AF_PACKET, [`netlink`] AF_NETLINK; [`proc`] has the texts of /proc/net.
//! [`filter`] is SO_ATTACH_FILTER, [`completions`] MSG_ZEROCOPY. [`host`] takes the place of TCP/IP with `--network=host`.
//!
//! Neighbours: `vfs` below (open files, wait queues, path walking for names of AF_UNIX); `syscalls` above, which builds
//! blocking, timeouts and signals around operations that never wait, and copies messages from and to guests.
//!
//! Lock order: `unix::gc`'s list → a socket's state (one at a time, unless said otherwise) → tables of [`NetNs`] → wait
//! queues. Files are dropped with nothing locked ([`trash`]).

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

pub mod addr;
pub mod completions;
pub mod control;
pub mod filter;
pub(crate) mod guard;
pub mod host;
pub mod iface;
pub mod inet;
pub mod msg;
pub mod netlink;
pub mod ns;
pub mod options;
pub mod outbound;
pub mod proc;
pub mod socket;
pub mod trash;
pub mod unix;

pub use addr::{SockAddr, UnixAddr};
pub use control::Control;
pub use iface::{IfaceAddr, Interface};
pub use msg::{Received, RecvMsg, SendMsg, WaitOn};
pub use ns::{NetNs, Tap};
pub use options::{Common, OptValue};
pub use socket::{Family, PeerCred, SocketFile, SocketOps, create, create_pair};
