//! System V IPC and POSIX message queues.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

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

/// `struct ipc64_perm`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct IpcPerm {
    pub key: i32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    pub mode: u32,
    pub seq: u16,
    pub __pad2: [u16; 3],
    pub __unused: [u64; 2],
}

/// `struct shmid64_ds`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ShmidDs {
    pub shm_perm: IpcPerm,
    pub shm_segsz: u64,
    pub shm_atime: i64,
    pub shm_dtime: i64,
    pub shm_ctime: i64,
    pub shm_cpid: i32,
    pub shm_lpid: i32,
    pub shm_nattch: u64,
    pub __unused: [u64; 2],
}

/// Result of `shmctl(IPC_INFO)` (`struct shminfo64`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ShmInfo64 {
    pub shmmax: u64,
    pub shmmin: u64,
    pub shmmni: u64,
    pub shmseg: u64,
    pub shmall: u64,
    pub __unused: [u64; 4],
}

/// Result of `shmctl(SHM_INFO)` (`struct shm_info`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ShmInfo {
    pub used_ids: i32,
    pub _pad0: u32,
    pub shm_tot: u64,
    pub shm_rss: u64,
    pub shm_swp: u64,
    pub swap_attempts: u64,
    pub swap_successes: u64,
}

/// `struct semid64_ds` of x86_64.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SemidDs {
    pub sem_perm: IpcPerm,
    pub sem_otime: i64,
    pub __unused1: u64,
    pub sem_ctime: i64,
    pub __unused2: u64,
    pub sem_nsems: u64,
    pub __unused: [u64; 2],
}

/// Result of `semctl(IPC_INFO)` and `semctl(SEM_INFO)`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SemInfo {
    pub semmap: i32,
    pub semmni: i32,
    pub semmns: i32,
    pub semmnu: i32,
    pub semmsl: i32,
    pub semopm: i32,
    pub semume: i32,
    pub semusz: i32,
    pub semvmx: i32,
    pub semaem: i32,
}

/// One operation of `semop`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Sembuf {
    pub sem_num: u16,
    pub sem_op: i16,
    pub sem_flg: i16,
}

/// `struct msqid64_ds`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MsqidDs {
    pub msg_perm: IpcPerm,
    pub msg_stime: i64,
    pub msg_rtime: i64,
    pub msg_ctime: i64,
    pub msg_cbytes: u64,
    pub msg_qnum: u64,
    pub msg_qbytes: u64,
    pub msg_lspid: i32,
    pub msg_lrpid: i32,
    pub __unused: [u64; 2],
}

/// Result of `msgctl(IPC_INFO)` and `msgctl(MSG_INFO)`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MsgInfo {
    pub msgpool: i32,
    pub msgmap: i32,
    pub msgmax: i32,
    pub msgmnb: i32,
    pub msgmni: i32,
    pub msgssz: i32,
    pub msgtql: i32,
    pub msgseg: u16,
    pub _pad0: u16,
}

/// Attributes of a POSIX message queue.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MqAttr {
    pub mq_flags: i64,
    pub mq_maxmsg: i64,
    pub mq_msgsize: i64,
    pub mq_curmsgs: i64,
    pub __reserved: [i64; 4],
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{offset_of, size_of};

    #[test]
    fn layouts() {
        assert_eq!(size_of::<IpcPerm>(), size_of::<libc::ipc_perm>());
        assert_eq!(size_of::<ShmidDs>(), size_of::<libc::shmid_ds>());
        assert_eq!(offset_of!(ShmidDs, shm_nattch), offset_of!(libc::shmid_ds, shm_nattch));
        assert_eq!(size_of::<SemidDs>(), size_of::<libc::semid_ds>());
        assert_eq!(offset_of!(SemidDs, sem_nsems), offset_of!(libc::semid_ds, sem_nsems));
        assert_eq!(size_of::<MsqidDs>(), size_of::<libc::msqid_ds>());
        assert_eq!(offset_of!(MsqidDs, msg_lspid), offset_of!(libc::msqid_ds, msg_lspid));
        assert_eq!(size_of::<SemInfo>(), size_of::<libc::seminfo>());
        assert_eq!(size_of::<MsgInfo>(), size_of::<libc::msginfo>());
        assert_eq!(size_of::<Sembuf>(), size_of::<libc::sembuf>());
        assert_eq!(size_of::<MqAttr>(), size_of::<libc::mq_attr>());
        assert_eq!(size_of::<ShmInfo64>(), 72);
        assert_eq!(size_of::<ShmInfo>(), 48);
    }
}
