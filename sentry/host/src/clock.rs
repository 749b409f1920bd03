//! The host's clocks, which are also the guest's.

use nix::time::ClockId;

/// Reads a clock (CLOCK_*): nanoseconds since its epoch; 0 for a clock that does not exist or stands before its epoch.
pub fn now_ns(clock: i32) -> u64 {
    nix::time::clock_gettime(ClockId::from_raw(clock)).map_or(0, nanoseconds)
}

/// The resolution of a clock in nanoseconds; `None` if there is no such clock.
pub fn resolution_ns(clock: i32) -> Option<u64> {
    nix::time::clock_getres(ClockId::from_raw(clock)).ok().map(nanoseconds)
}

fn nanoseconds(time: nix::sys::time::TimeSpec) -> u64 {
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let rest = u64::try_from(time.tv_nsec()).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

#[cfg(test)]
mod tests {
    #[test]
    fn clocks_advance() {
        let before = super::now_ns(libc::CLOCK_MONOTONIC);
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(super::now_ns(libc::CLOCK_MONOTONIC) - before >= 2_000_000);
        assert!(super::now_ns(libc::CLOCK_REALTIME) > 1_600_000_000_000_000_000);
        assert_eq!(super::resolution_ns(libc::CLOCK_MONOTONIC), Some(1));
        assert_eq!(super::resolution_ns(10), None);
    }
}
