//! System V IPC and POSIX message queues.

// Common.
pub const IPC_CREAT: u32 = 0o1000;
pub const IPC_EXCL: u32 = 0o2000;
pub const IPC_NOWAIT: u32 = 0o4000;
pub const IPC_RMID: u32 = 0;
pub const IPC_SET: u32 = 1;
pub const IPC_STAT: u32 = 2;
pub const IPC_INFO: u32 = 3;
pub const IPC_64: u32 = 0x0100;

// Key that always makes a new object.
pub const IPC_PRIVATE: i32 = 0;

// Shared memory.
pub const SHM_R: u32 = 0o400;
pub const SHM_W: u32 = 0o200;
pub const SHM_RDONLY: u32 = 0o10000;
pub const SHM_RND: u32 = 0o20000;
pub const SHM_REMAP: u32 = 0o40000;
pub const SHM_EXEC: u32 = 0o100000;
pub const SHM_LOCK: u32 = 11;
pub const SHM_UNLOCK: u32 = 12;
pub const SHM_STAT: u32 = 13;
pub const SHM_INFO: u32 = 14;
pub const SHM_STAT_ANY: u32 = 15;
pub const SHM_HUGETLB: u32 = 0o4000;
pub const SHM_NORESERVE: u32 = 0o10000;
pub const SHM_HUGE_SHIFT: u32 = 26;
pub const SHM_HUGE_MASK: u32 = 63;
pub const SHM_DEST: u32 = 0o1000;
pub const SHM_LOCKED: u32 = 0o2000;

// Shared memory limits.
pub const SHMMIN: u64 = 1;
pub const SHMMNI: u64 = 4096;
pub const SHMMAX: u64 = u64::MAX - (1 << 24);
pub const SHMALL: u64 = u64::MAX - (1 << 24);
pub const SHMSEG: u64 = SHMMNI;
pub const SHMLBA: u64 = 4096;

// Semaphores.
pub const SEM_UNDO: u32 = 0x1000;
pub const GETPID: u32 = 11;
pub const GETVAL: u32 = 12;
pub const GETALL: u32 = 13;
pub const GETNCNT: u32 = 14;
pub const GETZCNT: u32 = 15;
pub const SETVAL: u32 = 16;
pub const SETALL: u32 = 17;
pub const SEM_STAT: u32 = 18;
pub const SEM_INFO: u32 = 19;
pub const SEM_STAT_ANY: u32 = 20;

// Semaphore limits.
pub const SEMMNI: u32 = 32000;
pub const SEMMSL: u32 = 32000;
pub const SEMMNS: u32 = 0x3d09_0000;
pub const SEMOPM: u32 = 500;
pub const SEMVMX: u32 = 32767;
pub const SEMAEM: u32 = 0x7fff;
pub const SEMUME: u32 = 500;
pub const SEMMNU: u32 = 0x3d09_0000;
pub const SEMMAP: u32 = 0x3d09_0000;
pub const SEMUSZ: u32 = 20;

// Message queues.
pub const MSG_STAT: u32 = 11;
pub const MSG_INFO: u32 = 12;
pub const MSG_STAT_ANY: u32 = 13;
pub const MSG_NOERROR: u32 = 0o10000;
pub const MSG_EXCEPT: u32 = 0o20000;
pub const MSG_COPY: u32 = 0o40000;

// Message queue limits.
pub const MSGMNI: u32 = 32000;
pub const MSGMAX: u32 = 8192;
pub const MSGMNB: u32 = 16384;
pub const MSGPOOL: u32 = 0x0007_d000;
pub const MSGTQL: u32 = 0x4000;
pub const MSGMAP: u32 = 0x4000;
pub const MSGSSZ: u32 = 16;
pub const MSGSEG: u32 = 0xffff;

// POSIX message queues.
pub const MQ_PRIO_MAX: u32 = 32768;
pub const MQ_BYTES_MAX: u32 = 819200;
pub const NOTIFY_NONE: u32 = 0;
pub const NOTIFY_WOKENUP: u32 = 1;
pub const NOTIFY_REMOVED: u32 = 2;
pub const NOTIFY_COOKIE_LEN: u32 = 32;
pub const DFLT_QUEUESMAX: u32 = 256;
pub const DFLT_MSGMAX: u32 = 10;
pub const HARD_MSGMAX: u32 = 65536;
pub const DFLT_MSGSIZEMAX: u32 = 8192;
pub const HARD_MSGSIZEMAX: u32 = 16 << 20;
