//! Guest memory for the kernel: fallible copies that bring pages in and respect protections.

use crate::host;
use crate::phys::PAGE;
use crate::space::{Access, Inner, Space};
use crate::vma::Back;
use chitin_platform::CopyFault;

/// Where a page that can be accessed is.
enum Place {
    /// Offset in our own memory.
    Own(u64),
    /// Our mapping of a file, which may lose its pages at any time.
    Mapping(u64),
}

impl Space {
    fn page(&self, inner: &mut Inner, va: u64, access: Access) -> Option<Place> {
        let leaf = self.resolve(inner, va, access, true).ok()?;
        if let Some(off) = self.phys().offset_of(leaf.gpa) {
            return Some(Place::Own(off));
        }
        let (_, vma) = inner.vmas.find(va)?;
        let hva = match &vma.back {
            Back::File(file, _) => file.hva_of(leaf.gpa),
            Back::Clock(_) => self.world.clock.and_then(|clock| clock.hva_of(leaf.gpa)),
            _ => None,
        };
        hva.map(Place::Mapping)
    }

    pub fn read_at(&self, addr: u64, buf: &mut [u8]) -> Result<(), CopyFault> {
        let mut inner = self.inner.lock();
        let done = self.each_page(&mut inner, addr, buf.len(), Access::Read, |place, within, range| {
            let Some(part) = buf.get_mut(range) else { return 0 };
            match place {
                Place::Own(off) => {
                    self.phys().read(off + within, part);
                    part.len()
                }
                Place::Mapping(hva) => host::read_mapping(hva + within, part),
            }
        });
        self.settle(&mut inner);
        if done == buf.len() { Ok(()) } else { Err(CopyFault { done }) }
    }

    pub fn write_at(&self, addr: u64, data: &[u8]) -> Result<(), CopyFault> {
        let mut inner = self.inner.lock();
        let done = self.each_page(&mut inner, addr, data.len(), Access::Write, |place, within, range| {
            let Some(part) = data.get(range) else { return 0 };
            match place {
                Place::Own(off) => {
                    self.phys().write(off + within, part);
                    part.len()
                }
                Place::Mapping(hva) => host::write_mapping(hva + within, part),
            }
        });
        self.settle(&mut inner);
        if done == data.len() { Ok(()) } else { Err(CopyFault { done }) }
    }

    /// Calls `f` with each page's part of the range; stops at the first that cannot be had or copied. Bytes done.
    fn each_page(
        &self,
        inner: &mut Inner,
        addr: u64,
        len: usize,
        access: Access,
        mut f: impl FnMut(Place, u64, std::ops::Range<usize>) -> usize,
    ) -> usize {
        let mut done = 0;
        while done < len {
            let Some(at) = addr.checked_add(done as u64) else { break };
            let within = at % PAGE;
            let step = ((PAGE - within) as usize).min(len - done);
            let Some(place) = self.page(inner, at, access) else { break };
            let n = f(place, within, done..done + step);
            done += n;
            if n < step {
                break;
            }
        }
        done
    }

    pub fn readv_at(&self, ranges: &[(u64, usize)], buf: &mut [u8]) -> Result<(), CopyFault> {
        let mut done = 0usize;
        for (addr, len) in ranges {
            let Some(part) = buf.get_mut(done..done.saturating_add(*len)) else { break };
            self.read_at(*addr, part).map_err(|fault| CopyFault { done: done + fault.done })?;
            done += len;
        }
        Ok(())
    }

    pub fn writev_at(&self, ranges: &[(u64, usize)], data: &[u8]) -> Result<(), CopyFault> {
        let mut done = 0usize;
        for (addr, len) in ranges {
            let Some(part) = data.get(done..done.saturating_add(*len)) else { break };
            self.write_at(*addr, part).map_err(|fault| CopyFault { done: done + fault.done })?;
            done += len;
        }
        Ok(())
    }

    /// Atomic on our own memory; on a file's pages only against other callers.
    pub fn cmpxchg_at(&self, addr: u64, old: u32, new: u32) -> Result<u32, CopyFault> {
        const FAULT: CopyFault = CopyFault { done: 0 };
        if addr % 4 != 0 {
            return Err(FAULT);
        }
        let mut inner = self.inner.lock();
        let place = self.page(&mut inner, addr, Access::Write);
        let result = match place {
            None => Err(FAULT),
            Some(Place::Own(off)) => {
                self.phys().compare_exchange_u32(off + addr % PAGE, old, new).ok_or(FAULT)
            }
            Some(Place::Mapping(hva)) => {
                let hva = hva + addr % PAGE;
                let mut word = [0; 4];
                if host::read_mapping(hva, &mut word) != 4 {
                    Err(FAULT)
                } else {
                    let was = u32::from_le_bytes(word);
                    if was == old && host::write_mapping(hva, &new.to_le_bytes()) != 4 {
                        Err(FAULT)
                    } else {
                        Ok(was)
                    }
                }
            }
        };
        self.settle(&mut inner);
        result
    }
}
