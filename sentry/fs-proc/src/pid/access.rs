//! Who may look into whose process (ptrace_may_access(), kernel/ptrace.c).

use super::Subject;
use chitin_abi::Errno;
use chitin_abi::capability::CAP_SYS_PTRACE;
use chitin_vfs::Caller;

/// What an entry asks of who opens it, beyond the mode bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing.
    Any,
    /// EACCES unless the process may be looked into.
    Inspect,
    /// The same, but EPERM.
    Attach,
}

/// Whether `caller` may look into the subject's process.
pub(super) fn may_inspect(caller: &Caller, subject: &Subject) -> bool {
    let (own, target) = (&caller.creds, subject.creds());
    if caller.tgid == subject.process.kid() || own.capable_in(&target.user_ns, CAP_SYS_PTRACE) {
        return true;
    }
    let uids = [target.uid, target.euid, target.suid].iter().all(|&uid| uid == own.fsuid);
    let gids = [target.gid, target.egid, target.sgid].iter().all(|&gid| gid == own.fsgid);
    uids && gids
        && subject.process.dumpable() == 1
        && target.user_ns == own.user_ns
        && target.permitted.subset_of(own.permitted)
}

pub(super) fn check(caller: &Caller, subject: &Subject, access: Access) -> Result<(), Errno> {
    match access {
        Access::Any => Ok(()),
        _ if may_inspect(caller, subject) => Ok(()),
        Access::Inspect => Err(Errno::EACCES),
        Access::Attach => Err(Errno::EPERM),
    }
}
