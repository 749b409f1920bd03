//! A guest thread: its state, and what its notifications mean in each state.
//!
//! Neighbours: `sandbox` dispatches notifications here, `calls` runs host calls in the stub, `control` implements the
//! trait the kernel uses, `spawn` makes new tasks.
//!
//! Locks: `st` is a leaf but for `Process::inner` and window accounting; it may be held across host calls that do not
//! block (answers, tgkill), never across a waker or the kernel's code. `last_id` makes late notifications harmless.

use crate::Process;
use crate::arena::{Mailbox, Window};
use crate::calls::List;
use crate::fast::{Heat, Request};
use crate::frame;
use crate::line::Line;
use crate::near::Held;
use crate::restart::{Made, Reply, Said};
use crate::sandbox::Sandbox;
use crate::sites::Wanted;
use crate::stub::{DOORBELL, FORK_FLAGS, KICK, OFFER, STUB_BASE, cmd, code, ctl};
use crate::sys::{self, Notif};
use chitin_platform::{Event, EventKind, Owner, PlatformError};
use parking_lot::{Mutex, MutexGuard};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Weak};
use std::task::Waker;

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Guest code (or a signal about to be reported).
    Running,
    /// Reported, or about to be; a notification waits for our answer.
    Stopped,
    /// The stub works through a list of calls.
    Calls,
    /// Kicked out of a system call; the handler's doorbell is due.
    AwaitFrame,
    /// Its request has got this answer, which it comes to fetch by a notification.
    Answered(i64),
    /// Asked to ring: the zygote, to wake a worker; others, so that the stub takes orders.
    Bell,
    /// Waiting off the list; the notification of its system call has been answered.
    Parked,
    /// A group leader that has exited, kept for the others' sake.
    Limbo,
    Dead,
}

/// What happens when the doorbell of an [`Phase::AwaitFrame`] comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// An operation waits.
    Op,
    /// The system call's result goes into the frame, then the owed `Interrupted` is reported.
    Answer(i64),
    /// Park it; the kernel still holds the task.
    Park,
    /// The kernel answered meanwhile: put the result into the frame and go on.
    Finish(i64),
}

pub struct St {
    pub phase: Phase,
    /// The outstanding notification.
    pub id: u64,
    last_id: Option<u64>,
    /// Offset of the frame's ucontext in the window.
    pub frame: Option<usize>,
    pub win: Window,
    /// The call in which it is stopped, if that was not notified.
    pub request: Option<Request>,
    pub heat: Heat,
    /// A call site to be patched when the call is over.
    pub wanted: Option<Wanted>,
    /// An `Interrupted` is owed.
    pub interrupt: bool,
    /// A kick is under way.
    pub kicked: bool,
    pub after: After,
    pub fs: u64,
    pub gs: u64,
    /// The bases differ from the thread's.
    pub bases_dirty: bool,
    /// A forked child that still waits to map its window, where its frame is already; it cannot take orders yet.
    pub newborn: bool,
    /// The system call that stopped it (without a frame).
    pub nr: u64,
    pub args: [u64; 6],
    /// The file for a native mmap whose number the guest chose too high.
    pub native_fd: Option<Arc<std::os::fd::OwnedFd>>,
    pub list: Option<Box<List>>,
    /// The outstanding notification is this clone, which may run as it is.
    pub offer: Option<[u64; 6]>,
    pub results: Vec<i64>,
    pub waker: Option<Waker>,
    pub owner: Option<Owner>,
    /// The last notification and its answer; only without WAIT_KILLABLE_RECV.
    pub made: Option<Made>,
    pub said: Option<Said>,
    /// When it stopped, in the parking clock's ticks.
    pub since: u64,
    /// It is among the sandbox's outstanding ones.
    pub counted: bool,
    /// Its window has been given back.
    pub released: bool,
    /// The CPUs its guest has chosen; all of the sandbox's otherwise.
    pub affinity: Option<Arc<[u8]>>,
    /// Where else it may not run just now ([`crate::near`]).
    pub held: Held,
}

pub struct Task {
    pub(crate) me: Weak<Task>,
    pub sb: Arc<Sandbox>,
    /// Its process's, for good.
    pub line: Arc<Line>,
    pub proc: Arc<Process>,
    pub tid: i32,
    /// Which of its address space's windows it has.
    pub index: u64,
    /// Of its window.
    pub mailbox: Mailbox,
    /// When it made a call last, in cycles, if it makes many; and whether it is on the list of those that do.
    pub last_call: AtomicU64,
    /// What the answer to its last request has put into its parcel.
    pub wrote: AtomicUsize,
    pub listed: AtomicBool,
    pub st: Mutex<St>,
}

/// What `new` needs to know.
pub struct Birth {
    pub tid: i32,
    pub index: u64,
    pub win: Window,
    pub phase: Phase,
    pub id: u64,
    pub frame: Option<usize>,
    pub fs: u64,
    pub gs: u64,
    pub bases_dirty: bool,
    pub newborn: bool,
    /// The call whose notification it waits in.
    pub made: Option<Made>,
    pub affinity: Option<Arc<[u8]>>,
}

impl Task {
    pub fn new(sb: &Arc<Sandbox>, proc: &Arc<Process>, b: Birth) -> Arc<Task> {
        let t = Arc::new_cyclic(|me| Task {
            me: me.clone(),
            sb: sb.clone(),
            line: proc.space.line.clone(),
            proc: proc.clone(),
            tid: b.tid,
            index: b.index,
            mailbox: b.win.mailbox(),
            last_call: AtomicU64::new(0),
            wrote: AtomicUsize::new(0),
            listed: AtomicBool::new(false),
            st: Mutex::new(St {
                phase: b.phase,
                id: b.id,
                last_id: Some(b.id),
                frame: b.frame,
                win: b.win,
                request: None,
                heat: Heat::default(),
                wanted: None,
                interrupt: false,
                kicked: false,
                after: After::Op,
                fs: b.fs,
                gs: b.gs,
                bases_dirty: b.bases_dirty,
                newborn: b.newborn,
                nr: 0,
                args: [0; 6],
                native_fd: None,
                list: None,
                offer: None,
                results: Vec::new(),
                waker: None,
                owner: None,
                made: b.made,
                said: None,
                since: 0,
                counted: false,
                released: false,
                affinity: b.affinity,
                held: Held::default(),
            }),
        });
        proc.add(&t);
        sb.table.insert(b.tid as u32, t.clone());
        t
    }

    pub fn killable(&self) -> bool {
        self.sb.features.wait_killable
    }

    /// The segment base by which a thread finds its window stands for none of the guest's own.
    fn guest_gs(&self, st: &St, gs: u64) -> u64 {
        if self.sb.fast.usable() && gs == st.win.vaddr { 0 } else { gs }
    }

    /// How the stub goes back to the guest: with the segment bases that it finds in its window, if they have changed.
    pub fn with_bases(&self, st: &mut St) -> i64 {
        if !std::mem::take(&mut st.bases_dirty) {
            return cmd::RETURN;
        }
        let gs = if self.sb.fast.usable() && st.gs == 0 { st.win.vaddr } else { st.gs };
        st.win.put(ctl::FS, st.fs);
        st.win.put(ctl::GS, gs);
        cmd::BASES
    }

    /// Sends the kick; the caller holds the task's lock and it is not dead, so the pid is still ours.
    pub fn kick(&self, st: &mut St) {
        st.kicked = true;
        let _ = sys::tgkill(self.proc.pid, self.tid, KICK);
    }

    /// Tells the stub what to do.
    pub fn command(&self, st: &mut St, cmd: i64) {
        self.reply(st, Reply::Value(cmd));
    }

    pub(crate) fn event(&self, st: &mut St, kind: EventKind) -> Option<Event> {
        st.phase = Phase::Stopped;
        if st.request.is_none() {
            self.count(st);
        }
        let Some(owner) = st.owner.clone() else {
            tracing::error!(tid = self.tid, "event of a task without owner; killing its process");
            self.proc.kill(false);
            return None;
        };
        Some(Event { owner, kind })
    }

    /// The guest damaged its stub or forged a doorbell.
    pub fn corrupt(&self, what: &'static str) {
        tracing::warn!(tid = self.tid, what, "damaged stub; killing its process");
        self.proc.kill(false);
    }

    pub fn on_notif(self: &Arc<Self>, n: &Notif) -> Option<Event> {
        let mut st = self.st.lock();
        if st.last_id.is_some_and(|last| n.id.wrapping_sub(last) as i64 <= 0) {
            return None; // Interrupted before we came to it.
        }
        st.last_id = Some(n.id);
        if st.phase != Phase::Dead && self.made_again(&mut st, n) {
            return None;
        }
        let in_stub = n.ip & !0xfff == STUB_BASE;
        st.offer = None;
        if in_stub && n.nr as u64 == DOORBELL {
            let [what, uc, _, fs, gs, _] = n.args;
            return self.doorbell(st, n.id, what, uc, fs, gs);
        }
        if in_stub && n.nr as u64 == OFFER && n.args[..2] == [FORK_FLAGS, 0] && st.phase == Phase::Running {
            let [_, _, uc, fs, gs, _] = n.args;
            st.offer = Some(n.args);
            return self.doorbell(st, n.id, libc::SIGSYS as u64, uc, fs, gs);
        }
        if let Some(request) = st.request {
            self.fetches_answer(st, request, n);
            return None;
        }
        match st.phase {
            Phase::Running => {
                st.id = n.id;
                self.heat(&mut st, n);
                st.frame = None;
                st.nr = n.nr as u64;
                st.args = n.args;
                let (arch, nr, args, ip) = (n.arch, n.nr as u64, n.args, n.ip);
                self.event(&mut st, EventKind::Syscall { arch, nr, args, ip })
            }
            Phase::Calls => {
                self.listed_call(st, n, in_stub);
                None
            }
            Phase::Dead => None,
            _ => {
                self.corrupt("a system call while it was stopped");
                None
            }
        }
    }

    fn doorbell(
        self: &Arc<Self>,
        mut st: MutexGuard<'_, St>,
        id: u64,
        what: u64,
        uc: u64,
        fs: u64,
        gs: u64,
    ) -> Option<Event> {
        if st.phase == Phase::Dead {
            return None;
        }
        let Some(uc) = frame::locate(&st.win, uc) else {
            self.corrupt("a frame outside of its window");
            return None;
        };
        st.id = id;
        if self.sb.features.fsgsbase && !st.bases_dirty {
            st.fs = fs;
            st.gs = self.guest_gs(&st, gs);
        }
        const SYS: u64 = libc::SIGSYS as u64;
        const BELL: u64 = KICK as u64;
        if self.sb.fast.usable() && (what == BELL || is_fault(what)) {
            let told = self.straighten(&mut st, uc, is_access(what));
            if !told && st.phase == Phase::Running && st.request.is_none() {
                st.frame = None;
                self.command(&mut st, cmd::RETURN);
                return None;
            }
        }
        let request = self.forget_request(&mut st);
        if let Phase::Answered(v) = st.phase {
            frame::set_rax(&st.win, uc, v as u64);
            st.phase = Phase::Running;
        }
        match (st.phase, what) {
            (Phase::Running, SYS) => {
                st.frame = Some(uc);
                let (nr, args, ip) = frame::syscall(&st.win, uc);
                st.nr = nr;
                st.args = args;
                let arch = crate::filter::ARCH_X86_64;
                self.event(&mut st, EventKind::Syscall { arch, nr, args, ip })
            }
            (Phase::Running, BELL) => {
                st.kicked = false;
                self.answer_in_frame(&mut st, uc);
                if !st.interrupt {
                    st.frame = None;
                    self.command(&mut st, cmd::RETURN);
                    return None;
                }
                st.interrupt = false;
                st.frame = Some(uc);
                self.event(&mut st, EventKind::Interrupted)
            }
            (Phase::Running, code::AGAIN | code::CHILD) if st.interrupt => {
                st.interrupt = false;
                st.frame = Some(uc);
                self.event(&mut st, EventKind::Interrupted)
            }
            (Phase::Running, s) if is_fault(s) => {
                st.frame = Some(uc);
                let (code, addr, trap_no, error_code) = frame::fault(&st.win, uc);
                let signal = s as i32;
                self.event(&mut st, EventKind::Fault { signal, code, addr, trap_no, error_code })
            }
            (Phase::AwaitFrame, BELL) => {
                st.kicked = false;
                self.take_frame(&mut st, uc);
                self.framed(st)
            }
            (Phase::Stopped, BELL) if (!self.killable() || request.is_some()) && st.frame.is_none() => {
                st.kicked = false;
                self.take_frame(&mut st, uc);
                if request.is_some() {
                    self.count(&mut st);
                }
                None
            }
            (Phase::Calls, code::DONE) if st.frame == Some(uc) => {
                self.list_done(st);
                None
            }
            (Phase::Bell, code::AGAIN) => {
                st.phase = Phase::Stopped;
                wake(st);
                None
            }
            (Phase::Bell, code::WOKEN) => {
                st.phase = Phase::Stopped;
                wake(st);
                None
            }
            // Woken by the host for reasons of its own: park again.
            (Phase::Parked | Phase::Limbo, code::WOKEN) | (Phase::Limbo, BELL) => {
                self.command(&mut st, cmd::PARK);
                None
            }
            // Resumed while it was waking for such a reason, or to ring.
            (Phase::Running, code::WOKEN) => {
                if st.interrupt {
                    st.interrupt = false;
                    st.frame = Some(uc);
                    return self.event(&mut st, EventKind::Interrupted);
                }
                let how = if st.win.get(ctl::WAKE) == 2 { cmd::BASES } else { cmd::RETURN };
                st.win.put(ctl::WAKE, 0);
                self.command(&mut st, how);
                None
            }
            _ => {
                self.corrupt("an unexpected doorbell");
                None
            }
        }
    }

    /// The frame after a kick out of a system call. Without WAIT_KILLABLE_RECV the host has wound it back to restart.
    pub fn take_frame(&self, st: &mut St, uc: usize) {
        st.frame = Some(uc);
        if !self.killable() {
            let rip = frame::rip(&st.win, uc);
            frame::set_rip(&st.win, uc, rip.wrapping_add(2));
        }
    }

    fn framed(self: &Arc<Self>, mut st: MutexGuard<'_, St>) -> Option<Event> {
        match st.after {
            After::Op => {
                st.phase = Phase::Stopped;
                wake(st);
                None
            }
            After::Answer(v) => {
                if let Some(uc) = st.frame {
                    frame::set_rax(&st.win, uc, v as u64);
                }
                st.interrupt = false;
                self.event(&mut st, EventKind::Interrupted)
            }
            After::Park => {
                st.win.put(ctl::WAKE, 0);
                st.phase = Phase::Parked;
                self.command(&mut st, cmd::PARK);
                None
            }
            After::Finish(v) => {
                if let Some(uc) = st.frame {
                    frame::set_rax(&st.win, uc, v as u64);
                }
                st.phase = Phase::Stopped;
                self.finish(st);
                None
            }
        }
    }

    /// Lets a task with a frame go on with it.
    pub fn finish(self: &Arc<Self>, mut st: MutexGuard<'_, St>) {
        st.phase = Phase::Running;
        if st.interrupt && !st.kicked {
            return match st.newborn {
                true => self.let_in(&mut st, 0),
                false => self.command(&mut st, cmd::AGAIN),
            };
        }
        let how = self.with_bases(&mut st);
        st.frame = None;
        match st.newborn {
            true => self.let_in(&mut st, wake_word(how)),
            false => self.command(&mut st, how),
        }
    }

    /// Lets a forked child map its window, where it finds what to do ([`wake_word`]), or (0) that it shall ring.
    pub fn let_in(&self, st: &mut St, wake: u64) {
        st.newborn = false;
        st.win.put(ctl::WAKE, wake);
        self.reply(st, Reply::Native);
    }

    /// Has the zygote ring, so that some worker looks at the queue of events. It does anyway while it is busy.
    pub fn ring(&self) {
        let mut st = self.st.lock();
        if st.phase == Phase::Stopped {
            st.phase = Phase::Bell;
            self.command(&mut st, cmd::AGAIN);
        }
    }

    /// Nothing of this thread is reported or touched any more.
    pub fn bury(self: &Arc<Self>, mut st: MutexGuard<'_, St>) -> Option<Owner> {
        st.phase = Phase::Dead;
        st.list = None;
        st.native_fd = None;
        self.uncount(&mut st);
        let owner = st.owner.take();
        let waker = st.waker.take();
        drop(st);
        self.sb.table.remove_if(self.tid as u32, |t| Arc::ptr_eq(t, self));
        if let Some(w) = waker {
            w.wake();
        }
        owner
    }

    /// Its window may go to another thread of a still living address space; the thread is dead for certain.
    pub fn release_window(&self) {
        if !std::mem::replace(&mut self.st.lock().released, true) {
            self.proc.space.free_window(self.index);
        }
    }

    pub fn stopped_with_frame(st: &St) -> Result<usize, PlatformError> {
        match (st.phase, st.frame) {
            (Phase::Stopped | Phase::Parked, Some(uc)) => Ok(uc),
            (Phase::Dead, _) => Err(PlatformError::Gone),
            _ => Err(PlatformError::Corrupt("the task has no frame now")),
        }
    }
}

/// What stands in a window for a command that a thread takes without ringing: a forked child, or one that was parked.
pub fn wake_word(cmd: i64) -> u64 {
    (cmd & !cmd::MARK) as u64 + 1
}

fn is_access(s: u64) -> bool {
    matches!(s as i32, libc::SIGSEGV | libc::SIGBUS)
}

fn is_fault(s: u64) -> bool {
    let s = s as i32;
    matches!(s, libc::SIGSEGV | libc::SIGBUS | libc::SIGFPE | libc::SIGILL | libc::SIGTRAP)
}

/// Wakes the operation that waits for the task, after the lock is gone.
pub fn wake(mut st: MutexGuard<'_, St>) {
    let w = st.waker.take();
    drop(st);
    if let Some(w) = w {
        w.wake();
    }
}
