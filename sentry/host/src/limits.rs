//! The host's limits on this process, and the machine's size.

/// Raises the soft limit on descriptors to the hard one. Failing is no error: the soft limit stays.
pub fn raise_nofile() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writing.
    let got = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    if got != 0 {
        return;
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is valid for reading.
    let _ = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
}

/// The machine's memory in bytes.
pub fn memory_bytes() -> u64 {
    // SAFETY: sysinfo is plain numbers, for which zero is valid.
    let mut info: libc::sysinfo = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is valid for writing.
    let got = unsafe { libc::sysinfo(&mut info) };
    if got != 0 { 1 << 30 } else { info.totalram.saturating_mul(u64::from(info.mem_unit)) }
}
