//! The list of mappings of an address space: what is mapped where, without its pages.

use crate::phys::{Frame, PAGE, Phys};
use crate::window::FileMap;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub const READ: u32 = 1;
pub const WRITE: u32 = 2;
pub const EXEC: u32 = 4;

/// `vm.max_map_count`.
pub const MAX_VMAS: usize = 65530;
/// Kept free below a growing stack.
pub const STACK_GAP: u64 = 256 * PAGE;

/// Shared anonymous memory.
pub struct Shared {
    phys: Arc<Phys>,
    /// Its number, which stands in for an inode.
    pub id: u64,
    pub pages: u64,
    frames: Mutex<BTreeMap<u64, Frame>>,
}

impl Shared {
    pub fn new(phys: &Arc<Phys>, pages: u64) -> Arc<Shared> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Shared { phys: phys.clone(), id, pages, frames: Mutex::default() })
    }

    /// The frame of a page, counted for the caller; `None` without memory.
    pub fn frame(&self, page: u64) -> Option<Frame> {
        let mut frames = self.frames.lock();
        let frame = match frames.get(&page) {
            Some(frame) => *frame,
            None => {
                let run = self.phys.alloc(1)?;
                frames.insert(page, run.first);
                run.first
            }
        };
        self.phys.hold(frame);
        Some(frame)
    }

    /// Empties pages (MADV_REMOVE).
    pub fn remove(&self, pages: Range<u64>) {
        self.frames.lock().range(pages).for_each(|(_, frame)| self.phys.empty(*frame));
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let frames = std::mem::take(self.frames.get_mut());
        self.phys.release(frames.into_values().collect());
    }
}

/// Where the pages come from.
#[derive(Clone)]
pub enum Back {
    Anonymous,
    /// Memory and the offset in it of the mapping's start.
    Shared(Arc<Shared>, u64),
    File(Arc<FileMap>, u64),
    /// The vDSO and its data.
    Clock(u64),
}

impl Back {
    pub fn advance(&self, by: u64) -> Back {
        match self {
            Back::Anonymous => Back::Anonymous,
            Back::Shared(s, off) => Back::Shared(s.clone(), off + by),
            Back::File(f, off) => Back::File(f.clone(), off + by),
            Back::Clock(off) => Back::Clock(off + by),
        }
    }

    fn continues(&self, len: u64, next: &Back) -> bool {
        match (self, next) {
            (Back::Anonymous, Back::Anonymous) => true,
            (Back::Shared(a, x), Back::Shared(b, y)) => Arc::ptr_eq(a, b) && x + len == *y,
            (Back::File(a, x), Back::File(b, y)) => Arc::ptr_eq(a, b) && x + len == *y,
            _ => false,
        }
    }
}

#[derive(Clone)]
pub struct Vma {
    pub end: u64,
    pub prot: u32,
    /// MAP_SHARED.
    pub shared: bool,
    pub grows: bool,
    pub dont_fork: bool,
    pub wipe_on_fork: bool,
    pub back: Back,
}

impl Vma {
    fn same_kind(&self, o: &Vma) -> bool {
        self.prot == o.prot
            && self.shared == o.shared
            && self.grows == o.grows
            && self.dont_fork == o.dont_fork
            && self.wipe_on_fork == o.wipe_on_fork
    }

    /// Offset of `va` in what is behind the mapping that starts at `start`.
    pub fn offset(&self, start: u64, va: u64) -> u64 {
        match &self.back {
            Back::Anonymous => 0,
            Back::Shared(_, off) | Back::File(_, off) | Back::Clock(off) => off + (va - start),
        }
    }
}

#[derive(Default, Clone)]
pub struct Vmas {
    map: BTreeMap<u64, Vma>,
    total: u64,
}

impl Vmas {
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Vma)> {
        self.map.iter().map(|(start, v)| (*start, v))
    }

    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Bytes mapped.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The mapping that holds `va`.
    pub fn find(&self, va: u64) -> Option<(u64, &Vma)> {
        let (start, v) = self.map.range(..=va).next_back()?;
        (va < v.end).then_some((*start, v))
    }

    /// The first mapping that ends after `va`.
    pub fn first_after(&self, va: u64) -> Option<(u64, &Vma)> {
        self.find(va).or_else(|| self.map.range(va..).next().map(|(start, v)| (*start, v)))
    }

    pub fn within(&self, range: Range<u64>) -> impl Iterator<Item = (u64, &Vma)> {
        let first = self.find(range.start).map_or(range.start, |(start, _)| start);
        self.map.range(first..range.end.max(first)).map(|(start, v)| (*start, v))
    }

    /// Whether all of the range is mapped.
    pub fn covers(&self, range: Range<u64>) -> bool {
        let mut at = range.start;
        for (start, v) in self.within(range.clone()) {
            if start > at {
                return false;
            }
            at = v.end;
        }
        at >= range.end
    }

    pub fn is_free(&self, range: Range<u64>) -> bool {
        self.within(range).next().is_none()
    }

    /// Splits so that a mapping begins at `va`, if `va` is inside one.
    fn split(&mut self, va: u64) {
        let Some((start, v)) = self.find(va) else { return };
        if start == va {
            return;
        }
        let mut upper = v.clone();
        upper.back = v.back.advance(va - start);
        if let Some(lower) = self.map.get_mut(&start) {
            lower.end = va;
        }
        self.map.insert(va, upper);
    }

    /// Takes the mappings of a range out, cut to it.
    pub fn remove(&mut self, range: Range<u64>) -> Vec<(u64, Vma)> {
        self.split(range.start);
        self.split(range.end);
        let mut upper = self.map.split_off(&range.start);
        let mut rest = upper.split_off(&range.end);
        self.map.append(&mut rest);
        let out: Vec<_> = upper.into_iter().collect();
        self.total -= out.iter().map(|(start, v)| v.end - start).sum::<u64>();
        out
    }

    /// Puts a mapping into a free range, merged with its neighbours where they continue each other.
    pub fn insert(&mut self, start: u64, vma: Vma) {
        self.total += vma.end - start;
        let (mut start, mut vma) = (start, vma);
        if let Some((&before, v)) = self.map.range(..start).next_back() {
            if v.end == start && v.same_kind(&vma) && v.back.continues(start - before, &vma.back) {
                vma.back = v.back.clone();
                start = before;
            }
        }
        if let Some(next) = self.map.get(&vma.end) {
            if vma.same_kind(next) && vma.back.continues(vma.end - start, &next.back) {
                let end = next.end;
                self.map.remove(&vma.end);
                vma.end = end;
            }
        }
        self.map.insert(start, vma);
    }

    /// Extends the mapping at `start` downwards (a stack).
    pub fn grow_down(&mut self, start: u64, to: u64) {
        if let Some(v) = self.map.remove(&start) {
            self.total += start - to;
            self.map.insert(to, v);
        }
    }

    /// How far a mapping at `va` may reach up: the next mapping, less the gap below a stack.
    fn ceiling(&self, start: u64, v: &Vma) -> u64 {
        if v.grows { start.saturating_sub(STACK_GAP) } else { start }
    }

    /// The highest free range of `len` bytes that ends at or below `top` and starts at or above `bottom`.
    pub fn find_gap(&self, len: u64, bottom: u64, top: u64) -> Option<u64> {
        let mut high = top;
        if let Some((start, v)) = self.find(high.saturating_sub(1)) {
            high = high.min(self.ceiling(start, v));
        } else if let Some((start, v)) = self.map.range(high..).next() {
            high = high.min(self.ceiling(*start, v));
        }
        for (start, v) in self.map.range(..high).rev() {
            if v.end <= high && high - v.end >= len {
                break;
            }
            high = high.min(self.ceiling(*start, v));
            if high < bottom.saturating_add(len) {
                return None;
            }
        }
        high.checked_sub(len).filter(|at| *at >= bottom)
    }
}
