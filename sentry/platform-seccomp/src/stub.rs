//! The stub: the only code of ours in a guest's address space, and the image it is started from.
//!
//! Neighbours: `filter` pins the addresses below in BPF; `zygote` executes the image; `task` speaks the doorbell protocol.
//!
//! One page of code and constants at [`STUB_BASE`], then the reserved range with the threads' windows up to [`STUB_HI`].
//! Invariants: the code uses no memory but its thread's window; every `syscall` in it is notified and checked by the
//! sentry, but `rt_sigreturn` and the one constant parking wait; a guest may jump anywhere into it with any registers.

use crate::trampoline;
use std::arch::global_asm;

pub use chitin_platform_host::layout::{STUB_BASE, STUB_HI};

/// Where windows begin.
pub const WIN_BASE: u64 = STUB_BASE + 0x10_0000;
/// Constants inside the code page.
pub const CONSTS: u64 = STUB_BASE + 0xf00;
/// Windows per mapping.
pub const CHUNK_WINDOWS: u64 = 8;

/// The arena's descriptor number in every stub: the highest that a descriptor table holds without an allocation, which
/// every fork would copy.
pub const ARENA_FD: u32 = 63;
/// From here on, and [`ARENA_FD`], numbers never come from a guest.
pub const PRIVATE_FD: u32 = 1000;
pub const PRIVATE_FDS: u32 = 20;

/// The system call number that rings the doorbell.
pub const DOORBELL: u64 = 0x0c71_7100;
/// The kick: a standard signal, so that several coalesce and none needs queue memory.
pub const KICK: i32 = libc::SIGUSR1;

/// What the doorbell says; smaller codes are signal numbers.
pub mod code {
    pub const START: u64 = 0x100;
    pub const DONE: u64 = 0x101;
    pub const CHILD: u64 = 0x102;
    pub const AGAIN: u64 = 0x103;
    pub const WOKEN: u64 = 0x104;
}

/// What the sentry answers, in the low half. The mark in the high half tells a command from what the host answers when an
/// offered clone (see [`OFFER`]) may run.
pub mod cmd {
    pub const MARK: i64 = 1 << 32;
    pub const RETURN: i64 = MARK;
    pub const BASES: i64 = MARK | 1;
    pub const AGAIN: i64 = MARK | 2;
    pub const LIST: i64 = MARK | 3;
    pub const PARK: i64 = MARK | 4;
}

/// The flags of a forking clone: a child of the sentry.
pub const FORK_FLAGS: u64 = libc::CLONE_PARENT as u64;

/// A guest that forks does not ring: its stub makes the very clone, which is told like any call, with what a doorbell says in
/// the arguments that clone does not look at. Let run, it saves one round trip; a command as its answer makes it a doorbell.
pub const OFFER: u64 = libc::SYS_clone as u64;

/// Offsets in a window's control page.
pub mod ctl {
    pub const COUNT: usize = 0;
    pub const WAKE: usize = 8;
    pub const FS: usize = 16;
    pub const GS: usize = 24;
    pub const TOKEN: usize = 32;
    pub const CHUNK_ADDR: usize = 40;
    pub const CHUNK_OFF: usize = 48;
    pub const CHILD_UC: usize = 56;
    pub const CALLS: usize = 64;
    /// Bytes per listed call: number, six arguments, result.
    pub const CALL_SIZE: usize = 64;
    pub const MAX_CALLS: usize = 48;
    /// How often its thread has rung.
    pub const RINGS: usize = 0xdf8;
    /// Scratch for structures that boot-time calls point at.
    pub const SCRATCH: usize = 0xe00;
    pub const PAGE: usize = 0x1000;
}

/// Offsets from [`CONSTS`].
mod consts {
    pub const PARK_SET: u64 = 0;
    pub const FLAGS: u64 = 8;
    pub const WIN_MASK: u64 = 16;
    pub const CHUNK_LEN: u64 = 24;
    pub const SIGACTION: u64 = 32;
}

/// The only signal set the parking wait may name.
pub const PARK_SET: u64 = CONSTS + consts::PARK_SET;
/// The `struct sigaction` that boot installs for every handled signal.
pub const SIGACTION: u64 = CONSTS + consts::SIGACTION;

global_asm!(
    r#"
    .pushsection .rodata.chitin_stub,"a",@progbits
    .balign 64
    .globl chitin_stub_start
    .globl chitin_stub_handler
    .globl chitin_stub_end
chitin_stub_start:
    movabs r15, {consts}
    movabs rdi, {reserve_lo}
    movabs rsi, {reserve_len}
    xor edx, edx
    mov r10d, 0x4032
    mov r8, -1
    xor r9d, r9d
    mov eax, 9
    syscall
    cmp rax, rdi
    jne 9f
    movabs rdi, {win_base}
    mov rsi, [r15 + 24]
    mov edx, 3
    mov r10d, 0x11
    mov r8d, {arena_fd}
    // The number of arguments says which chunk.
    mov r9, [rsp]
    dec r9
    imul r9, rsi
    mov eax, 9
    syscall
    cmp rax, rdi
    jne 9f
    mov r12, rdi
    lea r13, [r12 + 0x2000]
    mov rsp, r13
    mov ebp, {c_start}
    xor ebx, ebx
    jmp 2f
9:  ud2

    // rdi = signal, rsi = siginfo, rdx = ucontext, on the window's stack with every signal masked.
chitin_stub_handler:
    mov r13, rdx
    mov ebp, edi
    xor ebx, ebx
    movabs rax, {consts}
    mov r12, rsp
    and r12, [rax + 16]
    // clone without CLONE_VM is offered.
    cmp edi, 31
    jne 2f
    cmp dword ptr [r13 + 144], 56
    jne 2f
    test dword ptr [r13 + 104], 0x100
    jnz 2f
    xor r10d, r10d
    xor r8d, r8d
    test byte ptr [rax + 8], 1
    jz 15f
    rdfsbase r10
    rdgsbase r8
15: mov edi, {fork_flags}
    xor esi, esi
    mov rdx, r13
    mov r9, [r12 + {rings}]
    inc r9
    mov [r12 + {rings}], r9
    mov eax, 56
    syscall
    bt rax, 32
    jc 16f
    test rax, rax
    jz 17f
    mov [r12 + 64 + 56], rax
    jmp 8f
    // The child: the window is still its maker's, which waits.
17: mov rbx, [r12 + 32]
    mov rbp, [r12 + 56]
    mov r14, [r12 + 40]
    mov r15, [r12 + 48]
    jmp 13f

    // Ring: ebp = code, r13 = ucontext, rbx = token, r12 = window. The number tells a call that the host makes again.
2:  xor r10d, r10d
    xor r8d, r8d
    movabs rax, {consts}
    test byte ptr [rax + 8], 1
    jz 3f
    rdfsbase r10
    rdgsbase r8
3:  mov edi, ebp
    mov rsi, r13
    mov rdx, rbx
    mov r9, [r12 + {rings}]
    inc r9
    mov [r12 + {rings}], r9
    mov eax, {doorbell}
    syscall
16: test eax, eax
    jz 5f
    cmp eax, 1
    je 4f
    cmp eax, 2
    je 12f
    cmp eax, 3
    je 6f
    cmp eax, 4
    je 11f
    ud2

4:  mov rax, [r12 + 16]
    wrfsbase rax
    mov rax, [r12 + 24]
    wrgsbase rax
5:  mov rsp, r13
    mov eax, 15
    syscall
    ud2

12: mov ebp, {c_again}
    xor ebx, ebx
    jmp 2b

    // The list of calls.
6:  mov r14, [r12]
    lea r15, [r12 + 64]
7:  test r14, r14
    jz 8f
    mov rax, [r15]
    mov rdi, [r15 + 8]
    mov rsi, [r15 + 16]
    mov rdx, [r15 + 24]
    mov r10, [r15 + 32]
    mov r8, [r15 + 40]
    mov r9, [r15 + 48]
    cmp rax, 56
    je 9f
    syscall
10: mov [r15 + 56], rax
    cmp rax, -4096
    ja 8f
    add r15, 64
    dec r14
    jmp 7b
8:  mov ebp, {c_done}
    xor ebx, ebx
    jmp 2b

    // clone: the child may use registers only until it has its own window.
9:  mov rbx, [r12 + 32]
    mov rbp, [r12 + 56]
    push r14
    push r15
    mov r14, [r12 + 40]
    mov r15, [r12 + 48]
    syscall
    test rax, rax
    jz 13f
    pop r15
    pop r14
    jmp 10b
13: test r14, r14
    jz 14f
    mov rdi, r14
    movabs rax, {consts}
    mov rsi, [rax + 24]
    mov edx, 3
    mov r10d, 0x11
    mov r8, rbx
    mov r9, r15
    mov eax, 9
    syscall
    cmp rax, r14
    je 14f
    ud2
14: mov r13, rbp
    movabs rax, {consts}
    mov r12, rbp
    and r12, [rax + 16]
    lea rsp, [rbp - 512]
    mov ebp, {c_child}
    test r14, r14
    jz 2b
    // A forked child has been announced by its mapping: what it is to do now is in its window already.
    xor eax, eax
    xchg [r12 + 8], rax
    cmp rax, 1
    je 5b
    cmp rax, 2
    je 4b
    cmp rax, 4
    je 6b
    jmp 2b

    // Park: the one wait that needs no consent.
11: movabs rdi, {park_set}
    xor esi, esi
    xor edx, edx
    mov r10d, 8
    mov eax, 128
    syscall
    xor eax, eax
    xchg [r12 + 8], rax
    cmp rax, 1
    je 5b
    cmp rax, 2
    je 4b
    mov ebp, {c_woken}
    xor ebx, ebx
    jmp 2b
chitin_stub_end:
    .popsection
"#,
    consts = const CONSTS,
    reserve_lo = const STUB_BASE + 0x1000,
    reserve_len = const STUB_HI - STUB_BASE - 0x1000,
    win_base = const WIN_BASE,
    arena_fd = const ARENA_FD,
    doorbell = const DOORBELL,
    fork_flags = const FORK_FLAGS,
    rings = const ctl::RINGS,
    park_set = const PARK_SET,
    c_start = const code::START,
    c_again = const code::AGAIN,
    c_done = const code::DONE,
    c_child = const code::CHILD,
    c_woken = const code::WOKEN,
);

unsafe extern "C" {
    static chitin_stub_start: u8;
    static chitin_stub_handler: u8;
    static chitin_stub_end: u8;
}

/// Builds the ELF file the zygote executes: one read-execute page at [`STUB_BASE`].
pub fn build_image(window_size: u64, fsgsbase: bool) -> Vec<u8> {
    let start = &raw const chitin_stub_start;
    let len = (&raw const chitin_stub_end as usize) - (start as usize);
    let handler = STUB_BASE + ((&raw const chitin_stub_handler as u64) - (start as u64));
    assert!(len <= trampoline::OFFSET as usize, "the stub outgrew its place");
    // SAFETY: the two symbols bound one object in .rodata.
    let code = unsafe { std::slice::from_raw_parts(start, len) };

    let mut page = [0xccu8; 0x1000];
    let fast = trampoline::code();
    assert!(trampoline::OFFSET as usize + fast.len() <= 0xf00, "the stub outgrew its page");
    for (to, from) in page.iter_mut().zip(code) {
        *to = *from;
    }
    for (to, from) in page.iter_mut().skip(trampoline::OFFSET as usize).zip(&fast) {
        *to = *from;
    }
    let mut put = |off: u64, v: u64| {
        for (to, from) in page.iter_mut().skip(0xf00 + off as usize).zip(v.to_le_bytes()) {
            *to = from;
        }
    };
    put(consts::PARK_SET, 1 << (KICK - 1));
    put(consts::FLAGS, u64::from(fsgsbase));
    put(consts::WIN_MASK, !(window_size - 1));
    put(consts::CHUNK_LEN, window_size * CHUNK_WINDOWS);
    // struct sigaction: handler, flags (SIGINFO | ONSTACK | RESTART | RESTORER), restorer, mask of everything.
    put(consts::SIGACTION, handler);
    put(consts::SIGACTION + 8, 0x4 | 0x0800_0000 | 0x1000_0000 | 0x0400_0000);
    put(consts::SIGACTION + 16, STUB_BASE);
    put(consts::SIGACTION + 24, u64::MAX);

    chitin_platform_host::image::build(&page)
}
