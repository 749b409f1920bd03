//! System calls that the kernel leaves to the platform ([`Resume::Native`](chitin_platform::Resume::Native)): those about
//! the thread's own registers, its scheduling and the order of its memory accesses.

use crate::rseq::Rseq;
use crate::space::Space;
use crate::task::{Phase, Task};
use chitin_platform::Registers;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;
const MS_SYNC: u64 = 4;
/// membarrier(2): one processor is meant.
const ONE_CPU: u32 = 1;

// membarrier(2).
const GLOBAL: u32 = 1;
const GLOBAL_EXPEDITED: u32 = 2;
const REGISTER_GLOBAL: u32 = 4;
const PRIVATE: u32 = 8;
const REGISTER_PRIVATE: u32 = 16;
const SYNC_CORE: u32 = 32;
const REGISTER_SYNC_CORE: u32 = 64;
const RSEQ: u32 = 128;
const REGISTER_RSEQ: u32 = 256;

fn membarrier(task: &Task, space: &Space, command: u64, flags: u64) -> Result<u64, i32> {
    let all = GLOBAL
        | GLOBAL_EXPEDITED
        | REGISTER_GLOBAL
        | PRIVATE
        | REGISTER_PRIVATE
        | SYNC_CORE
        | REGISTER_SYNC_CORE
        | RSEQ
        | REGISTER_RSEQ;
    // All processors are asked, also where one was meant.
    let one = command as u32 == RSEQ && flags as u32 == ONE_CPU;
    if flags as u32 != 0 && !one {
        return Err(libc::EINVAL);
    }
    let register = |bit: u32| {
        space.barriers.fetch_or(bit, Ordering::Relaxed);
        Ok(0)
    };
    let run = |needs: u32, only: Option<u64>| {
        if needs != 0 && space.barriers.load(Ordering::Relaxed) & needs == 0 {
            return Err(libc::EPERM);
        }
        // Leaving the VM and IRETQ order memory, and serialise the core.
        task.machine.barrier(only);
        Ok(0)
    };
    match command as u32 {
        0 => Ok(all.into()),
        GLOBAL | GLOBAL_EXPEDITED => run(0, None),
        PRIVATE => run(PRIVATE, Some(space.id)),
        SYNC_CORE => run(SYNC_CORE, Some(space.id)),
        // A processor that is kicked out puts its task to the abort handler.
        RSEQ => run(RSEQ, Some(space.id)),
        REGISTER_RSEQ => register(RSEQ),
        REGISTER_GLOBAL => register(GLOBAL_EXPEDITED),
        REGISTER_PRIVATE => register(PRIVATE),
        REGISTER_SYNC_CORE => register(SYNC_CORE),
        _ => Err(libc::EINVAL),
    }
}

/// The processor that it called on, of the only node.
fn getcpu(task: &Task, cpu: u64, node: u64) -> Result<u64, i32> {
    let last = task.st.lock().last;
    let number = last.and_then(|index| task.machine.numbers.get(index)).copied().unwrap_or(0);
    for (at, value) in [(cpu, number), (node, 0)].into_iter().filter(|(at, _)| *at != 0) {
        task.space.write_at(at, &value.to_le_bytes()).map_err(|_| libc::EFAULT)?;
    }
    Ok(0)
}

/// Makes the call and lets the task go on.
pub fn run(task: &Arc<Task>) {
    let (nr, regs) = {
        let st = task.st.lock();
        if !matches!(st.phase, Phase::Stopped) {
            return;
        }
        (st.nr, st.regs)
    };
    let Registers { rdi, rsi, rdx, .. } = regs;
    let mut bases = (regs.fs_base, regs.gs_base);
    let result = match nr as i64 {
        libc::SYS_sched_yield => Ok(0),
        libc::SYS_arch_prctl => {
            match rdi {
                ARCH_SET_FS => bases.0 = rsi,
                ARCH_SET_GS => bases.1 = rsi,
                _ => {}
            }
            Ok(0)
        }
        libc::SYS_membarrier => membarrier(task, &task.space, rdi, rsi),
        libc::SYS_msync => task.space.check_range(rdi, rsi, rdx & MS_SYNC != 0).map(|()| 0),
        libc::SYS_rseq => {
            let now = task.st.lock().rseq;
            Rseq::call(now, &task.space, [rdi, rsi, rdx, regs.r10]).map(|rseq| {
                task.st.lock().rseq = rseq;
                0
            })
        }
        libc::SYS_getcpu => getcpu(task, rdi, rsi),
        nr => {
            tracing::debug!(nr, "a call that the platform was given but does not know");
            Err(libc::ENOSYS)
        }
    };
    let mut st = task.st.lock();
    if !matches!(st.phase, Phase::Stopped) {
        return;
    }
    st.regs.rax = result.unwrap_or_else(|errno| (-i64::from(errno)) as u64);
    st.bases_dirty |= bases != (st.regs.fs_base, st.regs.gs_base);
    (st.regs.fs_base, st.regs.gs_base) = bases;
    st.phase = Phase::Ready;
    drop(st);
    task.machine.ready(task.clone(), nr as i64 == libc::SYS_sched_yield);
}
