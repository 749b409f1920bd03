//! `uname` and `sysinfo`.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

// Field length, without the closing zero.
pub const __NEW_UTS_LEN: usize = 64;

// `Sysinfo::loads` are fixed-point numbers with this many fraction bits.
pub const SI_LOAD_SHIFT: u32 = 16;

#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Utsname {
    pub sysname: [u8; __NEW_UTS_LEN + 1],
    pub nodename: [u8; __NEW_UTS_LEN + 1],
    pub release: [u8; __NEW_UTS_LEN + 1],
    pub version: [u8; __NEW_UTS_LEN + 1],
    pub machine: [u8; __NEW_UTS_LEN + 1],
    pub domainname: [u8; __NEW_UTS_LEN + 1],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Sysinfo {
    pub uptime: i64,
    pub loads: [u64; 3],
    pub totalram: u64,
    pub freeram: u64,
    pub sharedram: u64,
    pub bufferram: u64,
    pub totalswap: u64,
    pub freeswap: u64,
    pub procs: u16,
    pub pad: [u16; 3],
    pub totalhigh: u64,
    pub freehigh: u64,
    pub mem_unit: u32,
    pub _pad0: u32,
}

impl Default for Utsname {
    fn default() -> Self {
        FromZeros::new_zeroed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{offset_of, size_of};

    #[test]
    fn layouts() {
        assert_eq!(size_of::<Utsname>(), size_of::<libc::utsname>());
        assert_eq!(size_of::<Sysinfo>(), size_of::<libc::sysinfo>());
        assert_eq!(offset_of!(Sysinfo, mem_unit), offset_of!(libc::sysinfo, mem_unit));
    }
}
