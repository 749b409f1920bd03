//! What is asked of a guest thread that is a host thread, wherever it stands. The caller makes sure that it lives.

use crate::maps::read;
use crate::sys;
use chitin_platform::{CpuTimes, PlatformError};
use std::os::fd::BorrowedFd;

/// An errno of the host as an error; a thread that is gone is no other.
fn host(op: &'static str) -> impl Fn(i32) -> PlatformError {
    move |errno| if errno == libc::ESRCH { PlatformError::Gone } else { PlatformError::Host { op, errno } }
}

/// Reads, or sets and reads, the CPUs it may run on.
pub fn affinity(tid: i32, set: Option<&[u8]>) -> Result<Vec<u8>, PlatformError> {
    if let Some(mask) = set {
        sys::set_affinity(tid, mask).map_err(host("sched_setaffinity"))?;
    }
    sys::get_affinity(tid).map_err(host("sched_getaffinity"))
}

pub fn set_nice(tid: i32, nice: i32) -> Result<(), PlatformError> {
    sys::set_nice(tid, nice).map_err(host("setpriority"))
}

/// `ticks`: user and system time as the host's tick counters say, in whatever unit; they only split the precise `total`.
fn split(total: u64, user: u64, system: u64) -> CpuTimes {
    let all = u128::from(user) + u128::from(system);
    let user_ns = (u128::from(total) * u128::from(user)).checked_div(all).map_or(total, |ns| ns as u64);
    CpuTimes { user_ns, system_ns: total.saturating_sub(user_ns) }
}

/// CPU time of a process that has never had a second thread: three clocks instead of two files (man 2 clock_getres,
/// "Dynamic clock IDs"; the host tells CPU clocks of other processes' *threads* to nobody).
pub fn process_cpu_times(pid: i32) -> CpuTimes {
    // CPUCLOCK_PROF, CPUCLOCK_VIRT, CPUCLOCK_SCHED of include/linux/posix-timers.h.
    let clock = |which: i32| sys::clock_ns((!pid << 3) | which);
    let (both, user, total) = (clock(0), clock(1), clock(2));
    split(total, user, both.saturating_sub(user))
}

/// CPU time of a thread.
pub fn cpu_times(dir: BorrowedFd<'_>, pid: i32, tid: i32) -> CpuTimes {
    let field = |s: &str, i: usize| s.split_ascii_whitespace().nth(i).and_then(|s| s.parse::<u64>().ok());
    let Ok(stat) = read(dir, &format!("{pid}/task/{tid}/stat")) else { return CpuTimes::default() };
    let rest = stat.rsplit_once(')').map_or("", |(_, r)| r);
    let (u, s) = (field(rest, 11).unwrap_or(0), field(rest, 12).unwrap_or(0));
    match read(dir, &format!("{pid}/task/{tid}/schedstat")).ok().and_then(|t| field(&t, 0)) {
        Some(total) => split(total, u, s),
        None => CpuTimes { user_ns: u.saturating_mul(10_000_000), system_ns: s.saturating_mul(10_000_000) },
    }
}

/// How often the host took the CPU from a thread that could have gone on. (Its voluntary switches are system calls, which
/// are none of the guest's.)
pub fn preemptions(dir: BorrowedFd<'_>, pid: i32, tid: i32) -> u64 {
    let Ok(status) = read(dir, &format!("{pid}/task/{tid}/status")) else { return 0 };
    let line = status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// Its state, and where in the host's kernel it waits.
pub fn state(dir: BorrowedFd<'_>, pid: i32, tid: i32) -> String {
    let Ok(stat) = read(dir, &format!("{pid}/task/{tid}/stat")) else {
        return format!("host {pid}/{tid}: gone");
    };
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().next());
    let place = read(dir, &format!("{pid}/task/{tid}/wchan")).unwrap_or_default();
    format!("host {pid}/{tid}: {} in {}", state.unwrap_or("?"), if place.is_empty() { "?" } else { &place })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_of_a_process_tell_its_time() {
        let mut child = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
        let proc = std::fs::File::open("/proc").unwrap();
        let before = cpu_times(std::os::fd::AsFd::as_fd(&proc), pid, pid);
        let times = process_cpu_times(pid);
        let after = cpu_times(std::os::fd::AsFd::as_fd(&proc), pid, pid);
        child.kill().unwrap();
        child.wait().unwrap();
        let all = |times: CpuTimes| times.user_ns + times.system_ns;
        assert!(
            all(before) > 0 && (all(before)..=all(after)).contains(&all(times)),
            "{before:?} {times:?} {after:?}"
        );
        assert!(times.user_ns > times.system_ns);
    }
}
