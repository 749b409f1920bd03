//! Signal frames on the guest's stack (arch/x86/kernel/signal_64.c).

use crate::Task;
use chitin_abi::Errno;
use chitin_abi::sigframe::*;
use chitin_abi::signal::*;
use chitin_platform::Registers;
use std::sync::Arc;
use zerocopy::{FromBytes, IntoBytes};

/// uc_flags: the FPU state is an XSAVE image; ss is saved and restored.
const UC_FP_XSTATE: u64 = 1;
const UC_SIGCONTEXT_SS: u64 = 2;
const UC_STRICT_RESTORE_SS: u64 = 4;
const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;

/// Sets up a handler's frame: writes it to the guest's stack and points `regs` at the handler.
pub(super) fn push(
    task: &Arc<Task>,
    regs: &mut Registers,
    info: &SigInfo,
    action: &SigAction,
) -> Result<(), Errno> {
    if action.sa_flags & SA_RESTORER == 0 {
        return Err(Errno::EFAULT);
    }
    let mm = task.mm();
    let platform = task.platform();
    let altstack = task.altstack();
    let on_alt = altstack.contains(regs.rsp);
    let use_alt = action.sa_flags & SA_ONSTACK != 0 && altstack.ss_flags & SS_DISABLE == 0 && !on_alt;
    let top = if use_alt {
        altstack.ss_sp.wrapping_add(altstack.ss_size)
    } else {
        regs.rsp.wrapping_sub(REDZONE_SIZE)
    };
    let mut fp = Vec::with_capacity(platform.fpstate_len());
    platform.read_fpstate(&mut fp).map_err(|_| Errno::EFAULT)?;
    let fp_at = top.wrapping_sub(fp.len() as u64) & !63;
    let frame_at = (fp_at.wrapping_sub(size_of::<RtSigFrame>() as u64) & !15).wrapping_sub(8);
    let lowest = frame_at;
    if (use_alt || on_alt) && altstack.ss_flags & SS_DISABLE == 0 && lowest < altstack.ss_sp {
        return Err(Errno::EFAULT);
    }
    let (mask, new_mask) = {
        let mut signals = task.signals.lock();
        let interrupted = signals.saved_mask.take().unwrap_or(signals.mask);
        let mut new = signals.mask.union(action.sa_mask);
        if action.sa_flags & SA_NODEFER == 0 {
            new.add(info.signo());
        }
        (interrupted, new.difference(SigSet::UNBLOCKABLE))
    };
    let fault = task.last_fault();
    let mut frame = RtSigFrame { pretcode: action.sa_restorer, ..RtSigFrame::default() };
    frame.uc.uc_flags = UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS;
    frame.uc.uc_stack = altstack;
    if altstack.ss_flags & SS_DISABLE == 0 && on_alt {
        frame.uc.uc_stack.ss_flags |= SS_ONSTACK;
    }
    frame.uc.uc_mcontext = SigContext {
        r8: regs.r8,
        r9: regs.r9,
        r10: regs.r10,
        r11: regs.r11,
        r12: regs.r12,
        r13: regs.r13,
        r14: regs.r14,
        r15: regs.r15,
        di: regs.rdi,
        si: regs.rsi,
        bp: regs.rbp,
        bx: regs.rbx,
        dx: regs.rdx,
        ax: regs.rax,
        cx: regs.rcx,
        sp: regs.rsp,
        ip: regs.rip,
        flags: regs.eflags,
        cs: __USER_CS,
        ss: __USER_DS,
        err: fault.1,
        trapno: fault.0,
        oldmask: mask.0,
        cr2: fault.2,
        fpstate: if fp.is_empty() { 0 } else { fp_at },
        ..SigContext::default()
    };
    frame.uc.uc_sigmask = mask;
    frame.info = *info;
    mm.write_bytes(fp_at, &fp)?;
    mm.write_bytes(frame_at, frame.as_bytes())?;
    if use_alt && altstack.ss_flags & SS_AUTODISARM != 0 {
        task.set_altstack(StackT { ss_flags: SS_DISABLE, ..StackT::default() });
    }
    task.set_signal_mask(new_mask);
    regs.rdi = u64::from(info.signo());
    regs.rsi = frame_at.wrapping_add(std::mem::offset_of!(RtSigFrame, info) as u64);
    regs.rdx = frame_at.wrapping_add(std::mem::offset_of!(RtSigFrame, uc) as u64);
    regs.rax = 0;
    regs.rip = action.sa_handler;
    regs.rsp = frame_at;
    regs.eflags &= !(X86_EFLAGS_DF | X86_EFLAGS_RF | X86_EFLAGS_TF);
    Ok(())
}

/// Takes a frame back: the registers to go on with. The mask, alternate stack and FPU state are set on the way.
pub(super) fn pop(task: &Arc<Task>, regs: &Registers) -> Result<Registers, Errno> {
    let mm = task.mm();
    let platform = task.platform();
    // The handler's `ret` has taken pretcode off the stack.
    let frame: RtSigFrame = mm.read(regs.rsp.wrapping_sub(8))?;
    let context = &frame.uc.uc_mcontext;
    if context.fpstate == 0 {
        platform.write_fpstate(&[]).map_err(|_| Errno::EFAULT)?;
    } else {
        let image = read_fpstate(task, context.fpstate)?;
        platform.write_fpstate(&image).map_err(|_| Errno::EFAULT)?;
    }
    let mut stack = frame.uc.uc_stack;
    stack.ss_flags &= !SS_ONSTACK;
    task.set_altstack(stack);
    task.signals.lock().saved_mask = None;
    task.set_signal_mask(frame.uc.uc_sigmask);
    Ok(Registers {
        r8: context.r8,
        r9: context.r9,
        r10: context.r10,
        r11: context.r11,
        r12: context.r12,
        r13: context.r13,
        r14: context.r14,
        r15: context.r15,
        rdi: context.di,
        rsi: context.si,
        rbp: context.bp,
        rbx: context.bx,
        rdx: context.dx,
        rax: context.ax,
        rcx: context.cx,
        rsp: context.sp,
        rip: context.ip,
        eflags: (regs.eflags & !FIX_EFLAGS) | (context.flags & FIX_EFLAGS),
        fs_base: regs.fs_base,
        gs_base: regs.gs_base,
    })
}

/// Reads a saved FPU image: as long as its own header says, at most what this machine's images have.
fn read_fpstate(task: &Arc<Task>, at: u64) -> Result<Vec<u8>, Errno> {
    let mm = task.mm();
    let header = mm.read_vec(at, size_of::<FpState>())?;
    let state = FpState::read_from_bytes(&header).map_err(|_| Errno::EFAULT)?;
    let whole = if state.sw_reserved.magic1 == FP_XSTATE_MAGIC1 {
        state.sw_reserved.extended_size as usize
    } else {
        size_of::<FpState>()
    };
    if whole < size_of::<FpState>() || whole > task.platform().fpstate_len() {
        return Err(Errno::EFAULT);
    }
    mm.read_vec(at, whole)
}
