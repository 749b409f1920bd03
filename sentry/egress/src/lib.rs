//! Egress policy: which connections a sandbox may make, how fast it may send, and who is told of it.
//!
//! Pure: no descriptors, no threads, no clock; a [`World`] lends the time and takes audit lines. [`Policy`] is the text that
//! people write (docs/EGRESS.md), [`Engine`] judges by it. Two kinds of callers ask: devices show every frame that leaves and
//! arrives ([`Engine::outgoing`], [`Engine::incoming`]), so that raw and packet sockets are no way round; and sockets of the
//! host, which make no frames, hold a [`Ticket`] per connection. Sockets of the stack ask beforehand as well, so that the
//! guest gets an error instead of silence ([`Engine::may_connect`], [`Engine::may_send`]).
//!
//! Everything here comes from a guest or from the network: parsers are checked, tables are bounded.
//!
//! Locks: a shard of flows, or a ticket's flow → names, rules, buckets (leaves). [`World`] is called with them held and must
//! not call back.

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

mod audit;
mod bucket;
mod dns;
mod engine;
mod flow;
mod hello;
mod name;
mod names;
mod packet;
mod parse;
mod policy;
mod table;
#[cfg(test)]
mod tests;
mod ticket;

pub use engine::{Engine, Fate, World};
pub use flow::Key;
pub use packet::Pieces;
pub use policy::{OFF, Policy};
pub use ticket::Ticket;

/// IPPROTO_*.
pub const ICMP: u8 = 1;
pub const IGMP: u8 = 2;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP6: u8 = 58;
/// Where name servers are.
pub(crate) const DNS: u16 = 53;

pub(crate) fn byte(data: &[u8], at: usize) -> Option<u8> {
    data.get(at).copied()
}

pub(crate) fn be16(data: &[u8], at: usize) -> Option<u16> {
    data.get(at..)?.first_chunk().map(|raw| u16::from_be_bytes(*raw))
}

pub(crate) fn be32(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..)?.first_chunk().map(|raw| u32::from_be_bytes(*raw))
}
