//! FPU state between the forms of NT_X86_XSTATE and of signal frames.
//!
//! Both are the standard form of the XSAVE area; a frame's image ends with what this machine's threads may use, has the
//! kernel's software words in its legacy part, and a magic number at its end.

use chitin_platform_host::fpstate::{Form, HEADER, LEAST, MAGIC2, SOFTWARE, put, word};
use std::arch::x86_64::__cpuid_count;

/// x87 and SSE in XSTATE_BV.
const X87: u64 = 1;
const SSE: u64 = 2;
const FCW: u64 = 0x37f;
const MXCSR: u64 = 0x1f80;
/// The legacy area's x87 registers, and its XMM registers.
const ST: std::ops::Range<usize> = 32..160;
const XMM: std::ops::Range<usize> = 160..416;

/// Learns the form from a tracee's state.
pub fn learn(state: &[u8]) -> Option<Form> {
    if state.len() < LEAST {
        return None;
    }
    let xfeatures = word(state, SOFTWARE);
    let mut end = LEAST;
    for feature in (2..63).filter(|f| xfeatures >> f & 1 != 0) {
        let leaf = __cpuid_count(0xd, feature);
        end = end.max(leaf.ebx as usize + leaf.eax as usize);
    }
    (end <= state.len()).then_some(Form {
        len: end + 4,
        xfeatures,
        mxcsr_mask: (word(state, 24) >> 32) as u32,
    })
}

/// Appends the image for a frame.
pub fn to_frame(state: &[u8], form: &Form, out: &mut Vec<u8>) {
    let area = form.len.saturating_sub(4);
    let start = out.len();
    out.extend_from_slice(state.get(..area).unwrap_or_default());
    out.resize(start + area, 0);
    if let Some(image) = out.get_mut(start..) {
        put(image, SOFTWARE, form.first_word());
        put(image, SOFTWARE + 8, form.xfeatures);
        put(image, SOFTWARE + 16, area as u64);
        (SOFTWARE + 24..HEADER).step_by(8).for_each(|at| put(image, at, 0));
    }
    out.extend_from_slice(&MAGIC2.to_le_bytes());
}

/// Takes an image that [`Form::accepts`] into a state of full length.
pub fn from_frame(image: &[u8], state: &mut Vec<u8>) {
    let len = state.len();
    state.clear();
    state.extend_from_slice(image.get(..image.len().saturating_sub(4)).unwrap_or_default());
    state.resize(len, 0);
    explicit(state);
}

/// Makes the initial state.
pub fn reset(state: &mut [u8], form: &Form) {
    state.fill(0);
    put(state, 24, MXCSR | u64::from(form.mxcsr_mask) << 32);
    explicit(state);
}

/// Spells out x87 and SSE where the header calls them initial: the kernel would keep the old MXCSR otherwise.
fn explicit(state: &mut [u8]) {
    let have = word(state, HEADER);
    if have & X87 == 0 {
        (0..24).step_by(8).for_each(|at| put(state, at, 0));
        put(state, 0, FCW);
        ST.step_by(8).for_each(|at| put(state, at, 0));
    }
    if have & SSE == 0 {
        XMM.step_by(8).for_each(|at| put(state, at, 0));
    }
    put(state, HEADER, have | X87 | SSE);
}

/// Whether a SIGFPE comes from SSE code.
pub fn simd_exception(state: &[u8]) -> bool {
    let mxcsr = word(state, 24) as u32;
    (mxcsr & 0x3f) & !(mxcsr >> 7 & 0x3f) != 0
}
