//! How many pages pipes may fill: by user as Linux has it (pipe-user-pages-soft), and in the whole sandbox.

use crate::bounds::{PIPE_PAGES, PerUser};
use chitin_abi::Errno;

/// Pages of a new pipe (PIPE_DEF_BUFFERS).
pub(super) const DEFAULT_SLOTS: usize = 16;
/// Pages of a new pipe of a user who has many (PIPE_MIN_DEF_BUFFERS).
const MIN_SLOTS: usize = 2;
/// Past this many pages in a user's pipes, new ones are small and unprivileged ones cannot grow
/// (/proc/sys/fs/pipe-user-pages-soft; there is no hard limit by user, which is Linux's default).
pub const SOFT_PAGES: usize = 16384;

static USERS: PerUser = PerUser::new();

/// Whose a pipe is.
#[derive(Clone, Copy, Debug, Default)]
pub struct PipeUser {
    pub uid: u32,
    /// CAP_SYS_RESOURCE or CAP_SYS_ADMIN.
    pub privileged: bool,
}

/// The pages of one pipe; dropping it gives them back.
pub(super) struct Quota {
    uid: u32,
    pub(super) slots: usize,
}

impl Quota {
    /// ENFILE when the sandbox has no room for another pipe.
    pub(super) fn new(user: PipeUser) -> Result<Quota, Errno> {
        let total = USERS.add(user.uid, DEFAULT_SLOTS);
        let slots = if (total > SOFT_PAGES && !user.privileged) || !PIPE_PAGES.take(DEFAULT_SLOTS) {
            USERS.sub(user.uid, DEFAULT_SLOTS - MIN_SLOTS);
            if !PIPE_PAGES.take(MIN_SLOTS) {
                USERS.sub(user.uid, MIN_SLOTS);
                return Err(Errno::ENFILE);
            }
            MIN_SLOTS
        } else {
            DEFAULT_SLOTS
        };
        Ok(Quota { uid: user.uid, slots })
    }

    /// F_SETPIPE_SZ: EPERM where the user has too many pages, ENOMEM where the sandbox has.
    pub(super) fn resize(&mut self, slots: usize, privileged: bool) -> Result<(), Errno> {
        if slots > self.slots {
            let more = slots - self.slots;
            if USERS.add(self.uid, more) > SOFT_PAGES && !privileged {
                USERS.sub(self.uid, more);
                return Err(Errno::EPERM);
            }
            if !PIPE_PAGES.take(more) {
                USERS.sub(self.uid, more);
                return Err(Errno::ENOMEM);
            }
        } else {
            USERS.sub(self.uid, self.slots - slots);
            PIPE_PAGES.give(self.slots - slots);
        }
        self.slots = slots;
        Ok(())
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        USERS.sub(self.uid, self.slots);
        PIPE_PAGES.give(self.slots);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_pages_make_pipes_small() {
        let user = PipeUser { uid: 4711, privileged: false };
        let mut first = Quota::new(user).unwrap();
        // Other tests have pipes too: as much as there may be in tests (16384) cannot be had, a quarter can.
        first.resize(4096, false).unwrap();
        assert_eq!(USERS.of(4711), 4096);
        assert_eq!(first.resize(SOFT_PAGES + 1, false).err(), Some(Errno::EPERM));
        assert_eq!(first.resize(1 << 20, true).err(), Some(Errno::ENOMEM));
        USERS.add(4711, SOFT_PAGES);
        assert_eq!(Quota::new(user).unwrap().slots, MIN_SLOTS);
        assert_eq!(Quota::new(PipeUser { privileged: true, ..user }).unwrap().slots, DEFAULT_SLOTS);
        first.resize(1, false).unwrap();
        drop(first);
        assert_eq!(USERS.of(4711), SOFT_PAGES);
        USERS.sub(4711, SOFT_PAGES);
    }
}
