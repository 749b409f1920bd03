//! The stub: the only code of ours in a guest's address space.
//!
//! Neighbours: `filter` pins the addresses below in BPF; `zygote` executes the image; `calls` has tasks run [`CALL`].
//!
//! One page of code and constants at [`STUB_BASE`], then the reserved range with the scratch area, up to `STUB_HI`. A guest
//! may jump anywhere into it with any registers: its calls are reported there as everywhere.

use std::arch::global_asm;

pub use chitin_platform_host::layout::{STUB_BASE, STUB_HI};

/// A system call instruction; a new thread that comes out of one waits right behind it until it is traced.
pub const CALL: u64 = STUB_BASE + 0x10;
pub const AFTER_CALL: u64 = CALL + 2;
/// What faults are "handled" by: never executed, since the thread stops at its first instruction.
pub const HANDLER: u64 = STUB_BASE + 0x8;
const CONSTS: u64 = STUB_BASE + 0xf00;
/// The only signal set and timeout the wait of an untraced thread may name.
pub const WAIT_SET: u64 = CONSTS;
pub const WAIT_TIME: u64 = CONSTS + 8;
/// The `struct sigaction` of every fault.
pub const SIGACTION: u64 = CONSTS + 32;

/// Signal frames, messages and programs for the host's kernel: ordinary memory of the guest's process.
pub const SCRATCH: u64 = STUB_BASE + 0x10_0000;
/// Slots for signal frames, then one for messages.
pub const FRAMES: u64 = 32;
pub const FRAME_SIZE: u64 = 32 << 10;
pub const MESSAGE: u64 = SCRATCH + FRAMES * FRAME_SIZE;
pub const SCRATCH_LEN: u64 = FRAMES * FRAME_SIZE + 0x1000;

/// The descriptor that files arrive on.
pub const SOCKET_FD: u32 = 1023;

/// The kick: a standard signal, so that several coalesce and none needs queue memory.
pub const KICK: i32 = libc::SIGUSR1;

/// How long a new thread waits to be traced until it ends: its maker was killed, and nobody knows of it.
const ORPHANED_AFTER: u64 = 20;

global_asm!(
    r#"
    .pushsection .rodata.chitin_ptrace_stub,"a",@progbits
    .balign 64
    .globl chitin_ptrace_stub_start
    .globl chitin_ptrace_stub_end
chitin_ptrace_stub_start:
    ud2
    .balign 8
    ud2
    .balign 16
    syscall
    movabs rdi, {wait_set}
    xor esi, esi
    movabs rdx, {wait_time}
    mov r10d, 8
    mov eax, 128
    syscall
    mov edi, 1
    mov eax, 231
    syscall
    ud2
chitin_ptrace_stub_end:
    .popsection
"#,
    wait_set = const WAIT_SET,
    wait_time = const WAIT_TIME,
);

unsafe extern "C" {
    static chitin_ptrace_stub_start: u8;
    static chitin_ptrace_stub_end: u8;
}

/// The ELF file the zygote executes.
pub fn build_image() -> Vec<u8> {
    let start = &raw const chitin_ptrace_stub_start;
    let len = (&raw const chitin_ptrace_stub_end as usize) - (start as usize);
    // SAFETY: the two symbols bound one object in .rodata.
    let code = unsafe { std::slice::from_raw_parts(start, len) };
    let mut page = [0xccu8; 0x1000];
    for (to, from) in page.iter_mut().zip(code) {
        *to = *from;
    }
    let mut put = |at: u64, v: u64| {
        for (to, from) in page.iter_mut().skip((at - STUB_BASE) as usize).zip(v.to_le_bytes()) {
            *to = from;
        }
    };
    put(WAIT_SET, 1 << (libc::SIGUSR2 - 1));
    put(WAIT_TIME, ORPHANED_AFTER);
    put(WAIT_TIME + 8, 0);
    // struct sigaction: handler, flags (SIGINFO | NODEFER | RESTORER), restorer, nothing masked.
    put(SIGACTION, HANDLER);
    put(SIGACTION + 8, 0x4 | 0x4000_0000 | 0x0400_0000);
    put(SIGACTION + 16, STUB_BASE);
    put(SIGACTION + 24, 0);
    chitin_platform_host::image::build(&page)
}
