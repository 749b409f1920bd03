//! File locks of an inode: record locks (POSIX and OFD) and flock(2).

/// The locks of one inode.
#[derive(Default)]
pub struct InodeLocks {}

impl InodeLocks {
    /// Drops what an open file description holds, as it goes away.
    pub fn release_file(&self, _file_id: u64) {}
}
