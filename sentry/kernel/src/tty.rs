//! Terminals.

use crate::{Kernel, Process};
use std::sync::Arc;

/// A terminal: line discipline and job control state.
pub struct Tty {}

/// The leader of a session ends: its terminal hangs up.
pub fn session_leader_exits(_kernel: &Arc<Kernel>, _process: &Arc<Process>) {}

/// Makes a terminal the controlling terminal of a session leader.
pub fn adopt(tty: &Arc<Tty>, process: &Arc<Process>) {
    process.links.lock().tty = Some(tty.clone());
}
