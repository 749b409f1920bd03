//! Four-level page tables in guest-physical memory.
//!
//! Accessed and dirty bits are set from the start, so that processors never write to an entry. An entry that is kept
//! while its page may not be touched (PROT_NONE) is not present and has its address bits inverted, so that a processor
//! that speculates past the missing present bit finds nothing there (L1TF).
//!
//! Tables are only added while the address space lives: see `phys` for why.

use crate::phys::Phys;
use std::ops::Range;

const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const USER: u64 = 4;
const ACCESSED_DIRTY: u64 = 0x60;
const HELD: u64 = 1 << 9;
const NX: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// One table of this many pages of guest memory (its lowest level) costs as much again as a page; what a space may have
/// beside its pages.
const MAX_TABLES: usize = 1 << 16;

/// What a leaf says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    pub gpa: u64,
    /// Readable at all; otherwise held.
    pub read: bool,
    pub write: bool,
    pub exec: bool,
}

impl Leaf {
    fn decode(raw: u64) -> Option<Leaf> {
        if raw & PRESENT != 0 {
            return Some(Leaf {
                gpa: raw & ADDRESS,
                read: true,
                write: raw & WRITE != 0,
                exec: raw & NX == 0,
            });
        }
        let held = Leaf { gpa: !raw & ADDRESS, read: false, write: false, exec: false };
        (raw & HELD != 0).then_some(held)
    }

    fn encode(self) -> u64 {
        if !self.read {
            return HELD | (!self.gpa & ADDRESS);
        }
        self.gpa
            | PRESENT
            | USER
            | ACCESSED_DIRTY
            | if self.write { WRITE } else { 0 }
            | if self.exec { 0 } else { NX }
    }
}

/// Out of memory for tables.
#[derive(Clone, Copy, Debug)]
pub struct NoTable;

pub struct PageTable {
    root: u64,
    tables: Vec<u64>,
    /// The lowest table used last: which 2 MiB it is for, and where it is.
    recent: (u64, u64),
}

impl PageTable {
    /// `kernel` is the entry for the upper half.
    pub fn new(phys: &Phys, kernel: u64) -> Result<PageTable, NoTable> {
        let root = phys.alloc_table().ok_or(NoTable)?;
        phys.store(root + 256 * 8, kernel);
        Ok(PageTable { root, tables: vec![root], recent: (u64::MAX, 0) })
    }

    /// The root's guest-physical address.
    pub fn cr3(&self) -> u64 {
        crate::phys::BASE + self.root
    }

    /// Where the entry for `va` is.
    fn slot(&self, phys: &Phys, va: u64) -> Option<u64> {
        if self.recent.0 == va >> 21 {
            return Some(self.recent.1 + (va >> 12 & 511) * 8);
        }
        let mut table = self.root;
        for level in [39, 30, 21] {
            let entry = phys.load(table + (va >> level & 511) * 8);
            if entry & PRESENT == 0 {
                return None;
            }
            table = phys.offset_of(entry & ADDRESS)?;
        }
        Some(table + (va >> 12 & 511) * 8)
    }

    fn make_slot(&mut self, phys: &Phys, va: u64) -> Result<u64, NoTable> {
        if self.recent.0 == va >> 21 {
            return Ok(self.recent.1 + (va >> 12 & 511) * 8);
        }
        let mut table = self.root;
        for level in [39, 30, 21] {
            let at = table + (va >> level & 511) * 8;
            let entry = phys.load(at);
            table = if entry & PRESENT != 0 {
                phys.offset_of(entry & ADDRESS).ok_or(NoTable)?
            } else {
                if self.tables.len() >= MAX_TABLES {
                    return Err(NoTable);
                }
                let new = phys.alloc_table().ok_or(NoTable)?;
                self.tables.push(new);
                phys.store(at, (crate::phys::BASE + new) | PRESENT | WRITE | USER | ACCESSED_DIRTY);
                new
            };
        }
        self.recent = (va >> 21, table);
        Ok(table + (va >> 12 & 511) * 8)
    }

    pub fn get(&self, phys: &Phys, va: u64) -> Option<Leaf> {
        Leaf::decode(phys.load(self.slot(phys, va)?))
    }

    pub fn set(&mut self, phys: &Phys, va: u64, leaf: Leaf) -> Result<(), NoTable> {
        let at = self.make_slot(phys, va)?;
        phys.store(at, leaf.encode());
        Ok(())
    }

    /// Visits the entries of a range in order; what `f` answers replaces the entry.
    pub fn edit(&mut self, phys: &Phys, range: Range<u64>, mut f: impl FnMut(u64, Leaf) -> Option<Leaf>) {
        self.visit(phys, self.root, 39, range, &mut |at, va, leaf| {
            let new = f(va, leaf);
            if new != Some(leaf) {
                phys.store(at, new.map_or(0, Leaf::encode));
            }
        });
    }

    fn visit(
        &self,
        phys: &Phys,
        table: u64,
        level: u32,
        range: Range<u64>,
        f: &mut dyn FnMut(u64, u64, Leaf),
    ) {
        let span = 1u64 << level;
        let mut va = range.start;
        while va < range.end {
            let next = ((va >> level) + 1) << level;
            let at = table + (va >> level & 511) * 8;
            let raw = phys.load(at);
            if level == 12 {
                if let Some(leaf) = Leaf::decode(raw) {
                    f(at, va, leaf);
                }
            } else if raw & PRESENT != 0 {
                if let Some(lower) = phys.offset_of(raw & ADDRESS) {
                    self.visit(phys, lower, level - 9, va..next.min(range.end), f);
                }
            }
            debug_assert!(next - va <= span);
            va = next;
        }
    }

    /// Gives all tables back. No processor uses them any more, or ever will.
    pub fn free(&mut self, phys: &Phys) {
        self.recent = (u64::MAX, 0);
        phys.free_tables(std::mem::take(&mut self.tables));
    }
}

/// The root's entry for the ring-0 half, whose next table is at `gpa`.
pub fn kernel_entry(gpa: u64) -> u64 {
    gpa | PRESENT | WRITE | ACCESSED_DIRTY
}
