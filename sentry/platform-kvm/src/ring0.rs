//! What runs in ring 0 of the VM, and the tables that lead there: a page of code, GDT, IDT, one TSS and two stacks per
//! processor. Nothing else of the guest's upper half is mapped.
//!
//! The code leaves the VM (OUT to [`TRAP`] or [`SYSCALL`]), enters ring 3 (IRETQ from a frame that we prepared), and answers
//! the calls that the processor's [table](Part::answer) has an answer to. It touches no memory but that and its own
//! stacks, so a guest can make it do nothing else. No answer is given where SYSRET would not do what IRETQ does: with the
//! flags TF or RF, or to an address that is not canonical, where it would fault on the guest's stack.

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
/// A page for the TSS, the answers and the entry of SYSCALL, and one for each stack.
const PER_VCPU: u64 = 3 * PAGE;
/// Where the answers are in it, followed by the entry.
const ANSWERS: u64 = 0x200;
/// Calls below this number can have answers.
pub const ANSWERABLE: u64 = 187;
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
    .globl chitin_ring0_fault
    .globl chitin_ring0_fault_call
    .globl chitin_ring0_fault_done
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
// Vector 14. Without the interrupt flag it is not ring 3's fault but its SYSCALL, whose entry the host does not reach (`vcpu`).
// On the stack: the error code, and what iretq takes; the answers are below.
chitin_ring0_fault:
    test dword ptr [rsp + 24], 0x200
    jnz chitin_ring0_start + 14 * 16
    test dword ptr [rsp + 16], 3
    jz chitin_ring0_start + 14 * 16
chitin_ring0_fault_call:
    cmp eax, {last}
    ja chitin_ring0_start + 14 * 16
    mov eax, eax
    cmp dword ptr [rsp + rax * 8 + {below} + 4], 0
    je chitin_ring0_start + 14 * 16
    mov [rsp + 8], rcx
    mov [rsp + 24], r11
    mov eax, [rsp + rax * 8 + {below}]
chitin_ring0_fault_done:
    add rsp, 8
    iretq
    .balign 16
// On the stack: rax, and what iretq takes.
chitin_ring0_flush:
    mov cr3, rax
chitin_ring0_enter:
    pop rax
    iretq
chitin_ring0_end:

// Each processor has its own: the answers by number, each a value and whether it counts, and where SYSCALL enters, with
// the stack and the bases still ring 3's.
    .globl chitin_ring0_answers
    .globl chitin_ring0_syscall
    .globl chitin_ring0_syscall_end
    .balign 16
chitin_ring0_answers:
    .fill {last} + 1, 8, 0
    .balign 16
chitin_ring0_syscall:
    .irp nr, 39, 186, 110, 102, 107, 104, 108
    cmp eax, \nr
    je 40\nr\()f
    .endr
40: out 0x11, al
    hlt
    .irp nr, 39, 186, 110, 102, 107, 104, 108
40\nr\():
    cmp dword ptr [rip + chitin_ring0_answers + \nr * 8 + 4], 0
    je 40b
    test r11d, 0x10100
    jnz 40b
    bt rcx, 47
    jc 40b
    mov eax, [rip + chitin_ring0_answers + \nr * 8]
    sysretq
    .endr
chitin_ring0_syscall_end:
    .popsection
"#,
    last = const ANSWERABLE - 1,
    // From the frame of a fault at the top of the trap stack's page.
    below = const ANSWERS as i64 - 2 * PAGE as i64 + 48,
);

unsafe extern "C" {
    static chitin_ring0_start: u8;
    static chitin_ring0_fault: u8;
    static chitin_ring0_fault_call: u8;
    static chitin_ring0_fault_done: u8;
    static chitin_ring0_enter: u8;
    static chitin_ring0_flush: u8;
    static chitin_ring0_end: u8;
    static chitin_ring0_answers: u8;
    static chitin_ring0_syscall: u8;
    static chitin_ring0_syscall_end: u8;
}

fn offset(symbol: *const u8) -> u64 {
    symbol as u64 - &raw const chitin_ring0_start as u64
}

/// The same in a processor's own part.
fn offset_there(symbol: *const u8) -> u64 {
    symbol as u64 - &raw const chitin_ring0_answers as u64
}

/// The bytes between two symbols.
fn bytes(start: *const u8, end: *const u8) -> &'static [u8] {
    // SAFETY: the symbols bound one object in .rodata.
    unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) }
}

/// Where a processor was caught that was about to answer a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answering {
    /// Nothing has happened yet: rax is the call's number.
    Not,
    /// rax is the answer.
    Done,
}

/// Addresses in the VM.
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

    /// Where SYSCALL enters.
    pub fn lstar(self) -> u64 {
        BASE + self.0 + ANSWERS + offset_there(&raw const chitin_ring0_syscall)
    }

    /// Whether `rip`, in ring 0, is on the way to an answer. The frame of what came as a fault is still on its stack.
    pub fn answering(self, rip: u64) -> Option<Answering> {
        let code = BASE + CODE;
        let call = code + offset(&raw const chitin_ring0_fault_call);
        let done = code + offset(&raw const chitin_ring0_fault_done);
        let end = code + offset(&raw const chitin_ring0_flush);
        if (call..done).contains(&rip) {
            return Some(Answering::Not);
        }
        if (done..end).contains(&rip) {
            return Some(Answering::Done);
        }
        const SYSRETQ: &[u8] = &[0x48, 0x0f, 0x07];
        let code = bytes(&raw const chitin_ring0_syscall, &raw const chitin_ring0_syscall_end);
        let rest = code.get(usize::try_from(rip.checked_sub(self.lstar())?).ok()?..)?;
        Some(if rest.starts_with(SYSRETQ) { Answering::Done } else { Answering::Not })
    }

    /// Whether `rip` is in this part, whose code has ring 3's stack.
    pub fn is_own(self, rip: u64) -> bool {
        (self.tss()..self.tss() + PAGE).contains(&rip)
    }

    /// Has ring 0 answer call `nr` with this, or none. The processor may have seen that there is one and be about to fetch it,
    /// so what counts no more stays there.
    pub fn answer(self, phys: &Phys, nr: u64, value: Option<u32>) {
        if nr < ANSWERABLE {
            let at = self.0 + ANSWERS + nr * 8;
            let word = value.map_or_else(|| phys.load(at) & 0xffff_ffff, |v| 1 << 32 | u64::from(v));
            phys.store(at, word);
        }
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
    phys.write(CODE, bytes(&raw const chitin_ring0_start, &raw const chitin_ring0_end));
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
        let at = BASE + CODE + if vector == 14 { offset(&raw const chitin_ring0_fault) } else { vector * 16 };
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
        let own = bytes(&raw const chitin_ring0_answers, &raw const chitin_ring0_syscall_end);
        phys.write(tss + ANSWERS, own);
    }
}
