//! The files directly below /proc.

mod cpu;
mod stats;
mod tables;

pub(crate) use tables::lock_line;

use crate::format::put;
use crate::fs::Shared;
use crate::sysctl;
use crate::tree::{Entry, Node, dir, file, link, own, secret};
use chitin_abi::Errno;
use chitin_kernel::kernel::{RELEASE, VERSION};
use chitin_kernel::time;

type Shown = Result<(), Errno>;

pub(crate) static ROOT: &[Entry] = &[
    Entry { name: "self", perm: 0o777, node: Node::SelfLink },
    Entry { name: "thread-self", perm: 0o777, node: Node::ThreadSelf },
    file("buddyinfo", tables::buddyinfo),
    dir("bus", &[]),
    file("cgroups", tables::cgroups),
    file("cmdline", cmdline),
    file("consoles", tables::consoles),
    file("cpuinfo", cpu::cpuinfo),
    file("crypto", tables::empty),
    file("devices", tables::devices),
    file("diskstats", tables::empty),
    dir("driver", &[]),
    file("execdomains", tables::execdomains),
    file("filesystems", tables::filesystems),
    dir("fs", &[]),
    file("interrupts", tables::interrupts),
    secret("iomem", tables::empty),
    secret("ioports", tables::empty),
    dir("irq", &[]),
    file("key-users", tables::key_users),
    file("keys", tables::empty),
    own("loadavg", stats::loadavg),
    own("locks", tables::locks),
    file("meminfo", stats::meminfo),
    file("misc", tables::misc),
    file("modules", tables::empty),
    link("mounts", "self/mounts"),
    link("net", "self/net"),
    secret("pagetypeinfo", tables::empty),
    file("partitions", tables::partitions),
    dir(
        "pressure",
        &[file("cpu", tables::pressure), file("io", tables::pressure), file("memory", tables::pressure)],
    ),
    file("softirqs", tables::softirqs),
    file("stat", stats::stat),
    file("swaps", tables::swaps),
    dir("sys", sysctl::ROOT),
    dir("sysvipc", &[own("msg", tables::ipc_msg), own("sem", tables::ipc_sem), own("shm", tables::ipc_shm)]),
    dir("tty", &[dir("ldisc", &[]), secret("drivers", tables::empty), file("ldiscs", tables::ldiscs)]),
    own("uptime", stats::uptime),
    file("version", version),
    file("vmstat", stats::vmstat),
    file("zoneinfo", stats::zoneinfo),
];

/// A mask with all CPUs of the machine, a bit each.
pub(crate) fn cpu_mask(shared: &Shared) -> Vec<u8> {
    let cpus = shared.container.cpus() as usize;
    let mut mask = vec![0u8; cpus.div_ceil(8)];
    for cpu in 0..cpus {
        if let Some(byte) = mask.get_mut(cpu / 8) {
            *byte |= 1 << (cpu % 8);
        }
    }
    mask
}

/// Nanoseconds since boot.
pub(crate) fn uptime_ns(shared: &Shared) -> u64 {
    let kernel = &shared.kernel;
    time::monotonic().saturating_sub(kernel.boot_ns)
}

fn version(_shared: &Shared, out: &mut Vec<u8>) -> Shown {
    put!(out, "Linux version {RELEASE} (chitin@chitin) (rustc) {VERSION}\n");
    Ok(())
}

/// Nobody booted this kernel with arguments.
fn cmdline(_shared: &Shared, out: &mut Vec<u8>) -> Shown {
    out.push(b'\n');
    Ok(())
}
