//! Time namespaces (time_namespaces(7)): what is added to the host's monotonic and boot-time clocks.
//!
//! Deadlines and clocks inside the kernel are the host's; whoever takes a moment from a guest or tells it one adds or
//! takes away its offset ([`Task::time_offset`], [`Task::moment`]). Offsets are set while nobody lives there.
//!
//! Guests read clocks through the host's vDSO, which knows no offsets. A program that is executed in a namespace with
//! offsets is therefore not told of the vDSO (AT_SYSINFO_EHDR) and makes system calls; one that is forked into such a
//! namespace and never executes another keeps reading the host's clocks as far as it reads them through the vDSO.

use super::{Base, Deadline};
use crate::Task;
use crate::ns::new_inum;
use chitin_abi::Errno;
use chitin_abi::time::*;
use chitin_vfs::UserNs;
use chitin_vfs::bounds::{Bound, Share};
use parking_lot::Mutex;
use std::sync::Arc;

/// Time namespaces of guests (user.max_time_namespaces): ENOSPC.
pub static TIME_NAMESPACES: Bound = Bound::new(4096);

/// The most seconds a clock may show (KTIME_SEC_MAX / 2).
const SECONDS_MAX: i64 = i64::MAX / NSEC_PER_SEC / 2;

/// What is added to the clocks, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    pub monotonic: i64,
    pub boottime: i64,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    offsets: Offsets,
    /// Somebody lives there.
    entered: bool,
}

pub struct TimeNs {
    pub inum: u64,
    pub user_ns: Arc<UserNs>,
    state: Mutex<State>,
    _share: Option<Share>,
}

impl TimeNs {
    /// A container's.
    pub fn new(offsets: Offsets, user_ns: &Arc<UserNs>) -> Arc<TimeNs> {
        // PROC_TIME_INIT_INO, where there is nothing to tell it apart by.
        let inum = if offsets == Offsets::default() { 0xefff_fffa } else { new_inum() };
        let state = Mutex::new(State { offsets, entered: true });
        Arc::new(TimeNs { inum, user_ns: user_ns.clone(), state, _share: None })
    }

    /// For CLONE_NEWTIME: the same offsets, to be changed until somebody enters.
    pub fn copy(&self, user_ns: &Arc<UserNs>) -> Result<Arc<TimeNs>, Errno> {
        let share = TIME_NAMESPACES.share(1).ok_or(Errno::ENOSPC)?;
        let state = Mutex::new(State { offsets: self.offsets(), entered: false });
        Ok(Arc::new(TimeNs { inum: new_inum(), user_ns: user_ns.clone(), state, _share: Some(share) }))
    }

    pub fn offsets(&self) -> Offsets {
        self.state.lock().offsets
    }

    /// From now on it stays as it is.
    pub fn enter(&self) {
        self.state.lock().entered = true;
    }

    /// proc_timens_set_offset(): EACCES once somebody lives there, ERANGE for clocks before 0 or beyond what they show.
    pub fn set(&self, changes: &[(i32, Timespec)]) -> Result<(), Errno> {
        let mut state = self.state.lock();
        let mut new = state.offsets;
        for (clock, offset) in changes {
            let (base, slot) = match *clock {
                CLOCK_MONOTONIC => (Base::Monotonic, &mut new.monotonic),
                CLOCK_BOOTTIME => (Base::Boottime, &mut new.boottime),
                _ => return Err(Errno::EINVAL),
            };
            *slot = checked(base, offset)?;
        }
        if state.entered {
            return Err(Errno::EACCES);
        }
        state.offsets = new;
        Ok(())
    }
}

/// An offset in nanoseconds, if the clock stays sensible with it: ERANGE.
pub fn checked(base: Base, offset: &Timespec) -> Result<i64, Errno> {
    let now = i64::try_from(base.now()).unwrap_or(i64::MAX);
    let whole = offset.tv_sec.checked_mul(NSEC_PER_SEC).and_then(|ns| ns.checked_add(offset.tv_nsec));
    let ns = whole.ok_or(Errno::ERANGE)?;
    let then = now.checked_add(ns).ok_or(Errno::ERANGE)?;
    if then < 0 || then / NSEC_PER_SEC > SECONDS_MAX { Err(Errno::ERANGE) } else { Ok(ns) }
}

/// A number of nanoseconds with an offset; what never comes does not come any sooner.
pub fn shifted(ns: u64, offset: i64) -> u64 {
    if ns == u64::MAX { ns } else { ns.saturating_add_signed(offset) }
}

impl Task {
    /// What is added to the host's clock for this task to see.
    pub fn time_offset(&self, base: Base) -> i64 {
        let offsets = self.namespaces.read().time.offsets();
        match base {
            Base::Monotonic => offsets.monotonic,
            Base::Boottime => offsets.boottime,
            Base::Realtime => 0,
        }
    }

    /// A moment that it has named on one of its clocks.
    pub fn moment(&self, base: Base, ns: u64) -> Deadline {
        Deadline { base, ns: shifted(ns, self.time_offset(base).saturating_neg()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(tv_sec: i64) -> Timespec {
        Timespec { tv_sec, tv_nsec: 0 }
    }

    #[test]
    fn offsets_are_set_before_anybody_enters() {
        let ns = TimeNs::new(Offsets::default(), UserNs::initial()).copy(UserNs::initial()).unwrap();
        assert_eq!(ns.set(&[(CLOCK_MONOTONIC, seconds(100)), (CLOCK_BOOTTIME, seconds(-1))]), Ok(()));
        assert_eq!(ns.offsets(), Offsets { monotonic: 100 * NSEC_PER_SEC, boottime: -NSEC_PER_SEC });
        assert_eq!(ns.set(&[(CLOCK_REALTIME, seconds(1))]), Err(Errno::EINVAL));
        for far in [i64::MAX, i64::MIN, -1 << 40] {
            assert_eq!(ns.set(&[(CLOCK_MONOTONIC, seconds(far))]), Err(Errno::ERANGE), "{far}");
        }
        ns.enter();
        assert_eq!(ns.set(&[(CLOCK_MONOTONIC, seconds(1))]), Err(Errno::EACCES));
        assert_eq!(ns.copy(UserNs::initial()).map(|copy| copy.offsets()), Ok(ns.offsets()));
    }

    #[test]
    fn never_stays_never() {
        assert_eq!(shifted(u64::MAX, -5), u64::MAX);
        assert_eq!((shifted(10, -20), shifted(10, 20)), (0, 30));
    }
}
