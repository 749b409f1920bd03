//! Host calls on a guest address space: which of them a guest may have made, and those that the sentry asks for.
//!
//! Invariant: no call that reaches the host names a byte of the platform's own range, and none of them touches guest memory
//! through a pointer, but for the word of [`HostOp::SetBit`].

use crate::layout::{STUB_BASE, STUB_HI};
use chitin_platform::{HostOp, MapCall};
use std::os::fd::OwnedFd;
use std::sync::Arc;

const MREMAP_FIXED: u32 = 2;

/// One host call that a stub is to make.
#[derive(Clone)]
pub struct Call {
    pub nr: u64,
    pub args: [u64; 6],
    /// A descriptor to install first, at a number of the stub.
    pub file: Option<(Arc<OwnedFd>, u32)>,
}

impl Call {
    pub fn new(nr: i64, args: [u64; 6]) -> Call {
        Call { nr: nr as u64, args, file: None }
    }
}

/// The results up to and including the first failure.
pub type Results = Vec<i64>;

/// Whether a raw result is an errno.
pub fn failed(r: i64) -> Option<i32> {
    (-4095..0).contains(&r).then_some(-r as i32)
}

/// Whether the range wraps around or meets the platform's own one.
pub fn forbidden(addr: u64, len: u64) -> bool {
    match addr.checked_add(len.max(1)).and_then(|end| end.checked_next_multiple_of(4096)) {
        Some(end) => addr < STUB_HI && end > STUB_BASE,
        None => true,
    }
}

fn fixed(flags: u32) -> bool {
    flags & (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE) as u32 != 0
}

/// Checks a mapping call of the guest's against what must stay; errors are what the guest is to see.
pub fn check(call: &MapCall<'_>, forbidden: &dyn Fn(u64, u64) -> bool) -> Result<(), i32> {
    match *call {
        MapCall::Mmap { addr, len, flags, .. } if fixed(flags) && forbidden(addr, len) => {
            let no_replace = flags & libc::MAP_FIXED_NOREPLACE as u32 != 0;
            Err(if no_replace { libc::EEXIST } else { libc::ENOMEM })
        }
        MapCall::Munmap { addr, len } if forbidden(addr, len) => Err(libc::EINVAL),
        MapCall::Mprotect { addr, len, .. } if forbidden(addr, len) => Err(libc::ENOMEM),
        MapCall::Madvise { addr, len, .. } if forbidden(addr, len) => Err(libc::ENOMEM),
        MapCall::Range { addr, len } if forbidden(addr, len) => Err(libc::ENOMEM),
        MapCall::Mremap { old, old_len, .. } if forbidden(old, old_len) => Err(libc::EFAULT),
        MapCall::Mremap { new, new_len, flags, .. }
            if flags & MREMAP_FIXED != 0 && forbidden(new, new_len) =>
        {
            Err(libc::EINVAL)
        }
        _ => Ok(()),
    }
}

/// The host call for a mapping operation of the sentry's own, less its descriptor.
pub fn host_call(op: &HostOp, forbidden: &dyn Fn(u64, u64) -> bool) -> Result<Call, i32> {
    let bad = |addr, len| if forbidden(addr, len) { Err(libc::EINVAL) } else { Ok(()) };
    Ok(match *op {
        HostOp::Mmap { addr, len, prot, flags, ref file } => {
            if fixed(flags) {
                bad(addr, len)?;
            }
            let off = file.as_ref().map_or(0, |f| f.1);
            Call::new(libc::SYS_mmap, [addr, len, prot.into(), flags.into(), u64::from(u32::MAX), off])
        }
        HostOp::Munmap { addr, len } => {
            bad(addr, len)?;
            Call::new(libc::SYS_munmap, [addr, len, 0, 0, 0, 0])
        }
        HostOp::Mprotect { addr, len, prot } => {
            bad(addr, len)?;
            Call::new(libc::SYS_mprotect, [addr, len, prot.into(), 0, 0, 0])
        }
        HostOp::Mremap { old, old_len, new_len, flags, new } => {
            bad(old, old_len)?;
            if flags & MREMAP_FIXED != 0 {
                bad(new, new_len)?;
            }
            Call::new(libc::SYS_mremap, [old, old_len, new_len, flags.into(), new, 0])
        }
        HostOp::Madvise { addr, len, advice } => {
            bad(addr, len)?;
            Call::new(libc::SYS_madvise, [addr, len, advice.into(), 0, 0, 0])
        }
        HostOp::SetBit { addr, bit } => {
            bad(addr, 4)?;
            // A FUTEX_WAKE_OP that wakes nobody.
            const OR: u32 = (libc::FUTEX_OP_OR | libc::FUTEX_OP_OPARG_SHIFT).cast_unsigned();
            let op = OR << 28 | (bit & 31) << 12;
            let how = (libc::FUTEX_WAKE_OP | libc::FUTEX_PRIVATE_FLAG) as u64;
            Call::new(libc::SYS_futex, [addr, how, 0, 0, addr, op.into()])
        }
    })
}
