//! The mmap family on a [`Space`]. Arguments are as the guest gave them, checked by `mm` (alignment, lengths, flags).

use crate::phys::PAGE;
use crate::space::{Access, Fault, Inner, Space, USER};
use crate::table::Leaf;
use crate::vma::{Back, EXEC, MAX_VMAS, READ, Shared, Vma, WRITE};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

const MAP_SHARED: u32 = libc::MAP_SHARED as u32;
const MAP_TYPE: u32 = 0xf;
const MAP_FIXED: u32 = libc::MAP_FIXED as u32;
const MAP_FIXED_NOREPLACE: u32 = libc::MAP_FIXED_NOREPLACE as u32;
const MAP_GROWSDOWN: u32 = libc::MAP_GROWSDOWN as u32;
const MAP_32BIT: u32 = libc::MAP_32BIT as u32;
const MAP_POPULATE: u32 = (libc::MAP_POPULATE | libc::MAP_LOCKED) as u32;
const MAYMOVE: u32 = 1;
const MREMAP_FIXED: u32 = 2;
const DONTUNMAP: u32 = 4;

fn range_of(addr: u64, len: u64) -> Result<Range<u64>, i32> {
    let end = addr.checked_add(len).filter(|end| *end <= USER.end).ok_or(libc::ENOMEM)?;
    if addr % PAGE != 0 || len % PAGE != 0 || len == 0 {
        return Err(libc::EINVAL);
    }
    Ok(addr..end)
}

impl Space {
    pub fn mmap(
        &self,
        addr: u64,
        len: u64,
        prot: u32,
        flags: u32,
        file: Option<(Arc<OwnedFd>, u64)>,
    ) -> Result<u64, i32> {
        let len = len.checked_next_multiple_of(PAGE).filter(|len| *len != 0).ok_or(libc::ENOMEM)?;
        let shared = flags & MAP_TYPE != libc::MAP_PRIVATE as u32 && flags & MAP_SHARED != 0;
        let back = match file {
            Some((fd, off)) => {
                if off % PAGE != 0 {
                    return Err(libc::EINVAL);
                }
                let write = shared && crate::host::writable(fd.as_fd());
                if shared && !write && prot & WRITE != 0 {
                    return Err(libc::EACCES);
                }
                let file = self.world.files.map(&self.world.phys, fd, write)?;
                if write {
                    // At once, so that the host knows of it (F_SEAL_WRITE, ETXTBSY).
                    file.page(off, file.size())?;
                }
                Back::File(file, off)
            }
            None if shared => Back::Shared(Shared::new(&self.world.phys, len / PAGE), 0),
            None => Back::Anonymous,
        };
        let mut inner = self.locked()?;
        let at = place(&inner, addr, len, flags)?;
        if inner.vmas.len() >= MAX_VMAS {
            return Err(libc::ENOMEM);
        }
        unsealed(&inner, at..at + len)?;
        let old = self.take_out(&mut inner, at..at + len);
        let vma = Vma {
            end: at + len,
            prot: prot & (READ | WRITE | EXEC),
            shared,
            grows: flags & MAP_GROWSDOWN != 0,
            dont_fork: false,
            wipe_on_fork: false,
            back,
        };
        inner.vmas.insert(at, vma);
        if flags & MAP_POPULATE != 0 {
            let access = if prot & WRITE != 0 { Access::Write } else { Access::Read };
            // As Linux, what cannot be had is left for later.
            let _ = self.prefault(&mut inner, at..at + len, access);
        }
        self.settle(&mut inner);
        drop(inner);
        drop(old);
        Ok(at)
    }

    /// Removes mappings and their pages; what they were is dropped by the caller, without the lock.
    fn take_out(&self, inner: &mut Inner, range: Range<u64>) -> Vec<(u64, Vma)> {
        let old = inner.vmas.remove(range);
        for (start, vma) in &old {
            inner.unmap_pages(self.phys(), vma, *start..vma.end);
        }
        old
    }

    pub fn munmap(&self, addr: u64, len: u64) -> Result<(), i32> {
        let len = len.checked_next_multiple_of(PAGE).ok_or(libc::EINVAL)?;
        let range = range_of(addr, len).map_err(|_| libc::EINVAL)?;
        let mut inner = self.locked()?;
        if inner.vmas.len() >= MAX_VMAS {
            return Err(libc::ENOMEM);
        }
        unsealed(&inner, range.clone())?;
        let old = self.take_out(&mut inner, range);
        self.settle(&mut inner);
        drop(inner);
        drop(old);
        Ok(())
    }

    /// Changes what mappings of a range are, piece by piece; ENOMEM where a part is not mapped, after the rest was done.
    fn change(
        &self,
        inner: &mut Inner,
        range: Range<u64>,
        mut f: impl FnMut(&mut Inner, u64, &mut Vma) -> Result<(), i32>,
    ) -> Result<(), i32> {
        if inner.vmas.len() >= MAX_VMAS {
            return Err(libc::ENOMEM);
        }
        let all = inner.vmas.covers(range.clone());
        let mut result = Ok(());
        for (start, mut vma) in inner.vmas.remove(range) {
            if result.is_ok() {
                result = f(inner, start, &mut vma);
            }
            inner.vmas.insert(start, vma);
        }
        result.and(if all { Ok(()) } else { Err(libc::ENOMEM) })
    }

    pub fn mprotect(&self, addr: u64, len: u64, prot: u32) -> Result<(), i32> {
        let range = range_of(addr, len)?;
        let mut inner = self.locked()?;
        if prot & (libc::PROT_GROWSDOWN | libc::PROT_GROWSUP) as u32 != 0 {
            return Err(libc::EINVAL);
        }
        unsealed(&inner, range.clone())?;
        let phys = self.phys();
        let r = self.change(&mut inner, range, |inner, start, vma| {
            if let Back::File(file, _) = &vma.back {
                if vma.shared && !file.write && prot & WRITE != 0 {
                    return Err(libc::EACCES);
                }
            }
            vma.prot = prot & (READ | WRITE | EXEC);
            let mut stale = Vec::new();
            let (any, write, exec) = (vma.prot != 0, vma.prot & WRITE != 0, vma.prot & EXEC != 0);
            inner.table.edit(phys, start..vma.end, |_, leaf| {
                // Private pages become writable by a fault, which knows whether they are to be copied.
                let write = write && (leaf.write || vma.shared);
                let new = Leaf { gpa: leaf.gpa, read: any, write: any && write, exec: any && exec };
                if leaf.read && (!new.read || leaf.write && !new.write || leaf.exec && !new.exec) {
                    stale.push(leaf.gpa);
                }
                Some(new)
            });
            stale.into_iter().for_each(|gpa| inner.stale_page(phys, vma, gpa));
            Ok(())
        });
        self.settle(&mut inner);
        r
    }

    pub fn mremap(&self, old: u64, old_len: u64, new_len: u64, flags: u32, new: u64) -> Result<u64, i32> {
        let mut inner = self.locked()?;
        let inner = &mut *inner;
        let (start, vma) = inner.vmas.find(old).map(|(s, v)| (s, v.clone())).ok_or(libc::EFAULT)?;
        if flags & (MREMAP_FIXED | DONTUNMAP) != 0 && flags & MAYMOVE == 0 {
            return Err(libc::EINVAL);
        }
        if flags & DONTUNMAP != 0 && old_len != new_len {
            return Err(libc::EINVAL);
        }
        if old_len == 0 && !vma.shared {
            return Err(libc::EINVAL);
        }
        let old_end = old.checked_add(old_len).ok_or(libc::EINVAL)?;
        if flags & MREMAP_FIXED != 0 {
            let to = range_of(new, new_len).map_err(|_| libc::EINVAL)?;
            if new < USER.start || to.start < old_end && old < to.end {
                return Err(libc::EINVAL);
            }
        }
        if old_end > vma.end {
            return Err(libc::EFAULT);
        }
        if inner.vmas.len() + 3 >= MAX_VMAS {
            return Err(libc::ENOMEM);
        }
        unsealed(inner, old..old_end.max(old + 1))?;
        if flags & MREMAP_FIXED != 0 {
            unsealed(inner, new..new + new_len)?;
        }
        let mut trash = Vec::new();
        if flags & (MREMAP_FIXED | DONTUNMAP) == 0 {
            if new_len <= old_len {
                if new_len < old_len {
                    trash = self.take_out(inner, old + new_len..old_end);
                    self.settle(inner);
                }
                drop(trash);
                return Ok(old);
            }
            // In place, if the mapping ends there and nothing follows.
            let more = old_end..old.checked_add(new_len).ok_or(libc::EINVAL)?;
            if old_len != 0 && old_end == vma.end && more.end <= USER.end && inner.vmas.is_free(more.clone())
            {
                let mut v = vma.clone();
                v.back = vma.back.advance(more.start - start);
                v.end = more.end;
                inner.vmas.insert(more.start, v);
                return Ok(old);
            }
            if flags & MAYMOVE == 0 {
                return Err(libc::ENOMEM);
            }
        }
        let hint = if flags & DONTUNMAP != 0 { new } else { 0 };
        let to = if flags & MREMAP_FIXED != 0 { new } else { place(inner, hint, new_len, 0)? };
        if flags & MREMAP_FIXED != 0 {
            trash = self.take_out(inner, to..to + new_len);
        }
        // What shrinks goes first.
        let moved = old_len.min(new_len);
        if moved < old_len {
            trash.extend(self.take_out(inner, old + moved..old_end));
        }
        let mut v = vma.clone();
        v.back = vma.back.advance(old - start);
        v.end = to + new_len;
        let mut pages = Vec::new();
        inner.table.edit(self.phys(), old..old + moved, |va, leaf| {
            pages.push((va, leaf));
            None
        });
        for (_, leaf) in pages.iter().filter(|(_, leaf)| leaf.read) {
            inner.stale_page(self.phys(), &vma, leaf.gpa);
        }
        if flags & DONTUNMAP == 0 && old_len != 0 {
            trash.extend(inner.vmas.remove(old..old + moved));
        }
        inner.vmas.insert(to, v);
        let mut lost = false;
        for (va, leaf) in pages {
            lost |= inner.table.set(self.phys(), to + (va - old), leaf).is_err();
        }
        self.settle(inner);
        drop(trash);
        if lost { Err(libc::ENOMEM) } else { Ok(to) }
    }

    pub fn madvise(&self, addr: u64, len: u64, advice: u32) -> Result<(), i32> {
        let range = range_of(addr, len)?;
        let mut inner = self.locked()?;
        let phys = self.phys();
        let r = match advice as i32 {
            libc::MADV_DONTNEED | libc::MADV_FREE => {
                let all = inner.vmas.covers(range.clone());
                let parts: Vec<_> = inner.vmas.within(range.clone()).map(|(s, v)| (s, v.clone())).collect();
                let mut r = Ok(());
                for (start, vma) in parts {
                    if advice as i32 == libc::MADV_FREE
                        && (vma.shared || !matches!(vma.back, Back::Anonymous))
                    {
                        r = Err(libc::EINVAL);
                        break;
                    }
                    inner.unmap_pages(phys, &vma, start.max(range.start)..vma.end.min(range.end));
                }
                r.and(if all { Ok(()) } else { Err(libc::ENOMEM) })
            }
            libc::MADV_REMOVE => {
                let parts: Vec<_> = inner.vmas.within(range.clone()).map(|(s, v)| (s, v.clone())).collect();
                let mut r = if inner.vmas.covers(range.clone()) { Ok(()) } else { Err(libc::ENOMEM) };
                for (start, vma) in parts {
                    let (from, to) = (start.max(range.start), vma.end.min(range.end));
                    let off = vma.offset(start, from);
                    match &vma.back {
                        Back::Shared(memory, _) => memory.remove(off / PAGE..(off + to - from) / PAGE),
                        Back::File(file, _) if file.write && vma.prot & WRITE != 0 => {
                            r = r.and(crate::host::punch_file(file.fd.as_fd(), off, to - from));
                        }
                        Back::File(..) => r = Err(libc::EACCES),
                        Back::Anonymous | Back::Clock(_) => r = Err(libc::EINVAL),
                    }
                }
                r
            }
            libc::MADV_DONTFORK | libc::MADV_DOFORK => self.change(&mut inner, range, |_, _, vma| {
                vma.dont_fork = advice as i32 == libc::MADV_DONTFORK;
                Ok(())
            }),
            // MADV_WIPEONFORK, MADV_KEEPONFORK
            18 | 19 => self.change(&mut inner, range, |_, _, vma| {
                if vma.shared || !matches!(vma.back, Back::Anonymous) {
                    return Err(libc::EINVAL);
                }
                vma.wipe_on_fork = advice == 18;
                Ok(())
            }),
            // MADV_POPULATE_READ, MADV_POPULATE_WRITE
            22 | 23 => {
                let access = if advice == 23 { Access::Write } else { Access::Read };
                self.prefault(&mut inner, range, access).map_err(|fault| match fault {
                    Fault::Unmapped | Fault::NoMemory => libc::ENOMEM,
                    Fault::Denied => libc::EINVAL,
                    Fault::Bus => libc::EFAULT,
                })
            }
            _ if inner.vmas.covers(range) => Ok(()),
            _ => Err(libc::ENOMEM),
        };
        self.settle(&mut inner);
        r
    }

    fn prefault(&self, inner: &mut Inner, range: Range<u64>, access: Access) -> Result<(), Fault> {
        for va in range.step_by(PAGE as usize) {
            self.resolve(inner, va, access, true)?;
        }
        Ok(())
    }

    /// mlock, msync and their kind: all of the range must be mapped; `sync` writes files out.
    pub fn check_range(&self, addr: u64, len: u64, sync: bool) -> Result<(), i32> {
        let len = len.checked_next_multiple_of(PAGE).ok_or(libc::ENOMEM)?;
        if len == 0 {
            return Ok(());
        }
        let range = range_of(addr & !(PAGE - 1), len)?;
        let inner = self.locked()?;
        if !inner.vmas.covers(range.clone()) {
            return Err(libc::ENOMEM);
        }
        let mut files: Vec<_> = Vec::new();
        for (_, vma) in inner.vmas.within(range).filter(|(_, v)| sync && v.shared) {
            if let Back::File(file, _) = &vma.back {
                if !files.iter().any(|f| Arc::ptr_eq(f, file)) {
                    files.push(file.clone());
                }
            }
        }
        drop(inner);
        files.into_iter().try_for_each(|file| crate::host::sync_file(file.fd.as_fd()))
    }
}

/// The vDSO stays where it is, as on hosts that seal system mappings (Linux 6.16): translations to it cannot be revoked.
fn unsealed(inner: &Inner, range: Range<u64>) -> Result<(), i32> {
    let sealed = inner.vmas.within(range).any(|(_, vma)| matches!(vma.back, Back::Clock(_)));
    if sealed { Err(libc::EPERM) } else { Ok(()) }
}

/// Where a mapping goes.
fn place(inner: &Inner, addr: u64, len: u64, flags: u32) -> Result<u64, i32> {
    if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0 {
        let range = range_of(addr, len)?;
        if flags & MAP_FIXED_NOREPLACE != 0 && !inner.vmas.is_free(range) {
            return Err(libc::EEXIST);
        }
        return Ok(addr);
    }
    if addr != 0 {
        let hint = addr.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
        let end = hint.checked_add(len).filter(|end| *end <= USER.end && hint >= USER.start);
        if end.is_some_and(|end| inner.vmas.is_free(hint..end)) {
            return Ok(hint);
        }
    }
    let top = if flags & MAP_32BIT != 0 { 1 << 31 } else { inner.top };
    let found = inner.vmas.find_gap(len, USER.start, top);
    let above = || inner.vmas.find_gap(len, inner.top, USER.end).filter(|_| flags & MAP_32BIT == 0);
    found.or_else(above).ok_or(libc::ENOMEM)
}
