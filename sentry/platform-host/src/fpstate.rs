//! The FPU state's form in signal frames: `struct _fpstate`, the XSAVE area in its standard form, FP_XSTATE_MAGIC2.
//!
//! Neighbours: platforms take such images from the kernel, which takes them from the guest's stack.

pub const MAGIC1: u32 = 0x4650_5853;
pub const MAGIC2: u32 = 0x4650_5845;
/// Where the kernel's software words are in the legacy area, and the XSAVE header behind it.
pub const SOFTWARE: usize = 464;
pub const HEADER: usize = 512;
/// The least an image with an XSAVE header is long.
pub const LEAST: usize = 576;

/// What every image on this machine has in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// Length with the closing magic.
    pub len: usize,
    pub xfeatures: u64,
    pub mxcsr_mask: u32,
}

impl Form {
    /// The first of the kernel's software words: magic and length.
    pub fn first_word(&self) -> u64 {
        u64::from(MAGIC1) | ((self.len as u64) << 32)
    }

    /// Whether the host's kernel would take the image.
    pub fn accepts(&self, image: &[u8]) -> bool {
        let mxcsr = word(image, 24) as u32;
        let mask = if self.mxcsr_mask == 0 { 0xffbf } else { self.mxcsr_mask };
        image.len() == self.len
            && word(image, SOFTWARE) == self.first_word()
            && word(image, SOFTWARE + 8) & !self.xfeatures == 0
            && mxcsr & !mask == 0
            && word(image, HEADER) & !self.xfeatures == 0
            && image.ends_with(&MAGIC2.to_le_bytes())
            && (HEADER + 8..LEAST).step_by(8).all(|at| word(image, at) == 0)
    }
}

/// The eight bytes at `at`, or 0 where there are none.
pub fn word(image: &[u8], at: usize) -> u64 {
    let bytes = image.get(at..at + 8).and_then(|b| b.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}

/// Sets the eight bytes at `at`, where there are some.
pub fn put(image: &mut [u8], at: usize, v: u64) {
    if let Some(bytes) = image.get_mut(at..at + 8) {
        bytes.copy_from_slice(&v.to_le_bytes());
    }
}
