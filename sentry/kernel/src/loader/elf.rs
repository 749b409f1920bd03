//! ELF headers: what Linux's load_elf_binary() checks, and the segments as numbers that need no further check.

use super::read_file;
use chitin_abi::Errno;
use chitin_abi::elf::*;
use chitin_abi::limits::{PAGE_SIZE, PATH_MAX, TASK_SIZE};
use chitin_abi::mman::{PROT_EXEC, PROT_READ, PROT_WRITE};
use chitin_vfs::File;
use zerocopy::{FromBytes, IntoBytes};

/// The longest table of program headers.
const MAX_HEADERS_BYTES: usize = 65536;

/// Which file of a program this is: their errors differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Program,
    Interpreter,
}

impl Role {
    fn malformed(self) -> Errno {
        match self {
            Role::Program => Errno::ENOEXEC,
            Role::Interpreter => Errno::ELIBBAD,
        }
    }
}

/// A loadable segment. `vaddr + memsz` does not overflow and lies in user space, `filesz <= memsz`, `offset + filesz`
/// does not overflow, and offset and address agree within the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) vaddr: u64,
    pub(super) memsz: u64,
    pub(super) filesz: u64,
    pub(super) offset: u64,
    pub(super) prot: u32,
}

impl Segment {
    pub(super) fn end(&self) -> u64 {
        self.vaddr.saturating_add(self.memsz)
    }
    pub(super) fn file_end(&self) -> u64 {
        self.vaddr.saturating_add(self.filesz)
    }
}

/// Reads at an offset: how much of the buffer the file could fill.
type ReadAt<'a> = dyn FnMut(u64, &mut [u8]) -> Result<usize, Errno> + 'a;

/// An ELF file, as far as it matters.
#[derive(Clone, Debug)]
pub(super) struct Elf {
    /// ET_DYN: may be placed anywhere.
    pub(super) relocatable: bool,
    pub(super) entry: u64,
    /// At least one; with `low` and `high` as their bounds, page-aligned.
    pub(super) segments: Vec<Segment>,
    pub(super) low: u64,
    pub(super) high: u64,
    pub(super) alignment: u64,
    /// Where the program headers will be; 0 if they are in no segment.
    pub(super) phdr: u64,
    pub(super) phnum: u16,
    pub(super) interpreter: Option<Vec<u8>>,
    pub(super) executable_stack: bool,
}

pub(super) fn page_down(addr: u64) -> u64 {
    addr & !(PAGE_SIZE - 1)
}

/// For addresses in user space, where it cannot overflow.
pub(super) fn page_up(addr: u64) -> u64 {
    page_down(addr.saturating_add(PAGE_SIZE - 1))
}

fn protection(flags: u32) -> u32 {
    [(PF_R, PROT_READ), (PF_W, PROT_WRITE), (PF_X, PROT_EXEC)]
        .into_iter()
        .filter(|(flag, _)| flags & flag != 0)
        .fold(0, |prot, (_, bit)| prot | bit)
}

/// EINVAL for numbers that load_elf_binary() and mmap refuse.
fn segment(header: &Elf64Phdr) -> Result<Segment, Errno> {
    let Elf64Phdr { p_vaddr: vaddr, p_memsz: memsz, p_filesz: filesz, p_offset: offset, .. } = *header;
    let end = vaddr.checked_add(memsz).ok_or(Errno::EINVAL)?;
    let file_end = offset.checked_add(filesz).ok_or(Errno::EINVAL)?;
    if filesz > memsz || end > TASK_SIZE || i64::try_from(file_end).is_err() {
        return Err(Errno::EINVAL);
    }
    if filesz > 0 && offset % PAGE_SIZE != vaddr % PAGE_SIZE {
        return Err(Errno::EINVAL);
    }
    Ok(Segment { vaddr, memsz, filesz, offset, prot: protection(header.p_flags) })
}

impl Elf {
    /// Reads and checks the headers of a file.
    pub(super) fn read(file: &File, role: Role) -> Result<Elf, Errno> {
        Elf::read_from(role, &mut |pos, buf| read_file(file, pos, buf))
    }

    /// As [`Elf::read`], from anything that can be read.
    pub(super) fn read_from(role: Role, read: &mut ReadAt<'_>) -> Result<Elf, Errno> {
        let malformed = role.malformed();
        let mut bytes = [0; size_of::<Elf64Ehdr>()];
        let count = read(0, &mut bytes)?;
        if role == Role::Interpreter && count < bytes.len() {
            return Err(Errno::EIO);
        }
        let header = Elf64Ehdr::read_from_bytes(&bytes).map_err(|_| malformed)?;
        let class = header.e_ident.get(EI_CLASS) == Some(&ELFCLASS64);
        if !header.e_ident.starts_with(&ELFMAG) || !class || header.e_machine != EM_X86_64 {
            return Err(malformed);
        }
        if header.e_type != ET_EXEC && header.e_type != ET_DYN {
            return Err(malformed);
        }
        let size = usize::from(header.e_phnum) * size_of::<Elf64Phdr>();
        if usize::from(header.e_phentsize) != size_of::<Elf64Phdr>() || size == 0 || size > MAX_HEADERS_BYTES
        {
            return Err(malformed);
        }
        let mut headers = vec![Elf64Phdr::default(); usize::from(header.e_phnum)];
        if read(header.e_phoff, headers.as_mut_slice().as_mut_bytes()) != Ok(size) {
            return Err(malformed);
        }
        let interpreter = match role {
            Role::Program => headers
                .iter()
                .find(|header| header.p_type == PT_INTERP)
                .map(|header| read_interpreter(header, read))
                .transpose()?,
            Role::Interpreter => None,
        };
        Elf::plan(&header, &headers, interpreter)
    }

    /// What to map, from the headers alone.
    fn plan(header: &Elf64Ehdr, headers: &[Elf64Phdr], interpreter: Option<Vec<u8>>) -> Result<Elf, Errno> {
        let mut segments = Vec::new();
        let mut alignment = PAGE_SIZE;
        let mut phdr = 0;
        for load in headers.iter().filter(|header| header.p_type == PT_LOAD) {
            let segment = segment(load)?;
            if load.p_align.is_power_of_two() {
                alignment = alignment.max(load.p_align);
            }
            let in_file = header.e_phoff.checked_sub(segment.offset).filter(|at| *at < segment.filesz);
            if let (0, Some(at)) = (phdr, in_file) {
                phdr = segment.vaddr.saturating_add(at);
            }
            if segment.memsz > 0 {
                segments.push(segment);
            }
        }
        let low = segments.iter().map(|segment| page_down(segment.vaddr)).min().ok_or(Errno::EINVAL)?;
        let high = segments.iter().map(|segment| page_up(segment.end())).max().ok_or(Errno::EINVAL)?;
        if header.e_entry >= TASK_SIZE {
            return Err(Errno::EINVAL);
        }
        let stack = headers.iter().rfind(|header| header.p_type == PT_GNU_STACK);
        Ok(Elf {
            relocatable: header.e_type == ET_DYN,
            entry: header.e_entry,
            segments,
            low,
            high,
            alignment,
            phdr,
            phnum: header.e_phnum,
            interpreter,
            // Without the header the stack is not executable on x86-64.
            executable_stack: stack.is_some_and(|header| header.p_flags & PF_X != 0),
        })
    }

    /// The length of the range it needs.
    pub(super) fn span(&self) -> u64 {
        self.high.saturating_sub(self.low)
    }
}

/// The path of the interpreter: ENOEXEC unless it ends in NUL and is not too long.
fn read_interpreter(header: &Elf64Phdr, read: &mut ReadAt<'_>) -> Result<Vec<u8>, Errno> {
    let len = usize::try_from(header.p_filesz).map_err(|_| Errno::ENOEXEC)?;
    if !(2..=PATH_MAX).contains(&len) {
        return Err(Errno::ENOEXEC);
    }
    let mut path = vec![0; len];
    if read(header.p_offset, &mut path)? < len {
        return Err(Errno::EIO);
    }
    if path.last() != Some(&0) {
        return Err(Errno::ENOEXEC);
    }
    let end = path.iter().position(|&b| b == 0).unwrap_or(0);
    path.truncate(end);
    Ok(path)
}
