//! maps, smaps, smaps_rollup, numa_maps (fs/proc/task_mmu.c).

use super::Subject;
use super::stat::memory;
use crate::format::{escape, put};
use chitin_abi::Errno;
use chitin_abi::stat::{major, minor};
use chitin_mm::{HostVma, HostVmaKind, MappedFile, Mm};
use chitin_vfs::Caller;
use std::sync::Arc;

/// A mapping with the guest's view of what is behind it.
struct Mapping {
    vma: HostVma,
    file: Option<MappedFile>,
    label: Option<&'static str>,
}

impl Mapping {
    fn size(&self) -> u64 {
        self.vma.range.end.saturating_sub(self.vma.range.start)
    }
}

fn mappings(mm: &Arc<Mm>, rss: bool) -> Result<Vec<Mapping>, Errno> {
    let layout = mm.layout();
    let heap = mm.brk_range();
    let vmas = mm.space().mappings(rss).map_err(|_| Errno::ESRCH)?;
    let label = |vma: &HostVma| match vma.kind {
        HostVmaKind::Vdso => Some("[vdso]"),
        HostVmaKind::Vvar => Some("[vvar]"),
        HostVmaKind::Vsyscall => Some("[vsyscall]"),
        HostVmaKind::File => None,
        HostVmaKind::Anonymous if vma.range.start < heap.end && vma.range.end > heap.start => Some("[heap]"),
        HostVmaKind::Anonymous if vma.range.contains(&layout.start_stack) => Some("[stack]"),
        HostVmaKind::Anonymous => None,
    };
    Ok(vmas
        .into_iter()
        .map(|vma| {
            // A host file without a name of ours (pages of a memory file) is the sandbox's own business.
            let file = if vma.kind == HostVmaKind::File { mm.file_name((vma.dev, vma.ino)) } else { None };
            Mapping { label: label(&vma), vma, file }
        })
        .collect())
}

/// A line of maps (show_map_vma()).
fn line(mapping: &Mapping, out: &mut Vec<u8>) {
    let start = out.len();
    let vma = &mapping.vma;
    let flag = |bit: u32, letter: char| if vma.prot & bit != 0 { letter } else { '-' };
    let (offset, dev, ino) = mapping.file.as_ref().map_or((0, 0, 0), |file| (vma.offset, file.dev, file.ino));
    put!(
        out,
        "{:08x}-{:08x} {}{}{}{} {offset:08x} {:02x}:{:02x} {ino} ",
        vma.range.start,
        vma.range.end,
        flag(1, 'r'),
        flag(2, 'w'),
        flag(4, 'x'),
        if vma.shared { 's' } else { 'p' },
        major(dev),
        minor(dev)
    );
    let name = match (&mapping.file, mapping.label) {
        (Some(file), _) => Some(&*file.path),
        (None, Some(label)) => Some(label.as_bytes()),
        (None, None) => None,
    };
    if let Some(name) = name {
        let written = out.len().saturating_sub(start);
        out.extend(std::iter::repeat_n(b' ', 73usize.saturating_sub(written).max(1)));
        escape(out, name, b"\n");
    }
    out.push(b'\n');
}

pub(super) fn maps(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Result<(), Errno> {
    let Some(mm) = memory(subject) else { return Ok(()) };
    mappings(&mm, false)?.iter().for_each(|mapping| line(mapping, out));
    Ok(())
}

/// What smaps tells of a mapping, in kilobytes. The host tells the resident size; the split follows from the kind of
/// mapping: pages of files are clean, others dirty and the process's own.
#[derive(Clone, Copy, Default)]
struct Sizes {
    rss: u64,
    pss_dirty: u64,
    shared_clean: u64,
    shared_dirty: u64,
    private_clean: u64,
    private_dirty: u64,
    anonymous: u64,
}

impl Sizes {
    fn of(mapping: &Mapping) -> Sizes {
        let rss = mapping.vma.rss_kb;
        let mut sizes = Sizes { rss, ..Sizes::default() };
        match (mapping.vma.kind, mapping.vma.shared) {
            (HostVmaKind::Anonymous, false) => {
                (sizes.private_dirty, sizes.anonymous, sizes.pss_dirty) = (rss, rss, rss);
            }
            (HostVmaKind::Anonymous, true) => (sizes.shared_dirty, sizes.pss_dirty) = (rss, rss),
            (HostVmaKind::File, false) => sizes.private_clean = rss,
            _ => sizes.shared_clean = rss,
        }
        sizes
    }

    fn add(&mut self, other: &Sizes) {
        self.rss += other.rss;
        self.pss_dirty += other.pss_dirty;
        self.shared_clean += other.shared_clean;
        self.shared_dirty += other.shared_dirty;
        self.private_clean += other.private_clean;
        self.private_dirty += other.private_dirty;
        self.anonymous += other.anonymous;
    }

    fn show(&self, rollup: bool, out: &mut Vec<u8>) {
        let clean = self.private_clean + self.shared_clean;
        let kb = |out: &mut Vec<u8>, name: &str, value: u64| {
            let label = format!("{name}:");
            put!(out, "{label:<16}{value:8} kB\n");
        };
        kb(out, "Rss", self.rss);
        kb(out, "Pss", self.rss);
        kb(out, "Pss_Dirty", self.pss_dirty);
        if rollup {
            kb(out, "Pss_Anon", self.anonymous);
            kb(out, "Pss_File", clean);
            kb(out, "Pss_Shmem", self.shared_dirty);
        }
        kb(out, "Shared_Clean", self.shared_clean);
        kb(out, "Shared_Dirty", self.shared_dirty);
        kb(out, "Private_Clean", self.private_clean);
        kb(out, "Private_Dirty", self.private_dirty);
        kb(out, "Referenced", self.rss);
        kb(out, "Anonymous", self.anonymous);
        for name in [
            "KSM",
            "LazyFree",
            "AnonHugePages",
            "ShmemPmdMapped",
            "FilePmdMapped",
            "Shared_Hugetlb",
            "Private_Hugetlb",
            "Swap",
            "SwapPss",
            "Locked",
        ] {
            kb(out, name, 0);
        }
    }
}

pub(super) fn smaps(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Result<(), Errno> {
    let Some(mm) = memory(subject) else { return Ok(()) };
    for mapping in mappings(&mm, true)? {
        line(&mapping, out);
        put!(out, "Size:           {:8} kB\n", mapping.size() >> 10);
        put!(out, "KernelPageSize: {:8} kB\nMMUPageSize:    {:8} kB\n", 4, 4);
        Sizes::of(&mapping).show(false, out);
        put!(out, "THPeligible:    {:8}\nVmFlags: ", 0);
        let vma = &mapping.vma;
        for (bit, name) in [(1, "rd"), (2, "wr"), (4, "ex")] {
            if vma.prot & bit != 0 {
                put!(out, "{name} ");
            }
        }
        put!(out, "{}mr mw me ", if vma.shared { "sh " } else { "" });
        if vma.kind == HostVmaKind::Anonymous && !vma.shared {
            put!(out, "ac ");
        }
        out.push(b'\n');
    }
    Ok(())
}

pub(super) fn rollup(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Result<(), Errno> {
    let mm = memory(subject).ok_or(Errno::ESRCH)?;
    let mappings = mappings(&mm, true)?;
    let mut sum = Sizes::default();
    mappings.iter().for_each(|mapping| sum.add(&Sizes::of(mapping)));
    let first = mappings.first().map_or(0, |mapping| mapping.vma.range.start);
    let last = mappings.last().map_or(0, |mapping| mapping.vma.range.end);
    let start = out.len();
    put!(out, "{first:08x}-{last:08x} ---p 00000000 00:00 0 ");
    let written = out.len().saturating_sub(start);
    out.extend(std::iter::repeat_n(b' ', 73usize.saturating_sub(written)));
    out.extend_from_slice(b"[rollup]\n");
    sum.show(true, out);
    Ok(())
}

pub(super) fn numa(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Result<(), Errno> {
    let Some(mm) = memory(subject) else { return Ok(()) };
    for mapping in mappings(&mm, true)? {
        put!(out, "{:08x} default", mapping.vma.range.start);
        match (&mapping.file, mapping.label) {
            (Some(file), _) => {
                out.extend_from_slice(b" file=");
                escape(out, &file.path, b"\n\t= ");
            }
            (None, Some("[heap]")) => out.extend_from_slice(b" heap"),
            (None, Some("[stack]")) => out.extend_from_slice(b" stack"),
            _ => {}
        }
        let pages = mapping.vma.rss_kb / 4;
        if pages > 0 {
            let kind = if mapping.vma.kind == HostVmaKind::Anonymous { "anon" } else { "mapped" };
            put!(out, " {kind}={pages} N0={pages} kernelpagesize_kB=4");
        }
        out.push(b'\n');
    }
    Ok(())
}
