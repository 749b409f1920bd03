//! PID namespaces and the numbers in them (kernel/pid.c, kernel/pid_namespace.c).
//!
//! A [`Pid`] is the identity of a thread, process, group or session: one number in each namespace from its own up to the
//! kernel's root namespace, which no guest is in. The number there, the *kernel id* (`kid`), is unique in the sandbox:
//! inside the kernel everything is known by it. Guests only ever see numbers of their own namespace; kernel ids are large
//! so that one which leaks is noticed.
//!
//! Neighbours: `tree` finds tasks and processes by kernel id and counts who goes by a [`Pid`]; `exit` ends namespaces.
//! Locks: `PidNs::state` is a leaf inside `Kernel::tree`; a namespace's is taken before its parent's never, one at a time.

use crate::result::ExitStatus;
use crate::{Process, ns};
use chitin_abi::Errno;
use chitin_vfs::{UserNs, WaitQueue};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

/// Numbers go up to this and start over (kernel.pid_max).
pub const PID_MAX: i32 = 32768;
/// Numbers below this are not given out again after the first round (RESERVED_PIDS).
const RESERVED: i32 = 300;
/// Kernel ids: no number of a guest is among them.
const FIRST_KID: i32 = 0x0100_0000;
const LAST_KID: i32 = 0x3fff_ffff;
/// How deep namespaces go, the root's level being 0 (MAX_PID_NS_LEVEL).
const MAX_LEVEL: usize = 32;
/// Identities that are still translated after their end, for objects that remember who made them.
const REMEMBERED: usize = 1024;

/// The identity of a thread, process, group or session (`struct pid`).
pub struct Pid {
    kid: i32,
    nr: i32,
    ns: Arc<PidNs>,
    /// In the namespaces above, from the root's child on.
    above: Vec<(Arc<PidNs>, i32)>,
    /// Tasks, processes, groups and sessions that go by it; at 0 the numbers are free. Under `Kernel::tree`.
    users: AtomicU32,
}

impl Pid {
    /// The number in the kernel's root namespace.
    pub fn kid(&self) -> i32 {
        self.kid
    }
    /// The number in its own namespace.
    pub fn nr(&self) -> i32 {
        self.nr
    }
    pub fn ns(&self) -> &Arc<PidNs> {
        &self.ns
    }
    /// The number in `ns`; 0 if it is not visible there.
    pub fn nr_in(&self, ns: &PidNs) -> i32 {
        if std::ptr::eq(&*self.ns, ns) {
            return self.nr;
        }
        if ns.level == 0 {
            return self.kid;
        }
        self.above.iter().find(|(above, _)| std::ptr::eq(&**above, ns)).map_or(0, |(_, nr)| *nr)
    }
    /// The numbers from `ns` down to its own namespace, as a pidfd's NSpid line shows them.
    pub fn numbers_from(&self, ns: &Arc<PidNs>) -> Vec<i32> {
        self.ns.and_above(ns).iter().map(|ns| self.nr_in(ns)).collect()
    }
    /// Its own namespace and those above, without the root.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &Arc<PidNs>> {
        self.above.iter().map(|(ns, _)| ns).chain(std::iter::once(&self.ns))
    }
}

/// A PID namespace.
pub struct PidNs {
    pub inum: u64,
    pub user_ns: Arc<UserNs>,
    pub(crate) level: usize,
    parent: Option<Arc<PidNs>>,
    /// Its init is a command like any other: it has no protection from signals without a handler.
    pub plain_init: AtomicBool,
    /// The number that numbers stay below.
    pub pid_max: AtomicI32,
    /// Woken at its init's end.
    pub events: WaitQueue,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: i32,
    numbers: BTreeMap<i32, Arc<Pid>>,
    /// The root's: identities without users, the latest last.
    remembered: VecDeque<Arc<Pid>>,
    init: Weak<Process>,
    /// The kernel id of its first process; 0: it has none yet.
    init_kid: i32,
    /// Init is ending: nobody enters any more.
    closed: bool,
    /// Init, waiting for the others' end.
    dying: Option<Arc<Process>>,
    status: Option<ExitStatus>,
}

impl PidNs {
    /// The kernel's own.
    pub(crate) fn root() -> Arc<PidNs> {
        PidNs::with_parent(None, UserNs::initial())
    }

    fn with_parent(parent: Option<Arc<PidNs>>, user_ns: &Arc<UserNs>) -> Arc<PidNs> {
        let level = parent.as_ref().map_or(0, |parent| parent.level.saturating_add(1));
        Arc::new(PidNs {
            inum: ns::new_inum(),
            user_ns: user_ns.clone(),
            level,
            parent,
            plain_init: AtomicBool::new(false),
            pid_max: AtomicI32::new(PID_MAX),
            events: WaitQueue::new(),
            state: Mutex::default(),
        })
    }

    /// A namespace below this one, whose first process becomes its init: ENOSPC when nested too deep.
    pub fn new_child(self: &Arc<PidNs>, user_ns: &Arc<UserNs>) -> Result<Arc<PidNs>, Errno> {
        if self.level >= MAX_LEVEL {
            return Err(Errno::ENOSPC);
        }
        Ok(PidNs::with_parent(Some(self.clone()), user_ns))
    }

    /// The namespace it was made in; `None` if guests see none above.
    pub fn parent(&self) -> Option<&Arc<PidNs>> {
        self.parent.as_ref().filter(|parent| parent.level > 0)
    }
    /// Whether it is `above` or lies below it.
    pub fn is_within(self: &Arc<PidNs>, above: &Arc<PidNs>) -> bool {
        let mut at = Some(self);
        while let Some(ns) = at {
            if Arc::ptr_eq(ns, above) {
                return true;
            }
            at = ns.parent.as_ref();
        }
        false
    }
    /// Its init, while that is known.
    pub fn init(&self) -> Option<Arc<Process>> {
        self.state.lock().init.upgrade()
    }
    /// Whether it never had a process.
    pub fn is_empty(&self) -> bool {
        self.state.lock().init_kid == 0
    }
    /// How its init ended, once everything in it has.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.state.lock().status
    }
    /// Whether init has ended or is ending.
    pub fn is_closed(&self) -> bool {
        self.state.lock().closed
    }
    /// The identity that a number stands for.
    pub fn find(&self, nr: i32) -> Option<Arc<Pid>> {
        self.state.lock().numbers.get(&nr).cloned()
    }
    /// All identities in it, by number.
    pub(crate) fn all(&self) -> Vec<Arc<Pid>> {
        self.state.lock().numbers.values().cloned().collect()
    }
    /// From `above` down to this one.
    pub fn and_above(self: &Arc<PidNs>, above: &Arc<PidNs>) -> Vec<Arc<PidNs>> {
        let mut found = Vec::new();
        let mut at = Some(self);
        while let Some(ns) = at.filter(|ns| ns.level >= above.level) {
            found.push(ns.clone());
            at = ns.parent.as_ref();
        }
        found.reverse();
        found
    }
    /// How many numbers the root gave out.
    pub(crate) fn count_given(&self) -> u64 {
        u64::try_from(self.last().saturating_sub(FIRST_KID).saturating_add(1)).unwrap_or(0)
    }
    /// The number given out last.
    pub fn last(&self) -> i32 {
        self.state.lock().last
    }

    fn range(&self) -> (i32, i32, i32) {
        if self.level == 0 {
            (FIRST_KID, LAST_KID, FIRST_KID)
        } else {
            let max = self.pid_max.load(Ordering::Relaxed).max(2);
            (1, max.saturating_sub(1), if max > RESERVED { RESERVED } else { 1 })
        }
    }

    /// The next free number, which `pid` takes later.
    fn next(&self) -> Option<i32> {
        let (first, last, again) = self.range();
        let mut state = self.state.lock();
        let count = last.saturating_sub(first).saturating_add(1);
        if usize::try_from(count).is_ok_and(|count| state.numbers.len() >= count) {
            return None;
        }
        // Each step meets a number in use, and none more than twice.
        for _ in 0..=state.numbers.len().saturating_mul(2) {
            state.last = if state.last < first { first } else { state.last.saturating_add(1) };
            if state.last > last {
                state.last = again;
            }
            if !state.numbers.contains_key(&state.last) {
                return Some(state.last);
            }
        }
        None
    }

    pub(crate) fn set_init(&self, process: &Arc<Process>) {
        let mut state = self.state.lock();
        if process.pid() == 1 && state.init_kid == 0 {
            state.init_kid = process.kid();
            state.init = Arc::downgrade(process);
        }
    }
    /// Whether a process of this kernel id is its init.
    pub(crate) fn is_init(&self, kid: i32) -> bool {
        self.state.lock().init_kid == kid
    }
    /// Nobody enters any more.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
    }
    /// Init's end waits for the others'.
    pub(crate) fn set_dying(&self, init: Arc<Process>) {
        self.state.lock().dying = Some(init);
    }
    pub(crate) fn is_dying(&self) -> bool {
        self.state.lock().dying.is_some()
    }
    pub(crate) fn take_dying(&self) -> Option<Arc<Process>> {
        self.state.lock().dying.take()
    }
    pub(crate) fn ended(&self, status: ExitStatus) {
        self.state.lock().status.get_or_insert(status);
        self.events.wake(0);
    }
    /// The root's: an identity by kernel id, also for a while after its end.
    pub(crate) fn remembered(&self, kid: i32) -> Option<Arc<Pid>> {
        let state = self.state.lock();
        let past = || state.remembered.iter().rev().find(|pid| pid.kid == kid);
        state.numbers.get(&kid).or_else(past).cloned()
    }
}

/// Gives a new identity its numbers: EAGAIN when a namespace has none left, ENOMEM when its init has ended. It has no
/// users yet; `Kernel::tree` is locked.
pub(crate) fn allocate(root: &Arc<PidNs>, ns: &Arc<PidNs>) -> Result<Arc<Pid>, Errno> {
    if ns.is_closed() {
        return Err(Errno::ENOMEM);
    }
    let mut chain = Vec::new();
    let mut at = Some(ns);
    while let Some(level) = at.filter(|ns| ns.level > 0) {
        chain.push((level.clone(), level.next().ok_or(Errno::EAGAIN)?));
        at = level.parent.as_ref();
    }
    chain.reverse();
    let kid = root.next().ok_or(Errno::EAGAIN)?;
    let (ns, nr) = chain.pop().unwrap_or_else(|| (root.clone(), kid));
    let pid = Arc::new(Pid { kid, nr, ns, above: chain, users: AtomicU32::new(0) });
    for (ns, nr) in pid.above.iter().chain([(pid.ns.clone(), pid.nr), (root.clone(), kid)].iter()) {
        ns.state.lock().numbers.insert(*nr, pid.clone());
    }
    Ok(pid)
}

/// One more goes by it; `Kernel::tree` is locked.
pub(crate) fn attach(pid: &Pid) {
    pid.users.fetch_add(1, Ordering::Relaxed);
}

/// One fewer; the last one frees the numbers. `Kernel::tree` is locked.
pub(crate) fn detach(root: &PidNs, pid: &Pid) {
    if pid.users.fetch_sub(1, Ordering::Relaxed) == 1 {
        free(root, pid);
    }
}

/// Frees the numbers of an identity that never got a user.
pub(crate) fn give_back(root: &PidNs, pid: &Pid) {
    if pid.users.load(Ordering::Relaxed) == 0 {
        free(root, pid);
    }
}

fn free(root: &PidNs, pid: &Pid) {
    for (ns, nr) in &pid.above {
        ns.state.lock().numbers.remove(nr);
    }
    let own = {
        let mut state = pid.ns.state.lock();
        let own = state.numbers.remove(&pid.nr);
        if state.init_kid == 0 && state.numbers.is_empty() {
            // The first one was not to be: the next one is the first.
            state.last = 0;
        }
        own
    };
    let mut state = root.state.lock();
    let known = state.numbers.remove(&pid.kid);
    let oldest = if state.remembered.len() >= REMEMBERED { state.remembered.pop_front() } else { None };
    state.remembered.extend(known);
    drop(state);
    // Their namespaces may go with them, so no lock is held.
    drop((own, oldest));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_per_level() {
        let root = PidNs::root();
        let one = root.new_child(UserNs::initial()).unwrap();
        let two = one.new_child(UserNs::initial()).unwrap();
        let other = root.new_child(UserNs::initial()).unwrap();
        let init = allocate(&root, &one).unwrap();
        let nested = allocate(&root, &two).unwrap();
        assert_eq!((init.nr(), init.nr_in(&one), init.nr_in(&two), init.nr_in(&other)), (1, 1, 0, 0));
        assert_eq!((nested.nr(), nested.nr_in(&one), nested.nr_in(&two)), (1, 2, 1));
        assert_eq!(nested.numbers_from(&one), [2, 1]);
        assert_eq!(nested.numbers_from(&two), [1]);
        assert_eq!(nested.nr_in(&root), nested.kid());
        assert!(one.find(2).is_some_and(|found| Arc::ptr_eq(&found, &nested)) && one.find(3).is_none());
        assert!(two.is_within(&one) && !one.is_within(&two) && !other.is_within(&one));
        assert!(one.parent().is_none() && two.parent().is_some());
    }

    #[test]
    fn numbers_are_free_when_the_last_user_goes() {
        let root = PidNs::root();
        let ns = root.new_child(UserNs::initial()).unwrap();
        ns.pid_max.store(4, Ordering::Relaxed);
        let pids: Vec<_> = (0..3).map(|_| allocate(&root, &ns).unwrap()).collect();
        assert_eq!(allocate(&root, &ns).err(), Some(Errno::EAGAIN));
        let Some(last) = pids.last() else { return };
        attach(last);
        attach(last);
        detach(&root, last);
        assert_eq!(allocate(&root, &ns).err(), Some(Errno::EAGAIN));
        detach(&root, last);
        assert!(ns.find(3).is_none());
        // Still translated.
        assert_eq!(root.remembered(last.kid()).map(|pid| pid.nr_in(&ns)), Some(3));
        assert_eq!(allocate(&root, &ns).map(|pid| pid.nr()), Ok(3));
        ns.close();
        assert_eq!(allocate(&root, &ns).err(), Some(Errno::ENOMEM));
    }

    #[test]
    fn nesting_is_bounded() {
        let mut ns = PidNs::root();
        for _ in 0..MAX_LEVEL {
            ns = ns.new_child(UserNs::initial()).unwrap();
        }
        assert_eq!(ns.new_child(UserNs::initial()).err(), Some(Errno::ENOSPC));
    }
}
