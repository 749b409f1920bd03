//! The system call table as the runtime's `features --syscalls` prints it.

use chitin_syscalls::Support;

/// One row.
pub struct SyscallRow {
    pub nr: u64,
    pub name: &'static str,
    /// "full", "partial" or "unsupported".
    pub support: &'static str,
    pub note: &'static str,
}

/// All rows by number.
pub fn syscalls() -> Vec<SyscallRow> {
    let mut rows: Vec<SyscallRow> = chitin_syscalls::entries()
        .map(|entry| SyscallRow {
            nr: entry.nr,
            name: entry.name,
            support: match entry.support {
                Support::Full => "full",
                Support::Partial => "partial",
                Support::Unsupported => "unsupported",
            },
            note: entry.note,
        })
        .collect();
    rows.sort_by_key(|row| row.nr);
    rows
}
