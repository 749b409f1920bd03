//! /proc/sys: tunables, but for the network's ([`crate::netsys`]).
//!
//! What a guest may set is kept by [`Sysctls`], where those who act on it look. What this kernel has fixed is read-only
//! here, also where Linux would let root write.

use crate::format::{number, put, trimmed};
use crate::fs::Shared;
use crate::netsys;
use crate::tree::{Entry, Node, dir, file, own, own_writable, writable};
use chitin_abi::Errno;
use chitin_abi::capability::CAP_SYS_ADMIN;
use chitin_abi::limits::NGROUPS_MAX;
use chitin_kernel::kernel::{RELEASE, VERSION};
use chitin_kernel::ns::NetNs;
use chitin_kernel::seccomp::enter::{ACTIONS, ACTIONS_LOGGED};
use chitin_kernel::sysctl::Sysctls;
use chitin_kernel::{Kernel, UtsNs};
use chitin_vfs::bounds::{EPOLL_ITEMS, FILES, WATCHES};
use chitin_vfs::creds::{MAY_EXEC, MAY_READ, MAY_WRITE};
use chitin_vfs::userns::UserNs;
use chitin_vfs::{Caller, Creds};
use parking_lot::Mutex;
use std::sync::Arc;

/// Access by mode bits alone, whose owner is root, whatever capabilities there are (test_perm()).
pub(crate) fn test_perm(creds: &Creds, perm: u32, mask: u32) -> Result<(), Errno> {
    let bits = if creds.euid == 0 {
        perm >> 6
    } else if creds.in_group(0) {
        perm >> 3
    } else {
        perm
    };
    if mask & (MAY_READ | MAY_WRITE | MAY_EXEC) & !bits == 0 { Ok(()) } else { Err(Errno::EACCES) }
}

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
    Entry { name: "net", perm: 0o555, node: Node::Net },
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
}

pub(crate) fn show(kernel: &Arc<Kernel>, sysctl: &Sysctl, out: &mut Vec<u8>) -> Result<(), Errno> {
    match Sysctls::of(kernel).get(sysctl.name) {
        Some(value) => out.extend_from_slice(&value),
        None => out.extend_from_slice(sysctl.default.as_bytes()),
    }
    out.push(b'\n');
    Ok(())
}

/// The numbers that were written to a file of `count`: at least one (do_proc_dointvec()).
pub(crate) fn numbers(text: &str, count: usize, min: i64, max: i64) -> Result<Vec<i64>, Errno> {
    let words = text.split_ascii_whitespace().take(count);
    let values: Vec<i64> = words.map(number).collect::<Result<_, _>>().map_err(|_| Errno::EINVAL)?;
    let fit = values.iter().all(|value| (min..=max).contains(value));
    if values.is_empty() || !fit { Err(Errno::EINVAL) } else { Ok(values) }
}

/// Takes as many numbers as there are, up to what the tunable holds; the rest stays.
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

/// Finds "a.b.c" and stores a value there; names of the machine go to `uts`, the network's to `net`.
pub(crate) fn set_by_name(
    kernel: &Arc<Kernel>,
    uts: &UtsNs,
    net: &NetNs,
    name: &str,
    value: &[u8],
) -> Result<(), Errno> {
    let path = path_of(name);
    match path.as_str() {
        "kernel/hostname" => {
            uts.names.write().hostname = uts_name(value);
            return Ok(());
        }
        "kernel/domainname" => {
            uts.names.write().domainname = uts_name(value);
            return Ok(());
        }
        _ => {}
    }
    if let Some(path) = path.strip_prefix("net/") {
        return netsys::store(kernel, net, path, UserNs::initial(), value);
    }
    let mut entries = ROOT;
    let mut parts = path.split('/').peekable();
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

/// A tunable's path below /proc/sys: after a dot first, dots separate and slashes are dots of names (sysctl.d(5)).
fn path_of(name: &str) -> String {
    match name.find(['.', '/']).and_then(|at| name.as_bytes().get(at)) {
        Some(b'.') => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
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
