//! New threads and processes: the stub of an existing task clones natively, and the child rings before it runs guest code.
//!
//! Neighbours: `stub` (the clone path), `space` (windows), `sandbox` (finds the expectation of an unknown thread).
//!
//! Invariants: at most one clone is under way per address space; its child presents a random token that only that address
//! space can know, and its thread group is checked, so an announcement is what it claims to be. A forked child maps its
//! own window over its maker's before it does anything else. If nobody waits for a child any more it is killed; a thread
//! ends alone, since others of its process go on (one that executes a program, which ended the maker).

use crate::Process;
use crate::frame;
use crate::line::Counted;
use crate::near::Near;
use crate::restart::Made;
use crate::sandbox::Sandbox;
use crate::space::{NewWindow, Space};
use crate::stub::{ARENA_FD, DOORBELL, FORK_FLAGS, ctl};
use crate::sys::{self, Notif};
use crate::task::{Birth, Phase, Task};
use chitin_platform::{BoxFuture, PlatformError, PlatformTask, Spawn, Spawned};
use chitin_platform_host::calls::{Call, failed};
use chitin_platform_host::detach::to_the_end;
use parking_lot::Mutex;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

/// An expected child.
pub struct Pending {
    /// The maker's process.
    pub parent: i32,
    token: u64,
    kind: Spawn,
    maker: Arc<Process>,
    space: Arc<Space>,
    index: u64,
    uc: usize,
    fs: u64,
    gs: u64,
    affinity: Option<Arc<[u8]>>,
    /// The mapping of its own window that a forked child makes: address, length, arena offset.
    map: Option<(u64, u64, u64)>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    win: Option<crate::arena::Window>,
    done: Option<Result<Arc<Task>, PlatformError>>,
    waker: Option<Waker>,
    /// What the maker's clone call said; untrusted.
    claim: i32,
    /// Nobody waits for this thread any more.
    unwanted: bool,
}

/// Takes the expectation back when its future ends, however that happens.
struct Expect {
    sb: Arc<Sandbox>,
    pending: Arc<Pending>,
    /// The maker has not said how its call went: a child may still come.
    open: bool,
}

impl Drop for Expect {
    fn drop(&mut self) {
        let Expect { sb, pending, open } = self;
        let mut s = pending.state.lock();
        let done = s.done.take();
        if *open && done.is_none() && pending.kind == Spawn::Thread {
            // It will find itself expected, and be ended; or the process's end takes the expectation away.
            s.unwanted = true;
            return;
        }
        drop(s);
        sb.pending.lock().remove(&pending.token);
        match done {
            Some(Ok(t)) if pending.kind == Spawn::Thread => t.exit_thread(),
            Some(Ok(t)) => t.proc.kill(true),
            _ => {}
        }
    }
}

impl Pending {
    pub fn complete(&self, r: Result<Arc<Task>, PlatformError>) {
        let mut s = self.state.lock();
        if s.unwanted {
            drop(s);
            if let Ok(t) = r {
                t.exit_thread();
            }
            return;
        }
        if s.done.is_none() {
            s.done = Some(r);
        }
        let w = s.waker.take();
        drop(s);
        if let Some(w) = w {
            w.wake();
        }
    }

    /// A process died that nobody knows: ours, if its maker said so.
    pub fn claimed(&self, pid: i32) -> bool {
        self.state.lock().claim == pid
    }

    async fn child(&self) -> Result<Arc<Task>, PlatformError> {
        poll_fn(|cx| {
            let mut s = self.state.lock();
            match s.done.take() {
                Some(r) => Poll::Ready(r),
                None => {
                    s.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// The first notification of a thread that knows the token. `false`: it is not what was expected.
    pub fn announce(self: &Arc<Self>, sb: &Arc<Sandbox>, n: &Notif) -> bool {
        let tid = n.pid as i32;
        if let Some(old) = sb.table.get(n.pid) {
            if sys::tgkill(old.proc.pid, tid, 0).is_ok() {
                return false; // A thread we know; its own state decides (a booting child's doorbell comes here too).
            }
        }
        let group = if self.kind == Spawn::Thread { self.maker.pid } else { tid };
        let first = match self.map {
            Some((addr, len, off)) => n.nr == 9 && n.args == [addr, len, 3, 0x11, self.token, off],
            None => n.nr as u64 == DOORBELL && frame_at(self, n.args[1]),
        };
        if !first || sys::tgkill(group, tid, 0).is_err() {
            return false;
        }
        let Some(win) = self.state.lock().win.take() else { return false };
        let proc = match self.kind {
            Spawn::Thread => self.maker.clone(),
            _ => {
                let p = Process::new(tid, self.space.clone());
                sb.register(&p);
                p
            }
        };
        let newborn = self.map.is_some();
        let made = Some(Made::of(n));
        let birth = Birth {
            tid,
            index: self.index,
            win,
            phase: Phase::Stopped,
            id: n.id,
            frame: Some(self.uc),
            fs: self.fs,
            gs: self.gs,
            // A thread that was copied has its maker's window for its own.
            bases_dirty: self.map.is_none() && sb.fast.usable(),
            newborn,
            made,
            affinity: self.affinity.clone(),
        };
        let task = Task::new(sb, &proc, birth);
        sb.pending.lock().remove(&self.token);
        self.complete(Ok(task));
        true
    }
}

fn frame_at(p: &Pending, uc: u64) -> bool {
    p.state.lock().win.as_ref().is_some_and(|w| frame::locate(w, uc) == Some(p.uc))
}

fn no_window() -> PlatformError {
    PlatformError::Host { op: "allocation of a thread's window", errno: libc::EAGAIN }
}

const CLONE_THREAD_FLAGS: i32 = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM;

/// Clones the stopped `maker`.
pub async fn spawn(maker: Arc<Task>, kind: Spawn) -> Result<Spawned, PlatformError> {
    let sb = maker.sb.clone();
    let space = maker.proc.space.clone();
    // First: the zygote may be busy with another clone.
    let _one = space.clone_lock.lock().await;
    maker.frame_up().await?;
    let token = (sys::random_u64() | 1 << 63) & !0xffff_ffff | u64::from(ARENA_FD);

    let mut calls = Vec::with_capacity(2);
    let (new_space, win, index, map, flags) = match kind {
        Spawn::Fork => {
            let chunk = sb.arena.alloc().ok_or_else(no_window)?;
            let off = chunk.offset();
            let (s, win) = Space::new(&sb, &maker.line, chunk, maker.index);
            s.mem.inherit(&space.mem);
            s.sites.inherit(&space.sites);
            if let Some(program) = space.program.get() {
                let _ = s.program.set(program.clone());
            }
            let map = (space.chunk_addr(maker.index), sb.arena.chunk_len(), off);
            (s, win, maker.index, Some(map), FORK_FLAGS as i32)
        }
        Spawn::Thread | Spawn::SharedProcess => {
            let NewWindow { window, index, map } = space.alloc_window().ok_or_else(no_window)?;
            if let Some((addr, off)) = map {
                let len = sb.arena.chunk_len();
                calls.push(Call::new(libc::SYS_mmap, [addr, len, 3, 0x11, ARENA_FD.into(), off]));
            }
            let flags = match kind {
                Spawn::Thread => CLONE_THREAD_FLAGS,
                _ => libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_PARENT,
            };
            (space.clone(), window, index, None, flags)
        }
    };
    let mapped_chunk = !calls.is_empty();
    calls.push(Call::new(libc::SYS_clone, [flags as u64, 0, 0, 0, 0, 0]));

    let mut expect = {
        let st = maker.st.lock();
        let uc = Task::stopped_with_frame(&st)?;
        win.copy_from(&st.win, uc - 8);
        frame::rebase(&win, uc, &st.win);
        for o in (0..ctl::CALLS).step_by(8) {
            win.put(o, 0);
        }
        win.mailbox().clear();
        st.win.put(ctl::TOKEN, token);
        st.win.put(ctl::CHUNK_ADDR, map.map_or(0, |m| m.0));
        st.win.put(ctl::CHUNK_OFF, map.map_or(0, |m| m.2));
        st.win.put(ctl::CHILD_UC, win.vaddr + uc as u64);
        let pending = Arc::new(Pending {
            parent: maker.proc.pid,
            token,
            kind,
            maker: maker.proc.clone(),
            space: new_space.clone(),
            index,
            uc,
            fs: st.fs,
            gs: st.gs,
            affinity: st.affinity.clone(),
            map,
            state: Mutex::new(State { win: Some(win), ..State::default() }),
        });
        sb.pending.lock().insert(token, pending.clone());
        Expect { sb: sb.clone(), pending, open: true }
    };

    let wanted = calls.len();
    // Not so a fork of the zygote: a new program starts where there is room.
    let offered = kind == Spawn::Fork && maker.st.lock().offer.is_some();
    let near = offered.then(|| Near::new(&maker)).flatten();
    let results = match offered && maker.take_offer() {
        true => maker.settled().await,
        false => maker.run(calls).await,
    };
    let give_back = |space: &Arc<Space>| {
        if kind != Spawn::Fork {
            space.free_window(index);
        }
    };
    let results = match results {
        Ok(r) => r,
        Err(e) => {
            expect.open = false;
            give_back(&space);
            return Err(e);
        }
    };
    if mapped_chunk && results.len() == wanted {
        space.set_mapped(index);
    }
    let last = results.last().copied().unwrap_or(-i64::from(libc::EAGAIN));
    if let Some(errno) = failed(last) {
        expect.open = false;
        give_back(&space);
        return Err(PlatformError::Host { op: "clone", errno });
    }
    expect.pending.state.lock().claim = last as i32;
    let task = expect.pending.child().await?;
    drop(expect);
    maker.release_child(&task);
    drop(near);
    let mut unfinished = Unfinished((kind != Spawn::Thread).then(|| task.clone()));

    // The maker's other windows must not stay in reach of a forked child; and where no PID namespace does it, each process
    // must see to it that it dies with the sentry.
    let mut first = Vec::new();
    if kind == Spawn::Fork {
        let cover = |(addr, len)| Call::new(libc::SYS_mmap, [addr, len, 0, 0x4032, u64::MAX, 0]);
        first.extend(space.other_chunks(maker.index).into_iter().map(cover));
    }
    if kind != Spawn::Thread && !sb.is_init {
        let args = [libc::PR_SET_PDEATHSIG as u64, libc::SIGKILL as u64, 0, 0, 0, 0];
        first.push(Call::new(libc::SYS_prctl, args));
    }
    if !first.is_empty() {
        let n = first.len();
        let r = task.run(first).await;
        if !r.as_ref().is_ok_and(|r| r.len() == n && r.iter().all(|r| failed(*r).is_none())) {
            return Err(r
                .err()
                .unwrap_or(PlatformError::Host { op: "set-up of a child", errno: libc::ENOMEM }));
        }
    }
    unfinished.0 = None;
    Ok(Spawned { space: task.proc.space.clone(), task })
}

/// Ends a new process that nobody has got: its making failed, or who wanted it has ended.
struct Unfinished(Option<Arc<Task>>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.kill_process();
        }
    }
}

/// [`make_space`] to its end, even if who wanted it ends first: the zygote must not be left in the middle of a clone, where
/// the next one would find it.
pub fn new_space(zygote: Arc<Task>) -> BoxFuture<Result<Spawned, PlatformError>> {
    // From now on: another program may be about to choose its line.
    let program = zygote.line.count();
    Box::pin(to_the_end(make_space(zygote, program), kill))
}

fn kill(made: Result<Spawned, PlatformError>) {
    if let Ok(spawned) = made {
        spawned.task.kill_process();
    }
}

/// A fresh address space: a fork of the zygote with a random gap below its mappings and a zeroed frame.
async fn make_space(zygote: Arc<Task>, program: Arc<Counted>) -> Result<Spawned, PlatformError> {
    let sb = zygote.sb.clone();
    let Spawned { task, space } = spawn(zygote, Spawn::Fork).await?;
    let Some(task) = sb.table.get(task.debug_id() as u32) else { return Err(PlatformError::Gone) };
    let _ = task.proc.space.program.set(program);
    let mut unfinished = Unfinished(Some(task.clone()));
    // As much as the host itself uses for mmap_base: 28 bits of pages.
    let len = ((sys::random_u64() & 0x0fff_ffff) + 1) << 12;
    let gap = task.run(vec![Call::new(libc::SYS_mmap, [0, len, 0, 0x4022, u64::MAX, 0])]).await?;
    if let Some(&at) = gap.first() {
        if failed(at).is_none() {
            let _ = task.proc.space.mem.gap.set(at as u64..(at as u64).saturating_add(len));
        }
    }
    {
        let mut st = task.st.lock();
        let uc = Task::stopped_with_frame(&st)?;
        frame::reset(&st.win, uc, &sb.layout());
        if (st.fs, st.gs) != (0, 0) || sb.fast.usable() {
            st.fs = 0;
            st.gs = 0;
            st.bases_dirty = true;
        }
    }
    unfinished.0 = None;
    Ok(Spawned { task, space })
}
