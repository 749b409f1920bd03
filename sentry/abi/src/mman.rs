//! Memory mappings: `mmap`, `mprotect`, `mremap`, `madvise`, `msync`, `mlock`, `memfd_create`, `mbind`.

// Protection.
pub const PROT_READ: u32 = 0x1;
pub const PROT_WRITE: u32 = 0x2;
pub const PROT_EXEC: u32 = 0x4;
pub const PROT_SEM: u32 = 0x8;
pub const PROT_NONE: u32 = 0x0;
pub const PROT_GROWSDOWN: u32 = 0x0100_0000;
pub const PROT_GROWSUP: u32 = 0x0200_0000;

// `mmap` flags.
pub const MAP_SHARED: u32 = 0x01;
pub const MAP_PRIVATE: u32 = 0x02;
pub const MAP_SHARED_VALIDATE: u32 = 0x03;
pub const MAP_TYPE: u32 = 0x0f;
pub const MAP_FIXED: u32 = 0x10;
pub const MAP_ANONYMOUS: u32 = 0x20;
pub const MAP_32BIT: u32 = 0x40;
pub const MAP_GROWSDOWN: u32 = 0x0100;
pub const MAP_DENYWRITE: u32 = 0x0800;
pub const MAP_EXECUTABLE: u32 = 0x1000;
pub const MAP_LOCKED: u32 = 0x2000;
pub const MAP_NORESERVE: u32 = 0x4000;
pub const MAP_POPULATE: u32 = 0x0000_8000;
pub const MAP_NONBLOCK: u32 = 0x0001_0000;
pub const MAP_STACK: u32 = 0x0002_0000;
pub const MAP_HUGETLB: u32 = 0x0004_0000;
pub const MAP_SYNC: u32 = 0x0008_0000;
pub const MAP_FIXED_NOREPLACE: u32 = 0x0010_0000;
pub const MAP_UNINITIALIZED: u32 = 0x0400_0000;
pub const MAP_FILE: u32 = 0;
pub const MAP_HUGE_SHIFT: u32 = 26;
pub const MAP_HUGE_MASK: u32 = 63;
pub const MAP_HUGE_2MB: u32 = 0x5400_0000;
pub const MAP_HUGE_1GB: u32 = 0x7800_0000;
pub const MAP_ABOVE4G: u32 = 0x80;
pub const MAP_DROPPABLE: u32 = 0x08;

// `mremap`.
pub const MREMAP_MAYMOVE: u32 = 1;
pub const MREMAP_FIXED: u32 = 2;
pub const MREMAP_DONTUNMAP: u32 = 4;

// `madvise`.
pub const MADV_NORMAL: u32 = 0;
pub const MADV_RANDOM: u32 = 1;
pub const MADV_SEQUENTIAL: u32 = 2;
pub const MADV_WILLNEED: u32 = 3;
pub const MADV_DONTNEED: u32 = 4;
pub const MADV_FREE: u32 = 8;
pub const MADV_REMOVE: u32 = 9;
pub const MADV_DONTFORK: u32 = 10;
pub const MADV_DOFORK: u32 = 11;
pub const MADV_HWPOISON: u32 = 100;
pub const MADV_SOFT_OFFLINE: u32 = 101;
pub const MADV_MERGEABLE: u32 = 12;
pub const MADV_UNMERGEABLE: u32 = 13;
pub const MADV_HUGEPAGE: u32 = 14;
pub const MADV_NOHUGEPAGE: u32 = 15;
pub const MADV_DONTDUMP: u32 = 16;
pub const MADV_DODUMP: u32 = 17;
pub const MADV_WIPEONFORK: u32 = 18;
pub const MADV_KEEPONFORK: u32 = 19;
pub const MADV_COLD: u32 = 20;
pub const MADV_PAGEOUT: u32 = 21;
pub const MADV_POPULATE_READ: u32 = 22;
pub const MADV_POPULATE_WRITE: u32 = 23;
pub const MADV_DONTNEED_LOCKED: u32 = 24;
pub const MADV_COLLAPSE: u32 = 25;
pub const MADV_GUARD_INSTALL: u32 = 102;
pub const MADV_GUARD_REMOVE: u32 = 103;

// `msync`.
pub const MS_ASYNC: u32 = 1;
pub const MS_INVALIDATE: u32 = 2;
pub const MS_SYNC: u32 = 4;

// `memfd_create`.
pub const MFD_CLOEXEC: u32 = 0x0001;
pub const MFD_ALLOW_SEALING: u32 = 0x0002;
pub const MFD_HUGETLB: u32 = 0x0004;
pub const MFD_HUGE_SHIFT: u32 = 26;
pub const MFD_HUGE_MASK: u32 = 63;
pub const MFD_HUGE_64KB: u32 = 0x4000_0000;
pub const MFD_HUGE_512KB: u32 = 0x4c00_0000;
pub const MFD_HUGE_1MB: u32 = 0x5000_0000;
pub const MFD_HUGE_2MB: u32 = 0x5400_0000;
pub const MFD_HUGE_8MB: u32 = 0x5c00_0000;
pub const MFD_HUGE_16MB: u32 = 0x6000_0000;
pub const MFD_HUGE_32MB: u32 = 0x6400_0000;
pub const MFD_HUGE_256MB: u32 = 0x7000_0000;
pub const MFD_HUGE_512MB: u32 = 0x7400_0000;
pub const MFD_HUGE_1GB: u32 = 0x7800_0000;
pub const MFD_HUGE_2GB: u32 = 0x7c00_0000;
pub const MFD_HUGE_16GB: u32 = 0x8800_0000;
pub const MFD_NOEXEC_SEAL: u32 = 0x0008;
pub const MFD_EXEC: u32 = 0x0010;

// `mlock2` and `mlockall`.
pub const MLOCK_ONFAULT: u32 = 0x01;
pub const MCL_CURRENT: u32 = 1;
pub const MCL_FUTURE: u32 = 2;
pub const MCL_ONFAULT: u32 = 4;

// Protection keys.
pub const PKEY_DISABLE_ACCESS: u32 = 0x1;
pub const PKEY_DISABLE_WRITE: u32 = 0x2;

// NUMA policies.
pub const MPOL_F_STATIC_NODES: u32 = 1 << 15;
pub const MPOL_F_RELATIVE_NODES: u32 = 1 << 14;
pub const MPOL_F_NUMA_BALANCING: u32 = 1 << 13;
pub const MPOL_MODE_FLAGS: u32 = 0xe000;
pub const MPOL_F_NODE: u32 = 1 << 0;
pub const MPOL_F_ADDR: u32 = 1 << 1;
pub const MPOL_F_MEMS_ALLOWED: u32 = 1 << 2;
pub const MPOL_MF_STRICT: u32 = 1 << 0;
pub const MPOL_MF_MOVE: u32 = 1 << 1;
pub const MPOL_MF_MOVE_ALL: u32 = 1 << 2;
pub const MPOL_MF_LAZY: u32 = 1 << 3;
pub const MPOL_MF_INTERNAL: u32 = 1 << 4;
pub const MPOL_MF_VALID: u32 = 7;
pub const MPOL_F_SHARED: u32 = 1 << 0;
pub const MPOL_F_MOF: u32 = 1 << 3;
pub const MPOL_F_MORON: u32 = 1 << 4;
pub const MPOL_DEFAULT: u32 = 0;
pub const MPOL_PREFERRED: u32 = 1;
pub const MPOL_BIND: u32 = 2;
pub const MPOL_INTERLEAVE: u32 = 3;
pub const MPOL_LOCAL: u32 = 4;
pub const MPOL_PREFERRED_MANY: u32 = 5;
pub const MPOL_WEIGHTED_INTERLEAVE: u32 = 6;

// Overcommit modes.
pub const OVERCOMMIT_GUESS: u32 = 0;
pub const OVERCOMMIT_ALWAYS: u32 = 1;
pub const OVERCOMMIT_NEVER: u32 = 2;
