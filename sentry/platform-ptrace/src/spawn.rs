//! New threads and processes: an existing task clones natively, and the child waits in the stub until its own tracer has
//! it.
//!
//! Neighbours: `stub` (the wait), `tracer` (assignment and adoption), `zygote` (what spaces are forked from).
//!
//! Invariants: a child's id comes from the registers of the thread that made it, which no guest can write. It runs only the
//! stub's page until it is traced; if its maker is killed meanwhile, so that nobody learns of it, it ends by itself.

use crate::Process;
use crate::space::Space;
use crate::task::{Phase, Task};
use crate::tracer::{Command, Tracer};
use crate::{sys, xstate};
use chitin_platform::{PlatformError, PlatformTask, Spawn, Spawned};
use chitin_platform_host::calls::{Call, failed};
use chitin_platform_host::detach::to_the_end;
use std::sync::Arc;

const THREAD: i32 = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM;
const SHARED: i32 = libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_PARENT;
const FORK: i32 = libc::CLONE_PARENT;

/// A place at a tracer, given back if no task comes to take it.
struct Place(Option<Arc<Tracer>>);

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(tracer) = self.0.take() {
            tracer.give_back();
        }
    }
}

/// Clones the stopped `maker`.
pub async fn spawn(maker: Arc<Task>, kind: Spawn) -> Result<Spawned, PlatformError> {
    let whole = maker.clone().whole(clone(maker, kind));
    let made = to_the_end(whole, if kind == Spawn::Thread { end_thread } else { end_process });
    let (task, space) = made.await?;
    Ok(Spawned { task, space })
}

type Made = Result<(Arc<Task>, Arc<Space>), PlatformError>;

fn end_thread(made: Made) {
    if let Ok((task, _)) = made {
        task.exit_thread();
    }
}

fn end_process(made: Made) {
    if let Ok((task, _)) = made {
        task.kill_process();
    }
}

async fn clone(maker: Arc<Task>, kind: Spawn) -> Made {
    let sb = maker.sb.clone();
    let space = maker.proc.space.clone();
    let no_tracer = |e: std::io::Error| PlatformError::Host {
        op: "start of a tracer",
        errno: e.raw_os_error().unwrap_or(libc::EAGAIN),
    };
    let mut place = Place(Some(sb.pool.choose().map_err(no_tracer)?));
    // A fork in the midst of another thread's mapping of a file would copy its descriptor. (And the zygote forks for
    // whoever comes.)
    let _turn = if kind == Spawn::Fork { Some(space.files.lock().await) } else { None };
    let flags = match kind {
        Spawn::Thread => THREAD,
        Spawn::SharedProcess => SHARED,
        Spawn::Fork => FORK,
    };
    let results = maker.run(vec![Call::new(libc::SYS_clone, [flags as u64, 0, 0, 0, 0, 0])]).await?;
    let result = results.first().copied().unwrap_or(-i64::from(libc::EAGAIN));
    if let Some(errno) = failed(result) {
        return Err(PlatformError::Host { op: "clone", errno });
    }
    let tid = result as i32;
    let proc = match kind {
        Spawn::Thread => maker.proc.clone(),
        Spawn::SharedProcess => Process::new(tid, space),
        Spawn::Fork => {
            let copy = Space::new(&sb);
            copy.mem.inherit(&space.mem);
            Process::new(tid, copy)
        }
    };
    let tracer = place.0.take().ok_or(PlatformError::Gone)?;
    let (regs, fp) = {
        let st = maker.st.lock();
        (st.regs, st.fp.clone().filter(|_| st.fp_dirty))
    };
    let task = Task::new(&sb, &proc, tid, tracer, Phase::Born, regs);
    {
        let mut st = task.st.lock();
        st.fp_dirty = fp.is_some();
        st.fp = fp;
        let now = maker.st.lock();
        st.call = now.call;
    }
    task.post(Command::Adopt);
    task.settled().await?;
    let space = task.proc.space.clone();
    Ok((task, space))
}

/// A fresh address space, to its end even if who wanted it ends first.
pub async fn new_space(zygote: Arc<Task>) -> Result<Spawned, PlatformError> {
    let (task, space) = to_the_end(make_space(zygote), end_process).await?;
    Ok(Spawned { task, space })
}

/// A fork of the zygote with a random gap below its mappings, and zeroed registers.
async fn make_space(zygote: Arc<Task>) -> Made {
    let (task, space) = clone(zygote, Spawn::Fork).await?;
    // As much as the host itself uses for mmap_base: 28 bits of pages.
    let len = ((sys::random_u64() & 0x0fff_ffff) + 1) << 12;
    let gap = task.run(vec![Call::new(libc::SYS_mmap, [0, len, 0, 0x4022, u64::MAX, 0])]).await;
    let at = match gap {
        Ok(at) => at.first().copied().unwrap_or(-1),
        Err(error) => {
            task.kill_process();
            return Err(error);
        }
    };
    if failed(at).is_none() {
        let _once = space.mem.gap.set(at as u64..(at as u64).saturating_add(len));
    }
    {
        let mut st = task.st.lock();
        let old = st.regs;
        st.regs = sys::UserRegs { cs: old.cs, ss: old.ss, eflags: 0x202, ..sys::UserRegs::default() };
        let mut state = vec![0; task.sb.xstate_len];
        xstate::reset(&mut state, &task.sb.form);
        st.fp = Some(state);
        st.fp_dirty = true;
    }
    Ok((task, space))
}
