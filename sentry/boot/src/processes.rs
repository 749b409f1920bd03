//! The processes of a container as `ps` shows them, and its threads as whoever looks for one that hangs wants them.

use chitin_control::ProcessInfo;
use chitin_kernel::{Container, Kernel, Process, Task, time};
use std::sync::Arc;

/// A command line's most bytes here; a message holds those of many processes.
const MAX_COMMAND: usize = 1024;
/// As many as a message has room for.
const MAX_PROCESSES: usize = 2048;

/// Lines about threads that a message has room for.
const MAX_TASKS: usize = 4096;

/// The living processes of a container, by pid.
pub fn list(kernel: &Kernel, container: &Arc<Container>) -> Vec<ProcessInfo> {
    let now = time::realtime() / 1_000_000_000;
    let monotonic = time::monotonic();
    let row = |process: Arc<Process>| {
        let leader = process.leader()?;
        let (user, system) = process.cpu_ns();
        let age = monotonic.saturating_sub(process.started_ns) / 1_000_000_000;
        Some(ProcessInfo {
            pid: process.pid(),
            stub: i32::try_from(leader.platform().debug_id()).unwrap_or(0),
            ppid: process.ppid(),
            uid: leader.creds().uid,
            threads: u32::try_from(process.threads().len()).unwrap_or(u32::MAX),
            cpu_ms: user.saturating_add(system) / 1_000_000,
            started: now.saturating_sub(age),
            tty: process.tty().map(|tty| tty.name()),
            command: command(&leader),
        })
    };
    kernel.processes_of(container).into_iter().filter_map(row).take(MAX_PROCESSES).collect()
}

/// A line per thread: who it is, the call it is in, what is pending, and the platform's view.
pub fn tasks(kernel: &Kernel, container: &Arc<Container>) -> Vec<String> {
    let threads = kernel.processes_of(container).into_iter().flat_map(|process| process.threads());
    let mut lines: Vec<String> = threads.take(MAX_TASKS + 1).map(|task| line(&task)).collect();
    if lines.len() > MAX_TASKS {
        lines.truncate(MAX_TASKS);
        lines.push("and more".into());
    }
    lines
}

fn line(task: &Task) -> String {
    let standing = task.standing();
    let call =
        standing.call.map_or(String::new(), |call| format!(" in {}", chitin_syscalls::describe(task, call)));
    let pending = match standing.pending.is_empty() {
        true => String::new(),
        false => format!("; pending: {}", standing.pending.join(", ")),
    };
    let (pid, tid, name) = (task.pid(), task.tid(), task.name());
    let who = format!("{pid}/{tid} {}", name.escape_ascii());
    format!("{who}: {}{call}{pending}; platform: {}", standing.state, standing.platform)
}

/// The arguments, or the name in brackets where they cannot be read.
fn command(task: &Task) -> String {
    let mm = task.mm();
    let args = mm.layout().arg;
    let len = usize::try_from(args.end.saturating_sub(args.start)).unwrap_or(0).min(MAX_COMMAND);
    let mut bytes = vec![0; len];
    if len == 0 || mm.read_bytes(args.start, &mut bytes).is_err() {
        return format!("[{}]", String::from_utf8_lossy(&task.name()));
    }
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    let text = String::from_utf8_lossy(&bytes);
    // One line of a table, whatever the guest made of it.
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
