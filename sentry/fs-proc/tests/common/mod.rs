//! A kernel with one process, on an address space made of memory; /proc is mounted at /proc.

use chitin_abi::Errno;
use chitin_fs_proc::ProcFs;
use chitin_fs_tmpfs::{Storage, TmpFs};
use chitin_kernel::clone::{InitRequest, make_init};
use chitin_kernel::kernel::{Machine, Uts};
use chitin_kernel::reactor::Reactor;
use chitin_kernel::{FdTable, FsState, Kernel, Task};
use chitin_mm::{SliceSource, VecSink};
use chitin_platform::*;
use chitin_vfs::ops::{OpenHow, Opened};
use chitin_vfs::{Creds, File, Mount, MountNs, Place};
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

#[derive(Default)]
pub struct FakeSpace {
    bytes: Mutex<BTreeMap<u64, u8>>,
    maps: Mutex<Vec<HostVma>>,
}

impl FakeSpace {
    fn mapped(&self, addr: u64) -> bool {
        self.maps.lock().unwrap().iter().any(|vma| vma.range.contains(&addr))
    }

    fn run(&self, op: &HostOp) -> Result<u64, PlatformError> {
        if let HostOp::Mmap { addr, len, prot, flags, file } = op {
            let kind = if file.is_some() { HostVmaKind::File } else { HostVmaKind::Anonymous };
            let mut maps = self.maps.lock().unwrap();
            maps.push(HostVma {
                range: *addr..addr + len,
                prot: *prot,
                shared: flags & 1 != 0,
                offset: file.as_ref().map_or(0, |file| file.1),
                dev: 0,
                ino: 0,
                kind,
                rss_kb: 4,
            });
            maps.sort_by_key(|vma| vma.range.start);
            return Ok(*addr);
        }
        Ok(0)
    }
}

impl AddressSpace for FakeSpace {
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), CopyFault> {
        for (done, byte) in buf.iter_mut().enumerate() {
            let at = addr.wrapping_add(done as u64);
            if !self.mapped(at) {
                return Err(CopyFault { done });
            }
            *byte = self.bytes.lock().unwrap().get(&at).copied().unwrap_or(0);
        }
        Ok(())
    }
    fn write(&self, addr: u64, data: &[u8]) -> Result<(), CopyFault> {
        for (done, byte) in data.iter().enumerate() {
            let at = addr.wrapping_add(done as u64);
            if !self.mapped(at) {
                return Err(CopyFault { done });
            }
            self.bytes.lock().unwrap().insert(at, *byte);
        }
        Ok(())
    }
    fn read_vectored(&self, _: &[(u64, usize)], _: &mut [u8]) -> Result<(), CopyFault> {
        Err(CopyFault { done: 0 })
    }
    fn write_vectored(&self, _: &[(u64, usize)], _: &[u8]) -> Result<(), CopyFault> {
        Err(CopyFault { done: 0 })
    }
    fn compare_exchange_u32(&self, _: u64, _: u32, _: u32) -> Result<u32, CopyFault> {
        Err(CopyFault { done: 0 })
    }
    fn map_call(&self, _: &dyn PlatformTask, _: &MapCall<'_>) -> Result<Native, i32> {
        Err(Errno::ENOSYS.raw())
    }
    fn apply(
        &self,
        _: Arc<dyn PlatformTask>,
        ops: Vec<HostOp>,
    ) -> BoxFuture<Result<Vec<u64>, (usize, PlatformError)>> {
        let run = |(index, op)| self.run(op).map_err(|error| (index, error));
        Box::pin(std::future::ready(ops.iter().enumerate().map(run).collect()))
    }
    fn mappings(&self, _: bool) -> Result<Vec<HostVma>, PlatformError> {
        Ok(self.maps.lock().unwrap().clone())
    }
    fn mapping_at(&self, addr: u64) -> Result<Option<HostVma>, PlatformError> {
        Ok(self.maps.lock().unwrap().iter().find(|vma| vma.range.contains(&addr)).cloned())
    }
    fn usage(&self) -> SpaceUsage {
        SpaceUsage { virt: 8 << 20, resident: 2 << 20, shared: 1 << 20, text: 4096, data: 1 << 20 }
    }
    fn user_range(&self) -> Range<u64> {
        0x10000..0x7fff_ffff_f000
    }
    fn reserved(&self) -> Range<u64> {
        0x7000_0000_0000..0x7000_0010_0000
    }
    fn vdso(&self) -> Option<u64> {
        None
    }
}

struct FakeTask;

impl PlatformTask for FakeTask {
    fn describe(&self) -> String {
        String::new()
    }
    fn set_owner(&self, _: Owner) {}
    fn resume(&self, _: Resume) {}
    fn interrupt(&self) {}
    fn has_frame(&self) -> bool {
        true
    }
    fn ensure_frame(&self) -> BoxFuture<Result<(), PlatformError>> {
        Box::pin(std::future::ready(Ok(())))
    }
    fn registers(&self) -> Result<Registers, PlatformError> {
        Ok(Registers::default())
    }
    fn set_registers(&self, _: &Registers) -> Result<(), PlatformError> {
        Ok(())
    }
    fn read_fpstate(&self, _: &mut Vec<u8>) -> Result<(), PlatformError> {
        Ok(())
    }
    fn write_fpstate(&self, _: &[u8]) -> Result<(), PlatformError> {
        Ok(())
    }
    fn fpstate_len(&self) -> usize {
        0
    }
    fn spawn(&self, _: Spawn) -> BoxFuture<Result<Spawned, PlatformError>> {
        Box::pin(std::future::ready(Err(PlatformError::Gone)))
    }
    fn exit_thread(&self) {}
    fn kill_process(&self) {}
    fn cpu_times(&self) -> CpuTimes {
        CpuTimes { user_ns: 30_000_000, system_ns: 20_000_000 }
    }
    fn affinity(&self, _: Option<&[u8]>) -> Result<Vec<u8>, PlatformError> {
        Ok(vec![3])
    }
    fn set_nice(&self, _: i32) -> Result<(), PlatformError> {
        Ok(())
    }
    fn debug_id(&self) -> u64 {
        0
    }
}

struct FakePlatform;

impl Platform for FakePlatform {
    fn name(&self) -> &'static str {
        "fake"
    }
    fn next_event(&self, _: &dyn Fn()) -> Event {
        unreachable!("nothing runs here")
    }
    fn new_space(&self) -> BoxFuture<Result<Spawned, PlatformError>> {
        let spawned = Spawned { task: Arc::new(FakeTask), space: Arc::<FakeSpace>::default() };
        Box::pin(std::future::ready(Ok(spawned)))
    }
}

fn now<F: Future>(future: F) -> F::Output {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).as_mut().poll(&mut context) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("nothing here waits"),
    }
}

/// The smallest program: its headers are its text.
fn program() -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [2u16, 62] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    file.extend_from_slice(&1u32.to_le_bytes());
    for word in [0x40_0078u64, 64, 0] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(&0u32.to_le_bytes());
    for half in [64u16, 56, 1, 64, 0, 0] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    for word in [1u32, 5] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    for word in [0u64, 0x40_0000, 0x40_0000, 0x1000, 0x1000, 0x1000] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.resize(0x1000, 0x90);
    file
}

pub struct Guest {
    /// The task does not own it.
    pub kernel: Arc<Kernel>,
    pub task: Arc<Task>,
    pub proc: Arc<ProcFs>,
}

impl Guest {
    pub fn new() -> Guest {
        let uts = Uts { hostname: b"box".to_vec(), domainname: b"(none)".to_vec() };
        let machine = Machine { cpus: 2, memory_bytes: 1 << 30 };
        let kernel = Kernel::new(Arc::new(FakePlatform), Reactor::start().unwrap(), machine);
        let namespaces = kernel.new_namespaces(uts, chitin_vfs::UserNs::initial(), Default::default());
        let root = TmpFs::new(Storage::Memory, b"mode=755", 1 << 30).unwrap();
        let ns = MountNs::new(Mount::new(root, b"root fs", 0));
        let fs = FsState::new(Place::top(kernel.vfs.clone(), ns.clone(), 0o22));
        let caller = chitin_vfs::Caller { tgid: 1, tid: 1, creds: Arc::new(Creds::root()) };
        let ctx = chitin_vfs::Context { place: fs.place(), caller };
        let how = OpenHow { flags: 0o102, perm: 0o777, ..OpenHow::default() };
        let Opened::File(file) = ctx.open(&ctx.cwd, b"/prog", &how).unwrap() else { panic!("a file") };
        file.write(&mut SliceSource::new(&program())).unwrap();
        drop(file);
        let point = ctx.make(&ctx.cwd, b"/proc", chitin_vfs::NewKind::Directory, 0o555).unwrap();
        let proc = ProcFs::new(&kernel, &kernel.container, &namespaces.pid_for_children);
        ns.attach(Mount::new(proc.clone(), b"proc", 2 | 4 | 8), point).unwrap();
        let request = InitRequest {
            namespaces,
            container: kernel.container.clone(),
            fs,
            files: FdTable::new(),
            creds: Creds::root(),
            rlimits: [Default::default(); 16],
            args: vec![b"/prog".to_vec(), b"one".to_vec(), b"two".to_vec()],
            env: vec![b"A=b".to_vec()],
            tty: None,
        };
        let task = now(make_init(&kernel, request)).unwrap();
        Guest { kernel, task, proc }
    }

    pub fn open(&self, path: &str, flags: u32) -> Result<Arc<File>, Errno> {
        let ctx = self.task.context();
        match ctx.open(&ctx.cwd, path.as_bytes(), &OpenHow { flags, ..OpenHow::default() })? {
            Opened::File(file) => Ok(file),
            Opened::Fifo { .. } => panic!("no FIFO"),
        }
    }

    pub fn read(&self, path: &str) -> String {
        let file = self.open(path, 0).unwrap_or_else(|error| panic!("{path}: {error:?}"));
        String::from_utf8_lossy(&read_all(&file).unwrap_or_else(|error| panic!("{path}: {error:?}")))
            .into_owned()
    }

    pub fn write(&self, path: &str, text: &str) -> Result<usize, Errno> {
        self.open(path, 1)?.write(&mut SliceSource::new(text.as_bytes()))
    }

    pub fn readlink(&self, path: &str) -> Result<String, Errno> {
        let ctx = self.task.context();
        let found = ctx.walk(&ctx.cwd, path.as_bytes(), chitin_vfs::walk::Walk::NOFOLLOW)?;
        found.inode().link_text(&ctx.caller).map(|text| String::from_utf8_lossy(&text).into_owned())
    }
}

/// Reads in small pieces to the end.
pub fn read_all(file: &File) -> Result<Vec<u8>, Errno> {
    let mut out = Vec::new();
    loop {
        let mut sink = VecSink { data: Vec::new(), limit: 1000 };
        if file.read(&mut sink)? == 0 {
            return Ok(out);
        }
        out.extend_from_slice(&sink.data);
    }
}
