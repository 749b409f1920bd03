//! The guest programs, in assembly.

use std::arch::global_asm;

pub const CODE: u64 = 0x40_0000;
pub const DATA: u64 = 0x50_0000;
pub const STACK_TOP: u64 = 0x61_0000;

global_asm!(
    r#"
    .pushsection .rodata.guest,"a",@progbits
    .globl guest_start
    .globl guest_end
    .balign 4096
guest_start:
    .globl g_getppid
g_getppid:
    mov eax, 110
    syscall
    mov [0x500000], rax
    jmp g_getppid
    .globl g_brk
g_brk:
    mov edi, 0x1234
    mov eax, 12
    syscall
    mov rdi, rax
    mov eax, 60
    syscall
    .globl g_brkloop
g_brkloop:
    mov eax, 12
    syscall
    jmp g_brkloop
    .globl g_spin
g_spin:
    inc qword ptr [0x500000]
    jmp g_spin
    .globl g_fault
g_fault:
    mov rax, 0x123456789000
    mov rbx, [rax]
    ud2
    int3
    xor edx, edx
    xor ecx, ecx
    mov eax, 1
    div ecx
    hlt
    .globl g_call6
// Makes the call described at DATA+0x100 (nr, 6 args), stores the result at DATA, and stops with getpid.
g_call6:
    mov rax, [0x500100]
    mov rdi, [0x500108]
    mov rsi, [0x500110]
    mov rdx, [0x500118]
    mov r10, [0x500120]
    mov r8,  [0x500128]
    mov r9,  [0x500130]
    syscall
    mov [0x500000], rax
    mov eax, 39
    syscall
    jmp g_call6
    .globl g_fpu
// Keeps xmm0 and the bases over a stop.
g_fpu:
    movq rbx, xmm0
    mov eax, 39
    syscall
    movq rdi, xmm0
    mov rsi, fs:[0]
    mov eax, 60
    syscall
    .globl g_bases
// Tells for ever what is at its base.
g_bases:
    mov rdi, fs:[0]
    mov eax, 39
    syscall
    jmp g_bases
    .globl g_getpids
// Asks for ever, and counts.
g_getpids:
    mov eax, 39
    syscall
    mov [0x500000], rax
    inc qword ptr [0x500008]
    jmp g_getpids
    .globl g_cpu
// Registers restartable sequences at DATA+0x8000 and counts at DATA+0x100 + 256 * the processor's number, as it is told there.
g_cpu:
    mov eax, 334
    mov edi, 0x508000
    mov esi, 32
    xor edx, edx
    xor r10d, r10d
    syscall
3:  mov ecx, [0x508004]
    and ecx, 63
    shl ecx, 8
    inc qword ptr [rcx + 0x500100]
    jmp 3b
    .globl g_rseq
    .globl g_rseq_start
    .globl g_rseq_commit
    .globl g_rseq_abort
// Counts in a restartable sequence whose area is at DATA+0x200 and whose section is described at DATA+0x240.
g_rseq:
    mov rax, 0x500240
    mov [0x500208], rax
g_rseq_start:
    mov rax, [0x500300]
    inc rax
    mov ecx, 2000
2:  dec ecx
    jnz 2b
    mov [0x500300], rax
g_rseq_commit:
    jmp g_rseq
    .long 0x53053053
g_rseq_abort:
    inc qword ptr [0x500308]
    jmp g_rseq
    .globl g_store
// Writes a mark to r15 and asks.
g_store:
    mov [r15], r14
    mov rdi, [r15]
    mov eax, 39
    syscall
    jmp g_store
    .globl g_jump
// Jumps to rbx with everything as the sentry set it.
g_jump:
    jmp rbx
    .globl g_syscall
g_syscall:
    syscall
    mov rdi, rax
    mov eax, 39
    syscall
    hlt
guest_end:
    .popsection
"#
);

unsafe extern "C" {
    static guest_start: u8;
    static guest_end: u8;
}

/// The address of a guest program.
#[macro_export]
macro_rules! entry {
    ($name:ident) => {{
        unsafe extern "C" {
            static $name: u8;
        }
        $crate::address_of(&raw const $name)
    }};
}

pub fn address_of(p: *const u8) -> u64 {
    CODE + (p as u64 - (&raw const guest_start as u64))
}

pub fn image() -> Vec<u8> {
    let len = &raw const guest_end as usize - &raw const guest_start as usize;
    // SAFETY: the symbols bound one object.
    unsafe { std::slice::from_raw_parts(&raw const guest_start, len) }.to_vec()
}
