//! Calls that say who the caller is, which a platform may answer itself ([`chitin_platform::PlatformTask::may_answer`]).
//!
//! Invariants: nobody looks at the calls of a task that has answers (no filter of its own, no `--strace`). Whatever makes an
//! answer wrong, or looks at calls, changes first and forgets second; [`Task::lasts`] says first and looks second, or says
//! under the lock under which the change is made. So a platform never keeps an answer that is not right any more.

use crate::Task;
use chitin_abi::nr::SYS_getppid;

impl Task {
    /// Call `nr` of this task, which is in it, has this answer until [`Task::forget_answers`].
    pub fn lasts(&self, nr: u64, value: u32) {
        if self.kernel.shows_calls() || self.seccomp.active() {
            return;
        }
        self.platform().may_answer(nr, value);
        if self.seccomp.active() {
            self.forget_answers();
        }
    }

    pub(crate) fn forget_answers(&self) {
        self.platform().forget_answers();
    }

    /// getppid(2).
    pub fn ppid(&self) -> i32 {
        // Let go of without the lock.
        let parent;
        let links = self.process.links.lock();
        parent = links.parent.upgrade();
        let ppid = parent.as_ref().map_or(0, |parent| parent.pid_in(self.process.pid_ns()));
        self.lasts(SYS_getppid, ppid.cast_unsigned());
        ppid
    }
}
