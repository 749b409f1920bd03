//! What the host knows about an address space: mappings and sizes, read through an injected /proc directory.

use crate::layout::{STUB_BASE, STUB_HI};
use crate::memory::Memory;
use crate::sys;
use chitin_platform::{HostVma, HostVmaKind, PlatformError, SpaceUsage};
use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// `struct procmap_query` (Linux 6.11).
#[repr(C)]
#[derive(Default)]
struct MapQuery {
    size: u64,
    flags: u64,
    addr: u64,
    start: u64,
    end: u64,
    vma_flags: u64,
    page_size: u64,
    offset: u64,
    inode: u64,
    dev_major: u32,
    dev_minor: u32,
    name_size: u32,
    build_id_size: u32,
    name: u64,
    build_id: u64,
}
const PROCMAP_QUERY: u64 = 0xc068_6611;

/// Whether the host answers a query on this maps file (Linux 6.11).
pub fn has_query(maps: &OwnedFd) -> bool {
    let mut q = MapQuery { size: size_of::<MapQuery>() as u64, ..MapQuery::default() };
    // SAFETY: the kernel reads and fills one `struct procmap_query` of the size given in it.
    let r = unsafe { libc::ioctl(maps.as_raw_fd(), PROCMAP_QUERY as _, &raw mut q) };
    r == 0 || sys::errno() == libc::ENOENT
}

fn open(dir: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, i32> {
    let path = CString::new(path).map_err(|_| libc::EINVAL)?;
    sys::open_at(Some(dir), &path, libc::O_RDONLY)
}

pub(crate) fn read(dir: BorrowedFd<'_>, path: &str) -> Result<String, i32> {
    // Most are short: one read, and one that finds the end. (`take` keeps the library from asking for the size first.)
    let mut out = Vec::with_capacity(1024);
    let f = File::from(open(dir, path)?);
    f.take(u64::MAX).read_to_end(&mut out).map_err(|e| e.raw_os_error().unwrap_or(libc::EIO))?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// Reads a process's memory whatever its mappings are marked as: the caller has looked at them.
pub fn read_memory(dir: BorrowedFd<'_>, pid: i32, addr: u64, buf: &mut [u8]) -> Result<usize, i32> {
    let memory = File::from(open(dir, &format!("{pid}/mem"))?);
    memory.read_at(buf, addr).map_err(|e| e.raw_os_error().unwrap_or(libc::EIO))
}

pub fn dev(major: u64, minor: u64) -> u64 {
    libc::makedev(major as u32, minor as u32)
}

/// One header line of maps or smaps.
fn parse_line(line: &str) -> Option<HostVma> {
    let mut it = line.split_ascii_whitespace();
    let (start, end) = it.next()?.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(end, 16).ok()?;
    let &[r, w, x, sharing] = it.next()?.as_bytes() else { return None };
    let offset = u64::from_str_radix(it.next()?, 16).ok()?;
    let (maj, min) = it.next()?.split_once(':')?;
    let dev = dev(u64::from_str_radix(maj, 16).ok()?, u64::from_str_radix(min, 16).ok()?);
    let ino = it.next()?.parse().ok()?;
    let kind = match it.next() {
        Some("[vdso]") => HostVmaKind::Vdso,
        Some(s) if s.starts_with("[vvar") => HostVmaKind::Vvar,
        Some("[vsyscall]") => HostVmaKind::Vsyscall,
        _ if ino != 0 => HostVmaKind::File,
        _ => HostVmaKind::Anonymous,
    };
    let prot = u32::from(r == b'r') | u32::from(w == b'w') << 1 | u32::from(x == b'x') << 2;
    Some(HostVma { range: start..end, prot, shared: sharing == b's', offset, dev, ino, kind, rss_kb: 0 })
}

/// All mappings of a process, the platform's own included.
pub fn all(dir: BorrowedFd<'_>, pid: i32, rss: bool) -> Result<Vec<HostVma>, i32> {
    let text = read(dir, &format!("{pid}/{}", if rss { "smaps" } else { "maps" }))?;
    let mut out: Vec<HostVma> = Vec::new();
    for line in text.lines() {
        if let Some(v) = parse_line(line) {
            out.push(v);
        } else if let (Some(kb), Some(v)) = (line.strip_prefix("Rss:"), out.last_mut()) {
            v.rss_kb = kb.trim().trim_end_matches("kB").trim().parse().unwrap_or(0);
        }
    }
    Ok(out)
}

fn host(op: &'static str) -> impl Fn(i32) -> PlatformError {
    move |errno| match errno {
        libc::ENOENT | libc::ESRCH => PlatformError::Gone,
        _ => PlatformError::Host { op, errno },
    }
}

impl Memory {
    fn pid(&self) -> Result<i32, PlatformError> {
        self.readers.read().first().copied().ok_or(PlatformError::Gone)
    }

    fn hidden(&self, v: &HostVma) -> bool {
        let own = v.range.start >= STUB_BASE && v.range.end <= STUB_HI;
        let gap =
            self.gap.get().is_some_and(|g| v.prot == 0 && v.range.start >= g.start && v.range.end <= g.end);
        own || gap || self.is_own(&v.range)
    }

    pub fn list_mappings(&self, rss: bool) -> Result<Vec<HostVma>, PlatformError> {
        let mut all = all(self.host.proc_dir.as_fd(), self.pid()?, rss).map_err(host("read of maps"))?;
        all.retain(|v| !self.hidden(v));
        // A guest's own PROT_NONE mapping may have merged with the gap.
        if let Some(g) = self.gap.get() {
            for v in all.iter_mut().filter(|v| v.prot == 0 && v.ino == 0) {
                if v.range.end == g.end && v.range.start < g.start {
                    v.range.end = g.start;
                }
            }
        }
        Ok(all)
    }

    pub fn find_mapping(&self, addr: u64) -> Result<Option<HostVma>, PlatformError> {
        let fd = open(self.host.proc_dir.as_fd(), &format!("{}/maps", self.pid()?))
            .map_err(host("open of maps"))?;
        let mut q = MapQuery { size: size_of::<MapQuery>() as u64, addr, ..MapQuery::default() };
        // SAFETY: the kernel reads and fills one `struct procmap_query` of the size given in it.
        let r = unsafe { libc::ioctl(fd.as_raw_fd(), PROCMAP_QUERY as _, &raw mut q) };
        if r < 0 {
            return match sys::errno() {
                libc::ENOENT => Ok(None),
                libc::ESRCH => Err(PlatformError::Gone),
                _ => Ok(self.list_mappings(false)?.into_iter().find(|v| v.range.contains(&addr))),
            };
        }
        let in_list = |rs: Option<&Vec<std::ops::Range<u64>>>| {
            rs.is_some_and(|rs| rs.iter().any(|r| r.contains(&addr)))
        };
        let kind = if matches!(self.host.vdso.get(), Some(Some(r)) if r.contains(&addr)) {
            HostVmaKind::Vdso
        } else if in_list(self.host.vvar.get()) {
            HostVmaKind::Vvar
        } else if q.inode != 0 {
            HostVmaKind::File
        } else {
            HostVmaKind::Anonymous
        };
        let mut v = HostVma {
            range: q.start..q.end,
            prot: (q.vma_flags & 7) as u32,
            shared: q.vma_flags & 8 != 0,
            offset: q.offset,
            dev: dev(q.dev_major.into(), q.dev_minor.into()),
            ino: q.inode,
            kind,
            rss_kb: 0,
        };
        if self.hidden(&v) {
            return Ok(None);
        }
        if let Some(g) = self.gap.get() {
            if v.prot == 0 && v.ino == 0 && v.range.end == g.end && v.range.start < g.start {
                if addr >= g.start {
                    return Ok(None);
                }
                v.range.end = g.start;
            }
        }
        Ok(Some(v))
    }

    pub fn read_usage(&self) -> SpaceUsage {
        let Ok(pid) = self.pid() else { return SpaceUsage::default() };
        let Ok(text) = read(self.host.proc_dir.as_fd(), &format!("{pid}/statm")) else {
            return SpaceUsage::default();
        };
        let n: Vec<u64> = text
            .split_ascii_whitespace()
            .map(|s| s.parse::<u64>().unwrap_or(0).saturating_mul(4096))
            .collect();
        let at = |i: usize| n.get(i).copied().unwrap_or(0);
        let gap = self.gap.get().map_or(0, |g| g.end - g.start);
        let own = (STUB_HI - STUB_BASE) + gap;
        SpaceUsage {
            virt: at(0).saturating_sub(own),
            resident: at(1),
            shared: at(2),
            text: at(3),
            data: at(5),
        }
    }
}

/// The numbers of a process's open descriptors.
pub fn descriptors(dir: BorrowedFd<'_>, pid: i32) -> Result<Vec<u64>, i32> {
    // As many as a stub may have open.
    let is_open = |fd: &u64| {
        let link = CString::new(format!("{pid}/fd/{fd}")).ok();
        link.is_some_and(|link| sys::open_at(Some(dir), &link, libc::O_PATH | libc::O_NOFOLLOW).is_ok())
    };
    Ok((0..1024).filter(is_open).collect())
}
