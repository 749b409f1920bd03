//! Device nodes and what is behind them: /dev, /dev/pts, memory and random devices, terminals.
//!
//! Neighbours: drivers are registered with `vfs.devices` ([`register_drivers`]); terminals themselves are
//! `kernel::tty`; `boot` mounts [`DevTmpFs`] and [`DevPts`], or fills a tmpfs by [`populate`].

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
