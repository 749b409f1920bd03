//! Making the address space: segments, bss, stack, registers.

use super::elf::{Elf, Segment, page_down, page_up};
use super::layout::{self, Placement, Room};
use super::{DenyWrite, LoadRequest, Loaded, Program, comm, read_file, stack};
use chitin_abi::Errno;
use chitin_abi::auxv::*;
use chitin_abi::elf::Elf64Phdr;
use chitin_abi::limits::{PAGE_SIZE, USER_HZ};
use chitin_abi::mman::*;
use chitin_abi::num::to_usize;
use chitin_mm::{Layout, MappedFile, Mm, host_errno};
use chitin_platform::{AddressSpace, BoxFuture, HostOp, PlatformError, PlatformTask, Registers, Spawned};
use chitin_vfs::{Context, File, Mappable};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Bytes of a file copied at a time, where it cannot be mapped.
const COPY_STEP: usize = 64 << 10;

/// Kept free around the vDSO, for the pages of data that belong to it.
const VDSO_MARGIN: u64 = 64 << 10;

/// Ends the host process of a space that was not finished.
struct Unfinished(Option<Arc<dyn PlatformTask>>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.kill_process();
        }
    }
}

/// An ELF file with what maps it.
struct Source {
    file: Arc<File>,
    elf: Elf,
    bias: u64,
    /// `None`: its content has to be copied.
    host: Option<Arc<OwnedFd>>,
}

impl Source {
    fn new(file: Arc<File>, elf: Elf, bias: u64) -> Source {
        let host = match file.ops().mmap(false) {
            Ok(Mappable::Host(fd)) => Some(fd),
            _ => None,
        };
        Source { file, elf, bias, host }
    }

    fn at(&self, addr: u64) -> u64 {
        addr.wrapping_add(self.bias)
    }

    fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.elf.segments.iter()
    }

    /// The operations that map the segments.
    fn map(&self, ops: &mut Vec<HostOp>) {
        for segment in self.segments() {
            let start = page_down(segment.vaddr);
            let end = page_up(segment.end());
            let Some(host) = &self.host else {
                ops.push(anonymous(self.at(start)..self.at(end), PROT_READ | PROT_WRITE));
                continue;
            };
            let mut bss = start;
            if segment.filesz > 0 {
                let file_end = page_up(segment.file_end());
                let offset = page_down(segment.offset);
                ops.push(HostOp::Mmap {
                    addr: self.at(start),
                    len: file_end - start,
                    prot: segment.prot,
                    flags: MAP_PRIVATE | MAP_FIXED,
                    file: Some((host.clone(), offset)),
                });
                bss = file_end;
            }
            if end > bss {
                // As Linux's vm_brk_flags(): writable whatever the segment says.
                let prot = PROT_READ | PROT_WRITE | (segment.prot & PROT_EXEC);
                ops.push(anonymous(self.at(bss)..self.at(end), prot));
            }
        }
    }

    /// Fills in what mapping alone does not give: the zeroes after a segment's last byte, or all of its content.
    fn fill(&self, mm: &Mm) -> Result<(), Errno> {
        for segment in self.segments() {
            if self.host.is_none() {
                self.copy(mm, segment)?;
                continue;
            }
            let tail = page_up(segment.file_end()).saturating_sub(segment.file_end());
            let has_bss = segment.memsz > segment.filesz && segment.filesz > 0;
            if has_bss && tail > 0 && segment.prot & PROT_WRITE != 0 {
                let zeroes = [0; to_usize(PAGE_SIZE)];
                let zeroes = zeroes.get(..to_usize(tail)).unwrap_or_default();
                mm.write_bytes(self.at(segment.file_end()), zeroes)?;
            }
        }
        Ok(())
    }

    fn copy(&self, mm: &Mm, segment: &Segment) -> Result<(), Errno> {
        let mut buf = vec![0; COPY_STEP];
        let mut done = 0;
        while done < segment.filesz {
            let want = usize::try_from(segment.filesz - done).unwrap_or(usize::MAX).min(COPY_STEP);
            let Some(part) = buf.get_mut(..want) else { break };
            let count = read_file(&self.file, segment.offset.saturating_add(done), part)?;
            mm.write_bytes(
                self.at(segment.vaddr.saturating_add(done)),
                part.get(..count).unwrap_or_default(),
            )?;
            done += count as u64;
            if count < want {
                break;
            }
        }
        Ok(())
    }

    /// The operations that give copied segments their protection.
    fn protect(&self, ops: &mut Vec<HostOp>) {
        if self.host.is_some() {
            return;
        }
        for segment in self.segments().filter(|segment| segment.prot != PROT_READ | PROT_WRITE) {
            let addr = page_down(segment.vaddr);
            let len = page_up(segment.end()) - addr;
            ops.push(HostOp::Mprotect { addr: self.at(addr), len, prot: segment.prot });
        }
    }

    /// Lets /proc/PID/maps show the guest's file.
    fn name(&self, ctx: &Context, mm: &Mm) {
        let (Some(host), Some(path)) = (&self.host, self.file.path()) else { return };
        let (Ok(stat), Ok(attr)) = (chitin_host::filestore::stat(host.as_fd()), self.file.inode().attr())
        else {
            return;
        };
        let (text, _) = ctx.ns.text(&ctx.root, path);
        mm.name_file((stat.dev, stat.ino), MappedFile { dev: attr.dev, ino: attr.ino, path: text.into() });
    }
}

fn anonymous(range: Range<u64>, prot: u32) -> HostOp {
    HostOp::Mmap {
        addr: range.start,
        len: range.end.saturating_sub(range.start),
        prot,
        flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
        file: None,
    }
}

/// The auxiliary vector but for what points into the stack, in Linux's order.
fn auxv(
    main: &Source,
    interpreter: Option<&Source>,
    vdso: Option<u64>,
    request: &LoadRequest,
) -> Vec<(u64, u64)> {
    let host = chitin_host::auxv::value;
    let mut entries = Vec::with_capacity(24);
    entries.extend(vdso.filter(|_| !request.own_time).map(|addr| (AT_SYSINFO_EHDR, addr)));
    entries.extend([
        (AT_MINSIGSTKSZ, host(AT_MINSIGSTKSZ)),
        (AT_HWCAP, host(AT_HWCAP)),
        (AT_PAGESZ, PAGE_SIZE),
        (AT_CLKTCK, USER_HZ),
        (AT_PHDR, main.at(main.elf.phdr)),
        (AT_PHENT, size_of::<Elf64Phdr>() as u64),
        (AT_PHNUM, u64::from(main.elf.phnum)),
        (AT_BASE, interpreter.map_or(0, |source| source.bias)),
        (AT_FLAGS, 0),
        (AT_ENTRY, main.at(main.elf.entry)),
        (AT_UID, u64::from(request.uid)),
        (AT_EUID, u64::from(request.euid)),
        (AT_GID, u64::from(request.gid)),
        (AT_EGID, u64::from(request.egid)),
        (AT_SECURE, u64::from(request.secure)),
        (AT_HWCAP2, host(AT_HWCAP2)),
    ]);
    // Restartable sequences are the host's.
    for kind in [AT_RSEQ_FEATURE_SIZE, AT_RSEQ_ALIGN] {
        entries.extend(Some((kind, host(kind))).filter(|&(_, value)| value != 0));
    }
    entries
}

fn code_and_data(source: &Source) -> Layout {
    let mut layout = Layout { start_code: u64::MAX, ..Layout::default() };
    for segment in source.segments() {
        let (start, end) = (source.at(segment.vaddr), source.at(segment.file_end()));
        if segment.prot & PROT_EXEC != 0 {
            layout.start_code = layout.start_code.min(start);
            layout.end_code = layout.end_code.max(end);
        }
        layout.start_data = layout.start_data.max(start);
        layout.end_data = layout.end_data.max(end);
    }
    layout
}

fn random_number(request: &LoadRequest) -> impl FnMut() -> u64 {
    let fixed = request.no_randomize;
    // Without randomness from the host, places are predictable but programs still run.
    move || if fixed { 0 } else { chitin_host::random::number().unwrap_or(0) }
}

fn room(space: &dyn AddressSpace) -> Room {
    let mut taken = vec![space.reserved()];
    taken.extend(space.vdso().map(|vdso| vdso.saturating_sub(VDSO_MARGIN)..vdso.saturating_add(VDSO_MARGIN)));
    Room { user: space.user_range(), taken }
}

/// Makes a new address space with the program in it.
pub(super) async fn load(
    ctx: &Context,
    space: BoxFuture<Result<Spawned, PlatformError>>,
    program: &Program,
    main: Elf,
    interpreter: Option<(Arc<File>, Elf)>,
    request: &LoadRequest,
) -> Result<Loaded, Errno> {
    let text = DenyWrite::new(&program.file)?;
    let _interpreter_text = interpreter.as_ref().map(|(file, _)| DenyWrite::new(file)).transpose()?;
    let spawned = space.await.map_err(|error| {
        tracing::debug!(%error, "making an address space failed");
        host_errno(&error)
    })?;
    let (task, space) = (spawned.task, spawned.space);
    let mut unfinished = Unfinished(Some(task.clone()));
    let mm = Mm::new(space.clone());

    let mut random = random_number(request);
    let stack_size = layout::stack_size(request.stack_limit, stack::size(program));
    let interpreter_elf = interpreter.as_ref().map(|(_, elf)| elf);
    let placement = layout::place(&main, interpreter_elf, room(&*space), stack_size, &mut random)?;
    let Placement { stack, brk, .. } = placement.clone();
    let executable_stack = main.executable_stack;
    let main = Source::new(program.file.clone(), main, placement.main);
    let interpreter = interpreter.map(|(file, elf)| Source::new(file, elf, placement.interpreter));
    let sources = || [Some(&main), interpreter.as_ref()].into_iter().flatten();

    let mut ops = vec![HostOp::Mmap {
        addr: stack.start,
        len: stack.end - stack.start,
        prot: PROT_READ | PROT_WRITE | if executable_stack { PROT_EXEC } else { 0 },
        flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE | MAP_STACK,
        file: None,
    }];
    sources().for_each(|source| source.map(&mut ops));
    mm.apply(task.clone(), ops).await.map_err(|(index, error)| {
        tracing::debug!(index, %error, "mapping a program failed");
        host_errno(&error)
    })?;
    sources().try_for_each(|source| source.fill(&mm))?;
    let mut ops = Vec::new();
    sources().for_each(|source| source.protect(&mut ops));
    if !ops.is_empty() {
        mm.apply(task.clone(), ops).await.map_err(|(index, error)| {
            tracing::debug!(index, %error, "mapping a program failed");
            host_errno(&error)
        })?;
    }

    let mut random_bytes = [0; 16];
    chitin_host::random::fill(&mut random_bytes).map_err(|_| Errno::EIO)?;
    let entries = auxv(&main, interpreter.as_ref(), space.vdso(), request);
    let image = stack::build(stack.end, program, &entries, &random_bytes, random())?;
    mm.write_bytes(image.sp, &image.bytes)?;

    mm.set_layout(Layout {
        start_stack: image.sp,
        stack,
        arg: image.arg,
        env: image.env,
        auxv: image.auxv,
        ..code_and_data(&main)
    });
    mm.set_brk_start(brk);
    sources().for_each(|source| source.name(ctx, &mm));

    let entry = match &interpreter {
        Some(source) => source.at(source.elf.entry),
        None => main.at(main.elf.entry),
    };
    task.ensure_frame().await.map_err(|error| host_errno(&error))?;
    let registers = Registers { rip: entry, rsp: image.sp, eflags: 0x202, ..Registers::default() };
    task.set_registers(&registers).map_err(|error| host_errno(&error))?;
    task.write_fpstate(&[]).map_err(|error| host_errno(&error))?;
    unfinished.0 = None;
    Ok(Loaded { mm, task, exe: program.file.path().cloned(), text, name: comm(&program.path) })
}
