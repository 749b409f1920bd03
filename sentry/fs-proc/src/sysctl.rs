//! /proc/sys: tunables.
//!
//! What a guest may set is kept by [`Sysctls`], where those who act on it look. What this kernel has fixed is read-only
//! here, also where Linux would let root write.

use crate::format::{number, put, trimmed};
use crate::fs::Shared;
use crate::tree::{Entry, Node, dir, file, own, own_writable, writable};
use chitin_abi::Errno;
use chitin_abi::capability::CAP_SYS_ADMIN;
use chitin_abi::limits::NGROUPS_MAX;
use chitin_kernel::kernel::{RELEASE, VERSION};
use chitin_kernel::seccomp::enter::{ACTIONS, ACTIONS_LOGGED};
use chitin_kernel::sysctl::Sysctls;
use chitin_kernel::{Kernel, UtsNs};
use chitin_vfs::Caller;
use chitin_vfs::bounds::{EPOLL_ITEMS, FILES, WATCHES};
use parking_lot::Mutex;
use std::sync::Arc;

/// A tunable of one or more numbers.
pub(crate) struct Sysctl {
    /// The dotted name.
    name: &'static str,
    default: &'static str,
    min: i64,
    max: i64,
}

const INT_MAX: i64 = i32::MAX as i64;

macro_rules! tunables {
    ($($table:ident: $dir:literal { $($name:literal = $default:literal in $min:expr, $max:expr;)* } + $others:expr;)*) => {
        $(#[allow(clippy::indexing_slicing, reason = "evaluated while it is compiled")]
        static $table: &[Entry] = &{
            const OWN: &[(&str, Sysctl)] = &[$(($name, Sysctl {
                name: concat!($dir, ".", $name), default: $default, min: $min, max: $max,
            })),*];
            const OTHERS: &[Entry] = $others;
            let mut all = [const { EMPTY }; OWN.len() + OTHERS.len()];
            let mut at = 0;
            while at < OWN.len() {
                all[at] = Entry { name: OWN[at].0, perm: 0o644, node: Node::Sysctl(&OWN[at].1) };
                at += 1;
            }
            let mut other = 0;
            while other < OTHERS.len() {
                all[at + other] = OTHERS[other];
                other += 1;
            }
            all
        };)*
    };
}

const EMPTY: Entry = Entry { name: "", perm: 0, node: Node::Dir(&[]) };

pub(crate) static ROOT: &[Entry] = &[
    dir("abi", &[]),
    dir("debug", &[]),
    dir("dev", &[]),
    dir("fs", FS),
    dir("kernel", KERNEL),
    dir("net", &[dir("core", CORE), dir("ipv4", IPV4), dir("ipv6", IPV6), dir("unix", UNIX)]),
    dir("user", USER),
    dir("vm", VM),
];

/// A read-only file with a fixed text.
macro_rules! fixed {
    ($name:literal, $text:expr) => {
        file($name, {
            fn show(_: &Shared, out: &mut Vec<u8>) -> Result<(), Errno> {
                put!(out, "{}\n", $text);
                Ok(())
            }
            show
        })
    };
}

tunables! {
    KERNEL: "kernel" {
        "auto_msgmni" = "0" in 0, 1;
        "dmesg_restrict" = "1" in 0, 1;
        "io_uring_disabled" = "2" in 2, 2;
        "kptr_restrict" = "0" in 0, 2;
        "msg_next_id" = "-1" in -1, INT_MAX;
        "msgmax" = "8192" in 0, INT_MAX;
        "msgmnb" = "16384" in 0, INT_MAX;
        "msgmni" = "32000" in 0, 32768;
        "panic" = "0" in -INT_MAX, INT_MAX;
        "panic_on_oops" = "0" in 0, 1;
        "perf_event_paranoid" = "2" in -1, 4;
        "printk" = "4\t4\t1\t7" in 0, 15;
        "sched_autogroup_enabled" = "0" in 0, 1;
        "sched_rt_period_us" = "1000000" in 1, INT_MAX;
        "sched_rt_runtime_us" = "950000" in -1, INT_MAX;
        "sem" = "32000\t1024000000\t500\t32000" in 0, INT_MAX;
        "shm_next_id" = "-1" in -1, INT_MAX;
        "shm_rmid_forced" = "0" in 0, 1;
        "shmall" = "18446744073692774399" in 0, i64::MAX;
        "shmmax" = "18446744073692774399" in 0, i64::MAX;
        "shmmni" = "4096" in 0, 32768;
    } + &[
        fixed!("arch", "x86_64"),
        fixed!("cap_last_cap", chitin_abi::capability::CAP_LAST_CAP),
        fixed!("core_pattern", "core"),
        fixed!("core_pipe_limit", 0),
        fixed!("core_uses_pid", 0),
        own_writable("domainname", show_domainname, store_domainname),
        own_writable("hostname", show_hostname, store_hostname),
        dir("keys", &[
            fixed!("gc_delay", 300),
            fixed!("maxbytes", 20000),
            fixed!("maxkeys", 200),
            fixed!("root_maxbytes", 25000000),
            fixed!("root_maxkeys", 1000000),
        ]),
        fixed!("ngroups_max", NGROUPS_MAX),
        fixed!("nmi_watchdog", 0),
        own("ns_last_pid", ns_last_pid),
        fixed!("osrelease", RELEASE),
        fixed!("ostype", "Linux"),
        fixed!("overflowgid", 65534),
        fixed!("overflowuid", 65534),
        fixed!("pid_max", chitin_kernel::pid::PID_MAX),
        dir("pty", &[fixed!("max", 4096), fixed!("reserve", 1024)]),
        dir("random", &[
            file("boot_id", boot_id),
            fixed!("entropy_avail", 256),
            fixed!("poolsize", 256),
            fixed!("urandom_min_reseed_secs", 60),
            file("uuid", uuid),
            fixed!("write_wakeup_threshold", 256),
        ]),
        fixed!("randomize_va_space", 2),
        dir("seccomp", &[
            file("actions_avail", show_actions),
            writable("actions_logged", show_actions_logged, store_actions_logged),
        ]),
        fixed!("tainted", 0),
        fixed!("threads-max", chitin_kernel::pid::PID_MAX - 1000),
        fixed!("unprivileged_bpf_disabled", 2),
        fixed!("version", VERSION),
    ];
    VM: "vm" {
        "admin_reserve_kbytes" = "8192" in 0, INT_MAX;
        "dirty_background_bytes" = "0" in 0, i64::MAX;
        "dirty_background_ratio" = "10" in 0, 100;
        "dirty_bytes" = "0" in 0, i64::MAX;
        "dirty_expire_centisecs" = "3000" in 0, INT_MAX;
        "dirty_ratio" = "20" in 0, 100;
        "dirty_writeback_centisecs" = "500" in 0, INT_MAX;
        "max_map_count" = "65530" in 0, INT_MAX;
        "min_free_kbytes" = "67584" in 0, INT_MAX;
        "overcommit_kbytes" = "0" in 0, i64::MAX;
        "overcommit_memory" = "0" in 0, 2;
        "overcommit_ratio" = "50" in 0, INT_MAX;
        "page-cluster" = "3" in 0, 31;
        "panic_on_oom" = "0" in 0, 2;
        "swappiness" = "60" in 0, 200;
        "user_reserve_kbytes" = "131072" in 0, INT_MAX;
        "vfs_cache_pressure" = "100" in 0, INT_MAX;
        "zone_reclaim_mode" = "0" in 0, INT_MAX;
    } + &[
        fixed!("legacy_va_layout", 0),
        fixed!("memfd_noexec", 0),
        fixed!("mmap_min_addr", chitin_mm::MMAP_MIN_ADDR),
        fixed!("nr_hugepages", 0),
        fixed!("nr_overcommit_hugepages", 0),
        fixed!("oom_kill_allocating_task", 0),
        fixed!("unprivileged_userfaultfd", 0),
    ];
    FS: "fs" {
        "aio-max-nr" = "65536" in 0, i64::MAX;
        "lease-break-time" = "45" in 0, INT_MAX;
    } + &[
        fixed!("aio-nr", 0),
        fixed!("dentry-state", "0\t0\t45\t0\t0\t0"),
        dir("epoll", &[fixed!("max_user_watches", EPOLL_ITEMS.limit())]),
        fixed!("file-max", FILES.limit()),
        file("file-nr", file_nr),
        fixed!("inode-nr", "0\t0"),
        fixed!("inode-state", "0\t0\t0\t0\t0\t0\t0"),
        dir("inotify", &[
            fixed!("max_queued_events", 16384),
            fixed!("max_user_instances", 128),
            fixed!("max_user_watches", WATCHES.limit()),
        ]),
        fixed!("leases-enable", 0),
        fixed!("mount-max", 10_000),
        dir("mqueue", &[
            fixed!("msg_default", 10),
            fixed!("msg_max", 10),
            fixed!("msgsize_default", 8192),
            fixed!("msgsize_max", 8192),
            fixed!("queues_max", 256),
        ]),
        fixed!("nr_open", chitin_kernel::fdtable::NR_OPEN),
        fixed!("overflowgid", 65534),
        fixed!("overflowuid", 65534),
        fixed!("pipe-max-size", 1_048_576),
        fixed!("pipe-user-pages-hard", 0),
        fixed!("pipe-user-pages-soft", chitin_vfs::pipe::SOFT_PAGES),
        fixed!("protected_fifos", 0),
        fixed!("protected_hardlinks", 0),
        fixed!("protected_regular", 0),
        fixed!("protected_symlinks", 0),
        fixed!("suid_dumpable", 0),
    ];
    USER: "user" {
    } + &[
        fixed!("max_cgroup_namespaces", FILES.limit()),
        fixed!("max_inotify_instances", 128),
        fixed!("max_inotify_watches", WATCHES.limit()),
        fixed!("max_ipc_namespaces", FILES.limit()),
        fixed!("max_mnt_namespaces", 10_000),
        fixed!("max_net_namespaces", chitin_kernel::ns::NET_NAMESPACES.limit()),
        fixed!("max_pid_namespaces", FILES.limit()),
        fixed!("max_time_namespaces", chitin_kernel::time::ns::TIME_NAMESPACES.limit()),
        fixed!("max_user_namespaces", chitin_vfs::userns::USER_NAMESPACES.limit()),
        fixed!("max_uts_namespaces", FILES.limit()),
    ];
    CORE: "net.core" {
        "netdev_max_backlog" = "1000" in 0, INT_MAX;
        "optmem_max" = "131072" in 0, INT_MAX;
        "rmem_default" = "212992" in 2304, INT_MAX;
        "rmem_max" = "212992" in 2304, INT_MAX;
        "somaxconn" = "4096" in 0, INT_MAX;
        "wmem_default" = "212992" in 4608, INT_MAX;
        "wmem_max" = "212992" in 4608, INT_MAX;
    } + &[];
    UNIX: "net.unix" {
        "max_dgram_qlen" = "10" in 0, INT_MAX;
    } + &[];
    IPV4: "net.ipv4" {
        "icmp_echo_ignore_all" = "0" in 0, 1;
        "icmp_echo_ignore_broadcasts" = "1" in 0, 1;
        "icmp_msgs_burst" = "50" in 0, INT_MAX;
        "icmp_msgs_per_sec" = "1000" in 0, INT_MAX;
        "icmp_ratelimit" = "1000" in 0, INT_MAX;
        "igmp_max_memberships" = "20" in 0, INT_MAX;
        "ip_default_ttl" = "64" in 1, 255;
        "ip_forward" = "0" in 0, 1;
        "ip_local_port_range" = "32768\t60999" in 1, 65535;
        "ip_no_pmtu_disc" = "0" in 0, 3;
        "ip_nonlocal_bind" = "0" in 0, 1;
        "ip_unprivileged_port_start" = "1024" in 0, 65535;
        "ipfrag_high_thresh" = "4194304" in 0, INT_MAX;
        "ipfrag_time" = "30" in 0, INT_MAX;
        "ping_group_range" = "1\t0" in 0, INT_MAX;
        "tcp_abort_on_overflow" = "0" in 0, 1;
        "tcp_challenge_ack_limit" = "2147483647" in 0, INT_MAX;
        "tcp_dsack" = "1" in 0, 1;
        "tcp_ecn" = "2" in 0, 2;
        "tcp_fastopen" = "1" in 0, INT_MAX;
        "tcp_fin_timeout" = "60" in 0, INT_MAX;
        "tcp_invalid_ratelimit" = "500" in 0, INT_MAX;
        "tcp_keepalive_intvl" = "75" in 1, 32767;
        "tcp_keepalive_probes" = "9" in 1, 127;
        "tcp_keepalive_time" = "7200" in 1, 32767;
        "tcp_max_orphans" = "65536" in 0, INT_MAX;
        "tcp_max_syn_backlog" = "1024" in 0, INT_MAX;
        "tcp_max_tw_buckets" = "65536" in 0, INT_MAX;
        "tcp_moderate_rcvbuf" = "1" in 0, 1;
        "tcp_notsent_lowat" = "4294967295" in 0, 4294967295;
        "tcp_orphan_retries" = "0" in 0, 255;
        "tcp_retries1" = "3" in 0, 255;
        "tcp_retries2" = "15" in 0, 255;
        "tcp_rfc1337" = "0" in 0, 1;
        "tcp_rmem" = "4096\t131072\t6291456" in 1, INT_MAX;
        "tcp_sack" = "1" in 0, 1;
        "tcp_slow_start_after_idle" = "1" in 0, 1;
        "tcp_syn_retries" = "6" in 1, 127;
        "tcp_synack_retries" = "5" in 0, 255;
        "tcp_syncookies" = "1" in 0, 2;
        "tcp_timestamps" = "1" in 0, 2;
        "tcp_tw_reuse" = "2" in 0, 2;
        "tcp_window_scaling" = "1" in 0, 1;
        "tcp_wmem" = "4096\t16384\t4194304" in 1, INT_MAX;
    } + &[
        fixed!("tcp_allowed_congestion_control", CONGESTION),
        fixed!("tcp_available_congestion_control", CONGESTION),
        writable("tcp_congestion_control", show_congestion, store_congestion),
        dir("conf", CONFS4),
    ];
    CONF4: "net.ipv4.conf.all" {
        "forwarding" = "0" in 0, 1;
        "route_localnet" = "0" in 0, 1;
        "rp_filter" = "0" in 0, 2;
    } + &[];
    CONF4_DEFAULT: "net.ipv4.conf.default" {
        "forwarding" = "0" in 0, 1;
        "route_localnet" = "0" in 0, 1;
        "rp_filter" = "0" in 0, 2;
    } + &[];
    CONF4_LO: "net.ipv4.conf.lo" {
        "forwarding" = "0" in 0, 1;
        "route_localnet" = "0" in 0, 1;
        "rp_filter" = "0" in 0, 2;
    } + &[];
    IPV6: "net.ipv6" {
        "bindv6only" = "0" in 0, 1;
        "ip6frag_high_thresh" = "4194304" in 0, INT_MAX;
        "ip6frag_time" = "60" in 0, INT_MAX;
    } + &[dir("conf", CONFS6), dir("icmp", ICMP6)];
    ICMP6: "net.ipv6.icmp" {
        "ratelimit" = "1000" in 0, INT_MAX;
    } + &[];
    CONF6: "net.ipv6.conf.all" {
        "disable_ipv6" = "0" in 0, 1;
        "forwarding" = "0" in 0, 1;
    } + &[];
    CONF6_DEFAULT: "net.ipv6.conf.default" {
        "disable_ipv6" = "0" in 0, 1;
        "forwarding" = "0" in 0, 1;
        "hop_limit" = "64" in 1, 255;
    } + &[];
    CONF6_LO: "net.ipv6.conf.lo" {
        "disable_ipv6" = "0" in 0, 1;
        "forwarding" = "0" in 0, 1;
    } + &[];
}

static CONFS4: &[Entry] = &[dir("all", CONF4), dir("default", CONF4_DEFAULT), dir("lo", CONF4_LO)];
static CONFS6: &[Entry] = &[dir("all", CONF6), dir("default", CONF6_DEFAULT), dir("lo", CONF6_LO)];

/// What a tunable of numbers begins with, and its bounds, by its dotted name: for those who keep a copy.
pub fn tunable(name: &str) -> Option<(&'static str, i64, i64)> {
    let mut entries = ROOT;
    for part in name.split('.') {
        match &entries.iter().find(|entry| entry.name == part)?.node {
            Node::Dir(below) => entries = below,
            Node::Sysctl(found) => return Some((found.default, found.min, found.max)),
            _ => return None,
        }
    }
    None
}

pub(crate) fn show(kernel: &Arc<Kernel>, sysctl: &Sysctl, out: &mut Vec<u8>) -> Result<(), Errno> {
    match Sysctls::of(kernel).get(sysctl.name) {
        Some(value) => out.extend_from_slice(&value),
        None => out.extend_from_slice(sysctl.default.as_bytes()),
    }
    out.push(b'\n');
    Ok(())
}

/// Takes as many numbers as there are, up to what the tunable holds; the rest stays (do_proc_dointvec()).
pub(crate) fn store(kernel: &Arc<Kernel>, sysctl: &'static Sysctl, data: &[u8]) -> Result<(), Errno> {
    let sysctls = Sysctls::of(kernel);
    let old = sysctls.get(sysctl.name).and_then(|value| String::from_utf8(value).ok());
    let old = old.unwrap_or_else(|| sysctl.default.to_string());
    let mut values: Vec<String> = old.split('\t').map(str::to_string).collect();
    let text = trimmed(data)?;
    if text.is_empty() {
        return Err(Errno::EINVAL);
    }
    for (value, new) in values.iter_mut().zip(text.split_ascii_whitespace()) {
        // Unsigned tunables show more than fits a signed number.
        let unsigned = sysctl.max == i64::MAX && new.parse::<u64>().is_ok();
        if !unsigned {
            let new = number(new).map_err(|_| Errno::EINVAL)?;
            if new < sysctl.min || new > sysctl.max {
                return Err(Errno::EINVAL);
            }
            *value = new.to_string();
        } else {
            *value = new.to_string();
        }
    }
    sysctls.set(sysctl.name, values.join("\t").into_bytes());
    Ok(())
}

/// Finds "a.b.c" and stores a value there; names of the machine go to `uts`.
pub(crate) fn set_by_name(kernel: &Arc<Kernel>, uts: &UtsNs, name: &str, value: &[u8]) -> Result<(), Errno> {
    match name.replace('/', ".").as_str() {
        "kernel.hostname" => {
            uts.names.write().hostname = uts_name(value);
            return Ok(());
        }
        "kernel.domainname" => {
            uts.names.write().domainname = uts_name(value);
            return Ok(());
        }
        _ => {}
    }
    let mut entries = ROOT;
    let mut parts = name.split(['.', '/']).peekable();
    while let Some(part) = parts.next() {
        let entry = entries.iter().find(|entry| entry.name == part).ok_or(Errno::ENOENT)?;
        match (&entry.node, parts.peek()) {
            (Node::Dir(below), Some(_)) => entries = below,
            (Node::Sysctl(sysctl), None) => return store(kernel, sysctl, value),
            (Node::File(_, Some(write)), None) => return write(kernel, &kernel_caller(), value),
            (Node::File(_, None) | Node::Own(..), None) => return Err(Errno::EACCES),
            _ => return Err(Errno::ENOENT),
        }
    }
    Err(Errno::ENOENT)
}

/// The runtime acting for the container.
fn kernel_caller() -> Caller {
    Caller { tgid: 0, tid: 0, creds: Arc::new(chitin_vfs::Creds::root()) }
}

/// A host or domain name as written: up to the end of the line, cut at 64 bytes.
fn uts_name(data: &[u8]) -> Vec<u8> {
    let line = data.split(|&byte| byte == b'\n' || byte == 0).next().unwrap_or_default();
    line.get(..line.len().min(64)).unwrap_or_default().to_vec()
}

/// The names of whoever opened the file.
fn uts(kernel: &Kernel, opener: &Caller) -> Result<Arc<UtsNs>, Errno> {
    kernel.task_by_kid(opener.tid).map(|task| task.uts()).ok_or(Errno::ESRCH)
}

fn show_hostname(shared: &Shared, opener: &Caller, out: &mut Vec<u8>) -> Result<(), Errno> {
    out.extend_from_slice(&uts(&shared.kernel, opener)?.names.read().hostname);
    out.push(b'\n');
    Ok(())
}
fn store_hostname(kernel: &Arc<Kernel>, opener: &Caller, data: &[u8]) -> Result<(), Errno> {
    uts(kernel, opener)?.names.write().hostname = uts_name(data);
    Ok(())
}
fn show_domainname(shared: &Shared, opener: &Caller, out: &mut Vec<u8>) -> Result<(), Errno> {
    out.extend_from_slice(&uts(&shared.kernel, opener)?.names.read().domainname);
    out.push(b'\n');
    Ok(())
}
fn store_domainname(kernel: &Arc<Kernel>, opener: &Caller, data: &[u8]) -> Result<(), Errno> {
    uts(kernel, opener)?.names.write().domainname = uts_name(data);
    Ok(())
}

fn ns_last_pid(shared: &Shared, _opener: &Caller, out: &mut Vec<u8>) -> Result<(), Errno> {
    put!(out, "{}\n", shared.ns.last());
    Ok(())
}

/// What a seccomp filter can answer, but for the last `skip` actions.
fn actions(skip: usize) -> String {
    let names: Vec<&str> = ACTIONS.iter().rev().skip(skip).rev().map(|(_, name)| *name).collect();
    names.join(" ")
}
fn show_actions(_shared: &Shared, out: &mut Vec<u8>) -> Result<(), Errno> {
    put!(out, "{}\n", actions(0));
    Ok(())
}

fn show_actions_logged(shared: &Shared, out: &mut Vec<u8>) -> Result<(), Errno> {
    let default = || actions(1).into_bytes();
    out.extend_from_slice(&Sysctls::of(&shared.kernel).get(ACTIONS_LOGGED).unwrap_or_else(default));
    out.push(b'\n');
    Ok(())
}

/// Names of actions in any order; "allow" is never logged.
fn store_actions_logged(kernel: &Arc<Kernel>, opener: &Caller, data: &[u8]) -> Result<(), Errno> {
    if !opener.creds.capable(CAP_SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let names: Vec<&str> = trimmed(data)?.split_ascii_whitespace().collect();
    let all = actions(1);
    if names.iter().any(|name| !all.split(' ').any(|known| known == *name)) {
        return Err(Errno::EINVAL);
    }
    let chosen: Vec<&str> = all.split(' ').filter(|known| names.contains(known)).collect();
    Sysctls::of(kernel).set(ACTIONS_LOGGED, chosen.join(" ").into_bytes());
    Ok(())
}

/// What `netstack` has.
const CONGESTION: &str = "reno cubic bbr";
const TCP_CONGESTION: &str = "net.ipv4.tcp_congestion_control";

fn show_congestion(shared: &Shared, out: &mut Vec<u8>) -> Result<(), Errno> {
    out.extend_from_slice(
        &Sysctls::of(&shared.kernel).get(TCP_CONGESTION).unwrap_or_else(|| b"cubic".to_vec()),
    );
    out.push(b'\n');
    Ok(())
}
fn store_congestion(kernel: &Arc<Kernel>, _opener: &Caller, data: &[u8]) -> Result<(), Errno> {
    let name = trimmed(data)?;
    let known = CONGESTION.split(' ').find(|known| *known == name).ok_or(Errno::ENOENT)?;
    Sysctls::of(kernel).set(TCP_CONGESTION, known.into());
    Ok(())
}

fn file_nr(_shared: &Shared, out: &mut Vec<u8>) -> Result<(), Errno> {
    put!(out, "{}\t0\t{}\n", FILES.used(), FILES.limit());
    Ok(())
}

/// A random UUID (version 4).
fn new_uuid() -> Result<String, Errno> {
    let mut bytes = [0u8; 16];
    chitin_host::random::fill(&mut bytes).map_err(|_| Errno::EIO)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    Ok(text)
}

fn uuid(_shared: &Shared, out: &mut Vec<u8>) -> Result<(), Errno> {
    put!(out, "{}\n", new_uuid()?);
    Ok(())
}

/// The sandbox's, made at its first reading.
#[derive(Default)]
struct BootId(Mutex<Option<String>>);

fn boot_id(shared: &Shared, out: &mut Vec<u8>) -> Result<(), Errno> {
    let id = shared.kernel.extension::<BootId>().unwrap_or_else(|| {
        shared.kernel.extend(Arc::new(BootId::default()));
        shared.kernel.extension::<BootId>().unwrap_or_default()
    });
    let mut id = id.0.lock();
    if id.is_none() {
        *id = Some(new_uuid()?);
    }
    put!(out, "{}\n", id.as_deref().unwrap_or_default());
    Ok(())
}
