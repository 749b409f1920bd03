//! inotify(7).

use crate::{InodeState, Path};

/// The watches on one inode.
#[derive(Default)]
pub struct InodeWatches {}

/// Tells the watches of an inode, and of the directory it was opened in, about an event.
pub fn inode_event(_state: &InodeState, _path: Option<&Path>, _event: u32) {}

/// Tells the watches of a directory about a change of the name `name` in it.
pub fn dir_event(_dir: &std::sync::Arc<dyn crate::Inode>, _name: &[u8], _event: u32, _cookie: u32) {}

/// Tells the watches of an inode about an event of its own.
pub fn self_event(_inode: &std::sync::Arc<dyn crate::Inode>, _event: u32) {}
