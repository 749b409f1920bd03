//! FPU state: where it is, and its form in signal frames (`struct _fpstate`, the XSAVE area, FP_XSTATE_MAGIC2).
//!
//! The state of a task stays in the processor it ran on until something else runs there, or somebody asks for it.

use crate::cpuid::Features;
use crate::vcpu::Handle;
use chitin_platform::PlatformError;
use kvm_bindings::kvm_xsave;
use std::sync::Arc;

const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
/// Where the kernel's own words are in the legacy area.
const SOFTWARE: usize = 464;
const HEADER: usize = 512;

pub enum Fpu {
    Saved(Box<kvm_xsave>),
    /// In that processor, which runs nothing else meanwhile.
    Live(Arc<Handle>),
}

fn host(errno: i32) -> PlatformError {
    PlatformError::Host { op: "FPU state", errno }
}

/// What a program starts with.
pub fn initial() -> Box<kvm_xsave> {
    let mut area = Box::new(kvm_xsave::default());
    for (at, word) in [(0, 0x37f), (6, 0x1f80)] {
        if let Some(to) = area.region.get_mut(at) {
            *to = word;
        }
    }
    area
}

impl Fpu {
    /// Gets it out of a processor.
    pub fn save(&mut self) -> Result<&mut kvm_xsave, PlatformError> {
        if let Fpu::Live(handle) = self {
            *self = Fpu::Saved(handle.get_xsave().map_err(host)?);
        }
        match self {
            Fpu::Saved(area) => Ok(area),
            Fpu::Live(_) => Err(host(libc::EIO)),
        }
    }

    /// Puts it into a processor, if it is not there already.
    pub fn load(&mut self, handle: &Arc<Handle>) -> Result<(), PlatformError> {
        if matches!(self, Fpu::Live(there) if Arc::ptr_eq(there, handle)) {
            return Ok(());
        }
        let area = self.save()?;
        handle.set_xsave(area).map_err(host)?;
        *self = Fpu::Live(handle.clone());
        Ok(())
    }

    /// Gets it out of this processor, which is about to run something else.
    pub fn leave(&mut self, handle: &Arc<Handle>) -> Result<(), PlatformError> {
        match self {
            Fpu::Live(there) if Arc::ptr_eq(there, handle) => self.save().map(drop),
            _ => Ok(()),
        }
    }

    pub fn copy(&mut self) -> Result<Fpu, PlatformError> {
        let area = self.save()?;
        let mut copy = Box::new(kvm_xsave::default());
        copy.region = area.region;
        Ok(Fpu::Saved(copy))
    }
}

pub fn image_len(f: &Features) -> usize {
    f.xsave_len + 4
}

pub fn to_image(area: &kvm_xsave, f: &Features, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend(area.region.iter().flat_map(|w| w.to_le_bytes()).take(f.xsave_len));
    out.extend(MAGIC2.to_le_bytes());
    let mut software = [0; 48];
    let words = [MAGIC1, image_len(f) as u32, f.xcr0 as u32, (f.xcr0 >> 32) as u32, f.xsave_len as u32];
    for (to, word) in software.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    if let Some(to) = out.get_mut(start + SOFTWARE..start + HEADER) {
        to.copy_from_slice(&software);
    }
    // Some kernels name components here that the processor does not have for its guest (the host's protection keys).
    let present = word(out.get(start..).unwrap_or_default(), HEADER) & f.xcr0;
    if let Some(to) = out.get_mut(start + HEADER..start + HEADER + 8) {
        to.copy_from_slice(&present.to_le_bytes());
    }
}

fn word(image: &[u8], at: usize) -> u64 {
    image.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

pub fn from_image(image: &[u8], f: &Features, mxcsr_mask: u32) -> Result<Box<kvm_xsave>, PlatformError> {
    let mask = if mxcsr_mask == 0 { 0xffbf } else { mxcsr_mask };
    let good = image.len() == image_len(f)
        && word(image, SOFTWARE) == u64::from(MAGIC1) | (image_len(f) as u64) << 32
        && word(image, SOFTWARE + 8) & !f.xcr0 == 0
        && word(image, 24) as u32 & !mask == 0
        && word(image, HEADER) & !f.xcr0 == 0
        && image.ends_with(&MAGIC2.to_le_bytes())
        && (HEADER + 8..576).step_by(8).all(|at| word(image, at) == 0);
    if !good {
        return Err(PlatformError::Corrupt("malformed FPU state"));
    }
    let mut area = Box::new(kvm_xsave::default());
    for (to, from) in area.region.iter_mut().zip(image.chunks_exact(4)).take(f.xsave_len / 4) {
        *to = u32::from_le_bytes(from.try_into().unwrap_or_default());
    }
    for to in area.region.iter_mut().skip(SOFTWARE / 4).take(12) {
        *to = 0;
    }
    Ok(area)
}

/// si_code for the exceptions that x87 (16) and SSE (19) raise.
pub fn exception_code(area: &kvm_xsave, vector: u8) -> i32 {
    let at = |i: usize| area.region.get(i).copied().unwrap_or(0);
    let raised = if vector == 16 {
        let (control, status) = (at(0) & 0xffff, at(0) >> 16);
        status & !control
    } else {
        at(6) & !(at(6) >> 7)
    };
    match raised {
        r if r & 1 != 0 => 7,    // FPE_FLTINV
        r if r & 4 != 0 => 3,    // FPE_FLTDIV
        r if r & 8 != 0 => 4,    // FPE_FLTOVF
        r if r & 0x12 != 0 => 5, // FPE_FLTUND
        r if r & 0x20 != 0 => 6, // FPE_FLTRES
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features() -> Features {
        Features {
            xcr0: 0xe7,
            xsave_len: 0xa80,
            fsgsbase: true,
            umip: true,
            smep: true,
            smap: true,
            phys_bits: 46,
        }
    }

    #[test]
    fn images_go_both_ways() {
        let f = features();
        let mut area = initial();
        area.region[40] = 0x1122_3344;
        area.region[128] = 3;
        let mut image = Vec::new();
        to_image(&area, &f, &mut image);
        assert_eq!(image.len(), image_len(&f));
        let back = from_image(&image, &f, 0).expect("well-formed");
        assert_eq!(back.region[..], area.region[..]);
        for (at, value) in [(SOFTWARE, 0), (27, 0xff), (HEADER + 1, 1), (HEADER + 9, 1), (image.len() - 1, 0)]
        {
            let mut bad = image.clone();
            bad[at] = value;
            assert!(from_image(&bad, &f, 0).is_err(), "{at}");
        }
        assert!(from_image(&image[4..], &f, 0).is_err());
    }

    #[test]
    fn components_that_a_guest_has_not_are_not_in_its_image() {
        let f = features();
        let mut area = initial();
        area.region[128] = 0x2a3;
        let mut image = Vec::new();
        to_image(&area, &f, &mut image);
        assert_eq!(word(&image, HEADER), 0xa3);
        assert!(from_image(&image, &f, 0).is_ok());
    }

    #[test]
    fn exceptions_have_codes() {
        let mut area = initial();
        area.region[0] = 0x37b | 4 << 16;
        assert_eq!(exception_code(&area, 16), 3);
        area.region[6] = 0x1f80 & !(1 << 7) | 1;
        assert_eq!(exception_code(&area, 19), 7);
    }
}
