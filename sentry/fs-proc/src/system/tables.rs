//! Tables that say what there is: devices, file systems, locks, and much of what there is not.

use super::{Shown, cpu_mask};
use crate::format::put;
use crate::fs::Shared;
use chitin_abi::Errno;
use chitin_abi::stat::{major, minor};
use chitin_kernel::ipc::Ipc;
use chitin_vfs::Caller;
use chitin_vfs::locks::{self, LockClass, LockInfo, LockKind, OFFSET_MAX};
use std::sync::Arc;

pub(super) fn empty(_shared: &Shared, _out: &mut Vec<u8>) -> Shown {
    Ok(())
}

/// A line of /proc/locks (lock_get_status()); `pid` as the instance's namespace shows it.
pub(crate) fn lock_line(number: u64, lock: &LockInfo, pid: i32, out: &mut Vec<u8>) {
    let class = match lock.class {
        LockClass::Posix => "POSIX  ADVISORY ",
        LockClass::Ofd => "OFDLCK ADVISORY ",
        LockClass::Flock => "FLOCK  ADVISORY ",
    };
    let kind = if lock.kind == LockKind::Read { "READ" } else { "WRITE" };
    // Locks of open files have no process.
    let pid = if lock.pid == -1 { -1 } else { pid };
    put!(out, "{number}: {class} {kind} {pid} ");
    put!(out, "{:02x}:{:02x}:{} {} ", major(lock.dev), minor(lock.dev), lock.ino, lock.range.start);
    match lock.range.end {
        OFFSET_MAX => out.extend_from_slice(b"EOF\n"),
        end => put!(out, "{end}\n"),
    }
}

/// Locks of processes that the namespace does not show are left out.
pub(super) fn locks(shared: &Shared, _opener: &Caller, out: &mut Vec<u8>) -> Shown {
    let shown = |lock: LockInfo| match shared.kernel.nr_in(lock.pid, &shared.ns) {
        0 if lock.pid != -1 => None,
        nr => Some((lock, nr)),
    };
    for (number, (lock, nr)) in (1..).zip(locks::all_locks().into_iter().filter_map(shown)) {
        lock_line(number, &lock, nr, out);
    }
    Ok(())
}

pub(super) fn swaps(_shared: &Shared, out: &mut Vec<u8>) -> Shown {
    put!(out, "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n");
    Ok(())
}

/// No block device; as on Linux not even the heading then.
pub(super) fn partitions(_shared: &Shared, _out: &mut Vec<u8>) -> Shown {
    Ok(())
}

pub(super) fn devices(_shared: &Shared, out: &mut Vec<u8>) -> Shown {
    put!(out, "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n");
    put!(out, " 10 misc\n128 ptm\n136 pts\n\nBlock devices:\n");
    Ok(())
}

pub(super) fn misc(_shared: &Shared, _out: &mut Vec<u8>) -> Shown {
    Ok(())
}

/// No console device is registered.
pub(super) fn consoles(_shared: &Shared, _out: &mut Vec<u8>) -> Shown {
    Ok(())
}

pub(super) fn execdomains(_shared: &Shared, out: &mut Vec<u8>) -> Shown {
    put!(out, "0-0\tLinux           \t[kernel]\n");
    Ok(())
}

pub(super) fn ldiscs(_shared: &Shared, out: &mut Vec<u8>) -> Shown {
    put!(out, "n_tty       0\n");
    Ok(())
}

pub(super) fn filesystems(_shared: &Shared, out: &mut Vec<u8>) -> Shown {
    for name in
        ["sysfs", "tmpfs", "proc", "devtmpfs", "sockfs", "pipefs", "devpts", "mqueue", "cgroup2", "overlay"]
    {
        put!(out, "nodev\t{name}\n");
    }
    Ok(())
}

pub(super) fn cgroups(_shared: &Shared, out: &mut Vec<u8>) -> Shown {
    put!(out, "#subsys_name\thierarchy\tnum_cgroups\tenabled\n");
    Ok(())
}

pub(super) fn key_users(_shared: &Shared, out: &mut Vec<u8>) -> Shown {
    put!(out, "{:5}: {:5} 0/0 0/200 0/20000\n", 0, 0);
    Ok(())
}

pub(super) fn pressure(_shared: &Shared, out: &mut Vec<u8>) -> Shown {
    put!(
        out,
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    );
    Ok(())
}

pub(super) fn buddyinfo(shared: &Shared, out: &mut Vec<u8>) -> Shown {
    let kernel = &shared.kernel;
    put!(out, "Node 0, zone {:>8} ", "Normal");
    // All that is free, in the largest blocks (4 MiB).
    let free = shared.container.memory().saturating_sub(kernel.memory_in_cgroup(&shared.container.cgroup));
    for order in 0..=10 {
        let blocks = if order == 10 { free >> 22 } else { 0 };
        put!(out, "{blocks:6} ");
    }
    out.push(b'\n');
    Ok(())
}

fn cpu_heading(shared: &Shared, indent: usize, out: &mut Vec<u8>) {
    put!(out, "{:indent$}", "");
    for cpu in 0..shared.container.cpus() {
        put!(out, "CPU{cpu:<8}");
    }
    out.push(b'\n');
}

/// Interrupts belong to the host; only the counters every machine has are listed.
pub(super) fn interrupts(shared: &Shared, out: &mut Vec<u8>) -> Shown {
    cpu_heading(shared, 11, out);
    for (name, text) in [("NMI", "Non-maskable interrupts"), ("LOC", "Local timer interrupts")] {
        put!(out, "{name}: ");
        for _ in cpu_numbers(shared) {
            put!(out, "{:10} ", 0);
        }
        put!(out, "  {text}\n");
    }
    put!(out, "ERR: {:10}\nMIS: {:10}\n", 0, 0);
    Ok(())
}

pub(super) fn softirqs(shared: &Shared, out: &mut Vec<u8>) -> Shown {
    cpu_heading(shared, 20, out);
    for name in ["HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU"]
    {
        put!(out, "{name:>12}:");
        for _ in cpu_numbers(shared) {
            put!(out, " {:10}", 0);
        }
        out.push(b'\n');
    }
    Ok(())
}

fn cpu_numbers(shared: &Shared) -> std::ops::Range<usize> {
    debug_assert!(!cpu_mask(shared).is_empty(), "a machine has a CPU");
    0..shared.container.cpus() as usize
}

/// The IPC namespace of whoever opened the file, and pids as the instance shows them.
fn ipc(shared: &Shared, opener: &Caller) -> Result<Arc<Ipc>, Errno> {
    shared.kernel.task_by_kid(opener.tid).map(|task| task.ipc()).ok_or(Errno::ESRCH)
}

pub(super) fn ipc_msg(shared: &Shared, opener: &Caller, out: &mut Vec<u8>) -> Shown {
    let nr = |kid| shared.kernel.nr_in(kid, &shared.ns);
    out.extend_from_slice(ipc(shared, opener)?.proc_msg(&nr).as_bytes());
    Ok(())
}
pub(super) fn ipc_sem(shared: &Shared, opener: &Caller, out: &mut Vec<u8>) -> Shown {
    out.extend_from_slice(ipc(shared, opener)?.proc_sem().as_bytes());
    Ok(())
}
pub(super) fn ipc_shm(shared: &Shared, opener: &Caller, out: &mut Vec<u8>) -> Shown {
    let nr = |kid| shared.kernel.nr_in(kid, &shared.ns);
    out.extend_from_slice(ipc(shared, opener)?.proc_shm(&nr).as_bytes());
    Ok(())
}
