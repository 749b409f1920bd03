//! Where and how a container's processes run on the host: scheduling policy, CPUs, memory nodes. Checks, and what sentry and
//! launcher are told. Neighbours: `check` calls the checks, `translate` the rest, `sandbox::launch` sets the memory policy.

use oci_spec::runtime::{
    LinuxMemoryPolicy, LinuxSchedulerFlag as Flag, LinuxSchedulerPolicy as Policy,
    MemoryPolicyFlagType as NodeFlag, MemoryPolicyModeType as Mode, Process, Scheduler,
};

use super::check::Findings;

/// The most CPUs and memory nodes that Linux can have.
const MOST_CPUS: usize = 8192;
const MOST_NODES: usize = 1024;
const SCHED_RESET_ON_FORK: u32 = 0x4000_0000;

pub fn check_scheduler(scheduler: &Scheduler, f: &mut Findings) {
    match scheduler.policy() {
        Policy::SchedOther | Policy::SchedBatch | Policy::SchedIdle => {}
        policy => f.error(
            "process.scheduler.policy",
            format!(
                "{policy} is not supported: a guest with real-time threads could starve the sentry that serves it; \
                 use SCHED_OTHER with a lower nice"
            ),
        ),
    }
    if scheduler.nice().is_some_and(|nice| !(-20..=19).contains(&nice)) {
        f.error("process.scheduler.nice", "must be between -20 and 19");
    }
    // As runc and the kernel have it.
    if scheduler.priority().is_some_and(|priority| priority != 0) {
        f.error("process.scheduler.priority", "must be 0 for a policy that is not real-time");
    }
    for (name, value) in
        [("runtime", scheduler.runtime()), ("deadline", scheduler.deadline()), ("period", scheduler.period())]
    {
        if value.is_some_and(|value| value != 0) {
            f.error(format!("process.scheduler.{name}"), "is for SCHED_DEADLINE only");
        }
    }
    for (index, flag) in scheduler.flags().iter().flatten().enumerate() {
        if !matches!(flag, Flag::SchedResetOnFork | Flag::SchedFlagKeepParams) {
            f.error(
                format!("process.scheduler.flags[{index}]"),
                format!("{flag} is not supported; remove it"),
            );
        }
    }
}

/// The policy by number, as sched_getscheduler(2) shall tell it; none leaves it as it is.
pub fn policy(process: &Process) -> Option<u32> {
    let scheduler = process.scheduler().as_ref()?;
    let class = match scheduler.policy() {
        Policy::SchedBatch => 3,
        Policy::SchedIdle => 5,
        _ => 0,
    };
    let resets = scheduler.flags().iter().flatten().any(|flag| *flag == Flag::SchedResetOnFork);
    Some(if resets { class | SCHED_RESET_ON_FORK } else { class })
}

pub fn check_affinity(process: &Process, f: &mut Findings) {
    let Some(affinity) = process.exec_cpu_affinity() else { return };
    for (name, list) in [("initial", affinity.initial()), ("final", affinity.cpu_affinity_final())] {
        if let Some(list) = list.as_deref().filter(|list| !list.is_empty())
            && bits(list, MOST_CPUS).is_none()
        {
            f.error(
                format!("process.execCPUAffinity.{name}"),
                format!("{list:?} is no list of CPUs, like 0-3,7"),
            );
        }
    }
}

/// The CPUs of a process that `exec` adds. Where only `initial` is given, that stays.
pub fn cpus(process: &Process) -> Option<Vec<u8>> {
    let affinity = process.exec_cpu_affinity().as_ref()?;
    let lists = [affinity.cpu_affinity_final(), affinity.initial()];
    let list = lists.into_iter().flatten().find(|list| !list.is_empty())?;
    bits(list, MOST_CPUS)
}

/// What set_mempolicy(2) takes: a mode with flags, and nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPolicy {
    pub mode: i32,
    /// Bits from node 0 on, in words.
    pub nodes: Vec<u64>,
}

pub fn check_memory(policy: &LinuxMemoryPolicy, f: &mut Findings) {
    if let Some(list) = nodes(policy)
        && bits(list, MOST_NODES).is_none()
    {
        f.error("linux.memoryPolicy.nodes", format!("{list:?} is no list of memory nodes, like 0,2-3"));
    }
    let wants = !matches!(policy.mode(), Mode::MpolDefault | Mode::MpolLocal | Mode::MpolPreferred);
    if wants && nodes(policy).is_none() {
        f.error("linux.memoryPolicy.nodes", format!("must be set for {}", policy.mode()));
    }
}

pub fn memory(policy: &LinuxMemoryPolicy) -> MemoryPolicy {
    let mode = match policy.mode() {
        Mode::MpolDefault => 0,
        Mode::MpolPreferred => 1,
        Mode::MpolBind => 2,
        Mode::MpolInterleave => 3,
        Mode::MpolLocal => 4,
        Mode::MpolPreferredMany => 5,
        Mode::MpolWeightedInterleave => 6,
    };
    let flag = |flag: &NodeFlag| match flag {
        NodeFlag::MpolFStaticNodes => 1 << 15,
        NodeFlag::MpolFRelativeNodes => 1 << 14,
        NodeFlag::MpolFNumaBalancing => 1 << 13,
    };
    let mode = policy.flags().iter().flatten().fold(mode, |mode, f| mode | flag(f));
    let bytes = nodes(policy).and_then(|list| bits(list, MOST_NODES)).unwrap_or_default();
    let word = |chunk: &[u8]| chunk.iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
    MemoryPolicy { mode, nodes: bytes.chunks(8).map(word).collect() }
}

fn nodes(policy: &LinuxMemoryPolicy) -> Option<&str> {
    policy.nodes().as_deref().filter(|list| !list.is_empty())
}

/// `0-3,7` as bits, all of them below `limit`.
fn bits(list: &str, limit: usize) -> Option<Vec<u8>> {
    let mut set = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= limit {
            return None;
        }
        set.resize(set.len().max(last / 8 + 1), 0u8);
        for number in first..=last {
            *set.get_mut(number / 8)? |= 1 << (number % 8);
        }
    }
    Some(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_of_numbers() {
        assert_eq!(bits("0", 64), Some(vec![1]));
        assert_eq!(bits("0-3,9", 64), Some(vec![0x0f, 2]));
        assert_eq!(bits("63", 64).map(|set| set.len()), Some(8));
        for wrong in ["", "a", "1-", "-1", "3-1", "64", "1,,2", "0-99999999999"] {
            assert_eq!(bits(wrong, 64), None, "{wrong:?}");
        }
    }

    #[test]
    fn memory_policies_as_the_kernel_has_them() {
        let of = |value: serde_json::Value| memory(&serde_json::from_value(value).unwrap());
        let policy = of(json!({"mode": "MPOL_BIND", "nodes": "0,65", "flags": ["MPOL_F_STATIC_NODES"]}));
        assert_eq!(policy, MemoryPolicy { mode: 2 | 1 << 15, nodes: vec![1, 2] });
        assert_eq!(of(json!({"mode": "MPOL_LOCAL"})), MemoryPolicy { mode: 4, nodes: vec![] });
        let wrong = |value: serde_json::Value| {
            let mut found = Findings::default();
            check_memory(&serde_json::from_value(value).unwrap(), &mut found);
            !found.into_parts().0.is_empty()
        };
        assert!(
            wrong(json!({"mode": "MPOL_BIND"})) && wrong(json!({"mode": "MPOL_INTERLEAVE", "nodes": "x"}))
        );
        assert!(
            !wrong(json!({"mode": "MPOL_DEFAULT"})) && !wrong(json!({"mode": "MPOL_BIND", "nodes": "0"}))
        );
    }

    fn process(more: serde_json::Value) -> Process {
        let mut value = json!({"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}});
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_last_affinity_counts() {
        let of = |value| cpus(&process(json!({"execCPUAffinity": value})));
        assert_eq!(of(json!({"initial": "0", "final": "1"})), Some(vec![2]));
        assert_eq!(of(json!({"initial": "0"})), Some(vec![1]));
        assert_eq!(of(json!({})), None);
    }

    #[test]
    fn policies_by_number() {
        let of = |value| policy(&process(json!({"scheduler": value})));
        assert_eq!(of(json!({"policy": "SCHED_BATCH"})), Some(3));
        assert_eq!(of(json!({"policy": "SCHED_OTHER", "flags": ["SCHED_RESET_ON_FORK"]})), Some(0x4000_0000));
        assert_eq!(policy(&process(json!({}))), None);
    }
}
