//! What a container's configuration says about every process that the runtime starts in it: seccomp filter, personality,
//! scheduling. Neighbours: `containers` keeps it with the container, `exec` applies it to processes that have not run yet.

use chitin_abi::seccomp::SockFilter;
use chitin_control::{ContainerConfig, ProcessConfig, SeccompOp};
use chitin_kernel::seccomp::install;
use chitin_kernel::{ExitStatus, Task, exit};
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[derive(Default)]
pub struct Profile {
    seccomp: Option<(u32, Vec<SockFilter>)>,
    personality: Option<u32>,
}

impl Profile {
    pub fn new(config: &ContainerConfig) -> Profile {
        let op = |&SeccompOp(code, jt, jf, k): &SeccompOp| SockFilter { code, jt, jf, k };
        let seccomp = config.seccomp.as_ref();
        Profile {
            seccomp: seccomp.map(|seccomp| (seccomp.flags, seccomp.program.iter().map(op).collect())),
            personality: config.personality,
        }
    }

    /// Applies it to a process before its first instruction; one that cannot have it is ended.
    pub fn apply(&self, task: &Arc<Task>, settings: &ProcessConfig) -> Result<(), String> {
        if let Some(personality) = self.personality {
            task.process.personality.store(personality.into(), Ordering::Relaxed);
        }
        if let Some(nice) = settings.nice {
            let nice = nice.clamp(-20, 19);
            task.nice.store(nice, Ordering::Relaxed);
            // What the host does not grant the sentry (raising) stays a guest's number.
            let _ = task.platform().set_nice(nice);
        }
        if let Some(policy) = settings.scheduler {
            task.policy.store(policy, Ordering::Relaxed);
        }
        if let Some(cpus) = &settings.cpus {
            set_cpus(task, cpus).inspect_err(|_| end(task))?;
        }
        let Some((flags, code)) = &self.seccomp else { return Ok(()) };
        install::install(task, *flags, code.clone()).map_err(|errno| {
            end(task);
            format!("linux.seccomp: the filter cannot be installed: {}", errno.message())
        })
    }
}

/// Where it may run: those of the CPUs that the container has.
fn set_cpus(task: &Task, cpus: &[u8]) -> Result<(), String> {
    let there = task.process.container.cpus() as usize;
    let mut wanted = vec![0u8; there.div_ceil(64).saturating_mul(8)];
    for cpu in (0..there).filter(|cpu| cpus.get(cpu / 8).is_some_and(|byte| byte >> (cpu % 8) & 1 == 1)) {
        if let Some(byte) = wanted.get_mut(cpu / 8) {
            *byte |= 1 << (cpu % 8);
        }
    }
    let failed = |why: &dyn std::fmt::Display| format!("process.execCPUAffinity: {why}");
    if wanted.iter().all(|byte| *byte == 0) {
        return Err(failed(&format!(
            "the container has CPUs 0 to {} only; name some of them",
            there.saturating_sub(1)
        )));
    }
    task.platform().affinity(Some(&wanted)).map(drop).map_err(|e| failed(&e))
}

/// Ends a process that cannot be made what it is to be.
pub fn end(task: &Task) {
    exit::group_exit(&task.process, ExitStatus::Signaled { signal: 9, core: false });
}
