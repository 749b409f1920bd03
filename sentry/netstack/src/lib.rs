//! The protocol engine of one network namespace: links, addresses, routes, neighbours, IPv4, IPv6, ICMP, UDP and TCP.
//!
//! There is no host here: no descriptors, no threads, no clock of its own. Frames come in by [`Stack::receive`] and leave
//! by [`Device::transmit`], time and randomness come from an [`Env`], and one timer, which whoever owns the stack arms,
//! drives it all ([`Stack::on_timer`]). So two stacks can be wired together in a test.
//!
//! [`config`] is what rtnetlink shows and changes; [`sysctl`] what /proc/sys/net has. The sockets layer installs itself as
//! [`Sockets`] once and gets what arrives by upcalls; it owns ports, binds and listeners.
//!
//! Everything from the wire is hostile: parsing is checked, every table is bounded.
//!
//! Locks: `Config` (read on the slow path of a lookup only) → neighbour entries → devices. No upcall runs with a lock
//! of the stack held (but [`Sockets::packet`]), and a device's `transmit` must not call back into the stack.
//!

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
pub mod config;
pub mod device;
pub mod env;
mod ip;
mod link;
pub mod sockets;
pub mod stack;
pub mod sysctl;
pub mod tcp;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod timer;
mod udp;
pub mod wire;

pub use addr::Prefix;
pub use config::{Address, Change, Link, LinkKind, Neighbour, Route, RouteEntry, Rule};
pub use device::{Device, DeviceInfo, Gso, RxFrame, TxFrame};
pub use env::{Alarm, AlarmKey, Env};
pub use sockets::{
    Cast, Datagram, FrameIn, FrameKind, IcmpError, IpPacket, SendOpts, Sockets, TcpEvents, TcpListener,
};
pub use stack::Stack;
pub use tcp::{Congestion, Readiness, SendFlags, TcpConn, TcpEntry, TcpOptions};
