//! Calls without notifications: which threads make so many that a worker polls for them, and what their requests mean.
//!
//! A notification costs two context switches. A thread that makes one call after the other has its call sites patched
//! ([`crate::sites`]), and while a worker polls ([`crate::poller`]), its calls are requests in its window
//! ([`crate::trampoline`]). To the kernel such a call is one like any other: the task is stopped, and resumed. If the
//! answer takes its time, the thread sleeps in its window. If it has waited long enough, it makes the very call after all, and
//! its notification takes the answer.
//!
//! Neighbours: `task` and `control` ask here where a call was not notified; `frame` holds what an interrupted thread was about.
//!
//! Invariant: `St::request` is there from when a request is taken until the thread has its answer, a frame, or a notification
//! for it. Whatever the guest writes into its window, a request is one of a patched site's, so of a suitable call.

use crate::filter::ARCH_X86_64;
use crate::frame;
use crate::parcel::{self, Written};
use crate::restart::Reply;
use crate::sites::{Known, Seen, Site, Wanted};
use crate::sys::{self, Notif};
use crate::task::{After, Phase, St, Task};
use crate::trampoline::{Whereabouts, how, site_of, whereabouts};
use chitin_platform::{Event, EventKind};
use parking_lot::{Mutex, MutexGuard};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// What it takes until a thread is polled for.
#[derive(Clone, Copy, Debug)]
pub struct Temper {
    /// Cycles in which a thread makes a call if it makes many; half as many again while a worker polls anyway: who exchanges much
    /// with a thread that is polled for makes fewer calls than it would.
    gap: u64,
    /// So many calls beyond that make it worth while.
    hot: u64,
    /// Cycles that nobody polls after it was not worth while: at first, doubled each time, and at most.
    rest: u64,
    most_rest: u64,
    /// Whether each busy thread must have a CPU besides the one of who polls, or make clearly more calls.
    considerate: bool,
}

pub const CALM: Temper =
    Temper { gap: 100_000, hot: 48, rest: 2_500_000, most_rest: 100_000_000, considerate: true };
/// At once and always.
pub const EAGER: Temper = Temper { gap: 50_000_000, hot: 2, rest: 1, most_rest: 1, considerate: false };

/// A thread whose last call is not longer ago has a CPU, or wants one.
const BUSY: u64 = 5_000_000;
/// Threads that are polled for.
const MOST: usize = 16;

/// In cycles: how often it is asked whether polling is worth while.
pub const PERIOD: u64 = 12_500_000;
/// For how long what threads did without polling is what they would do: a program's work changes.
const VALID: u64 = 200 * PERIOD;

/// Calls in a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    calls: u64,
    cycles: u64,
}

impl Pace {
    pub fn new(calls: u64, cycles: u64) -> Pace {
        Pace { calls, cycles }
    }

    /// By a quarter at least.
    pub fn clearly_exceeds(self, other: Pace) -> bool {
        let rate = |calls: u64, cycles: u64| u128::from(calls) * u128::from(cycles);
        rate(self.calls, other.cycles) / 5 > rate(other.calls, self.cycles) / 4
    }
}

/// How many calls busy threads make by notifications.
#[derive(Clone, Copy, Debug, Default)]
struct Notified {
    calls: u64,
    /// The period under way: when it began, and `calls` then.
    start: u64,
    calls_then: u64,
    /// The last whole one, and when it ended.
    last: Option<(Pace, u64)>,
}

impl Notified {
    /// What has been polled for meanwhile belongs to no period.
    fn begin_again(&mut self) {
        self.start = 0;
    }

    fn add(&mut self, now: u64) {
        self.calls = self.calls.wrapping_add(1);
        let cycles = now.wrapping_sub(self.start);
        if cycles >= PERIOD {
            // A much longer one was interrupted.
            if cycles < PERIOD * 2 {
                let calls = self.calls.wrapping_sub(self.calls_then);
                self.last = Some((Pace::new(calls, cycles), now));
            }
            (self.start, self.calls_then) = (now, self.calls);
        }
    }

    /// That of the last whole period, if it still says something.
    fn pace(&self, now: u64) -> Option<Pace> {
        self.last.filter(|(_, at)| now.wrapping_sub(*at) < VALID).map(|(pace, _)| pace)
    }
}

/// The time stamp counter.
pub fn cycles() -> u64 {
    // SAFETY: the instruction reads a counter.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// A request under way.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The mailbox's word.
    word: u64,
    site: Site,
}

/// How fast a thread's calls follow each other, on an average: it may wait for another now and then.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heat {
    last: u64,
    calls: u64,
}

impl Heat {
    /// Another call; answers whether the thread makes many.
    fn rises(&mut self, now: u64, temper: &Temper, polled: bool) -> bool {
        let most = if polled { temper.gap.saturating_mul(3) / 2 } else { temper.gap };
        let gap = now.wrapping_sub(std::mem::replace(&mut self.last, now));
        let left = self.calls.saturating_sub(gap / most.max(1));
        self.calls = left.saturating_add(1).min(temper.hot * 2);
        self.calls >= temper.hot
    }
}

pub struct Fast {
    /// It is wanted, the host lets threads find their windows, and there is a CPU for who polls.
    usable: bool,
    temper: Temper,
    /// Busy threads up to which there is a CPU for who polls.
    room: usize,
    /// The threads that make, or made, many calls.
    hot: Mutex<Vec<Weak<Task>>>,
    /// Counts changes of `hot`.
    pub changes: AtomicU64,
    /// A worker polls, or has been called to.
    polling: AtomicBool,
    /// Where the worker was that called: on the CPU of the thread that is to be polled for.
    pub busy_cpu: AtomicUsize,
    /// Nobody polls before this, in cycles.
    rest_until: AtomicU64,
    rest: AtomicU64,
    /// Polling is to be compared with what the threads do without it before anybody polls again.
    unmeasured: AtomicBool,
    notified: Mutex<Notified>,
    /// Requests that nobody took in time.
    pub missed: AtomicU64,
    /// Requests taken.
    pub taken: AtomicU64,
}

impl Fast {
    pub fn new(usable: bool, temper: Temper, cpus: usize) -> Fast {
        Fast {
            usable: usable && cpus > 1,
            temper,
            room: if temper.considerate { cpus.saturating_sub(1) } else { usize::MAX },
            hot: Mutex::default(),
            changes: AtomicU64::new(0),
            polling: AtomicBool::new(false),
            busy_cpu: AtomicUsize::new(usize::MAX),
            rest_until: AtomicU64::new(0),
            rest: AtomicU64::new(temper.rest),
            unmeasured: AtomicBool::new(false),
            notified: Mutex::default(),
            missed: AtomicU64::new(0),
            taken: AtomicU64::new(0),
        }
    }

    pub fn usable(&self) -> bool {
        self.usable
    }

    /// Polling was not worth while.
    pub fn tire(&self) {
        let rest = self.rest.load(Ordering::Relaxed);
        self.rest_until.store(cycles().saturating_add(rest), Ordering::Relaxed);
        self.rest.store(rest.saturating_mul(2).min(self.temper.most_rest), Ordering::Relaxed);
    }

    /// Polling was worth while.
    pub fn refresh(&self) {
        self.rest.store(self.temper.rest, Ordering::Relaxed);
    }

    /// How many calls busy threads have made by notifications.
    pub fn notified(&self) -> u64 {
        self.notified.lock().calls
    }

    /// What busy threads do without polling, if that is known.
    pub fn pace(&self, now: u64) -> Option<Pace> {
        self.notified.lock().pace(now)
    }

    /// Nobody polls until that is known.
    pub fn measure(&self) {
        self.unmeasured.store(true, Ordering::Relaxed);
    }

    /// Whether who polls would be in the way of a thread that makes calls.
    pub fn is_crowded(&self, now: u64) -> bool {
        let busy = |task: &Arc<Task>| now.saturating_sub(task.last_call.load(Ordering::Relaxed)) < BUSY;
        self.hot.lock().iter().filter(|task| task.upgrade().is_some_and(|task| busy(&task))).count()
            > self.room
    }

    /// Has a worker come and poll, unless that has been done; `call` answers whether one comes.
    fn start(&self, now: u64, call: impl FnOnce() -> bool) {
        if !self.polling.load(Ordering::Relaxed) && !self.polling.swap(true, Ordering::AcqRel) {
            // Where there is no CPU to spare it must be known what polling is to be compared with.
            let matters = self.unmeasured.load(Ordering::Relaxed) || self.is_crowded(now);
            if matters && self.pace(now).is_none() {
                return self.polling.store(false, Ordering::Release);
            }
            self.unmeasured.store(false, Ordering::Relaxed);
            self.busy_cpu.store(sys::current_cpu().unwrap_or(usize::MAX), Ordering::Relaxed);
            if !call() {
                self.polling.store(false, Ordering::Release);
            }
        }
    }

    /// Who is to be polled for from now on.
    pub fn hot(&self) -> Vec<Arc<Task>> {
        let mut hot = self.hot.lock();
        hot.retain(|task| task.upgrade().is_some_and(|task| !task.is_dead()));
        let hot: Vec<_> = hot.iter().filter_map(Weak::upgrade).collect();
        hot.iter().for_each(|task| task.mailbox.set_on(true));
        hot
    }

    /// Nobody polls any more.
    pub fn cool(&self) {
        self.notified.lock().begin_again();
        self.polling.store(false, Ordering::Release);
        self.hot.lock().iter().filter_map(Weak::upgrade).for_each(|task| task.mailbox.set_on(false));
    }

    fn add(&self, task: Weak<Task>) {
        let mut hot = self.hot.lock();
        if hot.len() >= MOST {
            if let Some(old) = hot.remove(0).upgrade() {
                old.mailbox.set_on(false);
                old.listed.store(false, Ordering::Relaxed);
            }
        }
        hot.push(task);
        self.changes.fetch_add(1, Ordering::Release);
    }
}

impl Task {
    fn is_dead(&self) -> bool {
        self.st.try_lock().is_some_and(|st| st.phase == Phase::Dead)
    }

    /// A call has been notified: whether its thread makes many, and what is done about it. The thread is stopped.
    pub(crate) fn heat(self: &Arc<Self>, st: &mut St, n: &Notif) {
        let fast = &self.sb.fast;
        if !fast.usable() || n.arch != ARCH_X86_64 {
            return;
        }
        let now = cycles();
        if !st.heat.rises(now, &fast.temper, fast.polling.load(Ordering::Relaxed)) {
            return;
        }
        self.last_call.store(now, Ordering::Relaxed);
        fast.notified.lock().add(now);
        if !self.listed.swap(true, Ordering::Relaxed) {
            fast.add(self.me.clone());
        }
        let rests = now < fast.rest_until.load(Ordering::Relaxed);
        match self.proc.space.sites.known(n.ip) {
            Known::Patched if self.mailbox.is_on() => {
                if self.mailbox.how() == Some(how::CANCELLED) {
                    fast.missed.fetch_add(1, Ordering::Relaxed);
                    self.mailbox.look_longer();
                }
            }
            Known::Patched if !rests => fast.start(now, || self.sb.standbys.call_poller()),
            Known::No(tries) => st.wanted = Some(Wanted { ret: n.ip, nr: n.nr, tries }),
            Known::Patched | Known::Never => {}
        }
    }

    /// Takes the thread's request, if there is one; the call's site, and the event. `seen`: call sites known to who polls; `now`: what
    /// the time was lately.
    pub(crate) fn take_request(self: &Arc<Self>, seen: &mut Vec<Seen>, now: u64) -> Option<(u8, Event)> {
        self.mailbox.standing()?;
        let mut st = self.st.lock();
        let word = self.mailbox.standing()?;
        if st.phase != Phase::Running || st.request.is_some() {
            return None;
        }
        let number = site_of(word);
        let Some(Seen { site, wrote }) = self.proc.space.sites.at_seen(number, seen) else {
            self.corrupt("a request of no call site");
            return None;
        };
        let args = self.mailbox.args();
        self.last_call.store(now, Ordering::Relaxed);
        st.heat.last = now;
        parcel::open(self, site.nr, &args, wrote);
        st.request = Some(Request { word, site });
        st.frame = None;
        st.nr = site.nr.into();
        st.args = args;
        let (arch, nr, ip) = (ARCH_X86_64, site.nr.into(), site.ret);
        let event = self.event(&mut st, EventKind::Syscall { arch, nr, args, ip })?;
        Some((number, event))
    }

    /// If the answer to a request that was taken has not come at once, the thread is to sleep; answers whether it is.
    pub(crate) fn defer_request(&self) -> bool {
        // As a rule it has. The window is not asked: the thread's CPU has it now, and needs it for the next request.
        let st = self.st.lock();
        if let (Phase::Stopped, Some(request)) = (st.phase, st.request) {
            let _taken_back = self.mailbox.settle(request.word, how::SLEEP);
            return true;
        }
        false
    }

    /// The thread's request has come to its answer in another way.
    pub(crate) fn forget_request(&self, st: &mut St) -> Option<Request> {
        let request = st.request.take()?;
        let _settled = self.mailbox.settle(request.word, how::CANCELLED);
        Some(request)
    }

    /// Answers the request in which the task is stopped.
    pub(crate) fn answer_request(&self, st: &mut St, request: Request, v: i64, written: Written) {
        if st.interrupt || st.kicked {
            // The report comes before any guest instruction: the kick's frame takes the answer.
            if !st.kicked {
                self.kick(st);
            }
            st.phase = Phase::AwaitFrame;
            st.after = After::Answer(written.answer(v));
            return;
        }
        st.phase = Phase::Running;
        st.request = None;
        self.mailbox.set_result(v as u64);
        self.mailbox.set_written(written.len());
        self.wrote.store(written.len(), Ordering::Relaxed);
        if !self.mailbox.answered(request.word) {
            self.mailbox.look_longer();
            st.request = Some(request);
            st.phase = Phase::Answered(written.answer(v));
        }
    }

    /// A notification of a task whose request is under way: it is that for the very call.
    pub(crate) fn fetches_answer(self: &Arc<Self>, mut st: MutexGuard<'_, St>, request: Request, n: &Notif) {
        if n.ip != request.site.ret || n.nr != i32::from(request.site.nr) {
            return self.corrupt("a system call while it was stopped");
        }
        st.id = n.id;
        self.forget_request(&mut st);
        match st.phase {
            Phase::Stopped => self.count(&mut st),
            Phase::Answered(v) => {
                if st.interrupt && !st.kicked {
                    self.kick(&mut st);
                }
                st.phase = Phase::Running;
                self.reply(&mut st, Reply::Value(v));
            }
            // It has been kicked: the frame comes next.
            Phase::AwaitFrame | Phase::Limbo => self.reply(&mut st, Reply::Value(0)),
            _ => self.corrupt("an answer fetched at the wrong time"),
        }
    }

    /// A signal has interrupted the thread. Puts the frame where the guest's own code would stand: before the call if it has
    /// not been made, behind it otherwise. Answers whether the guest is to know of it: not of a `fault` that a copy of ours has
    /// come upon, which makes the call go the other way, or fail.
    pub(crate) fn straighten(&self, st: &mut St, uc: usize, fault: bool) -> bool {
        let stands = whereabouts(frame::rip(&st.win, uc), frame::rax(&st.win, uc), frame::r11(&st.win, uc));
        if stands == Whereabouts::Sleeping {
            let [rdi, rsi, rdx, r10, ..] = self.mailbox.args();
            frame::set_rdi(&st.win, uc, rdi);
            frame::set_rsi(&st.win, uc, rsi);
            frame::set_rdx(&st.win, uc, rdx);
            frame::set_r10(&st.win, uc, r10);
        }
        if let Some(request) = st.request {
            frame::set_rip(&st.win, uc, request.site.ret);
            return true;
        }
        let sites = &self.proc.space.sites;
        let word = self.mailbox.request();
        let (site, made) = match stands {
            Whereabouts::Elsewhere => return true,
            Whereabouts::Last(at) => (sites.by_instruction(at), false),
            Whereabouts::Before(site) | Whereabouts::Packing(site) => (sites.at(site), false),
            Whereabouts::Answered | Whereabouts::Unpacking => (sites.at(site_of(word)), true),
            Whereabouts::Requested | Whereabouts::Sleeping => {
                let _settled = self.mailbox.settle(word, how::CANCELLED);
                (sites.at(site_of(word)), self.mailbox.how() == Some(how::ANSWERED))
            }
        };
        let Some(site) = site else {
            self.corrupt("a call of no call site");
            return true;
        };
        let held = match stands {
            Whereabouts::Packing(_) => Some(self.mailbox.saved()),
            Whereabouts::Unpacking => Some(self.mailbox.args()).map(|[rdi, rsi, rdx, ..]| [rdi, rsi, rdx]),
            _ => None,
        };
        if let Some([rdi, rsi, rdx]) = held {
            frame::set_rdi(&st.win, uc, rdi);
            frame::set_rsi(&st.win, uc, rsi);
            frame::set_rdx(&st.win, uc, rdx);
        }
        let failed = fault && held.is_some();
        if made {
            let mut result = self.mailbox.result();
            if self.unpack(site.nr).is_err() {
                result = (-i64::from(libc::EFAULT)) as u64;
            }
            frame::set_rip(&st.win, uc, site.ret);
            frame::set_rax(&st.win, uc, result);
        } else if failed {
            frame::set_rip(&st.win, uc, site.ret.wrapping_sub(2));
            frame::set_rax(&st.win, uc, site.nr.into());
        } else {
            frame::set_rip(&st.win, uc, site.entry());
        }
        !failed
    }

    /// What the thread has not, or not wholly, taken from its parcel.
    fn unpack(&self, nr: u16) -> Result<(), i32> {
        let len = self.mailbox.written();
        if len == 0 {
            return Ok(());
        }
        parcel::deliver(self, parcel::target(nr, &self.mailbox.args()), len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_known_after_a_whole_period_without_a_break() {
        let mut notified = Notified::default();
        notified.begin_again();
        let begin = 1 << 40;
        notified.add(begin);
        assert_eq!(notified.pace(begin), None, "what came before counts for nothing");
        for i in 1..=100 {
            notified.add(begin + i * (PERIOD / 100));
        }
        let known = Some(Pace::new(100, PERIOD));
        assert_eq!(notified.pace(begin + PERIOD), known);
        notified.begin_again();
        notified.add(begin + PERIOD * 4);
        assert_eq!(notified.pace(begin + PERIOD * 4), known, "of before the break");
        assert_eq!(notified.pace(begin + PERIOD + VALID), None, "too long ago");
        assert_eq!(notified.calls, 102);
    }

    #[test]
    fn a_thread_is_hot_whose_calls_are_many_on_an_average() {
        let mut heat = Heat::default();
        let mut now = 1 << 40;
        let mut bursts = |heat: &mut Heat, calls: u64, pause: u64, polled: bool| {
            let mut hot = false;
            for _ in 0..200 {
                (0..calls).for_each(|_| {
                    now += CALM.gap / 4;
                    hot = heat.rises(now, &CALM, polled);
                });
                now += pause * CALM.gap;
            }
            hot
        };
        assert!(bursts(&mut heat, 20, 10, false), "20 calls in the time of 15, waiting included");
        assert!(!bursts(&mut heat, 20, 25, false), "20 in the time of 30");
        assert!(bursts(&mut heat, 20, 25, true), "as many, while a worker polls anyway");
        assert!(!bursts(&mut heat, 20, 35, true), "20 in the time of 40");
        assert!(bursts(&mut heat, 60, 1000, false), "a long burst");
        assert!(!bursts(&mut heat, 1, 1000, false), "forgotten");
    }

    #[test]
    fn a_pace_exceeds_another_by_a_quarter_or_not_clearly() {
        let pace = |calls| Pace::new(calls, PERIOD);
        assert!(pace(126).clearly_exceeds(pace(100)));
        assert!(!pace(125).clearly_exceeds(pace(100)));
        assert!(Pace::new(64, PERIOD / 2).clearly_exceeds(pace(100)));
        assert!(!pace(0).clearly_exceeds(pace(0)));
        assert!(Pace::new(u64::MAX, 1).clearly_exceeds(Pace::new(1, u64::MAX)), "no overflow");
    }
}
