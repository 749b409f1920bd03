//! Chains of filters: each task has the newest one, which names its elders. Shared by whoever inherited it.

use super::bpf::{Program, Words};
use super::notify::Listener;
use chitin_abi::Errno;
use chitin_abi::nr::NR_SYSCALLS;
use chitin_abi::num::{low32, to_usize};
use chitin_abi::seccomp::*;
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use zerocopy::transmute;

/// Instructions of a whole chain (MAX_INSNS_PER_PATH), each filter counting as 4 more than it has.
const MAX_INSNS: usize = (1 << 18) / size_of::<SockFilter>();
const OVERHEAD: usize = 4;

/// One filter, and what was there before it.
pub struct Filter {
    program: Program,
    prev: Option<Arc<Filter>>,
    /// Numbers that this filter and its elders let pass whatever the arguments are.
    allowed: [u64; to_usize(NR_SYSCALLS).div_ceil(64)],
    /// Instructions of the chain, with overhead.
    cost: usize,
    /// Filters in the chain.
    depth: u32,
    /// SECCOMP_FILTER_FLAG_LOG.
    pub(super) log: bool,
    /// SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV.
    pub(super) wait_killable: bool,
    pub(super) listener: Option<Arc<Listener>>,
}

impl Filter {
    /// Puts a filter on top of a chain. ENOMEM when the chain becomes too long.
    pub(super) fn new(
        program: Program,
        prev: Option<Arc<Filter>>,
        flags: u32,
        listener: Option<Arc<Listener>>,
    ) -> Result<Arc<Filter>, Errno> {
        let before = prev.as_ref().map_or(0, |prev| prev.cost);
        // As in Linux the overhead counts for the elders only.
        if program.len().saturating_add(before) > MAX_INSNS {
            return Err(Errno::ENOMEM);
        }
        let mut allowed = prev.as_ref().map_or([u64::MAX; _], |prev| prev.allowed);
        for (index, word) in allowed.iter_mut().enumerate() {
            for bit in 0..64 {
                let nr = low32(index as u64 * 64 + bit);
                if *word & 1 << bit != 0 && !program.always_allows(nr, AUDIT_ARCH_X86_64) {
                    *word &= !(1 << bit);
                }
            }
        }
        Ok(Arc::new(Filter {
            cost: before.saturating_add(program.len()).saturating_add(OVERHEAD),
            depth: prev.as_ref().map_or(0, |prev| prev.depth).saturating_add(1),
            program,
            prev,
            allowed,
            log: flags & SECCOMP_FILTER_FLAG_LOG != 0,
            wait_killable: flags & SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV != 0,
            listener,
        }))
    }

    /// This filter and its elders.
    pub(super) fn chain(self: &Arc<Filter>) -> impl Iterator<Item = &Arc<Filter>> {
        std::iter::successors(Some(self), |filter| filter.prev.as_ref())
    }

    /// The strictest answer of the chain, and the newest filter that gave it (seccomp_run_filters()).
    pub fn verdict(self: &Arc<Filter>, data: &SeccompData) -> (u32, &Arc<Filter>) {
        let nr = data.nr.cast_unsigned();
        if data.arch == AUDIT_ARCH_X86_64
            && self.allowed.get(nr as usize / 64).is_some_and(|word| word & 1 << (nr % 64) != 0)
        {
            return (SECCOMP_RET_ALLOW, self);
        }
        let words: Words = transmute!(*data);
        let mut found = (SECCOMP_RET_ALLOW, self);
        for filter in self.chain() {
            let answer = filter.program.run(&words);
            if action_only(answer) < action_only(found.0) {
                found = (answer, filter);
            }
        }
        found
    }

    pub fn depth(&self) -> u32 {
        self.depth
    }
}

/// The action as Linux compares it: a signed number, the strictest being the lowest.
fn action_only(answer: u32) -> i32 {
    (answer & SECCOMP_RET_ACTION_FULL).cast_signed()
}

impl Drop for Filter {
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            listener.abandoned();
        }
        // Chains are long: one after the other instead of each within its heir's end.
        let mut next = self.prev.take();
        while let Some(mut filter) = next.and_then(Arc::into_inner) {
            next = filter.prev.take();
        }
    }
}

/// A thread's mode and filters.
#[derive(Default)]
pub struct TaskSeccomp {
    /// SECCOMP_MODE_*; never goes back.
    mode: AtomicU32,
    chain: RwLock<Option<Arc<Filter>>>,
}

impl TaskSeccomp {
    /// What a new thread or process inherits.
    pub(crate) fn inherited(&self) -> TaskSeccomp {
        let chain = self.chain.read().clone();
        TaskSeccomp { mode: AtomicU32::new(self.mode()), chain: RwLock::new(chain) }
    }

    /// Takes over what the maker has; for a task that nobody knows yet.
    pub(crate) fn inherit(&self, from: &TaskSeccomp) {
        let own = from.inherited();
        *self.chain.write() = own.chain.into_inner();
        self.mode.store(own.mode.into_inner(), Ordering::Release);
    }

    pub fn mode(&self) -> u32 {
        self.mode.load(Ordering::Acquire)
    }

    /// Whether calls have to be looked at.
    pub fn active(&self) -> bool {
        self.mode() != SECCOMP_MODE_DISABLED
    }

    pub fn filter(&self) -> Option<Arc<Filter>> {
        self.chain.read().clone()
    }

    /// How many filters there are (/proc/PID/status).
    pub fn filters(&self) -> u32 {
        self.chain.read().as_ref().map_or(0, |filter| filter.depth())
    }

    /// EINVAL when another mode is set already (seccomp_may_assign_mode()).
    pub(super) fn may_assign(&self, mode: u32) -> Result<(), Errno> {
        let now = self.mode();
        if now != SECCOMP_MODE_DISABLED && now != mode { Err(Errno::EINVAL) } else { Ok(()) }
    }

    pub(super) fn set_strict(&self) {
        self.mode.store(SECCOMP_MODE_STRICT, Ordering::Release);
    }

    pub(super) fn set_filter(&self, filter: Arc<Filter>) {
        let old = self.chain.write().replace(filter);
        drop(old);
        self.mode.store(SECCOMP_MODE_FILTER, Ordering::Release);
    }

    /// A thread that has ended uses its filters no more: their listeners may hang up. The mode stays.
    pub(crate) fn release(&self) {
        let old = self.chain.write().take();
        drop(old);
    }
}
