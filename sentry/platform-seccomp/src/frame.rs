//! The signal frame that the host's kernel pushed onto a window: registers, fault details and FPU state.
//!
//! Neighbours: `arena` (checked access), `task` (which thread has a frame, and where).
//!
//! Offsets are those of x86-64's `struct rt_sigframe`, counted from its `ucontext`. Invariant: the guest can forge all of
//! it; every offset is checked against the window before use.

use crate::arena::Window;
use crate::stub::ctl;
use chitin_platform::{PlatformError, Registers};
use chitin_platform_host::fpstate::Form;

/// `struct ucontext` in bytes; siginfo follows it.
const UCONTEXT: usize = 304;
const SIGINFO: usize = 128;
const UC_STACK: usize = 16;
const RIP: usize = 168;
const R10: usize = 56;
const R11: usize = 64;
const RDI: usize = 104;
const RSI: usize = 112;
const RDX: usize = 136;
const RAX: usize = 144;
const EFLAGS: usize = 176;
const SEGMENTS: usize = 184;
const ERR: usize = 192;
const TRAPNO: usize = 200;
const FPSTATE: usize = 224;
const SIGMASK: usize = 296;

/// The flag bits user mode may set: what the host's own rt_sigreturn accepts.
const USER_FLAGS: u64 = 0x0005_0dd5;

/// Where things are in every frame on this machine, learnt from the zygote's first one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Layout {
    /// Offset of the FPU state in the window.
    fp: usize,
    fp_len: usize,
    xfeatures: u64,
    mxcsr_mask: u32,
}

/// Checks a ucontext pointer that a doorbell brought; the result is an offset in the window.
pub fn locate(w: &Window, uc: u64) -> Option<usize> {
    let off = usize::try_from(uc.checked_sub(w.vaddr)?).ok()?;
    let fits =
        off >= ctl::PAGE + 512 && off.is_multiple_of(8) && off.checked_add(UCONTEXT + SIGINFO)? <= w.size();
    fits.then_some(off)
}

pub fn set_rax(w: &Window, uc: usize, v: u64) {
    w.put(uc + RAX, v);
}

pub fn rax(w: &Window, uc: usize) -> u64 {
    w.get(uc + RAX)
}

pub fn r11(w: &Window, uc: usize) -> u64 {
    w.get(uc + R11)
}

pub fn rip(w: &Window, uc: usize) -> u64 {
    w.get(uc + RIP)
}

pub fn set_rip(w: &Window, uc: usize, v: u64) {
    w.put(uc + RIP, v);
}

pub fn set_rdi(w: &Window, uc: usize, v: u64) {
    w.put(uc + RDI, v);
}

pub fn set_rdx(w: &Window, uc: usize, v: u64) {
    w.put(uc + RDX, v);
}

pub fn set_r10(w: &Window, uc: usize, v: u64) {
    w.put(uc + R10, v);
}

pub fn set_rsi(w: &Window, uc: usize, v: u64) {
    w.put(uc + RSI, v);
}

/// Number, arguments and ip of the system call that the frame stopped at.
pub fn syscall(w: &Window, uc: usize) -> (u64, [u64; 6], u64) {
    let g = |o: usize| w.get(uc + o);
    // The host looks at the low half of the number.
    (g(RAX) as i32 as u64, [g(104), g(112), g(136), g(56), g(40), g(48)], g(RIP))
}

/// What the kernel said about a fault: si_code, si_addr, trap number, error code.
pub fn fault(w: &Window, uc: usize) -> (i32, u64, u64, u64) {
    let code = w.get(uc + UCONTEXT + 8) as u32 as i32;
    (code, w.get(uc + UCONTEXT + 16), w.get(uc + TRAPNO), w.get(uc + ERR))
}

pub fn registers(w: &Window, uc: usize, fs_base: u64, gs_base: u64) -> Registers {
    let g = |o: usize| w.get(uc + o);
    Registers {
        r8: g(40),
        r9: g(48),
        r10: g(56),
        r11: g(64),
        r12: g(72),
        r13: g(80),
        r14: g(88),
        r15: g(96),
        rdi: g(104),
        rsi: g(112),
        rbp: g(120),
        rbx: g(128),
        rdx: g(136),
        rax: g(144),
        rcx: g(152),
        rsp: g(160),
        rip: g(168),
        eflags: g(176),
        fs_base,
        gs_base,
    }
}

pub fn set_registers(w: &Window, uc: usize, r: &Registers) {
    let old = w.get(uc + EFLAGS);
    let all = [
        r.r8,
        r.r9,
        r.r10,
        r.r11,
        r.r12,
        r.r13,
        r.r14,
        r.r15,
        r.rdi,
        r.rsi,
        r.rbp,
        r.rbx,
        r.rdx,
        r.rax,
        r.rcx,
        r.rsp,
        r.rip,
        (r.eflags & USER_FLAGS) | (old & !USER_FLAGS) | 0x202,
    ];
    for (i, v) in all.into_iter().enumerate() {
        w.put(uc + 40 + i * 8, v);
    }
}

/// Makes a frame that was copied from another window's right for this one.
pub fn rebase(w: &Window, uc: usize, from: &Window) {
    let fp = w.get(uc + FPSTATE);
    w.put(uc + FPSTATE, fp.wrapping_sub(from.vaddr).wrapping_add(w.vaddr));
    set_stack(w, uc);
}

/// The alternate stack that rt_sigreturn installs, and an empty signal mask.
fn set_stack(w: &Window, uc: usize) {
    w.put(uc + UC_STACK, w.vaddr + ctl::PAGE as u64);
    w.put(uc + UC_STACK + 8, 0);
    w.put(uc + UC_STACK + 16, (w.size() - ctl::PAGE) as u64);
    w.put(uc + SIGMASK, 0);
}

/// Learns the layout from a frame the host made.
pub fn learn(w: &Window, uc: usize) -> Option<Layout> {
    let fp = usize::try_from(w.get(uc + FPSTATE).checked_sub(w.vaddr)?).ok()?;
    if fp + 512 > w.size() || w.get(fp + 464) as u32 != 0x4650_5853 {
        return None;
    }
    let fp_len = (w.get(fp + 464) >> 32) as usize;
    let l = Layout { fp, fp_len, xfeatures: w.get(fp + 472), mxcsr_mask: (w.get(fp + 24) >> 32) as u32 };
    (fp.is_multiple_of(8) && fp_len >= 576 && fp + fp_len <= w.size()).then_some(l)
}

/// Zeroed registers and initial FPU state.
pub fn reset(w: &Window, uc: usize, layout: &Layout) {
    let segments = 0x33 | (0x2b << 48);
    for i in 0..18 {
        w.put(uc + 40 + i * 8, 0);
    }
    w.put(uc + EFLAGS, 0x202);
    w.put(uc + SEGMENTS, segments);
    set_stack(w, uc);
    w.put(uc + FPSTATE, w.vaddr + layout.fp as u64);
    reset_fp(w, layout.fp, layout);
}

fn reset_fp(w: &Window, fp: usize, layout: &Layout) {
    for o in (0..464).step_by(8) {
        w.put(fp + o, 0);
    }
    w.put(fp, 0x37f);
    w.put(fp + 24, 0x1f80 | (u64::from(layout.mxcsr_mask) << 32));
    // XSTATE_BV = 0: every component in its initial state.
    let magic2 = layout.fp_len.saturating_sub(4);
    for o in (512..magic2 & !7).step_by(8) {
        w.put(fp + o, 0);
    }
}

fn fpstate_at(w: &Window, uc: usize, layout: &Layout) -> Result<usize, PlatformError> {
    let bad = PlatformError::Corrupt("the frame's FPU pointer leaves the window");
    let off = w.get(uc + FPSTATE).wrapping_sub(w.vaddr);
    match usize::try_from(off) {
        Ok(fp) if fp.is_multiple_of(8) && fp <= w.size() && w.size() - fp >= layout.fp_len => Ok(fp),
        _ => Err(bad),
    }
}

pub fn fp_len(layout: &Layout) -> usize {
    layout.fp_len
}

pub fn read_fp(w: &Window, uc: usize, layout: &Layout, out: &mut Vec<u8>) -> Result<(), PlatformError> {
    let fp = fpstate_at(w, uc, layout)?;
    w.copy_out(fp, layout.fp_len, out);
    Ok(())
}

pub fn write_fp(w: &Window, uc: usize, layout: &Layout, image: &[u8]) -> Result<(), PlatformError> {
    let fp = fpstate_at(w, uc, layout)?;
    if image.is_empty() {
        reset_fp(w, fp, layout);
        return Ok(());
    }
    let form = Form { len: layout.fp_len, xfeatures: layout.xfeatures, mxcsr_mask: layout.mxcsr_mask };
    if !form.accepts(image) {
        return Err(PlatformError::Corrupt("malformed FPU state"));
    }
    w.copy_in(fp, image);
    // The kernel's own words again, whatever the image says.
    w.put(fp + 472, layout.xfeatures);
    Ok(())
}
