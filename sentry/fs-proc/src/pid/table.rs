//! The entries of /proc/PID and /proc/PID/task/TID (tgid_base_stuff and tid_base_stuff in fs/proc/base.c).

use super::access::Access::{self, Any, Attach, Inspect};
use super::links::PidLink;
use super::node::PidNode;
use super::{Subject, ids, maps, memory, misc, mounts, stat, status};
use chitin_abi::Errno;
use chitin_vfs::Caller;

/// Makes a file's text for who opened it.
pub(super) type PidShow = fn(&Subject, &Caller, &mut Vec<u8>) -> Result<(), Errno>;
pub(super) type PidStore = fn(&Subject, &Caller, &[u8]) -> Result<(), Errno>;

pub(super) enum PidKind {
    Text(PidShow, Option<PidStore>, Access),
    /// mem.
    Memory,
    Link(PidLink),
    Dir(&'static [PidEntry]),
    /// Directories made of what the process has.
    Special(PidNode),
}

pub(super) struct PidEntry {
    pub(super) name: &'static str,
    pub(super) perm: u32,
    pub(super) kind: PidKind,
}

const fn text(name: &'static str, perm: u32, show: PidShow, access: Access) -> PidEntry {
    PidEntry { name, perm, kind: PidKind::Text(show, None, access) }
}
const fn tunable(name: &'static str, perm: u32, show: PidShow, store: PidStore, access: Access) -> PidEntry {
    PidEntry { name, perm, kind: PidKind::Text(show, Some(store), access) }
}
const fn entry(name: &'static str, perm: u32, kind: PidKind) -> PidEntry {
    PidEntry { name, perm, kind }
}

const TASKS: PidEntry = entry("task", 0o555, PidKind::Special(PidNode::Tasks));
const FDS: PidEntry = entry("fd", 0o500, PidKind::Special(PidNode::Fds));
const FDINFO: PidEntry = entry("fdinfo", 0o555, PidKind::Special(PidNode::FdInfos));
const NS: PidEntry = entry("ns", 0o511, PidKind::Special(PidNode::Namespaces));
const NET: PidEntry = entry("net", 0o555, PidKind::Dir(super::net::ENTRIES));
const ENVIRON: PidEntry = text("environ", 0o400, memory::environ, Inspect);
const AUXV: PidEntry = text("auxv", 0o400, memory::auxv, Inspect);
const STATUS: PidEntry = text("status", 0o444, status::status, Any);
const PERSONALITY: PidEntry = text("personality", 0o400, misc::personality, Attach);
const LIMITS: PidEntry = text("limits", 0o444, misc::limits, Any);
const SCHED: PidEntry = text("sched", 0o444, misc::sched, Any);
const COMM: PidEntry = tunable("comm", 0o644, misc::comm, misc::set_comm, Any);
const SYSCALL: PidEntry = text("syscall", 0o400, misc::syscall, Attach);
const CMDLINE: PidEntry = text("cmdline", 0o444, memory::cmdline, Any);
const STAT: PidEntry = text("stat", 0o444, stat::stat, Any);
const STATM: PidEntry = text("statm", 0o444, stat::statm, Any);
const MAPS: PidEntry = text("maps", 0o444, maps::maps, Inspect);
const MEM: PidEntry = entry("mem", 0o600, PidKind::Memory);
const CWD: PidEntry = entry("cwd", 0o777, PidKind::Link(PidLink::Cwd));
const ROOT: PidEntry = entry("root", 0o777, PidKind::Link(PidLink::Root));
const EXE: PidEntry = entry("exe", 0o777, PidKind::Link(PidLink::Exe));
const MOUNTS: PidEntry = text("mounts", 0o444, mounts::mounts, Any);
const MOUNTINFO: PidEntry = text("mountinfo", 0o444, mounts::mountinfo, Any);
const MOUNTSTATS: PidEntry = text("mountstats", 0o400, mounts::mountstats, Any);
const SMAPS: PidEntry = text("smaps", 0o444, maps::smaps, Inspect);
const ROLLUP: PidEntry = text("smaps_rollup", 0o444, maps::rollup, Inspect);
const NUMA: PidEntry = text("numa_maps", 0o444, maps::numa, Inspect);
const WCHAN: PidEntry = text("wchan", 0o444, misc::wchan, Any);
const SCHEDSTAT: PidEntry = text("schedstat", 0o444, misc::schedstat, Any);
const CPUSET: PidEntry = text("cpuset", 0o444, misc::cpuset, Any);
const CGROUP: PidEntry = text("cgroup", 0o444, misc::cgroup, Any);
const OOM_SCORE: PidEntry = text("oom_score", 0o444, misc::oom_score, Any);
const OOM_ADJ: PidEntry = tunable("oom_adj", 0o644, misc::oom_adj, misc::set_oom_adj, Any);
const OOM_SCORE_ADJ: PidEntry =
    tunable("oom_score_adj", 0o644, misc::oom_score_adj, misc::set_oom_score_adj, Any);
const LOGINUID: PidEntry = tunable("loginuid", 0o644, misc::loginuid, misc::set_loginuid, Any);
const SESSIONID: PidEntry = text("sessionid", 0o444, misc::sessionid, Any);
const DUMP_FILTER: PidEntry = text("coredump_filter", 0o444, misc::coredump_filter, Any);
const IO: PidEntry = text("io", 0o400, misc::io, Inspect);
const UID_MAP: PidEntry = tunable("uid_map", 0o644, ids::uid_map, ids::set_uid_map, Any);
const GID_MAP: PidEntry = tunable("gid_map", 0o644, ids::gid_map, ids::set_gid_map, Any);
const PROJID_MAP: PidEntry = tunable("projid_map", 0o644, ids::projid_map, ids::set_projid_map, Any);
const SETGROUPS: PidEntry = tunable("setgroups", 0o644, ids::setgroups, ids::set_setgroups, Any);
const TIMENS: PidEntry = tunable("timens_offsets", 0o644, ids::timens_offsets, ids::set_timens_offsets, Any);
const TIMERSLACK: PidEntry = text("timerslack_ns", 0o444, misc::timerslack, Inspect);
const CHILDREN: PidEntry = text("children", 0o444, misc::children, Any);

pub(super) static PROCESS: &[PidEntry] = &[
    TASKS,
    FDS,
    FDINFO,
    NS,
    NET,
    ENVIRON,
    AUXV,
    STATUS,
    PERSONALITY,
    LIMITS,
    SCHED,
    COMM,
    SYSCALL,
    CMDLINE,
    STAT,
    STATM,
    MAPS,
    NUMA,
    MEM,
    CWD,
    ROOT,
    EXE,
    MOUNTS,
    MOUNTINFO,
    MOUNTSTATS,
    SMAPS,
    ROLLUP,
    WCHAN,
    SCHEDSTAT,
    CPUSET,
    CGROUP,
    OOM_SCORE,
    OOM_ADJ,
    OOM_SCORE_ADJ,
    LOGINUID,
    SESSIONID,
    DUMP_FILTER,
    IO,
    UID_MAP,
    GID_MAP,
    PROJID_MAP,
    SETGROUPS,
    TIMENS,
    TIMERSLACK,
];

pub(super) static THREAD: &[PidEntry] = &[
    FDS,
    FDINFO,
    NS,
    NET,
    ENVIRON,
    AUXV,
    STATUS,
    PERSONALITY,
    LIMITS,
    SCHED,
    COMM,
    SYSCALL,
    CMDLINE,
    STAT,
    STATM,
    MAPS,
    CHILDREN,
    NUMA,
    MEM,
    CWD,
    ROOT,
    EXE,
    MOUNTS,
    MOUNTINFO,
    SMAPS,
    ROLLUP,
    WCHAN,
    SCHEDSTAT,
    CPUSET,
    CGROUP,
    OOM_SCORE,
    OOM_ADJ,
    OOM_SCORE_ADJ,
    LOGINUID,
    SESSIONID,
    IO,
    UID_MAP,
    GID_MAP,
    PROJID_MAP,
    SETGROUPS,
];
