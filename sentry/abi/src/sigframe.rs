//! What the kernel leaves on the stack for a signal handler of x86_64, and `rt_sigreturn` takes back.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::siginfo::SigInfo;
use crate::signal::{SigSet, StackT};

/// General registers in a signal frame (`struct sigcontext_64`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SigContext {
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub di: u64,
    pub si: u64,
    pub bp: u64,
    pub bx: u64,
    pub dx: u64,
    pub ax: u64,
    pub cx: u64,
    pub sp: u64,
    pub ip: u64,
    pub flags: u64,
    pub cs: u16,
    pub gs: u16,
    pub fs: u16,
    pub ss: u16,
    pub err: u64,
    pub trapno: u64,
    pub oldmask: u64,
    pub cr2: u64,
    /// Guest address of the floating-point state, or 0.
    pub fpstate: u64,
    pub reserved1: [u64; 8],
}

/// `struct ucontext`. In a frame the `siginfo_t` follows it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct UContext {
    pub uc_flags: u64,
    pub uc_link: u64,
    pub uc_stack: StackT,
    pub uc_mcontext: SigContext,
    pub uc_sigmask: SigSet,
}

/// `struct rt_sigframe` of x86_64: what the stack pointer points at when a handler starts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct RtSigFrame {
    pub pretcode: u64,
    pub uc: UContext,
    pub info: SigInfo,
}

/// The software-defined tail of the FXSAVE area, which says how large the whole state is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FpxSwBytes {
    pub magic1: u32,
    pub extended_size: u32,
    pub xfeatures: u64,
    pub xstate_size: u32,
    pub padding: [u32; 7],
}

/// The FXSAVE area (`struct _fpstate_64`). The XSAVE header and the extended state follow it, and
/// `FP_XSTATE_MAGIC2` follows those.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FpState {
    pub cwd: u16,
    pub swd: u16,
    pub twd: u16,
    pub fop: u16,
    pub rip: u64,
    pub rdp: u64,
    pub mxcsr: u32,
    pub mxcsr_mask: u32,
    pub st_space: [u32; 32],
    pub xmm_space: [u32; 64],
    pub reserved2: [u32; 12],
    pub sw_reserved: FpxSwBytes,
}

/// The XSAVE header at offset 512.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XstateHeader {
    pub xfeatures: u64,
    pub reserved1: [u64; 2],
    pub reserved2: [u64; 5],
}

/// Bytes after the extended state, for `FP_XSTATE_MAGIC2`.
pub const FP_XSTATE_MAGIC2_SIZE: usize = 4;
/// Bytes below the stack pointer that a leaf function may use, and a frame must skip.
pub const REDZONE_SIZE: u64 = 128;

// Bits of `SigContext::flags` (RFLAGS) that matter to signals, tracing and restoring.
pub const X86_EFLAGS_CF: u64 = 1 << 0;
pub const X86_EFLAGS_FIXED: u64 = 1 << 1;
pub const X86_EFLAGS_PF: u64 = 1 << 2;
pub const X86_EFLAGS_AF: u64 = 1 << 4;
pub const X86_EFLAGS_ZF: u64 = 1 << 6;
pub const X86_EFLAGS_SF: u64 = 1 << 7;
pub const X86_EFLAGS_TF: u64 = 1 << 8;
pub const X86_EFLAGS_IF: u64 = 1 << 9;
pub const X86_EFLAGS_DF: u64 = 1 << 10;
pub const X86_EFLAGS_OF: u64 = 1 << 11;
pub const X86_EFLAGS_RF: u64 = 1 << 16;
pub const X86_EFLAGS_AC: u64 = 1 << 18;
pub const X86_EFLAGS_ID: u64 = 1 << 21;
/// What `rt_sigreturn` takes over from the frame.
pub const FIX_EFLAGS: u64 = X86_EFLAGS_AC
    | X86_EFLAGS_OF
    | X86_EFLAGS_DF
    | X86_EFLAGS_TF
    | X86_EFLAGS_SF
    | X86_EFLAGS_ZF
    | X86_EFLAGS_AF
    | X86_EFLAGS_PF
    | X86_EFLAGS_CF
    | X86_EFLAGS_RF;
/// Code and stack segments of 64-bit user code.
pub const __USER_CS: u16 = 0x33;
pub const __USER_DS: u16 = 0x2b;

impl Default for FpState {
    fn default() -> Self {
        FromZeros::new_zeroed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{offset_of, size_of};

    #[test]
    fn layouts() {
        assert_eq!(size_of::<SigContext>(), size_of::<libc::mcontext_t>());
        assert_eq!(offset_of!(SigContext, fpstate), offset_of!(libc::mcontext_t, fpregs));
        assert_eq!(offset_of!(SigContext, ip), libc::REG_RIP as usize * 8);
        assert_eq!(offset_of!(SigContext, cs), libc::REG_CSGSFS as usize * 8);
        assert_eq!(offset_of!(SigContext, cr2), libc::REG_CR2 as usize * 8);
        assert_eq!(offset_of!(UContext, uc_mcontext), offset_of!(libc::ucontext_t, uc_mcontext));
        assert_eq!(offset_of!(UContext, uc_sigmask), offset_of!(libc::ucontext_t, uc_sigmask));
        assert_eq!(size_of::<UContext>(), 304);
        assert_eq!(size_of::<RtSigFrame>(), 440);
        assert_eq!(size_of::<FpState>(), 512);
        assert_eq!(offset_of!(FpState, sw_reserved), 464);
        assert_eq!(size_of::<FpxSwBytes>(), 48);
        assert_eq!(size_of::<XstateHeader>(), 64);
    }
}
