//! A guest address space: its mappings, its page tables, and what makes a page come into being (demand paging, copy on
//! write, files, stacks that grow).
//!
//! Neighbours: `remap` has the mmap family, `copy` guest memory for the kernel, `listing` /proc and the trait.
//!
//! Invariant: whoever takes a right out of an entry, or changes its page, first writes the entry, then revokes
//! ([`Space::settle`]), then lets go of the page. Adding rights needs nothing: processors ask again.
//!
//! Locks: `inner` → `Shared`, `FileMap`, `Files` → `Phys`.

use crate::clock::Clock;
use crate::phys::{Frame, PAGE, Phys};
use crate::table::{Leaf, NoTable, PageTable};
use crate::vma::{Back, EXEC, READ, STACK_GAP, Vma, Vmas, WRITE};
use crate::window::{FileMap, Files};
use parking_lot::{Mutex, MutexGuard};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Where guests may map.
pub const USER: Range<u64> = 0x1_0000..0x7fff_ffff_f000;
/// Pages that one fault brings, where they can be had.
const AROUND: u64 = 16;
/// How far a stack may grow (RLIMIT_STACK of processes by default).
const STACK_LIMIT: u64 = 8 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    Exec,
}

/// Why a page cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is mapped there.
    Unmapped,
    /// Not for this kind of access.
    Denied,
    /// The file ends before it.
    Bus,
    NoMemory,
}

impl From<NoTable> for Fault {
    fn from(_: NoTable) -> Fault {
        Fault::NoMemory
    }
}

/// What all address spaces share.
pub struct World {
    pub phys: Arc<Phys>,
    pub files: Files,
    /// The roots' entry for the ring-0 half.
    pub kernel: u64,
    pub clock: Option<Clock>,
    /// The host has shadow page tables: stale translations go by revocation alone, never by a flush.
    pub shadow: bool,
    next_space: AtomicU64,
}

impl World {
    pub fn new(phys: Arc<Phys>, kernel: u64, clock: Option<Clock>, shadow: bool) -> Arc<World> {
        Arc::new(World {
            phys,
            files: Files::default(),
            kernel,
            clock,
            shadow,
            next_space: AtomicU64::new(1),
        })
    }
}

pub struct Space {
    pub world: Arc<World>,
    pub id: u64,
    pub cr3: u64,
    pub inner: Mutex<Inner>,
    /// Living tasks; with the last one the memory goes.
    pub tasks: AtomicUsize,
    /// Processors that run it now.
    pub running: AtomicUsize,
    /// Counts revocations that a flush at the next entry makes good.
    pub generation: AtomicU64,
    /// Registered membarrier commands.
    pub barriers: AtomicU32,
}

pub struct Inner {
    pub vmas: Vmas,
    pub table: PageTable,
    pub dead: bool,
    /// Pages of our own memory, and of files.
    pub anon: u64,
    pub file: u64,
    /// Below which mmap(2) chooses.
    pub top: u64,
    /// To be revoked, and then released.
    stale: Vec<(u64, u64)>,
    dropped: Vec<Frame>,
}

impl Space {
    /// An empty one; `random` moves the place that mmap(2) chooses from.
    pub fn new(world: &Arc<World>, random: u64) -> Result<Arc<Space>, Fault> {
        let table = PageTable::new(&world.phys, world.kernel)?;
        let cr3 = table.cr3();
        // As Linux: below the largest stack there may be, and 28 bits of randomness.
        let top = USER.end - (1 << 30) - (20 << 30) - (random % (1 << 28)) * PAGE;
        let inner = Inner {
            vmas: Vmas::default(),
            table,
            dead: false,
            anon: 0,
            file: 0,
            top,
            stale: Vec::new(),
            dropped: Vec::new(),
        };
        Ok(Arc::new(Space {
            world: world.clone(),
            id: world.next_space.fetch_add(1, Ordering::Relaxed),
            cr3,
            inner: Mutex::new(inner),
            tasks: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            generation: AtomicU64::new(0),
            barriers: AtomicU32::new(0),
        }))
    }

    /// Maps the vDSO for a new program.
    pub fn map_clock(&self) {
        let Some(clock) = self.world.clock else { return };
        let mut inner = self.inner.lock();
        let Some(at) = inner.vmas.find_gap(clock.len, USER.start, inner.top) else { return };
        let parts = [(0, clock.image, READ), (clock.image, clock.len, READ | EXEC)];
        for (from, to, prot) in parts {
            let back = Back::Clock(from);
            let vma = Vma {
                end: at + to,
                prot,
                shared: false,
                grows: false,
                dont_fork: false,
                wipe_on_fork: false,
                back,
            };
            inner.vmas.insert(at + from, vma);
        }
    }

    /// Where the vDSO's image is.
    pub fn image(&self) -> Option<u64> {
        let clock = self.world.clock?;
        let inner = self.inner.lock();
        let found = inner.vmas.iter().find(|(_, v)| matches!(v.back, Back::Clock(off) if off == clock.image));
        found.map(|(start, _)| start)
    }

    pub fn phys(&self) -> &Phys {
        &self.world.phys
    }

    /// Ends the critical section of a change: revokes what has become stale and lets go of pages.
    pub fn settle(&self, inner: &mut Inner) {
        if !inner.stale.is_empty() {
            if self.world.shadow {
                self.phys().revoke(&mut inner.stale);
            } else {
                self.generation.fetch_add(1, Ordering::SeqCst);
                if self.running.load(Ordering::SeqCst) > 0 {
                    self.phys().revoke(&mut inner.stale);
                }
                inner.stale.clear();
            }
        }
        if !inner.dropped.is_empty() {
            self.phys().release(std::mem::take(&mut inner.dropped));
        }
    }

    /// A processor could not do `access` at `va`: makes it possible or says why not.
    pub fn fault(&self, va: u64, access: Access) -> Result<(), Fault> {
        let mut inner = self.inner.lock();
        let done = self.resolve(&mut inner, va, access, true).map(drop);
        self.settle(&mut inner);
        done
    }

    /// The entry for `va` once `access` is possible.
    pub fn resolve(&self, inner: &mut Inner, va: u64, access: Access, around: bool) -> Result<Leaf, Fault> {
        if inner.dead || !USER.contains(&va) {
            return Err(Fault::Unmapped);
        }
        let va = va & !(PAGE - 1);
        let leaf = inner.table.get(self.phys(), va);
        if let Some(leaf) = leaf {
            let enough = match access {
                Access::Read => leaf.read,
                Access::Write => leaf.read && leaf.write,
                Access::Exec => leaf.read && leaf.exec,
            };
            if enough {
                return Ok(leaf);
            }
        }
        let (start, vma) = match inner.vmas.find(va) {
            Some((start, v)) => (start, v.clone()),
            None => grow_stack(inner, va)?,
        };
        let allowed = match access {
            Access::Read => vma.prot & (READ | WRITE | EXEC),
            Access::Write => vma.prot & WRITE,
            Access::Exec => vma.prot & EXEC,
        };
        if allowed == 0 {
            return Err(Fault::Denied);
        }
        let rights = Leaf { gpa: 0, read: true, write: vma.prot & WRITE != 0, exec: vma.prot & EXEC != 0 };
        match leaf {
            Some(leaf) => self.upgrade(inner, va, &vma, leaf, rights, access),
            None => self.populate(inner, va, (start, &vma), rights, access, around),
        }
    }

    /// An entry is there, but does not allow enough: held, or to be copied before it is written.
    fn upgrade(
        &self,
        inner: &mut Inner,
        va: u64,
        vma: &Vma,
        old: Leaf,
        rights: Leaf,
        access: Access,
    ) -> Result<Leaf, Fault> {
        let phys = self.phys();
        let frame = phys.frame_of(old.gpa);
        let sole = frame.is_some_and(|f| phys.is_sole(f));
        let mut new = Leaf { gpa: old.gpa, ..rights };
        if !vma.shared && !sole {
            new.write = false;
            if access == Access::Write {
                let copy = phys.alloc(1).ok_or(Fault::NoMemory)?.first;
                match (frame, &vma.back) {
                    (Some(from), _) => phys.copy_frame(from, copy),
                    (None, Back::File(file, _)) => {
                        if let Err(fault) = self.read_file_page(file, old.gpa, copy) {
                            phys.release(vec![copy]);
                            return Err(fault);
                        }
                        inner.file -= 1;
                        inner.anon += 1;
                    }
                    (None, _) => return Err(Fault::Bus),
                }
                inner.stale_page(phys, vma, old.gpa);
                inner.dropped.extend(frame);
                new = Leaf { gpa: Phys::gpa(copy), ..rights };
            }
        }
        inner.table.set(phys, va, new)?;
        Ok(new)
    }

    fn read_file_page(&self, file: &FileMap, gpa: u64, to: Frame) -> Result<(), Fault> {
        let hva = file.hva_of(gpa).ok_or(Fault::Bus)?;
        let mut page = [0; PAGE as usize];
        if crate::host::read_mapping(hva, &mut page) != page.len() {
            return Err(Fault::Bus);
        }
        self.phys().write(u64::from(to) * PAGE, &page);
        Ok(())
    }

    /// No entry is there.
    fn populate(
        &self,
        inner: &mut Inner,
        va: u64,
        (start, vma): (u64, &Vma),
        rights: Leaf,
        access: Access,
        around: bool,
    ) -> Result<Leaf, Fault> {
        let phys = self.phys();
        let block = va & !(AROUND * PAGE - 1);
        let block =
            if around { block.max(start)..(block + AROUND * PAGE).min(vma.end) } else { va..va + PAGE };
        match &vma.back {
            Back::Anonymous => {
                // From the page itself upwards, as far as entries are free; one page is a must.
                let mut want = 1;
                while va + want * PAGE < block.end && inner.table.get(phys, va + want * PAGE).is_none() {
                    want += 1;
                }
                let run = phys.alloc(want as u32).ok_or(Fault::NoMemory)?;
                let first = Leaf { gpa: Phys::gpa(run.first), ..rights };
                for i in 0..u64::from(run.len) {
                    let leaf = Leaf { gpa: first.gpa + i * PAGE, ..rights };
                    if inner.table.set(phys, va + i * PAGE, leaf).is_err() {
                        phys.release((run.first + i as u32..run.first + run.len).collect());
                        return if i == 0 { Err(Fault::NoMemory) } else { Ok(first) };
                    }
                    inner.anon += 1;
                }
                Ok(first)
            }
            Back::Shared(memory, _) => {
                let page = vma.offset(start, va) / PAGE;
                if page >= memory.pages {
                    return Err(Fault::Bus);
                }
                let frame = memory.frame(page).ok_or(Fault::NoMemory)?;
                let leaf = Leaf { gpa: Phys::gpa(frame), ..rights };
                inner.table.set(phys, va, leaf).inspect_err(|_| phys.release(vec![frame]))?;
                inner.anon += 1;
                Ok(leaf)
            }
            Back::Clock(_) => {
                let page = self.world.clock.and_then(|clock| clock.page(vma.offset(start, va)));
                let leaf = Leaf { gpa: page.ok_or(Fault::Bus)?, write: false, ..rights };
                inner.table.set(phys, va, leaf)?;
                inner.file += 1;
                Ok(leaf)
            }
            Back::File(file, _) => {
                let size = file.size();
                let rights = Leaf { write: rights.write && vma.shared, ..rights };
                let off = vma.offset(start, va);
                if off >= size {
                    return Err(Fault::Bus);
                }
                if access == Access::Write && !vma.shared {
                    let page = file.page(off, size).map_err(|_| Fault::NoMemory)?;
                    let copy = phys.alloc(1).ok_or(Fault::NoMemory)?.first;
                    self.read_file_page(file, page, copy).inspect_err(|_| phys.release(vec![copy]))?;
                    let leaf = Leaf { gpa: Phys::gpa(copy), write: true, ..rights };
                    inner.table.set(phys, va, leaf).inspect_err(|_| phys.release(vec![copy]))?;
                    inner.anon += 1;
                    return Ok(leaf);
                }
                let mut answer = None;
                for at in (block.start..block.end).step_by(PAGE as usize) {
                    let off = vma.offset(start, at);
                    if at != va && (off >= size || inner.table.get(phys, at).is_some()) {
                        continue;
                    }
                    let Ok(gpa) = file.page(off, size) else { continue };
                    let leaf = Leaf { gpa, ..rights };
                    if inner.table.set(phys, at, leaf).is_ok() {
                        inner.file += 1;
                        if at == va {
                            answer = Some(leaf);
                        }
                    }
                }
                answer.ok_or(Fault::NoMemory)
            }
        }
    }

    /// A copy for a forked process.
    pub fn fork(self: &Arc<Space>) -> Result<Arc<Space>, Fault> {
        let child = Space::new(&self.world, 0)?;
        let phys = self.phys();
        let mut from = self.inner.lock();
        let from = &mut *from;
        {
            let mut to = child.inner.lock();
            to.top = from.top;
            let mut failed = false;
            let mut stale = Vec::new();
            for (start, vma) in from.vmas.iter() {
                if vma.dont_fork {
                    continue;
                }
                to.vmas.insert(start, vma.clone());
                if vma.shared || vma.wipe_on_fork {
                    continue;
                }
                from.table.edit(phys, start..vma.end, |va, leaf| {
                    let Some(frame) = phys.frame_of(leaf.gpa).filter(|_| !failed) else { return Some(leaf) };
                    phys.hold(frame);
                    let leaf = if leaf.write {
                        stale.push((phys.hva(u64::from(frame) * PAGE), PAGE));
                        Leaf { write: false, ..leaf }
                    } else {
                        leaf
                    };
                    if to.table.set(phys, va, leaf).is_err() {
                        failed = true;
                        phys.release(vec![frame]);
                    } else {
                        to.anon += 1;
                    }
                    Some(leaf)
                });
            }
            from.stale.append(&mut stale);
            self.settle(from);
            if failed {
                drop(to);
                child.clear();
                return Err(Fault::NoMemory);
            }
        }
        child.barriers.store(self.barriers.load(Ordering::Relaxed), Ordering::Relaxed);
        Ok(child)
    }

    /// Gives all memory back; no processor runs it any more, or ever will.
    pub fn clear(&self) {
        let mut inner = self.inner.lock();
        if std::mem::replace(&mut inner.dead, true) {
            return;
        }
        let phys = self.phys();
        let mut frames = Vec::new();
        let Inner { vmas, table, .. } = &mut *inner;
        for (start, vma) in vmas.iter() {
            table.edit(phys, start..vma.end, |_, leaf| {
                frames.extend(phys.frame_of(leaf.gpa));
                None
            });
        }
        // What is stale in a hypervisor hangs below tables that nobody will name again.
        phys.release(frames);
        table.free(phys);
        let old = std::mem::take(vmas);
        (inner.anon, inner.file) = (0, 0);
        drop(inner);
        drop(old);
    }

    pub fn add_task(&self) {
        self.tasks.fetch_add(1, Ordering::AcqRel);
    }

    /// A task is gone from it for good.
    pub fn drop_task(&self) {
        if self.tasks.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.clear();
        }
    }

    /// Takes entries of file pages beyond the end of their files out, after the host could not give one to the VM.
    pub fn forget_truncated(&self) -> bool {
        let mut inner = self.inner.lock();
        let phys = self.phys();
        let mut found = false;
        let list: Vec<_> = inner.vmas.iter().map(|(start, v)| (start, v.clone())).collect();
        for (start, vma) in list {
            let Back::File(file, off) = &vma.back else { continue };
            let beyond = file.size().next_multiple_of(PAGE).saturating_sub(*off);
            let from = start.saturating_add(beyond);
            if from < vma.end {
                let Inner { table, file, .. } = &mut *inner;
                table.edit(phys, from..vma.end, |_, leaf| {
                    if phys.frame_of(leaf.gpa).is_some() {
                        return Some(leaf);
                    }
                    found = true;
                    *file -= 1;
                    None
                });
            }
        }
        found
    }

    pub fn locked(&self) -> Result<MutexGuard<'_, Inner>, i32> {
        let inner = self.inner.lock();
        if inner.dead { Err(libc::ESRCH) } else { Ok(inner) }
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Extends a stack down to `va`.
fn grow_stack(inner: &mut Inner, va: u64) -> Result<(u64, Vma), Fault> {
    let (start, vma) = inner.vmas.first_after(va).ok_or(Fault::Unmapped)?;
    let vma = vma.clone();
    if !vma.grows || vma.end - va > STACK_LIMIT {
        return Err(Fault::Unmapped);
    }
    if let Some((_, below)) = va.checked_sub(STACK_GAP).and_then(|low| inner.vmas.first_after(low)) {
        // Itself, or something else that is too near.
        if below.end <= start && below.prot != 0 {
            return Err(Fault::Unmapped);
        }
    }
    inner.vmas.grow_down(start, va);
    Ok((va, vma))
}

impl Inner {
    /// A page whose translation must go.
    pub fn stale_page(&mut self, phys: &Phys, vma: &Vma, gpa: u64) {
        let hva = match (phys.offset_of(gpa), &vma.back) {
            (Some(off), _) => Some(phys.hva(off)),
            (None, Back::File(file, _)) => file.hva_of(gpa),
            (None, _) => None,
        };
        self.stale.extend(hva.map(|hva| (hva, PAGE)));
    }

    /// Takes the entries of a (part of a) mapping out.
    pub fn unmap_pages(&mut self, phys: &Phys, vma: &Vma, range: Range<u64>) {
        let mut gone = Vec::new();
        self.table.edit(phys, range, |_, leaf| {
            gone.push(leaf);
            None
        });
        for leaf in gone {
            if leaf.read {
                self.stale_page(phys, vma, leaf.gpa);
            }
            match phys.frame_of(leaf.gpa) {
                Some(frame) => {
                    self.anon -= 1;
                    self.dropped.push(frame);
                }
                None => self.file -= 1,
            }
        }
    }
}

#[cfg(test)]
mod tests;
