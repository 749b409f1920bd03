//! What Linux makes of a processor's exceptions.

use crate::fpu::exception_code;
use crate::space::{Access, Fault};
use crate::task::Task;
use chitin_platform::{EventKind, Registers};

const SI_KERNEL: i32 = 0x80;
const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;
const BUS_ADRALN: i32 = 1;
const BUS_ADRERR: i32 = 2;
const FPE_INTDIV: i32 = 1;
const ILL_ILLOPN: i32 = 2;
const TRAP_BRKPT: i32 = 1;
const TRAP_TRACE: i32 = 2;
const TF: u64 = 1 << 8;

/// SIGSEGV as Linux forces it on who has told it nonsense.
pub const FORCED: EventKind =
    EventKind::Fault { signal: libc::SIGSEGV, code: SI_KERNEL, addr: 0, trap_no: 0, error_code: 0 };

pub const ARCH_X86_64: u32 = 0xc000_003e;
const ARCH_I386: u32 = 0x4000_0003;

/// The kind of access that an error code tells of.
pub fn access(error: u64) -> Access {
    match error {
        e if e & 2 != 0 => Access::Write,
        e if e & 16 != 0 => Access::Exec,
        _ => Access::Read,
    }
}

/// A page fault that stays one. Out of memory is the caller's.
pub fn page_fault(fault: Fault, addr: u64, error: u64) -> EventKind {
    // Linux does not tell whether the kernel's addresses are mapped.
    let error_code = if addr >> 47 != 0 { error | 1 } else { error };
    let (signal, code) = match fault {
        Fault::Unmapped | Fault::NoMemory => (libc::SIGSEGV, SEGV_MAPERR),
        Fault::Denied => (libc::SIGSEGV, SEGV_ACCERR),
        Fault::Bus => (libc::SIGBUS, BUS_ADRERR),
    };
    EventKind::Fault { signal, code, addr, trap_no: 14, error_code }
}

pub fn syscall(r: &Registers) -> EventKind {
    // The low half of the number counts.
    let nr = r.rax as u32 as i32 as u64;
    EventKind::Syscall { arch: ARCH_X86_64, nr, args: [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9], ip: r.rip }
}

fn int80(r: &Registers) -> EventKind {
    let low = |v: u64| v & 0xffff_ffff;
    let args = [r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp].map(low);
    EventKind::Syscall { arch: ARCH_I386, nr: low(r.rax), args, ip: r.rip }
}

/// Any other exception.
pub fn exception(task: &Task, regs: &mut Registers, vector: u8, error: u64) -> EventKind {
    // Where INT 0x80 cannot be caught by the IDT, it is an invalid opcode.
    if vector == 6 {
        let mut code = [0; 2];
        if task.space.read_at(regs.rip, &mut code).is_ok() && code == [0xcd, 0x80] {
            regs.rip = regs.rip.wrapping_add(2);
            return int80(regs);
        }
    }
    let fpu = || task.fpu.lock().save().map_or(0, |area| exception_code(area, vector));
    let (signal, code, addr) = match vector {
        0 => (libc::SIGFPE, FPE_INTDIV, regs.rip),
        1 => (libc::SIGTRAP, if regs.eflags & TF != 0 { TRAP_TRACE } else { TRAP_BRKPT }, regs.rip),
        3 => (libc::SIGTRAP, SI_KERNEL, 0),
        6 => (libc::SIGILL, ILL_ILLOPN, regs.rip),
        11 | 12 => (libc::SIGBUS, SI_KERNEL, 0),
        16 | 19 => (libc::SIGFPE, fpu(), regs.rip),
        17 => (libc::SIGBUS, BUS_ADRALN, 0),
        0x80 => return int80(regs),
        _ => (libc::SIGSEGV, SI_KERNEL, 0),
    };
    EventKind::Fault { signal, code, addr, trap_no: vector.into(), error_code: error }
}
