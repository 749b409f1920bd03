//! Call sites: the places in a guest's code where it makes system calls, and which of them go by `trampoline`.
//!
//! A site that makes calls one after the other is rewritten, in its address space only (the page becomes a private copy): five
//! bytes before the system call instruction, which itself stays, so that a thread that sleeps in it, or a frame that
//! restarts it, finds what it expects. Only code that is mapped privately from a file, and not writable, is touched, and only
//! while no other thread of the address space runs guest code.
//!
//! The page through which the sites jump ([`PAGE`]) is mapped when the first is patched, unless the guest has something
//! there; from then on the guest cannot map anything over it.
//!
//! Neighbours: `fast` decides what is worth it; `mapping` asks whether the guest may have the page; `spawn` hands a fork what
//! its maker had, as the host does with the memory.
//!
//! Lock: `inner` is a leaf.

use crate::task::{Phase, Task};
use crate::trampoline::{PAGE, RETURNS, SITES, page, site_word};
use chitin_platform::{AddressSpace, HostVmaKind, PlatformError};
use chitin_platform_host::calls::Call;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Places that are remembered; further ones are left alone.
const MOST_KNOWN: usize = 1024;
/// How often a site is tried while other threads run.
const TRIES: u8 = 64;
/// Threads of a process that are looked at.
const MOST_THREADS: usize = 256;

/// A patched site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// The address after its system call instruction.
    pub ret: u64,
    pub nr: u16,
    /// Bytes before `ret` where it is entered.
    lead: u8,
}

impl Site {
    /// Where it is entered: the call has not been made there yet.
    pub fn entry(&self) -> u64 {
        self.ret.wrapping_sub(self.lead.into())
    }
}

/// A patched site, to who polls for its requests.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub site: Site,
    /// Bytes that its last call has written to its parcel.
    pub wrote: usize,
}

/// What is known of a place that makes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Patched,
    /// Not yet, after so many tries.
    No(u8),
    Never,
}

#[derive(Default)]
pub struct Sites {
    /// Forks share it until one of them changes it.
    inner: Mutex<Arc<Inner>>,
}

#[derive(Clone, Default)]
struct Inner {
    patched: Vec<Site>,
    known: HashMap<u64, Known, foldhash::fast::RandomState>,
    /// The sites' page is mapped.
    page: bool,
}

/// Calls that may go this way: short ones as a rule, which need no registers but their arguments and that the host's kernel
/// never makes for the guest. (libc's numbers.)
#[allow(non_upper_case_globals, reason = "as libc names them")]
pub fn suitable(nr: i32) -> bool {
    use libc::*;
    matches!(
        i64::from(nr),
        SYS_read
            | SYS_write
            | SYS_open..=SYS_lseek
            | SYS_ioctl..=SYS_select
            | SYS_dup
            | SYS_dup2
            | SYS_getpid..=SYS_socket
            | SYS_sendto..=SYS_setsockopt
            | SYS_getsockopt
            | SYS_uname
            | SYS_fcntl
            | SYS_flock
            | SYS_truncate..=SYS_lchown
            | SYS_umask..=SYS_times
            | SYS_getuid..=SYS_getgid
            | SYS_geteuid
            | SYS_getegid
            | SYS_getppid
            | SYS_getpgrp
            | SYS_getgroups
            | SYS_getresuid
            | SYS_getresgid
            | SYS_getpgid
            | SYS_getsid
            | SYS_rt_sigaction
            | SYS_rt_sigprocmask
            | SYS_rt_sigpending
            | SYS_statfs
            | SYS_fstatfs
            | SYS_setxattr..=SYS_fremovexattr
            | SYS_gettid
            | SYS_time
            | SYS_futex
            | SYS_sched_getaffinity
            | SYS_getdents64
            | SYS_clock_gettime
            | SYS_clock_getres
            | SYS_epoll_wait
            | SYS_epoll_ctl
            | SYS_openat..=SYS_ppoll
            | SYS_epoll_pwait
            | SYS_utimensat
            | SYS_accept
            | SYS_accept4
            | SYS_eventfd2
            | SYS_epoll_create1
            | SYS_dup3
            | SYS_pipe2
            | SYS_preadv
            | SYS_pwritev
            | SYS_recvmmsg
            | SYS_sendmmsg
            | SYS_prlimit64
            | SYS_getrandom
            | SYS_preadv2
            | SYS_pwritev2
            | SYS_statx
            | SYS_faccessat2
            | SYS_openat2
            | SYS_timerfd_settime
            | SYS_timerfd_gettime
    )
}

impl Sites {
    pub fn at(&self, site: u8) -> Option<Site> {
        self.inner.lock().patched.get(usize::from(site)).copied()
    }

    /// As [`Sites::at`], for who asks often: `seen` are those of before. Patched ones stay, and new ones come behind them.
    pub fn at_seen(&self, site: u8, seen: &mut Vec<Seen>) -> Option<Seen> {
        if seen.len() <= usize::from(site) {
            let inner = self.inner.lock();
            let new = inner.patched.iter().skip(seen.len());
            seen.extend(new.map(|site| Seen { site: *site, wrote: 0 }));
        }
        seen.get(usize::from(site)).copied()
    }

    /// The site whose system call instruction is at this address.
    pub fn by_instruction(&self, at: u64) -> Option<Site> {
        self.inner.lock().patched.iter().find(|site| site.ret.wrapping_sub(2) == at).copied()
    }

    /// What is known of the place with this address behind its system call instruction.
    pub fn known(&self, ret: u64) -> Known {
        let inner = self.inner.lock();
        let unknown = if inner.known.len() < MOST_KNOWN { Known::No(0) } else { Known::Never };
        inner.known.get(&ret).copied().unwrap_or(unknown)
    }

    fn note(&self, ret: u64, known: Known) {
        Arc::make_mut(&mut self.inner.lock()).known.insert(ret, known);
    }

    /// A copy of the memory that a fork makes has the same sites.
    pub fn inherit(&self, from: &Sites) {
        let same = from.inner.lock().clone();
        *self.inner.lock() = same;
    }

    /// Whether the range, which the guest is about to map or to change, meets the sites' page.
    pub fn need(&self, range: Range<u64>) -> bool {
        range.start < PAGE + 0x1000 && range.end > PAGE && self.inner.lock().page
    }
}

/// What is to be written where, to have a site jump.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    lead: u8,
    /// From the lowest address that is written to on, beyond the highest and the site's end.
    range: Range<u64>,
    /// In this order.
    writes: Vec<(u64, Vec<u8>)>,
}

/// The protection of code.
const TEXT: u32 = (libc::PROT_READ | libc::PROT_EXEC).cast_unsigned();

/// What is looked at before and behind a site's end: as far as it can jump.
const BEFORE: usize = 0x70;
const BEHIND: usize = 0x88;

impl Plan {
    /// `word`: the low half of the address that is jumped through. `None`: the code there has no form that is known.
    fn new(ret: u64, nr: i32, word: u16, read: impl Fn(u64, &mut [u8]) -> bool) -> Option<Plan> {
        let [lo, hi] = word.to_le_bytes();
        let jump = vec![0xff, 0x24, 0x25, lo, hi];
        let [a, b, c, d] = nr.to_le_bytes();
        let mut code = [0; 7];
        let start = ret.checked_sub(7)?;
        if !read(start, &mut code) {
            return None;
        }
        if code == [0xb8, a, b, c, d, 0x0f, 0x05] {
            return Some(Plan { lead: 7, range: start..ret, writes: vec![(start, jump)] });
        }
        // read(2)'s number takes two bytes only, `xor eax, eax`. They jump to where there is room nearby: behind the `ret` of one
        // of glibc's wrappers, its own for programs with one thread, which comes first, or, once that is taken, the next one.
        let mut code = [0; BEFORE + BEHIND];
        let from = ret.checked_sub(BEFORE as u64)?;
        if nr != 0 || !read(from, &mut code) || !code.get(..BEFORE)?.ends_with(&[0x31, 0xc0, 0x0f, 0x05]) {
            return None;
        }
        let site = BEFORE - 4;
        let ends = |bytes: &[u8]| bytes.iter().zip(TAIL).all(|(b, t)| t.is_none_or(|t| t == *b));
        let rooms = code.windows(TAIL.len()).enumerate().filter(|(_, bytes)| ends(bytes));
        let (room, distance) = rooms.map(|(at, _)| at + TAIL.len()).find_map(|room| {
            let padding = code.get(room..)?;
            let free = PADDING.iter().any(|p| padding.starts_with(p));
            let distance = i8::try_from(room as i64 - site as i64 - 2).ok()?;
            free.then_some((room, distance))
        })?;
        let mut long = jump;
        long.extend_from_slice(&[0x0f, 0x05]);
        let at = |offset: usize| from + offset as u64;
        let range = at(room.min(site))..at(room + long.len()).max(ret);
        let writes = vec![(at(room), long), (at(site), vec![0xeb, distance.cast_unsigned()])];
        Some(Plan { lead: 4, range, writes })
    }
}

/// How a wrapper ends: syscall; cmp rax, -4096; ja …; ret
const TAIL: [Option<u8>; 11] = [
    Some(0x0f),
    Some(0x05),
    Some(0x48),
    Some(0x3d),
    Some(0x00),
    Some(0xf0),
    Some(0xff),
    Some(0xff),
    Some(0x77),
    None,
    Some(0xc3),
];

/// How instructions of at least seven bytes begin that do nothing, and with which compilers fill up.
const PADDING: [[u8; 7]; 5] = [
    [0x0f, 0x1f, 0x80, 0, 0, 0, 0],
    [0x0f, 0x1f, 0x84, 0, 0, 0, 0],
    [0x66, 0x0f, 0x1f, 0x84, 0, 0, 0],
    [0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0],
    [0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0],
];

/// A site that is to be patched when its call is over.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub ret: u64,
    pub nr: i32,
    pub tries: u8,
}

impl Task {
    /// Whether the site of a call that is about to be answered can be patched now, as far as that can be told without a
    /// frame; and what changes. The caller holds the task's lock.
    pub(crate) fn may_patch(&self, wanted: Wanted) -> Option<Range<u64>> {
        let known =
            match self.plan(wanted, 0).filter(|plan| suitable(wanted.nr) && self.is_text(plan, wanted)) {
                None => Known::Never,
                Some(_) if self.hold_others(|| ()).is_none() => Known::No(0),
                Some(plan) => return Some(plan.range),
            };
        self.found(wanted, known);
        None
    }

    /// Patches a site of the call that has been answered, if that is still possible, and goes on with the answer.
    pub(crate) async fn patch_and_finish(self: Arc<Self>, wanted: Wanted, range: Range<u64>, v: i64) {
        if self.frame_up().await.is_err() {
            return;
        }
        let known = self.patch(wanted, range).await;
        self.found(wanted, known);
        self.finish_with(v);
    }

    /// Remembers what became of a site.
    fn found(&self, wanted: Wanted, known: Known) {
        let known = match known {
            Known::No(_) if wanted.tries >= TRIES => Known::Never,
            Known::No(_) => Known::No(wanted.tries + 1),
            known => known,
        };
        tracing::debug!(tid = self.tid, ?wanted, ?known, "call site");
        self.proc.space.sites.note(wanted.ret, known);
    }

    fn plan(&self, Wanted { ret, nr, .. }: Wanted, word: u16) -> Option<Plan> {
        Plan::new(ret, nr, word, |at, code| self.proc.space.mem.read_at(at, code).is_ok())
    }

    /// Whether all of it is code that is mapped privately from a file.
    fn is_text(&self, plan: &Plan, wanted: Wanted) -> bool {
        self.proc.space.mapping_at(plan.range.start).ok().flatten().is_some_and(|vma| {
            !vma.shared
                && vma.prot == TEXT
                && vma.kind == HostVmaKind::File
                && vma.range.contains(&wanted.ret)
                && plan.range.end <= vma.range.end
        })
    }

    async fn patch(self: &Arc<Self>, wanted: Wanted, range: Range<u64>) -> Known {
        let (space, ret, nr) = (self.proc.space.clone(), wanted.ret, wanted.nr);
        if !self.map_page().await {
            return Known::Never;
        }
        // It stays executable: another thread may come here while it is writable.
        let (from, end) = (range.start & !0xfff, (range.end + 0xfff) & !0xfff);
        let mprotect =
            |prot: u32| vec![Call::new(libc::SYS_mprotect, [from, end - from, prot.into(), 0, 0, 0])];
        let done = |results: Result<Vec<i64>, PlatformError>| results.is_ok_and(|r| r == [0]);
        if !done(self.run(mprotect(TEXT | libc::PROT_WRITE.cast_unsigned())).await) {
            return Known::Never;
        }
        let write = || {
            let mut inner = space.sites.inner.lock();
            let site = inner.patched.len();
            let word = site as u64 * 8;
            // Again: it may have changed meanwhile.
            let same = |plan: &Plan| plan.range == range && site < SITES;
            let Some(plan) = self.plan(wanted, word as u16).filter(same) else { return Known::Never };
            let nr = u16::try_from(nr).unwrap_or(u16::MAX);
            let whither = site_word(ret, nr).to_le_bytes();
            if space.mem.write_at(RETURNS + word, &whither).is_err() {
                return Known::Never;
            }
            Arc::make_mut(&mut inner).patched.push(Site { ret, nr, lead: plan.lead });
            // Nothing is lost if one fails: the site is not entered, then.
            let written = plan.writes.iter().all(|(at, code)| space.mem.write_at(*at, code).is_ok());
            if written { Known::Patched } else { Known::Never }
        };
        let known = self.hold_others(write).unwrap_or(Known::No(0));
        if !done(self.run(mprotect(TEXT)).await) {
            self.corrupt("its code stays writable");
        }
        known
    }

    /// Maps the sites' page, unless it is there or something of the guest's is.
    async fn map_page(self: &Arc<Self>) -> bool {
        let space = self.proc.space.clone();
        if space.sites.inner.lock().page {
            return true;
        }
        // Readable and writable; MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE.
        let call = Call::new(libc::SYS_mmap, [PAGE, 0x1000, 3, 0x10_0022, u64::MAX, 0]);
        let mapped = self.run(vec![call]).await.is_ok_and(|r| r == [PAGE as i64]);
        if mapped {
            *space.mem.page.lock() = Some(PAGE..PAGE + 0x1000);
            Arc::make_mut(&mut space.sites.inner.lock()).page = true;
        }
        mapped && space.mem.write_at(PAGE, &page()).is_ok()
    }

    /// Does something while no other thread of the address space runs guest code: who is resumed, or makes a thread, waits for
    /// its lock. `None`: one runs.
    fn hold_others<R>(&self, f: impl FnOnce() -> R) -> Option<R> {
        let others = self.proc.tasks();
        let mut held = Vec::new();
        for other in others.iter().filter(|other| !std::ptr::eq(&***other, self)) {
            let st = other.st.try_lock()?;
            if st.phase == Phase::Running || held.len() >= MOST_THREADS {
                return None;
            }
            held.push(st);
        }
        let space = &self.proc.space;
        (!space.clone_lock.is_locked() && !space.mem.is_shared()).then(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 0x7f00_0000_1000;

    /// The plan for code that begins at [`AT`] and whose call returns to `ret` bytes behind that.
    fn plan(code: &[u8], ret: usize, nr: i32) -> Option<Plan> {
        let read = |at: u64, to: &mut [u8]| {
            let mut around = vec![0x90; 0x100];
            around.extend_from_slice(code);
            around.resize(0x400, 0x90);
            let from = (at + 0x100 - AT) as usize;
            to.copy_from_slice(&around[from..from + to.len()]);
            true
        };
        Plan::new(AT + ret as u64, nr, 0x4321, read)
    }

    #[test]
    fn a_number_of_five_bytes_becomes_a_jump() {
        let code = [0xb8, 0x01, 0x01, 0, 0, 0x0f, 0x05, 0xc3];
        let writes = vec![(AT, vec![0xff, 0x24, 0x25, 0x21, 0x43])];
        assert_eq!(plan(&code, 7, 257), Some(Plan { lead: 7, range: AT..AT + 7, writes }));
        assert_eq!(plan(&code, 7, 256), None);
        assert_eq!(plan(&code, 6, 257), None);
    }

    /// glibc 2.36's read, with one thread and with several.
    fn read_code(padding: &[u8]) -> Vec<u8> {
        let mut code = vec![0x31, 0xc0, 0x0f, 0x05, 0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff, 0x77, 0x5b, 0xc3];
        code.extend_from_slice(padding);
        code.extend_from_slice(&[
            0x48, 0x83, 0xec, 0x28, 0x41, 0x89, 0xc0, 0x31, 0xc0, 0x0f, 0x05, 0x48, 0x3d, 0x00, 0xf0,
        ]);
        code
    }

    #[test]
    fn read_jumps_by_way_of_its_padding() {
        let code = read_code(&[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0]);
        let long = vec![0xff, 0x24, 0x25, 0x21, 0x43, 0x0f, 0x05];
        let short = |at: u64, distance: i8| (AT + at, vec![0xeb, distance.cast_unsigned()]);
        let single =
            Plan { lead: 4, range: AT..AT + 20, writes: vec![(AT + 13, long.clone()), short(0, 11)] };
        assert_eq!(plan(&code, 4, 0), Some(single));
        let second = 13 + 10 + 7;
        let several = Plan {
            lead: 4,
            range: AT + 13..AT + second + 4,
            writes: vec![(AT + 13, long.clone()), short(second, 13 - second as i8 - 2)],
        };
        assert_eq!(plan(&code, second as usize + 4, 0), Some(several));
        // A program that had one thread at first: that room is taken, and write's comes next.
        let mut code = code;
        code[..2].copy_from_slice(&[0xeb, 11]);
        code[13..20].copy_from_slice(&long);
        assert_eq!(plan(&code, second as usize + 4, 0), None);
        code.resize(75, 0x90);
        let write = [0xb8, 1, 0, 0, 0, 0x0f, 0x05, 0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff, 0x77, 0x58, 0xc3];
        code.extend_from_slice(&write);
        code.extend_from_slice(&PADDING[0]);
        let next = 75 + 16;
        let later = Plan {
            lead: 4,
            range: AT + second..AT + next + 7,
            writes: vec![(AT + next, long), short(second, (next - second - 2) as i8)],
        };
        assert_eq!(plan(&code, second as usize + 4, 0), Some(later));
    }

    #[test]
    fn read_without_room_is_left_alone() {
        // Padding that is too short, code there, and a `ret` that is none.
        assert_eq!(plan(&read_code(&[0x66, 0x0f, 0x1f, 0x44, 0, 0]), 4, 0), None);
        assert_eq!(plan(&read_code(&[0x48, 0x89, 0x44, 0x24, 0x08, 0x48, 0x89, 0x44]), 4, 0), None);
        let mut code = read_code(&[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0]);
        code[12] = 0xc2;
        assert_eq!(plan(&code, 4, 0), None);
    }

    #[test]
    fn calls_that_need_more_than_their_arguments_are_not_suitable() {
        for nr in [
            libc::SYS_read,
            libc::SYS_select,
            libc::SYS_epoll_ctl,
            libc::SYS_sendto,
            libc::SYS_newfstatat,
            libc::SYS_pselect6,
            libc::SYS_ppoll,
            libc::SYS_getppid,
        ] {
            assert!(suitable(nr as i32), "{nr}");
        }
        for nr in [
            libc::SYS_mmap,
            libc::SYS_munmap,
            libc::SYS_brk,
            libc::SYS_clone,
            libc::SYS_execve,
            libc::SYS_exit,
            libc::SYS_rt_sigreturn,
            libc::SYS_arch_prctl,
            libc::SYS_sched_yield,
            libc::SYS_rseq,
            libc::SYS_membarrier,
        ] {
            assert!(!suitable(nr as i32), "{nr}");
        }
    }
}
