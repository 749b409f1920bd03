//! What there is in /sys.

use crate::node::{Item, Show};
use chitin_host::cpuid::leaf;
use chitin_kernel::Kernel;
use chitin_kernel::container::Container;
use chitin_vfs::Inode;
use std::collections::BTreeMap;
use std::sync::Arc;

fn dir<const N: usize>(items: [(&str, Item); N]) -> Item {
    Item::Dir(items.into_iter().map(|(name, item)| (name.to_string(), item)).collect())
}
fn empty() -> Item {
    Item::Dir(BTreeMap::new())
}
/// A line of text.
fn text(value: impl ToString) -> Item {
    Item::Text(format!("{}\n", value.to_string()))
}
fn made(show: Show) -> Item {
    Item::Made(show)
}
fn link(target: &str) -> Item {
    Item::Link(target.to_string())
}

/// The whole tree. `class` and `interfaces`: what a network namespace has in /sys/class/net and /sys/devices/virtual/net.
pub(crate) fn tree(kernel: &Kernel, [class, interfaces]: [Arc<dyn Inode>; 2]) -> Item {
    let virtual_devices =
        [("net", Item::Known(interfaces)), ("mem", empty()), ("misc", empty()), ("tty", empty())];
    dir([
        ("block", empty()),
        ("bus", dir([("cpu", bus()), ("pci", bus()), ("platform", bus())])),
        (
            "class",
            dir([
                ("block", empty()),
                ("mem", empty()),
                ("misc", empty()),
                ("net", Item::Known(class)),
                ("tty", empty()),
            ]),
        ),
        ("dev", dir([("block", empty()), ("char", empty())])),
        (
            "devices",
            dir([
                ("system", dir([("cpu", cpus(kernel)), ("node", nodes(kernel))])),
                ("virtual", dir(virtual_devices)),
            ]),
        ),
        ("firmware", empty()),
        ("fs", dir([("cgroup", empty())])),
        ("hypervisor", empty()),
        ("kernel", kernel_dir()),
        ("module", empty()),
        ("power", empty()),
    ])
}

fn bus() -> Item {
    dir([("devices", empty()), ("drivers", empty())])
}

fn kernel_dir() -> Item {
    let huge = dir([
        ("defrag", text("always defer defer+madvise [madvise] never")),
        ("enabled", text("always [madvise] never")),
        ("hpage_pmd_size", text(2 << 20)),
        ("shmem_enabled", text("always within_size advise [never] deny force")),
        ("use_zero_page", text(1)),
    ]);
    let pool = || {
        dir([
            ("free_hugepages", text(0)),
            ("nr_hugepages", text(0)),
            ("nr_overcommit_hugepages", text(0)),
            ("resv_hugepages", text(0)),
            ("surplus_hugepages", text(0)),
        ])
    };
    dir([
        ("debug", empty()),
        ("mm", dir([("hugepages", dir([("hugepages-2048kB", pool())])), ("transparent_hugepage", huge)])),
        ("security", empty()),
        ("tracing", empty()),
        ("uevent_helper", text("")),
        ("uevent_seqnum", text(0)),
    ])
}

/// "0-3", or "0" for one.
fn range(count: u32) -> String {
    if count > 1 { format!("0-{}", count - 1) } else { "0".to_string() }
}

/// A mask of CPUs: words of 32 bits, the highest first and as long as it needs to be.
fn mask(width: u32, set: impl Fn(u32) -> bool) -> String {
    let words: Vec<String> = (0..width.max(1).div_ceil(32))
        .rev()
        .map(|word| {
            let low = word * 32;
            let bits = (0..32).filter(|&bit| low + bit < width && set(low + bit));
            let value = bits.fold(0u32, |value, bit| value | 1 << bit);
            let digits = (width - low).min(32).div_ceil(4) as usize;
            format!("{value:0digits$x}")
        })
        .collect();
    words.join(",")
}

fn cpus(kernel: &Kernel) -> Item {
    let count = kernel.machine.cpus.max(1);
    let all = range(count);
    let mut items = BTreeMap::new();
    for (name, value) in [
        ("isolated", String::new()),
        ("kernel_max", (count - 1).to_string()),
        ("offline", String::new()),
        ("possible", all.clone()),
        ("present", all),
    ] {
        items.insert(name.to_string(), text(value));
    }
    items.insert("online".to_string(), made(|_, container| format!("{}\n", range(container.cpus()))));
    for cpu in 0..count {
        items.insert(format!("cpu{cpu}"), processor(cpu, count));
    }
    Item::Dir(items)
}

/// One CPU. All are cores of one package, as /proc/cpuinfo has it.
fn processor(cpu: u32, count: u32) -> Item {
    let own = mask(count, |other| other == cpu);
    let everybody = mask(count, |_| true);
    let list = range(count);
    let topology = dir([
        ("cluster_id", text(-1)),
        ("core_cpus", text(&own)),
        ("core_cpus_list", text(cpu)),
        ("core_id", text(cpu)),
        ("core_siblings", text(&everybody)),
        ("core_siblings_list", text(&list)),
        ("die_cpus", text(&everybody)),
        ("die_cpus_list", text(&list)),
        ("die_id", text(0)),
        ("package_cpus", text(&everybody)),
        ("package_cpus_list", text(&list)),
        ("physical_package_id", text(0)),
        ("thread_siblings", text(&own)),
        ("thread_siblings_list", text(cpu)),
    ]);
    let mut items = BTreeMap::from([
        ("cache".to_string(), caches(cpu, count)),
        ("node0".to_string(), link("../../node/node0")),
        ("topology".to_string(), topology),
    ]);
    // The first CPU cannot go offline and has no switch.
    if cpu > 0 {
        items.insert("online".to_string(), text(1));
    }
    Item::Dir(items)
}

/// The processor's caches, from CPUID leaf 4 or its AMD counterpart.
fn caches(cpu: u32, count: u32) -> Item {
    let amd = leaf(0x8000_0001, 0)[2] & 1 << 22 != 0;
    let number = if amd { 0x8000_001d } else { 4 };
    let mut items = BTreeMap::new();
    for sub in 0..8 {
        let [eax, ebx, ecx, _] = leaf(number, sub);
        let kind = match eax & 0x1f {
            1 => "Data",
            2 => "Instruction",
            3 => "Unified",
            _ => break,
        };
        let level = eax >> 5 & 7;
        let (ways, partitions, line) = ((ebx >> 22) + 1, (ebx >> 12 & 0x3ff) + 1, (ebx & 0xfff) + 1);
        let sets = u64::from(ecx).saturating_add(1);
        let bytes = sets.saturating_mul(u64::from(ways) * u64::from(partitions) * u64::from(line));
        let shared = level >= 3;
        let map = mask(count, |other| shared || other == cpu);
        let list = if shared { range(count) } else { cpu.to_string() };
        let index = dir([
            ("coherency_line_size", text(line)),
            ("id", text(if shared { 0 } else { cpu })),
            ("level", text(level)),
            ("number_of_sets", text(sets)),
            ("physical_line_partition", text(partitions)),
            ("shared_cpu_list", text(list)),
            ("shared_cpu_map", text(map)),
            ("size", text(format!("{}K", bytes / 1024))),
            ("type", text(kind)),
            ("ways_of_associativity", text(ways)),
        ]);
        items.insert(format!("index{sub}"), index);
    }
    Item::Dir(items)
}

/// One memory node with everything in it.
fn nodes(kernel: &Kernel) -> Item {
    let count = kernel.machine.cpus.max(1);
    let mut node = BTreeMap::from([
        ("cpulist".to_string(), text(range(count))),
        ("cpumap".to_string(), text(mask(count, |_| true))),
        ("distance".to_string(), text(10)),
        ("meminfo".to_string(), made(node_meminfo)),
        (
            "numastat".to_string(),
            Item::Text(
                ["numa_hit", "numa_miss", "numa_foreign", "interleave_hit", "local_node", "other_node"]
                    .iter()
                    .map(|name| format!("{name} 0\n"))
                    .collect(),
            ),
        ),
    ]);
    for cpu in 0..count {
        node.insert(format!("cpu{cpu}"), link(&format!("../../cpu/cpu{cpu}")));
    }
    dir([
        ("has_cpu", text(0)),
        ("has_memory", text(0)),
        ("has_normal_memory", text(0)),
        ("node0", Item::Dir(node)),
        ("online", text(0)),
        ("possible", text(0)),
    ])
}

fn node_meminfo(kernel: &Kernel, container: &Container) -> String {
    let total = container.memory();
    let used = kernel.memory_in_cgroup(&container.cgroup).min(total);
    [("MemTotal", total), ("MemFree", total - used), ("MemUsed", used), ("AnonPages", used)]
        .iter()
        .map(|(name, bytes)| {
            let label = format!("{name}:");
            format!("Node 0 {label:<15} {:8} kB\n", bytes / 1024)
        })
        .collect()
}
