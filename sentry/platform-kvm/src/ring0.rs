//! What runs in ring 0 of the VM, and the tables that lead there: a page of code, GDT, IDT, one TSS and two stacks per
//! processor. Nothing else of the guest's upper half is mapped.
//!
//! The code only leaves the VM (OUT to [`TRAP`] or [`SYSCALL`]) and enters ring 3 (IRETQ from a frame that we prepared).
//! It touches no memory but its own stacks, so a guest can make it do nothing else.

use crate::phys::{PAGE, Phys};
use std::arch::global_asm;

/// Where the ring-0 part is: the start of the upper half.
pub const BASE: u64 = 0xffff_8000_0000_0000;
/// Ports that tell the exits apart.
pub const TRAP: u16 = 0x10;
pub const SYSCALL: u16 = 0x11;

// Offsets from `BASE`, which are also offsets in the memfd.
const PDPT: u64 = 0x1000;
const PD: u64 = 0x2000;
const PT: u64 = 0x3000;
const GDT: u64 = 0x4000;
const IDT: u64 = 0x5000;
const CODE: u64 = 0x6000;
const VCPUS: u64 = 0x1_0000;
/// TSS and stacks: a page each.
const PER_VCPU: u64 = 3 * PAGE;
/// The tables map the first 2 MiB.
pub const MAX_VCPUS: usize = ((2 << 20) - VCPUS as usize) / PER_VCPU as usize;

pub const KERNEL_CS: u16 = 0x10;
pub const KERNEL_SS: u16 = 0x18;
/// As Linux has them, since guests can see them.
pub const USER_SS: u16 = 0x2b;
pub const USER_CS: u16 = 0x33;
pub const TSS_SELECTOR: u16 = 0x40;
pub const GDT_LIMIT: u16 = 10 * 8 - 1;
pub const IDT_LIMIT: u16 = 256 * 16 - 1;

global_asm!(
    r#"
    .pushsection .rodata.chitin_ring0, "a", @progbits
    .globl chitin_ring0_start
    .globl chitin_ring0_syscall
    .globl chitin_ring0_enter
    .globl chitin_ring0_flush
    .globl chitin_ring0_end
    .balign 16
chitin_ring0_start:
// One entry of the IDT each; the vector is told by the address.
    .rept 256
    .balign 16
    out 0x10, al
    hlt
    .endr
    .balign 16
chitin_ring0_syscall:
    out 0x11, al
    hlt
    .balign 16
// On the stack: rax, and what iretq takes.
chitin_ring0_flush:
    mov cr3, rax
chitin_ring0_enter:
    pop rax
    iretq
chitin_ring0_end:
    .popsection
"#
);

unsafe extern "C" {
    static chitin_ring0_start: u8;
    static chitin_ring0_syscall: u8;
    static chitin_ring0_enter: u8;
    static chitin_ring0_flush: u8;
    static chitin_ring0_end: u8;
}

fn offset(symbol: *const u8) -> u64 {
    symbol as u64 - &raw const chitin_ring0_start as u64
}

/// Addresses in the VM.
pub fn lstar() -> u64 {
    BASE + CODE + offset(&raw const chitin_ring0_syscall)
}

pub fn enter() -> u64 {
    BASE + CODE + offset(&raw const chitin_ring0_enter)
}

/// As `enter`, with the root of the page tables in rax, to be loaded first.
pub fn flush() -> u64 {
    BASE + CODE + offset(&raw const chitin_ring0_flush)
}

/// Whether `rip` is in the code that enters ring 3: its frame has not been used yet.
pub fn is_entering(rip: u64) -> bool {
    (flush()..BASE + CODE + offset(&raw const chitin_ring0_end)).contains(&rip)
}

/// The vector whose entry's OUT ended before `rip`.
pub fn vector(rip: u64) -> Option<u8> {
    u8::try_from(rip.checked_sub(BASE + CODE)? / 16).ok()
}

pub fn gdt() -> u64 {
    BASE + GDT
}

pub fn idt() -> u64 {
    BASE + IDT
}

/// The root's entry for the upper half.
pub fn root_entry() -> u64 {
    crate::table::kernel_entry(crate::phys::BASE + PDPT)
}

/// One processor's part.
#[derive(Clone, Copy, Debug)]
pub struct Part(u64);

impl Part {
    pub fn new(index: usize) -> Part {
        Part(VCPUS + index as u64 * PER_VCPU)
    }

    pub fn tss(self) -> u64 {
        BASE + self.0
    }

    /// Top of the stack for traps from ring 3: an offset in the memfd.
    pub fn trap_top(self) -> u64 {
        self.0 + 2 * PAGE
    }

    /// Top of the stack for what may come at any time (#DB, NMI, double faults, machine checks).
    pub fn odd_top(self) -> u64 {
        self.0 + 3 * PAGE
    }

    /// Where the frame for an entry is.
    pub fn entry_frame(self) -> u64 {
        self.0 + PAGE + 0x100
    }
}

/// Fills in the first block.
pub fn build(phys: &Phys, vcpus: usize) {
    let len = offset(&raw const chitin_ring0_end) as usize;
    // SAFETY: the symbols bound one object in .rodata.
    let code = unsafe { std::slice::from_raw_parts(&raw const chitin_ring0_start, len) };
    phys.write(CODE, code);
    let gpa = |off: u64| crate::phys::BASE + off;
    // Accessed bits are set: nothing writes to the tables later.
    phys.store(PDPT, gpa(PD) | 0x63);
    phys.store(PD, gpa(PT) | 0x63);
    for page in 0..512 {
        phys.store(PT + page * 8, gpa(page * PAGE) | 0x63);
    }
    let gdt =
        [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0, 0x00cf_f300_0000_ffff, 0x00af_fb00_0000_ffff];
    for (i, descriptor) in gdt.into_iter().enumerate() {
        phys.store(GDT + i as u64 * 8, descriptor);
    }
    for vector in 0..256u64 {
        let at = BASE + CODE + vector * 16;
        // INT3, INTO and int 0x80 are the guest's to use.
        let dpl: u64 = if matches!(vector, 3 | 4 | 0x80) { 3 } else { 0 };
        let ist: u64 = if matches!(vector, 1 | 2 | 8 | 18) { 1 } else { 0 };
        let low = (at & 0xffff)
            | u64::from(KERNEL_CS) << 16
            | ist << 32
            | (0x8e | dpl << 5) << 40
            | (at >> 16 & 0xffff) << 48;
        phys.store(IDT + vector * 16, low);
        phys.store(IDT + vector * 16 + 8, at >> 32);
    }
    for index in 0..vcpus {
        let part = Part::new(index);
        let tss = part.0;
        // rsp0 and ist1 are at 4 and 36; the I/O map lies beyond the limit: no ports for ring 3.
        let put = |at: u64, value: u64| phys.write(tss + at, &value.to_le_bytes());
        put(4, BASE + part.trap_top());
        put(36, BASE + part.odd_top());
        phys.write(tss + 102, &104u16.to_le_bytes());
    }
}
