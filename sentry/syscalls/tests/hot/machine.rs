//! A kernel whose only task never runs: its calls are made by the test, its memory is a few pages of the test's own.

use chitin_abi::elf::*;
use chitin_abi::resource::Rlimit;
use chitin_abi::seccomp::AUDIT_ARCH_X86_64;
use chitin_fs_tmpfs::{Storage, TmpFs};
use chitin_kernel::clone::{InitRequest, make_init};
use chitin_kernel::kernel::{Machine, Uts};
use chitin_kernel::reactor::Reactor;
use chitin_kernel::time::ns::Offsets;
use chitin_kernel::{FdTable, FsState, Kernel, Task, run};
use chitin_mm::SliceSource;
use chitin_platform::*;
use chitin_syscalls::Table;
use chitin_vfs::{Creds, FileSystem, Mount, MountNs, NewInode, NewKind, Place, WriteAt};
use parking_lot::Mutex;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll, Waker};
use zerocopy::IntoBytes;

/// Where the guest has its buffers.
pub const RAM: u64 = 0x10_0000;
const RAM_SIZE: usize = 0x1_0000;
/// What [`Guest::call`] answers for a call that waits.
pub const WAITS: i64 = i64::MIN;

/// Some memory; all other addresses take everything and hold zeros.
struct Space {
    ram: Mutex<Vec<u8>>,
}

fn place(addr: u64, len: usize) -> Option<Range<usize>> {
    let at = usize::try_from(addr.checked_sub(RAM)?).ok()?;
    let end = at.checked_add(len).filter(|&end| end <= RAM_SIZE)?;
    Some(at..end)
}

impl AddressSpace for Space {
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), CopyFault> {
        match place(addr, buf.len()) {
            Some(range) => buf.copy_from_slice(&self.ram.lock()[range]),
            None => buf.fill(0),
        }
        Ok(())
    }
    fn write(&self, addr: u64, data: &[u8]) -> Result<(), CopyFault> {
        if let Some(range) = place(addr, data.len()) {
            self.ram.lock()[range].copy_from_slice(data);
        }
        Ok(())
    }
    fn read_vectored(&self, ranges: &[(u64, usize)], mut buf: &mut [u8]) -> Result<(), CopyFault> {
        for &(addr, len) in ranges {
            let (part, rest) = buf.split_at_mut(len.min(buf.len()));
            self.read(addr, part)?;
            buf = rest;
        }
        Ok(())
    }
    fn write_vectored(&self, ranges: &[(u64, usize)], mut data: &[u8]) -> Result<(), CopyFault> {
        for &(addr, len) in ranges {
            let (part, rest) = data.split_at(len.min(data.len()));
            self.write(addr, part)?;
            data = rest;
        }
        Ok(())
    }
    fn compare_exchange_u32(&self, _addr: u64, _old: u32, _new: u32) -> Result<u32, CopyFault> {
        Err(CopyFault { done: 0 })
    }
    fn map_call(&self, _task: &dyn PlatformTask, _call: &MapCall<'_>) -> Result<Native, i32> {
        Ok(Native::Host)
    }
    fn apply(
        &self,
        _task: Arc<dyn PlatformTask>,
        ops: Vec<HostOp>,
    ) -> BoxFuture<Result<Vec<u64>, (usize, PlatformError)>> {
        let answer = |op: &HostOp| match op {
            HostOp::Mmap { addr, .. } => *addr,
            _ => 0,
        };
        Box::pin(std::future::ready(Ok(ops.iter().map(answer).collect())))
    }
    fn mappings(&self, _rss: bool) -> Result<Vec<HostVma>, PlatformError> {
        Ok(Vec::new())
    }
    fn mapping_at(&self, _addr: u64) -> Result<Option<HostVma>, PlatformError> {
        Ok(None)
    }
    fn usage(&self) -> SpaceUsage {
        SpaceUsage::default()
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

/// Remembers what it is resumed with.
struct Stopped {
    answer: AtomicI64,
}

impl PlatformTask for Stopped {
    fn set_owner(&self, _owner: Owner) {}
    fn resume(&self, how: Resume) {
        if let Resume::Return(value) = how {
            self.answer.store(value, Ordering::Relaxed);
        }
    }
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
    fn set_registers(&self, _regs: &Registers) -> Result<(), PlatformError> {
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
    fn kill_process(&self) {}
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
    fn describe(&self) -> String {
        String::new()
    }
}

#[derive(Clone)]
struct Fake {
    task: Arc<Stopped>,
    space: Arc<Space>,
}

impl Platform for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }
    fn next_event(&self, _between: &dyn Fn()) -> Event {
        unreachable!("nothing runs here")
    }
    fn new_space(&self) -> BoxFuture<Result<Spawned, PlatformError>> {
        let (task, space) = (self.task.clone(), self.space.clone());
        Box::pin(std::future::ready(Ok(Spawned { task, space })))
    }
}

/// A program of one page.
fn program() -> Vec<u8> {
    let mut ident = [0; EI_NIDENT];
    ident[..4].copy_from_slice(&ELFMAG);
    ident[EI_CLASS] = ELFCLASS64;
    ident[EI_DATA] = ELFDATA2LSB;
    ident[EI_VERSION] = EV_CURRENT;
    let head = Elf64Ehdr {
        e_ident: ident,
        e_type: ET_EXEC,
        e_machine: EM_X86_64,
        e_version: 1,
        e_entry: 0x40_0100,
        e_phoff: 64,
        e_phentsize: 56,
        e_phnum: 1,
        e_ehsize: 64,
        ..Elf64Ehdr::default()
    };
    let segment = Elf64Phdr {
        p_type: PT_LOAD,
        p_flags: PF_R | PF_X,
        p_offset: 0,
        p_vaddr: 0x40_0000,
        p_paddr: 0x40_0000,
        p_filesz: 0x1000,
        p_memsz: 0x1000,
        p_align: 0x1000,
    };
    let mut file = head.as_bytes().to_vec();
    file.extend_from_slice(segment.as_bytes());
    file.resize(0x1000, 0);
    file
}

fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the future waits"),
    }
}

/// The task, whose calls the test makes.
pub struct Guest {
    pub kernel: Arc<Kernel>,
    pub task: Arc<Task>,
    stopped: Arc<Stopped>,
    space: Arc<Space>,
}

impl Guest {
    pub fn new() -> Guest {
        let fake = Fake {
            task: Arc::new(Stopped { answer: AtomicI64::new(WAITS) }),
            space: Arc::new(Space { ram: Mutex::new(vec![0; RAM_SIZE]) }),
        };
        let machine = Machine { cpus: 1, memory_bytes: 1 << 30 };
        let kernel = Kernel::new(Arc::new(fake.clone()), Reactor::start().unwrap(), machine);
        kernel.set_dispatch(Box::new(Table::new(None)));
        let creds = Creds::root();
        kernel.set_net(chitin_net::NetNs::new(true), &creds.user_ns);

        let tmpfs = TmpFs::new(Storage::Memory, b"", 1 << 20).unwrap();
        let root = tmpfs.root();
        let new = NewInode { kind: NewKind::Regular, perm: 0o755, uid: 0, gid: 0 };
        let file = root.dir().unwrap().create(b"program", &new).unwrap();
        let image = program();
        file.open(chitin_abi::fcntl::O_RDWR)
            .unwrap()
            .write(WriteAt::At(0), &mut SliceSource::new(&image))
            .unwrap();
        let ns = MountNs::new(Mount::new(tmpfs, b"none", 0));
        let fs = FsState::new(Place::top(kernel.vfs.clone(), ns, 0o22));

        let names = Uts { hostname: b"hot".to_vec(), domainname: b"(none)".to_vec() };
        let request = InitRequest {
            namespaces: kernel.new_namespaces(names, &creds.user_ns, Offsets::default()),
            container: kernel.container.clone(),
            fs,
            files: FdTable::new(),
            creds,
            rlimits: std::array::from_fn(|_| Rlimit { rlim_cur: 1024, rlim_max: 1024 }),
            args: vec![b"/program".to_vec()],
            env: Vec::new(),
            tty: None,
        };
        let task = now(make_init(&kernel, request)).expect("the program is in order");
        run::drain();
        Guest { kernel, task, stopped: fake.task, space: fake.space }
    }

    /// Makes a call as a worker would: what it answers, or [`WAITS`].
    pub fn call(&self, nr: u64, args: [u64; 6]) -> i64 {
        self.stopped.answer.store(WAITS, Ordering::Relaxed);
        let kind = EventKind::Syscall { arch: AUDIT_ARCH_X86_64, nr, args, ip: 0x40_0100 };
        run::handle(&self.kernel, Event { owner: self.task.clone(), kind });
        run::drain();
        self.answer()
    }

    /// What the last call has answered by now.
    pub fn answer(&self) -> i64 {
        self.stopped.answer.load(Ordering::Relaxed)
    }

    /// As [`Guest::call`]: what must succeed.
    pub fn done(&self, nr: u64, args: &[u64]) -> u64 {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        let answer = self.call(nr, all);
        assert!(answer >= 0, "call {nr} answers {answer}");
        answer as u64
    }

    pub fn put(&self, addr: u64, data: &[u8]) {
        self.space.write(addr, data).unwrap();
    }

    pub fn get<const N: usize>(&self, addr: u64) -> [u8; N] {
        let mut data = [0; N];
        self.space.read(addr, &mut data).unwrap();
        data
    }
}
