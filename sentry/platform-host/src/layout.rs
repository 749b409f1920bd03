//! Where the platform's own range lies in every guest address space.

/// Where the stub's code page lies.
pub const STUB_BASE: u64 = 0x7000_0000_0000;
/// First address behind the platform's range.
pub const STUB_HI: u64 = STUB_BASE + 0x1_0000_0000;
/// Lowest and highest address a guest may map, with four-level page tables.
pub const USER_LO: u64 = 0x1_0000;
pub const USER_TOP: u64 = 0x7fff_ffff_f000;
