//! The ELF file that a zygote executes: one page of code and constants, and nothing else.

use crate::layout::STUB_BASE;

/// An image whose only page, read-execute at [`STUB_BASE`], is `page`; it starts at the page's begin.
pub fn build(page: &[u8; 0x1000]) -> Vec<u8> {
    let mut elf = Vec::with_capacity(0x2000);
    elf.extend_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend_from_slice(&2u16.to_le_bytes()); // ET_EXEC
    elf.extend_from_slice(&62u16.to_le_bytes()); // EM_X86_64
    elf.extend_from_slice(&1u32.to_le_bytes());
    elf.extend_from_slice(&STUB_BASE.to_le_bytes()); // e_entry
    elf.extend_from_slice(&64u64.to_le_bytes()); // e_phoff
    elf.extend_from_slice(&0u64.to_le_bytes());
    elf.extend_from_slice(&0u32.to_le_bytes());
    for v in [64u16, 56, 2, 0, 0, 0] {
        elf.extend_from_slice(&v.to_le_bytes());
    }
    let mut phdr = |kind: u32, flags: u32, off: u64, addr: u64, size: u64| {
        elf.extend_from_slice(&kind.to_le_bytes());
        elf.extend_from_slice(&flags.to_le_bytes());
        for v in [off, addr, addr, size, size, 0x1000] {
            elf.extend_from_slice(&v.to_le_bytes());
        }
    };
    phdr(1, 5, 0x1000, STUB_BASE, 0x1000); // PT_LOAD r-x
    phdr(0x6474_e551, 6, 0, 0, 0); // PT_GNU_STACK, not executable
    elf.resize(0x1000, 0);
    elf.extend_from_slice(page);
    elf
}
