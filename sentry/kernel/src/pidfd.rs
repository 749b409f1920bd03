//! pidfds (pidfd_open(2)): descriptors that name a process and become readable at its end.

use crate::Process;
use chitin_abi::fcntl::{O_NONBLOCK, O_RDWR};
use chitin_abi::poll::{POLLIN, POLLRDNORM};
use chitin_vfs::{File, FileOps, PollTable};
use std::sync::Arc;

pub struct PidFd {
    process: Arc<Process>,
}

/// Opens a pidfd; `flags` may hold O_NONBLOCK (PIDFD_NONBLOCK).
pub fn open(process: &Arc<Process>, flags: u32) -> Arc<File> {
    let ops = Arc::new(PidFd { process: process.clone() });
    File::anon(ops, "[pidfd]", O_RDWR | (flags & O_NONBLOCK))
}

impl PidFd {
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }
}

impl FileOps for PidFd {
    fn poll(&self, table: Option<&mut PollTable>) -> u32 {
        if let Some(table) = table {
            table.add(&self.process.exit_events);
        }
        if self.process.is_zombie() { POLLIN | POLLRDNORM } else { 0 }
    }
}
