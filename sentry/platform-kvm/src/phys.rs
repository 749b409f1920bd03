//! Guest-physical memory: one memfd, mapped here once and shown to the VM block by block.
//!
//! The memfd is cut into *blocks*, each a memslot of its own at `BASE + offset` once it is used. A block holds either
//! *frames* (pages of guests, counted) or *tables* (page tables). The first block is the ring-0 part's.
//!
//! Invariant: a table's address is not used for another table until its whole block was taken from the VM and given
//! back. A hypervisor with shadow page tables (no EPT/NPT, as when nested) keeps what it derived from a table for as
//! long as the memslot lives, and does not see our writes to it.
//!
//! Locks: `frames` (leaf) and `blocks` (taken under `frames`).

use crate::host::{self, SetupError};
use crate::runs::Runs;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use parking_lot::Mutex;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress, MmapRegion,
    VolatileMemory,
};

pub const PAGE: u64 = 4096;
/// Where guest-physical memory begins: above all that PCs keep for themselves.
pub const BASE: u64 = 1 << 32;
pub const BLOCK: u64 = 16 << 20;
const BLOCK_PAGES: u32 = (BLOCK / PAGE) as u32;
/// Freed runs of at least this many pages go back to the host at once, others once there are many.
const PUNCH_RUN: u32 = 32;
const MAX_DIRTY: u32 = 8192;

/// A page of guest memory, by its number in the memfd.
pub type Frame = u32;

/// Consecutive zeroed frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub first: Frame,
    pub len: u32,
}

struct Frames {
    /// How many page table entries and objects hold each frame.
    refs: Vec<u32>,
    dirty: Runs,
    clean: Runs,
    next_block: u32,
    blocks: u32,
    /// Blocks that were tables' and are empty again.
    spare: Vec<u32>,
    used: u64,
    tables: Option<TableBlock>,
    /// Live tables by block.
    table_counts: std::collections::HashMap<u32, u32>,
}

struct TableBlock {
    block: u32,
    next: u32,
}

pub struct Phys {
    vm: Option<Arc<VmFd>>,
    file: Arc<File>,
    region: GuestRegionMmap,
    len: u64,
    frames: Mutex<Frames>,
    next_slot: AtomicU32,
    free_slots: Mutex<Vec<u32>>,
    max_slots: u32,
    /// Where windows on files may go.
    windows: Mutex<Runs>,
    revocations: AtomicU64,
}

impl Phys {
    /// `len` bytes at most; without a VM for tests of the page tables alone.
    pub fn new(vm: Option<Arc<VmFd>>, len: u64, phys_bits: u32, max_slots: u32) -> Result<Phys, SetupError> {
        let blocks = (len.max(2 * BLOCK) / BLOCK).min(u64::from(max_slots) / 2);
        let len = blocks * BLOCK;
        let file = Arc::new(host::memfd(len)?);
        let map = MmapRegion::from_file(FileOffset::from_arc(file.clone(), 0), len as usize);
        let map = map
            .map_err(|e| SetupError(format!("platform kvm: cannot map {len} bytes of guest memory: {e}")))?;
        let region = GuestRegionMmap::new(map, GuestAddress(BASE));
        let region = region.ok_or_else(|| SetupError("platform kvm: guest memory is too large".into()))?;
        let mut windows = Runs::default();
        // In units of 2 MiB.
        let (low, high) =
            ((BASE + len).next_multiple_of(1 << 30) >> 21, (1u64 << phys_bits.clamp(36, 46)) >> 21);
        windows.add(low as u32, (high.saturating_sub(low)) as u32);
        let frames = Frames {
            refs: vec![0; (len / PAGE) as usize],
            dirty: Runs::default(),
            clean: Runs::default(),
            next_block: 1,
            blocks: blocks as u32,
            spare: Vec::new(),
            used: 0,
            tables: None,
            table_counts: Default::default(),
        };
        let phys = Phys {
            vm,
            file,
            region,
            len,
            frames: Mutex::new(frames),
            next_slot: AtomicU32::new(blocks as u32),
            free_slots: Mutex::default(),
            max_slots,
            windows: Mutex::new(windows),
            revocations: AtomicU64::new(0),
        };
        phys.show_block(0).map_err(|e| {
            SetupError(format!(
                "platform kvm: the host refused guest memory (errno {e}); is it short of memory?"
            ))
        })?;
        Ok(phys)
    }

    fn set_slot(&self, slot: u32, gpa: u64, len: u64, hva: u64, read_only: bool) -> Result<(), i32> {
        let Some(vm) = &self.vm else { return Ok(()) };
        let flags = if read_only { kvm_bindings::KVM_MEM_READONLY } else { 0 };
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: gpa,
            memory_size: len,
            userspace_addr: hva,
        };
        // SAFETY: the range is a mapping of ours that stays until the slot is taken away; guests may do to it what they do
        // to their memory, and nothing here holds references into it.
        unsafe { vm.set_user_memory_region(region) }.map_err(|e| e.errno())
    }

    fn show_block(&self, block: u32) -> Result<(), i32> {
        let off = u64::from(block) * BLOCK;
        self.set_slot(block, BASE + off, BLOCK, self.hva(off), false)
    }

    /// Takes a block from the VM, which forgets all it derived from it, and gives it back empty.
    fn renew_block(&self, block: u32) {
        let off = u64::from(block) * BLOCK;
        if let Err(errno) = self.set_slot(block, BASE + off, 0, self.hva(off), false) {
            tracing::error!(errno, block, "taking a memslot away failed");
        }
        host::punch(&self.file, off, BLOCK);
        if let Err(errno) = self.show_block(block) {
            tracing::error!(errno, block, "giving a memslot back failed");
        }
    }

    pub fn hva(&self, off: u64) -> u64 {
        self.region.as_volatile_slice().map_or(0, |s| s.ptr_guard().as_ptr() as u64) + off
    }

    /// The offset of a page of the memfd; `None` for a window on a file.
    pub fn offset_of(&self, gpa: u64) -> Option<u64> {
        gpa.checked_sub(BASE).filter(|off| *off < self.len)
    }

    pub fn gpa(frame: Frame) -> u64 {
        BASE + u64::from(frame) * PAGE
    }

    pub fn frame_of(&self, gpa: u64) -> Option<Frame> {
        self.offset_of(gpa).map(|off| (off / PAGE) as Frame)
    }

    pub fn read(&self, off: u64, buf: &mut [u8]) {
        let r = self.region.read_slice(buf, MemoryRegionAddress(off));
        debug_assert!(r.is_ok());
    }

    pub fn write(&self, off: u64, data: &[u8]) {
        let r = self.region.write_slice(data, MemoryRegionAddress(off));
        debug_assert!(r.is_ok());
    }

    pub fn load(&self, off: u64) -> u64 {
        self.region.load(MemoryRegionAddress(off), Ordering::Acquire).unwrap_or(0)
    }

    pub fn store(&self, off: u64, value: u64) {
        let r = self.region.store(value, MemoryRegionAddress(off), Ordering::Release);
        debug_assert!(r.is_ok());
    }

    pub fn compare_exchange_u32(&self, off: u64, old: u32, new: u32) -> Option<u32> {
        let slice = self.region.get_slice(MemoryRegionAddress(off), 4).ok()?;
        let word = slice.get_atomic_ref::<AtomicU32>(0).ok()?;
        Some(match word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(was) | Err(was) => was,
        })
    }

    pub fn copy_frame(&self, from: Frame, to: Frame) {
        let mut page = [0; PAGE as usize];
        self.read(u64::from(from) * PAGE, &mut page);
        self.write(u64::from(to) * PAGE, &page);
    }

    fn zero(&self, run: Run) {
        for frame in run.first..run.first + run.len {
            self.write(u64::from(frame) * PAGE, &[0; PAGE as usize]);
        }
    }

    fn new_block(&self, f: &mut Frames) -> Option<u32> {
        if let Some(block) = f.spare.pop() {
            return Some(block);
        }
        let block = f.next_block;
        if block >= f.blocks || self.show_block(block).is_err() {
            return None;
        }
        f.next_block += 1;
        Some(block)
    }

    /// One to `most` zeroed frames in a row, each counted once.
    pub fn alloc(&self, most: u32) -> Option<Run> {
        let mut f = self.frames.lock();
        let (first, len, dirty) = if let Some((first, len)) = f.dirty.take(most) {
            (first, len, true)
        } else {
            if f.clean.is_empty() {
                let block = self.new_block(&mut f)?;
                f.clean.add(block * BLOCK_PAGES, BLOCK_PAGES);
            }
            let (first, len) = f.clean.take(most)?;
            (first, len, false)
        };
        f.used += u64::from(len);
        f.refs.iter_mut().skip(first as usize).take(len as usize).for_each(|r| *r = 1);
        drop(f);
        let run = Run { first, len };
        if dirty {
            self.zero(run);
        }
        Some(run)
    }

    pub fn hold(&self, frame: Frame) {
        if let Some(r) = self.frames.lock().refs.get_mut(frame as usize) {
            *r += 1;
        }
    }

    /// Whether nobody but the caller holds the frame.
    pub fn is_sole(&self, frame: Frame) -> bool {
        self.frames.lock().refs.get(frame as usize) == Some(&1)
    }

    /// Lets go of frames, none of which can be reached through the caller's page tables any more.
    pub fn release(&self, mut list: Vec<Frame>) {
        list.sort_unstable();
        let mut f = self.frames.lock();
        let mut holes = Vec::new();
        let mut run: Option<Run> = None;
        for frame in list {
            let Some(r) = f.refs.get_mut(frame as usize) else { continue };
            *r = r.saturating_sub(1);
            if *r != 0 {
                continue;
            }
            f.used -= 1;
            match &mut run {
                Some(run) if run.first + run.len == frame => run.len += 1,
                _ => {
                    if let Some(done) = run.replace(Run { first: frame, len: 1 }) {
                        f.free(done, &mut holes);
                    }
                }
            }
        }
        if let Some(done) = run {
            f.free(done, &mut holes);
        }
        if f.dirty.total() > MAX_DIRTY {
            holes.extend(f.dirty.drain().map(|(first, len)| Run { first, len }));
        }
        // Nobody else knows of these frames until they are in a list again.
        drop(f);
        for hole in &holes {
            host::punch(&self.file, u64::from(hole.first) * PAGE, u64::from(hole.len) * PAGE);
        }
        if !holes.is_empty() {
            let mut f = self.frames.lock();
            holes.iter().for_each(|hole| f.clean.add(hole.first, hole.len));
        }
    }

    /// Gives the memory of held frames back to the host; they read as zeroes.
    pub fn empty(&self, frame: Frame) {
        host::punch(&self.file, u64::from(frame) * PAGE, PAGE);
    }

    /// A zeroed page table: its offset.
    pub fn alloc_table(&self) -> Option<u64> {
        let mut f = self.frames.lock();
        if f.tables.as_ref().is_none_or(|t| t.next == BLOCK_PAGES) {
            let full = f.tables.take().map(|t| t.block);
            let block = self.new_block(&mut f)?;
            f.table_counts.insert(block, 0);
            f.tables = Some(TableBlock { block, next: 0 });
            if let Some(full) = full.filter(|b| f.table_counts.get(b) == Some(&0)) {
                self.retire(&mut f, full);
            }
        }
        let t = f.tables.as_mut()?;
        let frame = t.block * BLOCK_PAGES + t.next;
        t.next += 1;
        let block = t.block;
        *f.table_counts.entry(block).or_default() += 1;
        Some(u64::from(frame) * PAGE)
    }

    fn retire(&self, f: &mut Frames, block: u32) {
        f.table_counts.remove(&block);
        self.renew_block(block);
        f.spare.push(block);
    }

    /// Gives the tables of a dead address space back; no processor uses them any more.
    pub fn free_tables(&self, mut list: Vec<u64>) {
        list.sort_unstable();
        let mut start = 0;
        let mut end = 0;
        for off in &list {
            if *off != end {
                if end > start {
                    host::punch(&self.file, start, end - start);
                }
                start = *off;
            }
            end = *off + PAGE;
        }
        if end > start {
            host::punch(&self.file, start, end - start);
        }
        let mut f = self.frames.lock();
        for off in list {
            let block = (off / BLOCK) as u32;
            let Some(n) = f.table_counts.get_mut(&block) else { continue };
            *n -= 1;
            if *n == 0 && f.tables.as_ref().is_none_or(|t| t.block != block) {
                self.retire(&mut f, block);
            }
        }
    }

    /// Frames in use.
    #[cfg(test)]
    pub fn used(&self) -> u64 {
        self.frames.lock().used
    }

    /// Shows `len` bytes at `hva` (a mapping of a file, say) to the VM: the address there and the slot.
    pub fn show_window(&self, hva: u64, len: u64, read_only: bool) -> Result<(u64, u32), i32> {
        let units = len.div_ceil(1 << 21) as u32;
        let at = self.windows.lock().take_all(units).ok_or(libc::ENOMEM)?;
        let gpa = u64::from(at) << 21;
        let slot = self.free_slots.lock().pop().or_else(|| {
            let slot = self.next_slot.fetch_add(1, Ordering::Relaxed);
            (slot < self.max_slots).then_some(slot)
        });
        let shown = match slot {
            Some(slot) => {
                self.set_slot(slot, gpa, len, hva, read_only).map(|()| (gpa, slot)).inspect_err(|_| {
                    self.free_slots.lock().push(slot);
                })
            }
            None => Err(libc::ENOMEM),
        };
        if shown.is_err() {
            self.windows.lock().add(at, units);
        }
        shown
    }

    pub fn hide_window(&self, gpa: u64, slot: u32, len: u64) {
        if let Err(errno) = self.set_slot(slot, gpa, 0, 0, false) {
            tracing::error!(errno, slot, "taking a file's memslot away failed");
            return;
        }
        self.free_slots.lock().push(slot);
        self.windows.lock().add((gpa >> 21) as u32, len.div_ceil(1 << 21) as u32);
    }

    /// Makes every processor forget its translations to these ranges of our own memory. The page tables have been changed
    /// already; the host drops what it derived from them and flushes before this returns.
    pub fn revoke(&self, ranges: &mut Vec<(u64, u64)>) {
        ranges.sort_unstable();
        let base = self.hva(0);
        let own = |at: u64| at.checked_sub(base).is_some_and(|off| off < self.len);
        let mut merged: Option<(u64, u64)> = None;
        for (start, len) in ranges.drain(..) {
            match &mut merged {
                // Frames in between only lose what they get back by a fault; there must be nothing else in between.
                Some((at, n)) if start <= *at + *n + if own(*at) && own(start) { 8 * PAGE } else { 0 } => {
                    *n = (*n).max(start + len - *at);
                }
                _ => {
                    if let Some((at, n)) = merged.replace((start, len)) {
                        host::forget(at, n);
                    }
                }
            }
        }
        if let Some((at, n)) = merged {
            host::forget(at, n);
        }
        self.revocations.fetch_add(1, Ordering::Relaxed);
    }
}

impl Frames {
    fn free(&mut self, run: Run, holes: &mut Vec<Run>) {
        if run.len >= PUNCH_RUN {
            holes.push(run);
        } else {
            self.dirty.add(run.first, run.len);
        }
    }
}
