//! Handles on processes whose parent is outside: a container's first one, or one that was started in it later. `boot` keeps
//! them. Such a process stays a zombie until [`crate::Kernel::forget`]; its status stays here.

use crate::Process;
use crate::result::ExitStatus;
use crate::signal::send_to_process;
use chitin_abi::signal::{SI_USER, SigInfo};
use std::sync::Arc;

/// A process whose parent is outside.
#[derive(Clone)]
pub struct ProcessHandle {
    process: Arc<Process>,
}

impl ProcessHandle {
    pub fn of(process: &Arc<Process>) -> ProcessHandle {
        ProcessHandle { process: process.clone() }
    }
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }
    /// Its number in its own PID namespace.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }
    /// How it ended, once it has; of a namespace's init, once everything in the namespace has.
    pub fn status(&self) -> Option<ExitStatus> {
        self.process.exit_status()
    }
    /// Waits for its end.
    pub async fn wait(&self) -> ExitStatus {
        self.process.exit_events.wait_until(|| self.status()).await
    }
    /// Waits for its end on this host thread (no worker).
    pub fn wait_blocking(&self) -> ExitStatus {
        crate::wait::block_until(&self.process.exit_events, || self.status())
    }
    /// Sends a signal as somebody outside: the sender's pid is 0.
    pub fn signal(&self, signal: u32) {
        send_to_process(&self.process, SigInfo::kill(signal, SI_USER, 0, 0));
    }
}
