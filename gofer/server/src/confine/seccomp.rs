//! The gofer's seccomp list: what a serving gofer calls, with arguments checked where they matter.
//! Everything else kills the process, and the kernel logs it (audit, `SECCOMP`).
//!
//! Not on the list, above all: execve, ioctl, socket, connect, bind, mount and its relatives, ptrace,
//! process_vm_*, kill, setuid and its relatives, unshare, setns, bpf, io_uring, and any executable memory.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};

use crate::error::Error;

const REMEDY: &str = "run on a kernel with CONFIG_SECCOMP_FILTER on x86_64 or aarch64";

/// `PR_SET_VMA`, which libc does not name on every target.
const PR_SET_VMA: u64 = 0x5356_4d41;

/// The second real-time signal, which glibc keeps for itself.
const SIGSETXID: u64 = 33;

/// Namespaces, and everything by which a clone is more than a thread.
const CLONE_FORBIDDEN: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_PTRACE
    | libc::CLONE_VFORK;
const CLONE_THREAD: i32 = libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND;

/// A condition on an argument: number, mask (all ones: the whole 32 bits), value.
type Check = (u8, Option<u32>, u64);

/// The list: call, and the conditions that must all hold.
fn rules() -> Vec<(i64, Vec<Check>)> {
    let bits = |flags: i32| flags.cast_unsigned();
    vec![
        // Channels: requests in, replies out.
        (libc::SYS_recvfrom, vec![]),
        (libc::SYS_sendmsg, vec![]),
        // A further channel: AF_UNIX only, and its buffer size.
        (libc::SYS_socketpair, vec![(0, None, libc::AF_UNIX as u64)]),
        (libc::SYS_setsockopt, vec![(1, None, libc::SOL_SOCKET as u64), (2, None, libc::SO_SNDBUF as u64)]),
        (libc::SYS_getsockopt, vec![(1, None, libc::SOL_SOCKET as u64), (2, None, libc::SO_SNDBUF as u64)]),
        // Lookup of one name below a descriptor.
        (libc::SYS_openat2, vec![]),
        // Reopening what a descriptor names; never creating.
        (libc::SYS_openat, vec![(2, Some(bits(libc::O_CREAT)), 0)]),
        (libc::SYS_close, vec![]),
        (libc::SYS_statx, vec![]),
        (libc::SYS_readlinkat, vec![]),
        (libc::SYS_fstatfs, vec![]),
        // Reading directories.
        (libc::SYS_getdents64, vec![]),
        (libc::SYS_lseek, vec![]),
        // Changing the tree.
        (libc::SYS_mkdirat, vec![]),
        (libc::SYS_symlinkat, vec![]),
        (libc::SYS_linkat, vec![]),
        (libc::SYS_renameat2, vec![]),
        // What glibc makes of renameat2 without flags.
        (libc::SYS_renameat, vec![]),
        (libc::SYS_unlinkat, vec![]),
        // FIFOs, sockets, whiteouts: the device number is always 0:0.
        (libc::SYS_mknodat, vec![(3, None, 0)]),
        // Changing files.
        (libc::SYS_fchownat, vec![]),
        (libc::SYS_fchmod, vec![]),
        (libc::SYS_fchmodat, vec![]),
        (libc::SYS_utimensat, vec![]),
        (libc::SYS_ftruncate, vec![]),
        (libc::SYS_fsync, vec![]),
        (libc::SYS_fdatasync, vec![]),
        (libc::SYS_getxattr, vec![]),
        (libc::SYS_setxattr, vec![]),
        (libc::SYS_listxattr, vec![]),
        (libc::SYS_removexattr, vec![]),
        // The log on stderr; also where a panic would be told.
        (libc::SYS_write, vec![]),
        (libc::SYS_writev, vec![]),
        // Rust's debug builds look whether a descriptor is open before they close it.
        (libc::SYS_fcntl, vec![(1, None, libc::F_GETFD as u64)]),
        // Memory: anonymous and never executable.
        (libc::SYS_brk, vec![]),
        (
            libc::SYS_mmap,
            vec![
                (2, Some(bits(libc::PROT_EXEC)), 0),
                (3, Some(bits(libc::MAP_ANONYMOUS)), libc::MAP_ANONYMOUS as u64),
            ],
        ),
        (libc::SYS_mprotect, vec![(2, Some(bits(libc::PROT_EXEC)), 0)]),
        (libc::SYS_munmap, vec![]),
        (libc::SYS_mremap, vec![]),
        (libc::SYS_madvise, vec![]),
        // A thread per channel, and nothing but a thread.
        (
            libc::SYS_clone,
            vec![
                (0, Some(bits(CLONE_FORBIDDEN)), 0),
                (0, Some(bits(CLONE_THREAD)), u64::from(bits(CLONE_THREAD))),
            ],
        ),
        // Its flags lie in memory, where no filter sees them: a second filter answers ENOSYS, and the C
        // library falls back to clone.
        (libc::SYS_clone3, vec![]),
        // What the C library and Rust do at a thread's beginning and end.
        (libc::SYS_set_robust_list, vec![]),
        (libc::SYS_rseq, vec![]),
        (libc::SYS_sigaltstack, vec![]),
        (libc::SYS_rt_sigprocmask, vec![]),
        // The C library's own signal between threads, set up with the first thread; and what abort resets.
        (libc::SYS_rt_sigaction, vec![(0, None, SIGSETXID)]),
        (libc::SYS_rt_sigaction, vec![(0, None, libc::SIGABRT as u64)]),
        (libc::SYS_sched_getaffinity, vec![]),
        (libc::SYS_prctl, vec![(0, None, libc::PR_SET_NAME as u64)]),
        (libc::SYS_prctl, vec![(0, None, PR_SET_VMA)]),
        (libc::SYS_exit, vec![]),
        (libc::SYS_exit_group, vec![]),
        // Locks.
        (libc::SYS_futex, vec![]),
        (libc::SYS_sched_yield, vec![]),
        // Signals that arrive all the same, and aborting.
        (libc::SYS_rt_sigreturn, vec![]),
        (libc::SYS_restart_syscall, vec![]),
        (libc::SYS_getpid, vec![]),
        (libc::SYS_gettid, vec![]),
        (libc::SYS_tgkill, vec![(2, None, libc::SIGABRT as u64)]),
        // Hash seeds; time stamps of the log, where the vDSO cannot tell them.
        (libc::SYS_getrandom, vec![]),
        (libc::SYS_clock_gettime, vec![]),
    ]
}

/// Installs the list for all threads of the process. It cannot be taken back.
pub fn install() -> Result<(), Error> {
    let failed = |e: seccompiler::Error| Error::new("install its seccomp list", e, REMEDY);
    let broken = |e: seccompiler::BackendError| Error::new("compile its seccomp list", e, REMEDY);
    let list = compile(rules(), SeccompAction::KillProcess, SeccompAction::Allow).map_err(broken)?;
    let clone3 = vec![(libc::SYS_clone3, vec![])];
    let errno = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let no_clone3 = compile(clone3, SeccompAction::Allow, errno).map_err(broken)?;
    apply_filter_all_threads(&no_clone3).map_err(failed)?;
    apply_filter_all_threads(&list).map_err(failed)
}

fn compile(
    rules: Vec<(i64, Vec<Check>)>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut map: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for (call, checks) in rules {
        let entry = map.entry(call).or_default();
        if !checks.is_empty() {
            let conditions = checks.into_iter().map(|(index, mask, value)| {
                let op = match mask {
                    Some(mask) => SeccompCmpOp::MaskedEq(u64::from(mask)),
                    None => SeccompCmpOp::Eq,
                };
                SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, value)
            });
            entry.push(SeccompRule::new(conditions.collect::<Result<_, _>>()?)?);
        }
    }
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(map, otherwise, matched, arch)?.try_into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_compiles_and_names_nothing_that_leads_out() {
        assert!(compile(rules(), SeccompAction::KillProcess, SeccompAction::Allow).is_ok());
        let listed: Vec<_> = rules().into_iter().map(|(call, _)| call).collect();
        for call in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ioctl,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_mount,
            libc::SYS_ptrace,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_kill,
            libc::SYS_io_uring_setup,
            libc::SYS_open_by_handle_at,
        ] {
            assert!(!listed.contains(&call), "{call}");
        }
    }

    #[test]
    fn a_call_without_conditions_is_listed_once() {
        // With a second, conditional entry the unconditional one would be lost.
        let rules = rules();
        for (call, checks) in &rules {
            if checks.is_empty() {
                assert_eq!(rules.iter().filter(|(other, _)| other == call).count(), 1, "{call}");
            }
        }
    }
}
