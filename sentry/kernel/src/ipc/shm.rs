//! Shared memory (ipc/shm.c). A segment is a host memfd that tasks map.
//!
//! How often a segment is attached is not counted but looked up: in the mappings of the address spaces that have had it
//! attached or were copied from such. So unmapping, splitting and moving of mappings, which the host does by itself, are
//! always right.

use super::ids::{Ids, Perm, PermChange};
use super::now;
use crate::Task;
use chitin_abi::Errno;
use chitin_abi::capability::CAP_IPC_LOCK;
use chitin_abi::ipc::*;
use chitin_abi::limits::PAGE_SIZE;
use chitin_abi::mman::*;
use chitin_abi::num::low32;
use chitin_abi::resource::RLIMIT_MEMLOCK;
use chitin_mm::{MMAP_MIN_ADDR, MappedFile, Mm};
use chitin_platform::{HostOp, HostVma};
use chitin_vfs::{Caller, Creds};
use parking_lot::Mutex;
use std::fmt::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// A segment.
pub struct Segment {
    pub id: i32,
    pub size: u64,
    creator: i32,
    file: Arc<OwnedFd>,
    /// The host's device and inode.
    host: (u64, u64),
    state: Mutex<State>,
}

struct State {
    perm: Perm,
    atime: i64,
    dtime: i64,
    ctime: i64,
    last_pid: i32,
    /// Address spaces that may have it attached.
    users: Vec<Weak<Mm>>,
    /// Attachments in the making.
    attaching: u64,
    /// Moves with every change of `users` but their removal.
    changes: u64,
}

/// All segments.
pub struct Table {
    ids: Mutex<Ids<Segment>>,
    /// Whether anything was ever attached.
    used: AtomicBool,
}

impl Default for Table {
    fn default() -> Self {
        Table { ids: Mutex::new(Ids::new(low32(SHMMNI))), used: AtomicBool::new(false) }
    }
}

fn page_up(size: u64) -> Option<u64> {
    Some(size.checked_add(PAGE_SIZE - 1)? & !(PAGE_SIZE - 1))
}

fn is_of(vma: &HostVma, host: (u64, u64)) -> bool {
    (vma.dev, vma.ino) == host
}

impl Segment {
    fn pages(&self) -> u64 {
        self.size.div_ceil(PAGE_SIZE)
    }

    /// shm_nattch: mappings there are now.
    fn attachments(&self) -> u64 {
        let (users, changes, mut total) = {
            let state = self.state.lock();
            (state.users.clone(), state.changes, state.attaching)
        };
        let mut kept = Vec::new();
        for user in users {
            let Some(mm) = user.upgrade() else { continue };
            // What cannot be looked at is about to end.
            let vmas = mm.space().mappings(false).unwrap_or_default();
            let count = vmas.iter().filter(|vma| is_of(vma, self.host)).count() as u64;
            if count > 0 {
                total = total.saturating_add(count);
                kept.push(user);
            }
        }
        let mut state = self.state.lock();
        if state.changes == changes && state.attaching == 0 {
            state.users = kept;
        }
        total
    }

    fn add_user(state: &mut State, mm: &Arc<Mm>) {
        let known = state.users.iter().any(|user| std::ptr::eq(user.as_ptr(), Arc::as_ptr(mm)));
        if !known {
            state.users.push(Arc::downgrade(mm));
        }
        state.changes = state.changes.wrapping_add(1);
    }

    /// Resident bytes.
    fn resident(&self) -> u64 {
        chitin_host::filestore::stat(self.file.as_fd()).map_or(0, |stat| stat.blocks.saturating_mul(512))
    }

    fn stat(&self) -> ShmidDs {
        let attachments = self.attachments();
        let state = self.state.lock();
        ShmidDs {
            shm_perm: state.perm.abi(),
            shm_segsz: self.size,
            shm_atime: state.atime,
            shm_dtime: state.dtime,
            shm_ctime: state.ctime,
            shm_cpid: self.creator,
            shm_lpid: state.last_pid,
            shm_nattch: attachments,
            ..ShmidDs::default()
        }
    }
}

impl Table {
    pub(super) fn used(&self) -> bool {
        self.used.load(Ordering::Acquire)
    }

    /// shmget(2).
    pub fn get(&self, caller: &Caller, key: i32, size: u64, flags: u32) -> Result<i32, Errno> {
        self.sweep();
        let creds = &caller.creds;
        let mut ids = self.ids.lock();
        if let Some(segment) = ids.find(key, flags)? {
            if segment.size < size {
                return Err(Errno::EINVAL);
            }
            segment.state.lock().perm.check(creds, flags)?;
            return Ok(segment.id);
        }
        if !(SHMMIN..=SHMMAX).contains(&size) {
            return Err(Errno::EINVAL);
        }
        let total: u64 = ids.all().iter().map(|segment| segment.pages()).fold(0, u64::saturating_add);
        if total.saturating_add(size.div_ceil(PAGE_SIZE)) > SHMALL {
            return Err(Errno::ENOSPC);
        }
        if flags & SHM_HUGETLB != 0 {
            // As on a host whose nr_hugepages is 0.
            return Err(if creds.capable_here(CAP_IPC_LOCK) { Errno::ENOMEM } else { Errno::EPERM });
        }
        let len = page_up(size).filter(|&len| i64::try_from(len).is_ok()).ok_or(Errno::EINVAL)?;
        let make = |id| {
            let file = chitin_host::filestore::memfd(c"sysv-shm").map_err(|_| Errno::ENFILE)?;
            chitin_host::filestore::truncate(file.as_fd(), len).map_err(|_| Errno::ENOMEM)?;
            let stat = chitin_host::filestore::stat(file.as_fd()).map_err(|_| Errno::ENOMEM)?;
            let state = State {
                perm: Perm::new(key, flags, creds, id),
                atime: 0,
                dtime: 0,
                ctime: now(),
                last_pid: 0,
                users: Vec::new(),
                attaching: 0,
                changes: 0,
            };
            let (file, host) = (Arc::new(file), (stat.dev, stat.ino));
            Ok(Segment { id, size, creator: caller.tgid, file, host, state: Mutex::new(state) })
        };
        Ok(ids.insert(key, make)?.0)
    }

    fn find(&self, id: i32) -> Result<Arc<Segment>, Errno> {
        self.ids.lock().get(id)
    }

    /// Destroys a segment that was removed, once nothing is attached.
    fn settle(&self, segment: &Segment) {
        if segment.state.lock().perm.mode & SHM_DEST == 0 || segment.attachments() > 0 {
            return;
        }
        let removed = self.ids.lock().remove(IPC_PRIVATE, segment.id);
        drop(removed);
    }

    /// [`Table::settle`] for all: mappings may have gone without our help.
    fn sweep(&self) {
        if !self.used() {
            return;
        }
        let all = self.ids.lock().all();
        for segment in all {
            self.settle(&segment);
        }
    }

    pub(super) fn forked(&self, old: &Arc<Mm>, new: &Arc<Mm>) {
        if !self.used() {
            return;
        }
        let all = self.ids.lock().all();
        for segment in all {
            let mut state = segment.state.lock();
            if state.users.iter().any(|user| std::ptr::eq(user.as_ptr(), Arc::as_ptr(old))) {
                Segment::add_user(&mut state, new);
            }
        }
    }

    pub(super) fn ended(&self, mm: &Arc<Mm>, pid: i32) {
        let all = self.ids.lock().all();
        for segment in all {
            let left = {
                let mut state = segment.state.lock();
                let before = state.users.len();
                state.users.retain(|user| !std::ptr::eq(user.as_ptr(), Arc::as_ptr(mm)));
                let left = state.users.len() < before;
                if left {
                    state.dtime = now();
                    state.last_pid = pid;
                    // A count under way must not bring it back.
                    state.changes = state.changes.wrapping_add(1);
                }
                left
            };
            if left {
                self.settle(&segment);
            }
        }
    }

    /// shmctl(IPC_INFO).
    pub fn limits(&self) -> (ShmInfo64, i32) {
        let info = ShmInfo64 {
            shmmax: SHMMAX,
            shmmin: SHMMIN,
            shmmni: SHMMNI,
            shmseg: SHMSEG,
            shmall: SHMALL,
            ..ShmInfo64::default()
        };
        (info, self.ids.lock().highest())
    }

    /// shmctl(SHM_INFO).
    pub fn info(&self) -> (ShmInfo, i32) {
        self.sweep();
        let (all, highest) = {
            let ids = self.ids.lock();
            (ids.all(), ids.highest())
        };
        let sum = |of: &dyn Fn(&Segment) -> u64| all.iter().map(|one| of(one)).fold(0, u64::saturating_add);
        let info = ShmInfo {
            used_ids: i32::try_from(all.len()).unwrap_or(i32::MAX),
            shm_tot: sum(&Segment::pages),
            shm_rss: sum(&|one| one.resident() / PAGE_SIZE),
            ..ShmInfo::default()
        };
        (info, highest)
    }

    /// IPC_STAT.
    pub fn stat(&self, creds: &Creds, id: i32) -> Result<ShmidDs, Errno> {
        let segment = self.find(id)?;
        segment.state.lock().perm.check(creds, 0o444)?;
        Ok(segment.stat())
    }

    /// SHM_STAT and SHM_STAT_ANY (`creds` is `None`): the id too.
    pub fn stat_index(&self, creds: Option<&Creds>, index: i32) -> Result<(ShmidDs, i32), Errno> {
        self.sweep();
        let (id, segment) = self.ids.lock().at_index(index)?;
        if let Some(creds) = creds {
            segment.state.lock().perm.check(creds, 0o444)?;
        }
        Ok((segment.stat(), id))
    }

    /// IPC_SET.
    pub fn set(&self, creds: &Creds, id: i32, change: &PermChange) -> Result<(), Errno> {
        let segment = self.find(id)?;
        let mut state = segment.state.lock();
        state.perm.check_control(creds)?;
        state.perm.change(change)?;
        state.ctime = now();
        Ok(())
    }

    /// IPC_RMID: gone at once, or with the last attachment.
    pub fn remove(&self, creds: &Creds, id: i32) -> Result<(), Errno> {
        let segment = self.find(id)?;
        let key = {
            let mut state = segment.state.lock();
            state.perm.check_control(creds)?;
            state.perm.mode |= SHM_DEST;
            std::mem::replace(&mut state.perm.key, IPC_PRIVATE)
        };
        self.ids.lock().forget_key(key, id);
        self.settle(&segment);
        Ok(())
    }

    /// SHM_LOCK and SHM_UNLOCK. Pages stay as swappable as all the sandbox's; only the mode shows it.
    pub fn lock(&self, task: &Task, id: i32, lock: bool) -> Result<(), Errno> {
        let segment = self.find(id)?;
        let creds = task.ipc_creds();
        let mut state = segment.state.lock();
        if !creds.capable_here(CAP_IPC_LOCK) {
            if !state.perm.is_owner(&creds) {
                return Err(Errno::EPERM);
            }
            if lock && task.process.rlimit(RLIMIT_MEMLOCK).rlim_cur == 0 {
                return Err(Errno::EPERM);
            }
        }
        state.perm.mode = if lock { state.perm.mode | SHM_LOCKED } else { state.perm.mode & !SHM_LOCKED };
        Ok(())
    }

    /// /proc/sysvipc/shm.
    pub(super) fn text(&self, nr: &dyn Fn(i32) -> i32) -> String {
        self.sweep();
        let mut text = String::from(
            "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      \
             atime      dtime      ctime                   rss                  swap\n",
        );
        let all = self.ids.lock().all();
        for segment in all {
            let (ds, rss) = (segment.stat(), segment.resident());
            let perm = ds.shm_perm;
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "{:10} {:10}  {:4o} {:21} {:5} {:5}  {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10} {:21} {:21}",
                perm.key,
                segment.id,
                perm.mode,
                ds.shm_segsz,
                nr(ds.shm_cpid),
                nr(ds.shm_lpid),
                ds.shm_nattch,
                perm.uid,
                perm.gid,
                perm.cuid,
                perm.cgid,
                ds.shm_atime,
                ds.shm_dtime,
                ds.shm_ctime,
                rss,
                0,
            );
        }
        text
    }
}

/// Counts as an attachment while it is being made.
struct Attaching<'a>(&'a Segment);

impl Drop for Attaching<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.attaching = state.attaching.saturating_sub(1);
    }
}

/// Where shmat(2) shall map: an address (0: anywhere) and flags for mmap.
fn place(mm: &Mm, addr: u64, len: u64, flags: u32) -> Result<(u64, u32), Errno> {
    if addr == 0 {
        return if flags & SHM_REMAP != 0 { Err(Errno::EINVAL) } else { Ok((0, MAP_SHARED)) };
    }
    let mut at = addr;
    if at % SHMLBA != 0 {
        if flags & SHM_RND == 0 {
            return Err(Errno::EINVAL);
        }
        at -= at % SHMLBA;
        if at == 0 && flags & SHM_REMAP != 0 {
            return Err(Errno::EINVAL);
        }
    }
    if !mm.range_ok(at, len) {
        return Err(if at.checked_add(len).is_none() { Errno::EINVAL } else { Errno::ENOMEM });
    }
    if at < MMAP_MIN_ADDR {
        return Err(Errno::EPERM);
    }
    if flags & SHM_REMAP == 0 {
        return Ok((at, MAP_SHARED | MAP_FIXED_NOREPLACE));
    }
    let reserved = mm.space().reserved();
    if at < reserved.end && at.saturating_add(len) > reserved.start {
        return Err(Errno::ENOMEM);
    }
    Ok((at, MAP_SHARED | MAP_FIXED))
}

/// shmat(2): where it was attached.
pub async fn attach(task: &Arc<Task>, id: i32, addr: u64, flags: u32) -> Result<u64, Errno> {
    let ipc = task.ipc();
    let table = &ipc.shm;
    let segment = table.find(id)?;
    let mm = task.mm();
    let len = page_up(segment.size).ok_or(Errno::EINVAL)?;
    let (at, map_flags) = place(&mm, addr, len, flags)?;
    let (mut prot, mut access) =
        if flags & SHM_RDONLY != 0 { (PROT_READ, 0o444) } else { (PROT_READ | PROT_WRITE, 0o666) };
    if flags & SHM_EXEC != 0 {
        prot |= PROT_EXEC;
        access |= 0o111;
    }
    let attaching = {
        let mut state = segment.state.lock();
        state.perm.check(&task.ipc_creds(), access)?;
        state.attaching = state.attaching.saturating_add(1);
        Segment::add_user(&mut state, &mm);
        Attaching(&segment)
    };
    table.used.store(true, Ordering::Release);
    let key = segment.state.lock().perm.key;
    let path = format!("/SYSV{key:08x} (deleted)").into_bytes();
    mm.name_file(segment.host, MappedFile { dev: 1, ino: u64::from(id.unsigned_abs()), path: path.into() });
    let file = if flags & SHM_RDONLY != 0 {
        // So that mprotect(2) cannot make it writable.
        let file = chitin_host::filestore::reopen_read_only(segment.file.as_fd());
        Arc::new(file.map_err(|_| Errno::ENFILE)?)
    } else {
        segment.file.clone()
    };
    let result = mm.map_host(task.platform(), at, len, prot, map_flags, Some((file, 0))).await;
    if result.is_ok() {
        let mut state = segment.state.lock();
        state.atime = now();
        state.last_pid = task.process.kid();
    }
    drop(attaching);
    table.settle(&segment);
    match result {
        // MAP_FIXED_NOREPLACE: something is there.
        Err(Errno::EEXIST) => Err(Errno::EINVAL),
        result => result,
    }
}

/// The mappings that shmdt(2) takes away: those that begin where the segment attached at `addr` would have them.
fn attached_at(
    vmas: &[HostVma],
    addr: u64,
    find: impl Fn((u64, u64)) -> Option<u64>,
) -> Option<((u64, u64), Vec<(u64, u64)>)> {
    let fits = |vma: &&HostVma| vma.range.start.checked_sub(addr).is_some_and(|off| off == vma.offset);
    let (host, size) = vmas.iter().filter(fits).find_map(|vma| {
        let host = (vma.dev, vma.ino);
        Some((host, find(host)?))
    })?;
    let of_it = vmas.iter().filter(fits).filter(|vma| is_of(vma, host) && vma.offset < size);
    Some((host, of_it.map(|vma| (vma.range.start, vma.range.end.saturating_sub(vma.range.start))).collect()))
}

/// shmdt(2).
pub async fn detach(task: &Arc<Task>, addr: u64) -> Result<(), Errno> {
    if addr % SHMLBA != 0 {
        return Err(Errno::EINVAL);
    }
    let mm = task.mm();
    let vmas = mm.space().mappings(false).map_err(|_| Errno::EINVAL)?;
    // It may be of a namespace that the task has left.
    let found = task.kernel.ipc_namespaces().into_iter().find_map(|ipc| {
        let all = ipc.shm.ids.lock().all();
        let of = |host: (u64, u64)| all.iter().find(|segment| segment.host == host);
        let (host, ranges) = attached_at(&vmas, addr, |host| page_up(of(host)?.size))?;
        let segment = of(host).cloned();
        Some((ipc, segment, ranges))
    });
    let (ipc, segment, ranges) = found.ok_or(Errno::EINVAL)?;
    let ops = ranges.into_iter().map(|(addr, len)| HostOp::Munmap { addr, len }).collect();
    mm.apply(task.platform(), ops).await.map_err(|_| Errno::EINVAL)?;
    if let Some(segment) = segment {
        {
            let mut state = segment.state.lock();
            state.dtime = now();
            state.last_pid = task.process.kid();
        }
        ipc.shm.settle(&segment);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use chitin_platform::HostVmaKind;

    fn caller() -> Caller {
        Caller { tgid: 9, tid: 9, creds: Arc::new(Creds::root()) }
    }

    fn vma(start: u64, pages: u64, offset: u64, ino: u64) -> HostVma {
        HostVma {
            range: start..start + pages * PAGE_SIZE,
            prot: PROT_READ,
            shared: true,
            offset,
            dev: 1,
            ino,
            kind: HostVmaKind::File,
            rss_kb: 0,
        }
    }

    #[test]
    fn segments_come_and_go() {
        let table = Table::default();
        let who = caller();
        assert_eq!(table.get(&who, 5, 0, IPC_CREAT | 0o600), Err(Errno::EINVAL));
        assert_eq!(table.get(&who, 5, 100, 0), Err(Errno::ENOENT));
        let id = table.get(&who, 5, 100, IPC_CREAT | 0o600).unwrap();
        assert_eq!(table.get(&who, 5, 100, 0), Ok(id));
        assert_eq!(table.get(&who, 5, 101, 0), Err(Errno::EINVAL));
        assert_eq!(table.get(&who, 5, 1, IPC_CREAT | IPC_EXCL), Err(Errno::EEXIST));
        let stat = table.stat(&who.creds, id).unwrap();
        assert_eq!((stat.shm_segsz, stat.shm_nattch, stat.shm_cpid, stat.shm_perm.mode), (100, 0, 9, 0o600));
        assert_eq!(table.text(&|kid| kid).lines().count(), 2);
        assert_eq!(table.info().0.shm_tot, 1);
        table.remove(&who.creds, id).unwrap();
        assert_eq!(table.stat(&who.creds, id).err(), Some(Errno::EINVAL));
        assert_eq!(table.text(&|kid| kid).lines().count(), 1);
        assert_eq!(table.get(&who, IPC_PRIVATE, SHMMAX, 0), Err(Errno::EINVAL));
    }

    #[test]
    fn detaches_all_parts_of_one_attachment() {
        let find = |(_, ino)| (ino == 7).then_some(4 * PAGE_SIZE);
        let p = PAGE_SIZE;
        let vmas = [
            vma(0x10000, 1, 0, 8),
            vma(0x20000, 1, 0, 7),
            vma(0x20000 + 2 * p, 2, 2 * p, 7),
            vma(0x40000, 4, 0, 7),
        ];
        let (host, ranges) = attached_at(&vmas, 0x20000, find).unwrap();
        assert_eq!((host, ranges), ((1, 7), vec![(0x20000, p), (0x20000 + 2 * p, 2 * p)]));
        assert!(attached_at(&vmas, 0x10000, find).is_none());
        assert!(attached_at(&vmas, 0x21000, find).is_none());
    }
}
