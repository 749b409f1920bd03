//! What CPUID tells guests: the host's processor as KVM can show it, less what ring 3 of this VM has not got
//! (virtualisation, protection keys, tile registers, shadow stacks) and less the hypervisor's own leaves.

use crate::host::SetupError;
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::Kvm;

/// x87, SSE, AVX and the three parts of AVX-512.
const XCR0: u64 = 0xe7;

#[derive(Clone, Copy, Debug)]
pub struct Features {
    pub xcr0: u64,
    /// Bytes of an XSAVE area with these components.
    pub xsave_len: usize,
    pub fsgsbase: bool,
    pub umip: bool,
    pub smep: bool,
    pub smap: bool,
    pub phys_bits: u32,
}

pub fn supported(kvm: &Kvm) -> Result<(CpuId, Features), SetupError> {
    let all = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(|e| {
        SetupError(format!("platform kvm: KVM_GET_SUPPORTED_CPUID: {e}; is the host's KVM too old?"))
    })?;
    let mut entries = all.as_slice().to_vec();
    let mut f = Features {
        xcr0: 0,
        xsave_len: 576,
        fsgsbase: false,
        umip: false,
        smep: false,
        smap: false,
        phys_bits: 36,
    };
    let virtual_host = std::arch::x86_64::__cpuid(1).ecx >> 31 != 0;
    entries.retain(|e| {
        !matches!(e.function, 0x1d | 0x1e | 0x4000_0000..=0x4fff_ffff | 0x8000_000a)
            && (e.function != 0xd || e.index < 2 || e.index < 64 && XCR0 >> e.index & 1 != 0)
    });
    for e in &mut entries {
        match (e.function, e.index) {
            (1, _) => {
                // MONITOR, VMX, SMX, PDCM, TSC deadline.
                e.ecx &= !(1 << 3 | 1 << 5 | 1 << 6 | 1 << 15 | 1 << 24 | 1 << 31);
                e.ecx |= u32::from(virtual_host) << 31;
                // All processors are alike for guests, whose threads move between them.
                e.ebx &= 0x00ff_ffff;
            }
            (7, 0) => {
                f.fsgsbase = e.ebx & 1 != 0;
                f.smep = e.ebx >> 7 & 1 != 0;
                f.smap = e.ebx >> 20 & 1 != 0;
                f.umip = e.ecx >> 2 & 1 != 0;
                // PKU, OSPKE, shadow stacks, five-level paging; UINTR, IBT, AMX.
                e.ecx &= !(1 << 3 | 1 << 4 | 1 << 7 | 1 << 16);
                e.edx &= !(1 << 5 | 1 << 20 | 1 << 22 | 1 << 24 | 1 << 25);
            }
            (0xd, 0) => {
                e.eax &= XCR0 as u32;
                e.edx = 0;
                f.xcr0 = u64::from(e.eax);
            }
            // XSAVES and XFD are ring 0's.
            (0xd, 1) => {
                e.eax &= 7;
                (e.ebx, e.ecx, e.edx) = (0, 0, 0);
            }
            (0xd, _) => f.xsave_len = f.xsave_len.max((e.eax + e.ebx) as usize),
            (0x8000_0001, _) => e.ecx &= !(1 << 2),
            (0x8000_0008, _) => f.phys_bits = e.eax & 0xff,
            _ => {}
        }
    }
    for e in &mut entries {
        if (e.function, e.index) == (0xd, 0) {
            (e.ebx, e.ecx) = (f.xsave_len as u32, f.xsave_len as u32);
        }
    }
    if f.xcr0 & 3 != 3 {
        return Err(SetupError(
            "platform kvm: the host's KVM shows no XSAVE to guests; use --platform=seccomp".into(),
        ));
    }
    let list = CpuId::from_entries(&entries)
        .map_err(|_| SetupError("platform kvm: too many CPUID leaves; this is a bug".into()))?;
    Ok((list, f))
}
