//! Sizes and limits that Linux promises to user space.

// Paths, names and arguments.
pub const PATH_MAX: usize = 4096;
pub const NAME_MAX: usize = 255;
pub const PIPE_BUF: usize = 4096;
pub const NGROUPS_MAX: usize = 65536;
pub const XATTR_NAME_MAX: usize = 255;
pub const XATTR_SIZE_MAX: usize = 65536;
pub const XATTR_LIST_MAX: usize = 65536;
pub const UIO_FASTIOV: usize = 8;
pub const UIO_MAXIOV: usize = 1024;
pub const IOV_MAX: usize = UIO_MAXIOV;
pub const SYMLOOP_MAX: usize = 40;
pub const LINK_MAX: usize = 127;
pub const MAX_ARG_STRLEN: usize = 131072;
pub const MAX_ARG_STRINGS: usize = 0x7fff_ffff;
pub const ARG_MAX: usize = 131072;
pub const TASK_COMM_LEN: usize = 16;
pub const HOST_NAME_MAX: usize = 64;
pub const PIPE_DEF_BUFFERS: usize = 16;
pub const PIPE_MAX_SIZE: usize = 1048576;

// Memory geometry of x86_64 with four-level page tables.
pub const PAGE_SHIFT: u64 = 12;
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
pub const PAGE_MASK: u64 = !(PAGE_SIZE - 1);
pub const HUGE_PAGE_SIZE: u64 = 2 << 20;
pub const TASK_SIZE: u64 = (1 << 47) - PAGE_SIZE;
pub const MMAP_MIN_ADDR: u64 = 65536;
pub const STACK_DEFAULT_LIMIT: u64 = 8 << 20;

// Largest byte count one read or write moves: INT_MAX rounded down to a page.
pub const MAX_RW_COUNT: usize = 0x7fff_f000;

// Descriptors.
pub const NR_OPEN_DEFAULT: u64 = 1024;
pub const NR_OPEN: u64 = 1_048_576;
pub const PID_MAX_DEFAULT: u64 = 32768;
pub const PID_MAX_LIMIT: u64 = 4 << 20;
pub const USER_HZ: u64 = 100;
