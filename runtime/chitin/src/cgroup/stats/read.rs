//! Reading the statistics from the cgroups' files. What a kernel does not offer stays zero.

use std::collections::BTreeMap;
use std::fs;

use super::super::Cgroups;
use super::super::freezer::value;
use super::super::settings::{Dir, Place, place};
use super::{Blkio, BlkioEntry, CpuSet, Hugetlb, MemoryEntry, Psi, PsiData, Stats};
use crate::util::{Context, Result};

/// Ticks per second in files that count in ticks: the same on every Linux that we run on.
const TICK: u64 = 1_000_000_000 / 100;

impl Cgroups {
    pub fn stats(&self) -> Result<Stats> {
        self.refuse_none("it has no statistics")?;
        let mut stats = Stats::default();
        if let Some(dir) = self.v1_leaf("cpuacct") {
            cpuacct(dir, &mut stats);
        }
        match place(&self.leaves, "cpu", true) {
            Place::V1(dir) => {
                let text = dir.read("cpu.stat").unwrap_or_default();
                throttling(&text, "throttled_time", 1, &mut stats);
            }
            Place::V2(dir) => {
                let text = dir.read("cpu.stat").unwrap_or_default();
                let time = |key: &str| value(&text, key).unwrap_or(0).saturating_mul(1000);
                let usage = &mut stats.cpu.usage;
                (usage.total, usage.user, usage.kernel) =
                    (time("usage_usec"), time("user_usec"), time("system_usec"));
                throttling(&text, "throttled_usec", 1000, &mut stats);
                stats.cpu.psi = psi(dir, "cpu.pressure");
            }
            Place::Nowhere => {}
        }
        // runc has these on v1 only.
        if let Some(dir) = self.v1_leaf("cpuset") {
            stats.cpuset = cpuset(dir);
        }
        match place(&self.leaves, "memory", true) {
            Place::V1(dir) => memory_v1(dir, &mut stats)?,
            Place::V2(dir) => memory_v2(dir, &mut stats)?,
            Place::Nowhere => {}
        }
        if let Place::V1(dir) | Place::V2(dir) = place(&self.leaves, "pids", true) {
            stats.pids.current = dir.number("pids.current").unwrap_or(0);
            stats.pids.limit = dir.number("pids.max").filter(|n| *n != u64::MAX).unwrap_or(0);
        }
        match place(&self.leaves, "blkio", true) {
            Place::V1(dir) => stats.blkio = blkio(dir),
            Place::V2(dir) => {
                stats.blkio = io(&dir.read("io.stat").unwrap_or_default());
                stats.blkio.psi = psi(dir, "io.pressure");
            }
            Place::Nowhere => {}
        }
        match place(&self.leaves, "hugetlb", true) {
            Place::V1(dir) => hugetlb(dir, "usage_in_bytes", &mut stats.hugetlb),
            Place::V2(dir) => hugetlb(dir, "current", &mut stats.hugetlb),
            Place::Nowhere => {}
        }
        Ok(stats)
    }
}

fn cpuacct(dir: Dir<'_>, stats: &mut Stats) {
    let usage = &mut stats.cpu.usage;
    usage.total = dir.number("cpuacct.usage").unwrap_or(0);
    let text = dir.read("cpuacct.stat").unwrap_or_default();
    usage.user = value(&text, "user").unwrap_or(0).saturating_mul(TICK);
    usage.kernel = value(&text, "system").unwrap_or(0).saturating_mul(TICK);
    let percpu = dir.read("cpuacct.usage_percpu").unwrap_or_default();
    usage.percpu = percpu.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect();
    // A line "cpu user system" and one such line per CPU.
    for line in dir.read("cpuacct.usage_all").unwrap_or_default().lines().skip(1) {
        let mut numbers = line.split_ascii_whitespace().skip(1).filter_map(|n| n.parse().ok());
        if let (Some(user), Some(kernel)) = (numbers.next(), numbers.next()) {
            usage.percpu_user.push(user);
            usage.percpu_kernel.push(kernel);
        }
    }
}

fn throttling(text: &str, time: &str, unit: u64, stats: &mut Stats) {
    let throttling = &mut stats.cpu.throttling;
    throttling.periods = value(text, "nr_periods").unwrap_or(0);
    throttling.throttled_periods = value(text, "nr_throttled").unwrap_or(0);
    throttling.throttled_time = value(text, time).unwrap_or(0).saturating_mul(unit);
}

fn cpuset(dir: Dir<'_>) -> CpuSet {
    let list = |file: &str| {
        let text = dir.read(file).unwrap_or_default();
        let ranges = text.split(',').filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
        });
        ranges.flatten().collect()
    };
    let number = |file: &str| dir.number(file).unwrap_or(0);
    CpuSet {
        cpus: list("cpuset.cpus"),
        cpu_exclusive: number("cpuset.cpu_exclusive"),
        mems: list("cpuset.mems"),
        mem_hardwall: number("cpuset.mem_hardwall"),
        mem_exclusive: number("cpuset.mem_exclusive"),
        memory_migrate: number("cpuset.memory_migrate"),
        memory_spread_page: number("cpuset.memory_spread_page"),
        memory_spread_slab: number("cpuset.memory_spread_slab"),
        memory_pressure: number("cpuset.memory_pressure"),
        sched_load_balance: number("cpuset.sched_load_balance"),
        sched_relax_domain_level: dir
            .read("cpuset.sched_relax_domain_level")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0),
    }
}

fn raw(dir: Dir<'_>) -> Result<BTreeMap<String, u64>> {
    let text = dir.read("memory.stat").context(|| format!("cannot read {}/memory.stat", dir.0.display()))?;
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs.filter_map(|(key, n)| Some((key.to_owned(), n.parse().ok()?))).collect())
}

fn memory_v1(dir: Dir<'_>, stats: &mut Stats) -> Result<()> {
    let memory = &mut stats.memory;
    memory.raw = raw(dir)?;
    memory.cache = memory.raw.get("cache").copied().unwrap_or(0);
    let entry = |name: &str| {
        let number = |file: &str| dir.number(&format!("{name}.{file}")).unwrap_or(0);
        MemoryEntry {
            limit: number("limit_in_bytes"),
            usage: number("usage_in_bytes"),
            max: number("max_usage_in_bytes"),
            failcnt: number("failcnt"),
        }
    };
    memory.usage = entry("memory");
    memory.swap = entry("memory.memsw");
    memory.kernel = entry("memory.kmem");
    memory.kernel_tcp = entry("memory.kmem.tcp");
    Ok(())
}

fn memory_v2(dir: Dir<'_>, stats: &mut Stats) -> Result<()> {
    if !dir.has("memory.stat") {
        return Ok(());
    }
    let memory = &mut stats.memory;
    memory.raw = raw(dir)?;
    memory.cache = memory.raw.get("file").copied().unwrap_or(0);
    let number = |file: &str| dir.number(file).unwrap_or(0);
    memory.usage = MemoryEntry {
        limit: number("memory.max"),
        usage: number("memory.current"),
        max: number("memory.peak"),
        failcnt: value(&dir.read("memory.events").unwrap_or_default(), "max").unwrap_or(0),
    };
    if dir.has("memory.swap.current") {
        // Memory and swap together, as v1 has it.
        let limit = match number("memory.swap.max") {
            u64::MAX => u64::MAX,
            swap => swap.saturating_add(memory.usage.limit),
        };
        let usage = number("memory.swap.current").saturating_add(memory.usage.usage);
        memory.swap = MemoryEntry { limit, usage, ..MemoryEntry::default() };
    }
    memory.psi = psi(dir, "memory.pressure");
    Ok(())
}

/// Lines like `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`.
fn psi(dir: Dir<'_>, file: &str) -> Option<Psi> {
    // Refused when pressure is not measured.
    let text = dir.read(file).ok()?;
    let mut psi = Psi::default();
    for line in text.lines() {
        let mut fields = line.split_ascii_whitespace();
        let data = match fields.next() {
            Some("some") => &mut psi.some,
            Some("full") => &mut psi.full,
            _ => continue,
        };
        for (key, text) in fields.filter_map(|field| field.split_once('=')) {
            let number = text.parse().unwrap_or(0.0);
            match key {
                "avg10" => data.avg10 = number,
                "avg60" => data.avg60 = number,
                "avg300" => data.avg300 = number,
                "total" => *data = PsiData { total: text.parse().unwrap_or(0), ..data.clone() },
                _ => {}
            }
        }
    }
    Some(psi)
}

/// Lines like `8:0 rbytes=1 wbytes=2 rios=3 wios=4`.
fn io(text: &str) -> Blkio {
    let mut blkio = Blkio::default();
    for line in text.lines() {
        let mut fields = line.split_ascii_whitespace();
        let Some((major, minor)) = fields.next().and_then(device) else { continue };
        for (key, number) in fields.filter_map(|field| field.split_once('=')) {
            let Ok(value) = number.parse() else { continue };
            let entry = |op: &str| BlkioEntry { major, minor, op: op.into(), value };
            match key {
                "rbytes" => blkio.io_service_bytes_recursive.push(entry("Read")),
                "wbytes" => blkio.io_service_bytes_recursive.push(entry("Write")),
                "rios" => blkio.io_serviced_recursive.push(entry("Read")),
                "wios" => blkio.io_serviced_recursive.push(entry("Write")),
                _ => {}
            }
        }
    }
    blkio
}

fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// v1: BFQ's files if it has the disks (with its debugging statistics or without), then CFQ's, then the throttle's.
fn blkio(dir: Dir<'_>) -> Blkio {
    let mut blkio = Blkio::default();
    for prefix in ["blkio.bfq.", "blkio."] {
        let list = |name: &str| entries(dir, &format!("{prefix}{name}_recursive"));
        let serviced = list("io_serviced");
        if serviced.is_empty() {
            continue;
        }
        blkio.io_serviced_recursive = serviced;
        blkio.io_service_bytes_recursive = list("io_service_bytes");
        blkio.io_queued_recursive = list("io_queued");
        blkio.io_service_time_recursive = list("io_service_time");
        blkio.io_wait_time_recursive = list("io_wait_time");
        blkio.io_merged_recursive = list("io_merged");
        blkio.io_time_recursive = list("time");
        blkio.sectors_recursive = list("sectors");
        return blkio;
    }
    for suffix in ["_recursive", ""] {
        blkio.io_serviced_recursive = entries(dir, &format!("blkio.throttle.io_serviced{suffix}"));
        blkio.io_service_bytes_recursive = entries(dir, &format!("blkio.throttle.io_service_bytes{suffix}"));
        if !blkio.io_serviced_recursive.is_empty() {
            break;
        }
    }
    blkio
}

/// Lines like `8:0 Read 5` or `8:0 5`; the sum over all devices has none.
fn entries(dir: Dir<'_>, file: &str) -> Vec<BlkioEntry> {
    let text = dir.read(file).unwrap_or_default();
    let parse = |line: &str| {
        let mut fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let value = fields.pop()?.parse().ok()?;
        let (major, minor) = device(fields.first()?)?;
        let op = fields.get(1).map_or_else(String::new, |op| (*op).to_owned());
        Some(BlkioEntry { major, minor, op, value })
    };
    text.lines().filter_map(parse).collect()
}

/// By page size, as `hugetlb.SIZE.…` names it.
fn hugetlb(dir: Dir<'_>, usage: &str, found: &mut BTreeMap<String, Hugetlb>) {
    for entry in fs::read_dir(dir.0).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let size =
            name.to_str().and_then(|n| n.strip_prefix("hugetlb.")?.strip_suffix(usage)?.strip_suffix('.'));
        // With "rsvd" it is about what is reserved.
        let Some(size) = size.filter(|size| !size.contains('.')) else { continue };
        let number = |file: &str| dir.number(&format!("hugetlb.{size}.{file}")).unwrap_or(0);
        let events = dir.read(&format!("hugetlb.{size}.events")).unwrap_or_default();
        let failcnt = value(&events, "max").unwrap_or_else(|| number("failcnt"));
        let entry = Hugetlb { usage: number(usage), max: number("max_usage_in_bytes"), failcnt };
        found.insert(size.to_owned(), entry);
    }
}
