//! Device nodes and what is behind them: /dev, /dev/pts, memory and random devices, terminals.
//!
//! Neighbours: drivers are registered with `vfs.devices` ([`register_drivers`]); terminals themselves are
//! `kernel::tty`; `boot` mounts [`DevTmpFs`] and [`DevPts`], or fills a tmpfs by [`populate`].

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
