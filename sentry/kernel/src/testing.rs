//! What the tests of this crate share: an address space, a task and a platform made of nothing but memory, and a file
//! system of a few files.

use chitin_abi::Errno;
use chitin_abi::mman::*;
use chitin_abi::stat::Statfs;
use chitin_mm::{Mm, Sink};
use chitin_platform::*;
use chitin_vfs::walk::{Caller, Vfs};
use chitin_vfs::*;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const PAGE: u64 = 4096;

#[derive(Clone)]
struct Page {
    prot: u32,
    bytes: Box<[u8; PAGE as usize]>,
}

/// Pages by address.
#[derive(Default)]
pub(crate) struct FakeSpace {
    pages: Mutex<BTreeMap<u64, Page>>,
    /// Large anonymous mappings: their pages are made at the first access.
    lazy: Mutex<Vec<(Range<u64>, u32)>>,
    /// What `mapping_at` answers for addresses in these ranges: shared, from inode 7 of device 1.
    pub(crate) shared: Mutex<Vec<Range<u64>>>,
}

impl FakeSpace {
    pub(crate) fn map(&self, range: Range<u64>, prot: u32) {
        let mut pages = self.pages.lock();
        for addr in (range.start..range.end).step_by(PAGE as usize) {
            pages.insert(addr, Page { prot, bytes: Box::new([0; PAGE as usize]) });
        }
    }

    pub(crate) fn prot(&self, addr: u64) -> Option<u32> {
        self.pages.lock().get(&(addr & !(PAGE - 1))).map(|page| page.prot)
    }

    fn each(
        &self,
        addr: u64,
        len: usize,
        prot: u32,
        mut step: impl FnMut(usize, &mut u8),
    ) -> Result<(), CopyFault> {
        let mut pages = self.pages.lock();
        for done in 0..len {
            let at = addr.wrapping_add(done as u64);
            let start = at & !(PAGE - 1);
            if !pages.contains_key(&start)
                && let Some((_, prot)) = self.lazy.lock().iter().find(|(range, _)| range.contains(&at))
            {
                pages.insert(start, Page { prot: *prot, bytes: Box::new([0; PAGE as usize]) });
            }
            match pages.get_mut(&start) {
                Some(page) if page.prot & prot == prot => step(done, &mut page.bytes[(at % PAGE) as usize]),
                _ => return Err(CopyFault { done }),
            }
        }
        Ok(())
    }

    fn run(&self, op: &HostOp) -> Result<u64, i32> {
        match op {
            HostOp::Mmap { addr, len, prot, flags, file } => {
                if addr % PAGE != 0 || len % PAGE != 0 || *len == 0 || flags & MAP_FIXED == 0 {
                    return Err(Errno::EINVAL.raw());
                }
                let end = addr.checked_add(*len).ok_or(Errno::EINVAL.raw())?;
                if *addr < 0x10000
                    || end > self.user_range().end
                    || *addr < RESERVED.end && RESERVED.start < end
                {
                    return Err(Errno::EPERM.raw());
                }
                if *len > 1 << 20 && file.is_none() {
                    self.lazy.lock().push((*addr..end, *prot));
                } else {
                    self.map(*addr..end, *prot);
                }
                if let Some((fd, offset)) = file {
                    let mut data = vec![0; *len as usize];
                    let count = chitin_host::filestore::pread(fd.as_fd(), &mut data, *offset).unwrap();
                    self.each(*addr, count, PROT_NONE, |at, byte| *byte = data[at]).unwrap();
                }
                Ok(*addr)
            }
            HostOp::Mprotect { addr, len, prot } => {
                for (_, page) in self.pages.lock().range_mut(*addr..addr + len) {
                    page.prot = *prot;
                }
                Ok(0)
            }
            HostOp::SetBit { addr, bit } => {
                let mut word = [0; 4];
                self.read(*addr, &mut word).map_err(|_| Errno::EFAULT.raw())?;
                let word = u32::from_ne_bytes(word) | 1 << bit;
                self.write(*addr, &word.to_ne_bytes()).map(|()| 0).map_err(|_| Errno::EFAULT.raw())
            }
            _ => Err(Errno::ENOSYS.raw()),
        }
    }
}

pub(crate) const RESERVED: Range<u64> = 0x7000_0000_0000..0x7000_0010_0000;
pub(crate) const VDSO: u64 = 0x7fff_f7fc_0000;

impl AddressSpace for FakeSpace {
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), CopyFault> {
        self.each(addr, buf.len(), PROT_READ, |at, byte| buf[at] = *byte)
    }
    fn write(&self, addr: u64, data: &[u8]) -> Result<(), CopyFault> {
        self.each(addr, data.len(), PROT_WRITE, |at, byte| *byte = data[at])
    }
    fn read_vectored(&self, _ranges: &[(u64, usize)], _buf: &mut [u8]) -> Result<(), CopyFault> {
        Err(CopyFault { done: 0 })
    }
    fn write_vectored(&self, _ranges: &[(u64, usize)], _data: &[u8]) -> Result<(), CopyFault> {
        Err(CopyFault { done: 0 })
    }
    fn compare_exchange_u32(&self, addr: u64, old: u32, new: u32) -> Result<u32, CopyFault> {
        let mut bytes = [0; 4];
        self.read(addr, &mut bytes)?;
        let seen = u32::from_ne_bytes(bytes);
        if seen == old {
            self.write(addr, &new.to_ne_bytes())?;
        }
        Ok(seen)
    }
    fn map_call(&self, _task: &dyn PlatformTask, _call: &MapCall<'_>) -> Result<Native, i32> {
        Err(Errno::ENOSYS.raw())
    }
    fn apply(
        &self,
        _task: Arc<dyn PlatformTask>,
        ops: Vec<HostOp>,
    ) -> BoxFuture<Result<Vec<u64>, (usize, PlatformError)>> {
        let results = ops.iter().enumerate().map(|(index, op)| {
            self.run(op).map_err(|errno| (index, PlatformError::Host { op: "mmap", errno }))
        });
        let results = results.collect();
        Box::pin(std::future::ready(results))
    }
    fn mappings(&self, _rss: bool) -> Result<Vec<HostVma>, PlatformError> {
        Ok(Vec::new())
    }
    fn mapping_at(&self, addr: u64) -> Result<Option<HostVma>, PlatformError> {
        let shared = self.shared.lock().iter().find(|range| range.contains(&addr)).cloned();
        let start = addr & !(PAGE - 1);
        Ok(self.prot(addr).map(|prot| HostVma {
            range: shared.clone().unwrap_or(start..start + PAGE),
            prot,
            shared: shared.is_some(),
            offset: 0,
            dev: u64::from(shared.is_some()),
            ino: if shared.is_some() { 7 } else { 0 },
            kind: HostVmaKind::Anonymous,
            rss_kb: 0,
        }))
    }
    fn usage(&self) -> SpaceUsage {
        SpaceUsage::default()
    }
    fn user_range(&self) -> Range<u64> {
        0x10000..0x7fff_ffff_f000
    }
    fn reserved(&self) -> Range<u64> {
        RESERVED
    }
    fn vdso(&self) -> Option<u64> {
        Some(VDSO)
    }
}

/// A task that never runs.
#[derive(Default)]
pub(crate) struct FakeTask {
    pub(crate) regs: Mutex<Registers>,
    pub(crate) killed: AtomicBool,
}

impl PlatformTask for FakeTask {
    fn set_owner(&self, _owner: Owner) {}
    fn resume(&self, _how: Resume) {}
    fn describe(&self) -> String {
        String::new()
    }
    fn interrupt(&self) {}
    fn has_frame(&self) -> bool {
        true
    }
    fn ensure_frame(&self) -> BoxFuture<Result<(), PlatformError>> {
        Box::pin(std::future::ready(Ok(())))
    }
    fn registers(&self) -> Result<Registers, PlatformError> {
        Ok(*self.regs.lock())
    }
    fn set_registers(&self, regs: &Registers) -> Result<(), PlatformError> {
        *self.regs.lock() = *regs;
        Ok(())
    }
    fn read_fpstate(&self, _out: &mut Vec<u8>) -> Result<(), PlatformError> {
        Ok(())
    }
    fn write_fpstate(&self, _image: &[u8]) -> Result<(), PlatformError> {
        Ok(())
    }
    fn fpstate_len(&self) -> usize {
        0
    }
    fn spawn(&self, _kind: Spawn) -> BoxFuture<Result<Spawned, PlatformError>> {
        Box::pin(std::future::ready(Err(PlatformError::Gone)))
    }
    fn exit_thread(&self) {}
    fn kill_process(&self) {
        self.killed.store(true, Ordering::SeqCst);
    }
    fn cpu_times(&self) -> CpuTimes {
        CpuTimes::default()
    }
    fn affinity(&self, _set: Option<&[u8]>) -> Result<Vec<u8>, PlatformError> {
        Ok(vec![1])
    }
    fn set_nice(&self, _nice: i32) -> Result<(), PlatformError> {
        Ok(())
    }
    fn debug_id(&self) -> u64 {
        0
    }
}

/// Makes spaces; remembers the last.
#[derive(Default)]
pub(crate) struct FakePlatform {
    pub(crate) last: Mutex<Option<(Arc<FakeTask>, Arc<FakeSpace>)>>,
}

impl Platform for FakePlatform {
    fn name(&self) -> &'static str {
        "fake"
    }
    fn next_event(&self, _progress: &dyn Fn()) -> Event {
        unreachable!("nothing runs here")
    }
    fn new_space(&self) -> BoxFuture<Result<Spawned, PlatformError>> {
        let (task, space) = (Arc::<FakeTask>::default(), Arc::<FakeSpace>::default());
        *self.last.lock() = Some((task.clone(), space.clone()));
        Box::pin(std::future::ready(Ok(Spawned { task, space })))
    }
}

/// Memory with one writable page at 0x10000 and one at 0x20000.
pub(crate) fn memory() -> (Arc<Mm>, Arc<FakeSpace>) {
    let space = Arc::<FakeSpace>::default();
    space.map(0x10000..0x11000, PROT_READ | PROT_WRITE);
    space.map(0x20000..0x21000, PROT_READ | PROT_WRITE);
    (Mm::new(space.clone()), space)
}

/// A file's content, its permission bits, and whether it can be mapped.
struct FakeFile {
    ino: u64,
    perm: u32,
    host: Arc<OwnedFd>,
    mappable: bool,
    state: InodeState,
}

struct FakeOps(Arc<FakeFile>);

impl FileOps for FakeOps {
    fn read(&self, pos: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        let mut buf = vec![0; dst.room().min(65536)];
        let count =
            chitin_host::filestore::pread(self.0.host.as_fd(), &mut buf, pos).map_err(|_| Errno::EINVAL)?;
        dst.put(&buf[..count])
    }
    fn seekable(&self) -> bool {
        true
    }
    fn mmap(&self, _writable: bool) -> Result<Mappable, Errno> {
        if self.0.mappable { Ok(Mappable::Host(self.0.host.clone())) } else { Err(Errno::ENODEV) }
    }
}

impl Inode for FakeFile {
    fn ino(&self) -> u64 {
        self.ino
    }
    fn kind(&self) -> FileKind {
        FileKind::Regular
    }
    fn attr(&self) -> Result<Attr, Errno> {
        Ok(Attr::plain(1, self.ino, FileKind::Regular, self.perm))
    }
    fn set_attr(&self, _change: &SetAttr) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }
    fn state(&self) -> &InodeState {
        &self.state
    }
    fn open(self: Arc<Self>, _flags: u32) -> Result<Arc<dyn FileOps>, Errno> {
        Ok(Arc::new(FakeOps(self)))
    }
}

/// The one directory.
#[derive(Default)]
struct FakeDir {
    files: Mutex<BTreeMap<Vec<u8>, Arc<FakeFile>>>,
    state: InodeState,
}

impl Inode for FakeDir {
    fn ino(&self) -> u64 {
        1
    }
    fn kind(&self) -> FileKind {
        FileKind::Directory
    }
    fn attr(&self) -> Result<Attr, Errno> {
        Ok(Attr::plain(1, 1, FileKind::Directory, 0o755))
    }
    fn set_attr(&self, _change: &SetAttr) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }
    fn state(&self) -> &InodeState {
        &self.state
    }
    fn dir(&self) -> Option<&dyn Directory> {
        Some(self)
    }
    fn open(self: Arc<Self>, _flags: u32) -> Result<Arc<dyn FileOps>, Errno> {
        Err(Errno::EISDIR)
    }
}

impl Directory for FakeDir {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let file = self.files.lock().get(name).cloned();
        file.map(|file| file as Arc<dyn Inode>).ok_or(Errno::ENOENT)
    }
    fn read_dir(&self, _cookie: u64, _sink: &mut dyn DirSink) -> Result<(), Errno> {
        Ok(())
    }
}

#[derive(Clone, Default)]
pub(crate) struct FakeFs(Arc<FakeDir>);

impl FileSystem for FakeFs {
    fn fs_type(&self) -> &'static str {
        "fake"
    }
    fn dev(&self) -> u64 {
        1
    }
    fn root(&self) -> Arc<dyn Inode> {
        self.0.clone()
    }
    fn statfs(&self) -> Result<Statfs, Errno> {
        Err(Errno::ENOSYS)
    }
    fn revalidates(&self) -> bool {
        true
    }
}

impl FakeFs {
    pub(crate) fn add(&self, name: &str, perm: u32, mappable: bool, data: &[u8]) {
        let host = chitin_host::filestore::memfd(c"fake").unwrap();
        chitin_host::filestore::pwrite(host.as_fd(), data, 0).unwrap();
        let mut files = self.0.files.lock();
        let ino = files.len() as u64 + 2;
        let state = InodeState::default();
        let file = FakeFile { ino, perm, host: Arc::new(host), mappable, state };
        files.insert(name.as_bytes().to_vec(), Arc::new(file));
    }

    pub(crate) fn context(&self) -> Context {
        let ns = MountNs::new(Mount::new(Arc::new(self.clone()), b"fake", 0));
        let caller = Caller { tgid: 1, tid: 1, creds: Arc::new(Creds::root()) };
        Context::new(Place::top(Arc::<Vfs>::default(), ns, 0o22), caller)
    }
}

/// Runs a future that never waits.
pub(crate) fn now_or_never<F: Future>(future: F) -> F::Output {
    let mut future: Pin<Box<F>> = Box::pin(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the future waits"),
    }
}
