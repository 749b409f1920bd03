//! Counters of the whole sandbox: stat, uptime, loadavg, meminfo, vmstat, zoneinfo.

use super::{Shown, uptime_ns};
use crate::format::put;
use crate::fs::Shared;
use chitin_abi::limits::PAGE_SIZE;
use chitin_kernel::inspect::RunState;
use chitin_kernel::time;
use chitin_kernel::time::Base;
use chitin_kernel::time::ns::shifted;
use chitin_vfs::Caller;
use parking_lot::Mutex;
use std::sync::Arc;

/// User and system time of everything that ever ran here, in nanoseconds.
fn busy(shared: &Shared) -> (u64, u64) {
    let kernel = &shared.kernel;
    let micros = |time: &chitin_abi::time::Timeval| {
        u64::try_from(time.tv_sec.saturating_mul(1_000_000).saturating_add(time.tv_usec)).unwrap_or(0)
    };
    let (mut user, mut system) = (0u64, 0u64);
    for process in kernel.processes() {
        let (own_user, own_system) = process.cpu_ns();
        let children = process.usage_children();
        user = user.saturating_add(own_user).saturating_add(micros(&children.ru_utime).saturating_mul(1000));
        system =
            system.saturating_add(own_system).saturating_add(micros(&children.ru_stime).saturating_mul(1000));
    }
    (user, system)
}

/// Threads that run or could run, and those there are.
fn threads(shared: &Shared) -> (usize, usize) {
    let kernel = &shared.kernel;
    let (mut running, mut total) = (0, 0);
    for process in kernel.processes() {
        for task in process.threads() {
            total += 1;
            if task.run_state() == RunState::Running {
                running += 1;
            }
        }
    }
    (running, total)
}

/// Time in which the CPUs had nothing to do, summed over them.
fn idle(shared: &Shared, busy: u64) -> u64 {
    uptime_ns(shared).saturating_mul(u64::from(shared.container.cpus())).saturating_sub(busy)
}

pub(super) fn stat(shared: &Shared, out: &mut Vec<u8>) -> Shown {
    let kernel = &shared.kernel;
    let (user, system) = busy(shared);
    let idle = idle(shared, user.saturating_add(system));
    let cpus = u64::from(shared.container.cpus()).max(1);
    let ticks = |ns: u64| ns / 10_000_000;
    put!(out, "cpu  {} 0 {} {} 0 0 0 0 0 0\n", ticks(user), ticks(system), ticks(idle));
    for cpu in 0..cpus {
        // Which CPU a thread ran on is the host's to know: an even share.
        let share = |ns: u64| ticks(ns / cpus);
        put!(out, "cpu{cpu} {} 0 {} {} 0 0 0 0 0 0\n", share(user), share(system), share(idle));
    }
    let booted = time::realtime().saturating_sub(uptime_ns(shared)) / 1_000_000_000;
    let (running, _) = threads(shared);
    put!(out, "intr 0\nctxt 0\nbtime {booted}\nprocesses {}\n", kernel.forks());
    put!(out, "procs_running {}\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n", running.max(1));
    Ok(())
}

pub(super) fn uptime(shared: &Shared, opener: &Caller, out: &mut Vec<u8>) -> Shown {
    let kernel = &shared.kernel;
    let offset = kernel.task_by_kid(opener.tid).map_or(0, |task| task.time_offset(Base::Boottime));
    let (user, system) = busy(shared);
    let idle = idle(shared, user.saturating_add(system)) / 10_000_000;
    let up = shifted(uptime_ns(shared), offset) / 10_000_000;
    put!(out, "{}.{:02} {}.{:02}\n", up / 100, up % 100, idle / 100, idle % 100);
    Ok(())
}

/// The load averages: CPU time used per time gone by, decaying over 1, 5 and 15 minutes as on Linux, brought up to date
/// when somebody looks.
#[derive(Default)]
struct Load {
    state: Mutex<LoadState>,
}

#[derive(Clone, Copy, Default)]
struct LoadState {
    at: u64,
    busy: u64,
    averages: [f64; 3],
}

fn load(shared: &Shared) -> [f64; 3] {
    let kernel = &shared.kernel;
    let load = kernel.extension::<Load>().unwrap_or_else(|| {
        kernel.extend(Arc::new(Load::default()));
        kernel.extension::<Load>().unwrap_or_default()
    });
    let (user, system) = busy(shared);
    let busy = user.saturating_add(system);
    let now = uptime_ns(shared);
    let mut state = load.state.lock();
    let gone = now.saturating_sub(state.at);
    // The host counts CPU time in steps; shorter spans say nothing.
    if gone >= 1_000_000_000 {
        let current = busy.saturating_sub(state.busy) as f64 / gone as f64;
        for (average, minutes) in state.averages.iter_mut().zip([1.0, 5.0, 15.0]) {
            let decay = (-(gone as f64) / (minutes * 60e9)).exp();
            *average = *average * decay + current * (1.0 - decay);
        }
        state.at = now;
        state.busy = busy;
    }
    state.averages
}

pub(super) fn loadavg(shared: &Shared, _opener: &Caller, out: &mut Vec<u8>) -> Shown {
    let [one, five, fifteen] = load(shared);
    let (running, total) = threads(shared);
    put!(out, "{one:.2} {five:.2} {fifteen:.2} {running}/{total} {}\n", shared.ns.last());
    Ok(())
}

struct Memory {
    total: u64,
    used: u64,
    free: u64,
}

fn memory(shared: &Shared) -> Memory {
    let total = shared.container.memory();
    let used = shared.kernel.memory_in_cgroup(&shared.container.cgroup).min(total);
    Memory { total, used, free: total - used }
}

pub(super) fn meminfo(shared: &Shared, out: &mut Vec<u8>) -> Shown {
    let Memory { total, used, free } = memory(shared);
    let known = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free),
        ("Active", used),
        ("Active(anon)", used),
        ("AnonPages", used),
        ("CommitLimit", total / 2),
        ("Committed_AS", used),
    ];
    const NAMES: &str = "MemTotal MemFree MemAvailable Buffers Cached SwapCached Active Inactive Active(anon) \
        Inactive(anon) Active(file) Inactive(file) Unevictable Mlocked SwapTotal SwapFree Zswap Zswapped Dirty \
        Writeback AnonPages Mapped Shmem KReclaimable Slab SReclaimable SUnreclaim KernelStack PageTables \
        SecPageTables NFS_Unstable Bounce WritebackTmp CommitLimit Committed_AS VmallocTotal VmallocUsed \
        VmallocChunk Percpu AnonHugePages ShmemHugePages ShmemPmdMapped FileHugePages FilePmdMapped";
    for name in NAMES.split_ascii_whitespace() {
        let bytes = known.iter().find(|(known, _)| *known == name).map_or(0, |(_, bytes)| *bytes);
        let kb = if name == "VmallocTotal" { 34_359_738_367 } else { bytes / 1024 };
        let label = format!("{name}:");
        put!(out, "{label:<15} {kb:8} kB\n");
    }
    for name in ["HugePages_Total", "HugePages_Free", "HugePages_Rsvd", "HugePages_Surp"] {
        let label = format!("{name}:");
        put!(out, "{label:<15} {:7}\n", 0);
    }
    for (name, kb) in [("Hugepagesize", 2048), ("Hugetlb", 0), ("DirectMap4k", total / 1024)] {
        let label = format!("{name}:");
        put!(out, "{label:<15} {kb:8} kB\n");
    }
    Ok(())
}

/// Node statistics, shared by vmstat and zoneinfo.
fn node_stats(memory: &Memory) -> Vec<(&'static str, u64)> {
    let used = memory.used / PAGE_SIZE;
    const NAMES: &str = "nr_inactive_anon nr_active_anon nr_inactive_file nr_active_file nr_unevictable \
        nr_slab_reclaimable nr_slab_unreclaimable nr_isolated_anon nr_isolated_file nr_anon_pages nr_mapped \
        nr_file_pages nr_dirty nr_writeback nr_shmem nr_kernel_stack nr_page_table_pages";
    NAMES
        .split_ascii_whitespace()
        .map(|name| (name, if matches!(name, "nr_active_anon" | "nr_anon_pages") { used } else { 0 }))
        .collect()
}

pub(super) fn vmstat(shared: &Shared, out: &mut Vec<u8>) -> Shown {
    let memory = memory(shared);
    put!(out, "nr_free_pages {}\n", memory.free / PAGE_SIZE);
    for (name, value) in node_stats(&memory) {
        put!(out, "{name} {value}\n");
    }
    for name in "pgpgin pgpgout pswpin pswpout pgalloc_normal pgfree pgfault pgmajfault oom_kill".split(' ') {
        put!(out, "{name} 0\n");
    }
    Ok(())
}

pub(super) fn zoneinfo(shared: &Shared, out: &mut Vec<u8>) -> Shown {
    let memory = memory(shared);
    let (total, free) = (memory.total / PAGE_SIZE, memory.free / PAGE_SIZE);
    put!(out, "Node 0, zone   Normal\n  per-node stats\n");
    for (name, value) in node_stats(&memory) {
        put!(out, "      {name:<12} {value}\n");
    }
    put!(out, "  pages free     {free}\n        boost    0\n        min      0\n        low      0\n");
    put!(out, "        high     0\n        spanned  {total}\n        present  {total}\n");
    put!(out, "        managed  {total}\n        cma      0\n        protection: (0, 0)\n");
    put!(out, "      nr_free_pages {free}\n");
    Ok(())
}
