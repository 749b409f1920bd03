//! Calls that the host winds back while they wait for their answer, and makes again.
//!
//! Whatever sets a thread's "signal pending" does it: our kick, but also SIGSTOP, the cgroup freezer, a debugger or a suspend.
//! With WAIT_KILLABLE_RECV a received notification does not care; without it (before Linux 5.19) the notification vanishes,
//! an answer finds nobody (ENOENT), and the thread makes the call again, with the same arguments, unless a handler runs
//! first. Then its frame stands before the call. Whatever the mode, the host winds a clone back that it has begun.
//!
//! Neighbours: `task` asks here first; `calls` lets a listed call be made again; `stub` numbers its doorbells.
//!
//! Invariant: an answer that found nobody is kept in `St::said` for the repeated call, or for the frame. One gap is the
//! host's: a thread that has been woken for the signal may not look whether the answer has come meanwhile, which we took
//! for delivered. A doorbell says by its number that this happened; a guest's call looks like a new one, and is reported.

use crate::frame;
use crate::stub::{DOORBELL, STUB_BASE};
use crate::sys::Notif;
use crate::task::{Phase, St, Task};

/// What a notification is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    Value(i64),
    /// The host runs the call.
    Native,
}

/// What makes a repeated call known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    nr: i32,
    ip: u64,
    args: [u64; 6],
}

impl Made {
    pub fn of(n: &Notif) -> Made {
        Made { nr: n.nr, ip: n.ip, args: n.args }
    }

    fn by_stub(&self) -> bool {
        self.ip & !0xfff == STUB_BASE
    }

    fn is_bell(&self) -> bool {
        self.nr as u64 == DOORBELL && self.by_stub()
    }
}

/// What the last notification was answered, and whether that found nobody.
#[derive(Clone, Copy, Debug)]
pub struct Said {
    reply: Reply,
    lost: bool,
}

/// Whether an error says that nobody waits in the notification any more: wound back, or killed.
pub fn wound_back(errno: i32) -> bool {
    matches!(errno, libc::ENOENT | libc::ESRCH)
}

impl Task {
    /// Answers the outstanding notification.
    pub fn reply(&self, st: &mut St, reply: Reply) {
        let sent = match reply {
            Reply::Value(v) => self.line.listener.answer(st.id, v),
            Reply::Native => self.line.listener.go_on(st.id),
        };
        match sent {
            Ok(()) | Err(libc::ENOENT) if self.killable() => {}
            Ok(()) => st.said = Some(Said { reply, lost: false }),
            // The thread was killed, or its call wound back.
            Err(libc::ENOENT) => st.said = Some(Said { reply, lost: true }),
            Err(errno) => tracing::error!(errno, tid = self.tid, "answering a notification failed"),
        }
    }

    /// Whether the notification is that of a call that has been reported before; it has been dealt with, then.
    pub fn made_again(&self, st: &mut St, n: &Notif) -> bool {
        if self.killable() {
            return false;
        }
        let made = Made::of(n);
        if st.made.replace(made) != Some(made) {
            // A lost answer may go into the frame that a kick brings; nothing else comes between.
            st.said = st.said.filter(|said| said.lost && made.is_bell());
            return false;
        }
        let listed = st.phase == Phase::Calls && !made.is_bell();
        match st.said {
            Some(said) if said.lost || (made.by_stub() && !listed) => {
                st.id = n.id;
                self.reply(st, said.reply);
                true
            }
            _ if listed => false,
            Some(_) => {
                st.said = None;
                false
            }
            // The answer comes later; of a kicked task it is not the call that gets it.
            None => {
                st.id = n.id;
                true
            }
        }
    }

    /// A handler runs before the call is made again: the lost answer goes into the frame instead.
    pub fn answer_in_frame(&self, st: &mut St, uc: usize) {
        if let Some(Said { reply: Reply::Value(v), lost: true }) = st.said.take() {
            self.take_frame(st, uc);
            frame::set_rax(&st.win, uc, v as u64);
        }
    }
}
