//! What the processor says about itself. A guest can ask it too: nothing here is secret.

/// EAX, EBX, ECX and EDX of a CPUID leaf; zeroes for leaves that the processor does not have.
pub fn leaf(leaf: u32, sub: u32) -> [u32; 4] {
    let highest = raw(leaf & 0x8000_0000, 0)[0];
    if leaf > highest { [0; 4] } else { raw(leaf, sub) }
}

#[allow(unused_unsafe, reason = "safe in newer toolchains")]
fn raw(leaf: u32, sub: u32) -> [u32; 4] {
    // SAFETY: every x86-64 processor has the instruction, and it touches registers only.
    let result = unsafe { std::arch::x86_64::__cpuid_count(leaf, sub) };
    [result.eax, result.ebx, result.ecx, result.edx]
}

#[cfg(test)]
mod tests {
    #[test]
    fn long_mode() {
        assert_ne!(super::leaf(0x8000_0001, 0)[3] & 1 << 29, 0);
        assert_eq!(super::leaf(0x7fff_ffff, 0), [0; 4]);
    }
}
