//! Device nodes and what is behind them: /dev, /dev/pts, memory and random devices, terminals.
//!
//! Neighbours: drivers are registered with `vfs.devices` ([`register_drivers`]); terminals themselves are
//! `kernel::tty`; `boot` mounts [`DevTmpFs`] and [`DevPts`], or fills a tmpfs by [`populate`].

// Guest data must never panic the sentry; tests may.
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
        clippy::string_slice
    )
)]

mod devtmpfs;
mod drivers;
mod mem;
mod nodes;
mod pts;
mod terminals;

pub use devtmpfs::DevTmpFs;
pub use drivers::register_drivers;
pub use nodes::{DevNode, default_nodes, make_node, populate};
pub use pts::DevPts;
