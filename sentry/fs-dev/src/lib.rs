//! Device nodes and what is behind them: /dev, /dev/pts, memory and random devices, terminals.
//!
//! Neighbours: drivers are registered with `vfs.devices` ([`register_drivers`]); terminals themselves are
//! `kernel::tty`; `boot` mounts [`DevTmpFs`] and [`DevPts`], or fills a tmpfs by [`populate`].

mod devtmpfs;
mod drivers;
mod mem;
mod nodes;

pub use devtmpfs::DevTmpFs;
pub use drivers::register_drivers;
pub use nodes::{DevNode, default_nodes, populate};
