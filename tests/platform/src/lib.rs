//! The suite that every platform passes: a mini kernel, guest programs in assembly, and cases that each run in a process
//! (and PID namespace) of their own under a watchdog.
//!
//! Neighbours: a platform crate's `tests/machine.rs` calls [`main`] with a function that makes the platform, and adds the
//! cases that only it needs. Where platforms may differ, [`Traits`] says how this one does.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block)]

mod calls;
mod guest;
mod hostile;
mod machine;
mod memory;
mod tasks;

pub use guest::*;
pub use hostile::{endure, forged_frame, status};
pub use machine::*;

use chitin_platform::Platform;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A platform under test.
pub struct Subject {
    pub platform: Arc<dyn Platform>,
    pub traits: Traits,
    /// Ends whatever the platform has started.
    pub kill: Box<dyn Fn()>,
}

/// What one platform may do otherwise than another.
#[derive(Clone, Copy, Debug)]
pub struct Traits {
    /// A guest thread is a host thread whose id is the task's `debug_id`.
    pub host_side: bool,
    /// Plain system calls come without a frame.
    pub lazy_frames: bool,
    /// How many descriptors a host-side guest process keeps.
    pub kept_fds: usize,
}

pub type Case = (&'static str, fn(&Machine));

const CASES: &[Case] = &[
    ("getppid_and_copies", calls::getppid_and_copies),
    ("brk_traps", calls::brk_traps),
    ("fork_copies", tasks::fork_copies),
    ("thread_shares", tasks::thread_shares),
    ("shared_process", tasks::shared_process),
    ("faults", calls::faults),
    ("kick_running", calls::kick_running),
    ("kick_in_syscall", calls::kick_in_syscall),
    ("frame_on_demand", calls::frame_on_demand),
    ("native_mmap", memory::native_mmap),
    ("file_mmap", memory::file_mmap),
    ("high_fd_mmap", memory::high_fd_mmap),
    ("exit_and_kill", tasks::exit_and_kill),
    ("unexpected_death", tasks::unexpected_death),
    ("fpu_and_bases", calls::fpu_and_bases),
    ("bases_after_interrupts", calls::bases_after_interrupts),
    ("mappings_hide_ours", memory::mappings_hide_ours),
    ("forks_200", tasks::forks_200),
    ("threads_200", tasks::threads_200),
    ("leader_exits_first", tasks::leader_exits_first),
    ("makers_end_amid_clones", tasks::makers_end_amid_clones),
    ("copy_faults", memory::copy_faults),
    ("apply_files", memory::apply_files),
    ("interrupt_storm", calls::interrupt_storm),
    ("families", tasks::families),
    ("lost_origin", tasks::lost_origin),
    ("hostile_numbers", hostile::every_number),
    ("hostile_jumps", hostile::jumps_into_the_stub),
    ("hostile_window", hostile::window_calls),
];

/// Where a mode's cases run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a PID namespace of their own, where the host allows that.
    Namespace,
    /// Among the host's processes; only `fork_copies`, to see that this works, too.
    Plain,
}

/// The test's main: runs every case in every mode that `modes` names, each in a process of its own, where `make` is told
/// the mode. The first argument that is not a flag selects cases by a part of their name;
/// `--cases` lists them.
pub fn main(modes: &[(&str, Place)], make: impl Fn(&str) -> Subject, more: &[Case]) {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let cases = || CASES.iter().chain(more);
    if let [flag, name, mode] = &args[..] {
        if flag == "--case" {
            let case = cases().find(|c| c.0 == name).expect("case");
            watchdog();
            let subject = make(mode);
            let m = Machine::new(&subject);
            let r = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (case.1)(&m)));
            (subject.kill)();
            std::process::exit(i32::from(r.is_err()));
        }
    }
    if args.iter().any(|a| a == "--cases") {
        cases().for_each(|c| println!("{}", c.0));
        return;
    }
    let filter = args.iter().find(|a| !a.starts_with('-'));
    let exe = std::env::current_exe().expect("exe");
    let mut bad = Vec::new();
    let namespaces =
        Command::new("unshare").args(["-pf", "--mount-proc", "true"]).status().is_ok_and(|s| s.success());
    if !namespaces {
        eprintln!("SKIP: PID namespaces cannot be made here; cases run in plain processes");
    }
    for (name, _) in cases() {
        if filter.is_some_and(|f| !name.contains(f.as_str())) {
            continue;
        }
        for (mode, place) in modes {
            if *place == Place::Plain && *name != "fork_copies" {
                continue;
            }
            let mut c = if namespaces && *place == Place::Namespace {
                let mut c = Command::new("unshare");
                c.args(["-pf", "--mount-proc", "--kill-child"]).arg(&exe);
                c
            } else {
                Command::new(&exe)
            };
            let start = Instant::now();
            let ok = c.args(["--case", name, mode]).status().expect("spawn").success();
            let ms = start.elapsed().as_millis();
            println!("{} {name} ({mode}) {ms} ms", if ok { "ok  " } else { "FAIL" });
            if !ok {
                bad.push(format!("{name} ({mode})"));
            }
        }
    }
    if !bad.is_empty() {
        eprintln!("failed: {}", bad.join(", "));
        std::process::exit(1);
    }
}

/// How long a case may take: `CASE_SECONDS`, 20 by default.
fn case_seconds() -> u64 {
    std::env::var("CASE_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(20)
}

/// Ends a case that takes longer.
fn watchdog() {
    let seconds = case_seconds();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(seconds));
        eprintln!("watchdog: the case hangs");
        std::process::exit(3);
    });
}
