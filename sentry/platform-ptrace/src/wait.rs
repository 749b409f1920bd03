//! Waiting for tracees, with a wake-up by other threads that is never lost.
//!
//! Neighbours: `tracer` (its loop). A wake-up sets a flag and sends [`WAKE`]. The flag is looked at by the instructions
//! right before the system call; if the signal arrives between them, its handler skips the call.

use crate::sys;
use std::arch::global_asm;
use std::sync::Once;
use std::sync::atomic::AtomicU32;

/// The signal that interrupts a waiting tracer.
pub const WAKE: i32 = libc::SIGUSR2;

/// WSTOPPED | WEXITED | WNOWAIT | __WALL | __WNOTHREAD.
const OPTIONS: i32 = 2 | 4 | 0x0100_0000 | 0x4000_0000 | 0x2000_0000;

global_asm!(
    r#"
    .pushsection .text.chitin_ptrace_wait,"ax",@progbits
    .globl chitin_ptrace_wait
    .globl chitin_ptrace_wait_look
    .globl chitin_ptrace_wait_call
    .globl chitin_ptrace_wait_skip
    .type chitin_ptrace_wait,@function
    // rdi = flag, rsi = siginfo
chitin_ptrace_wait:
    mov r9, rdi
    mov rdx, rsi
    xor edi, edi
    xor esi, esi
    mov r10d, {what}
    xor r8d, r8d
chitin_ptrace_wait_look:
    cmp dword ptr [r9], 0
    jne chitin_ptrace_wait_skip
    mov eax, 247
chitin_ptrace_wait_call:
    syscall
    ret
chitin_ptrace_wait_skip:
    mov rax, -4
    ret
    .popsection
"#,
    what = const OPTIONS,
);

unsafe extern "C" {
    fn chitin_ptrace_wait(flag: *const AtomicU32, info: *mut libc::siginfo_t) -> i64;
    static chitin_ptrace_wait_look: u8;
    static chitin_ptrace_wait_call: u8;
    static chitin_ptrace_wait_skip: u8;
}

extern "C" fn on_wake(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel passes the interrupted context, which lives until we return.
    let Some(context) = (unsafe { context.as_mut() }) else { return };
    let look = &raw const chitin_ptrace_wait_look as i64;
    let call = &raw const chitin_ptrace_wait_call as i64;
    if let Some(rip) = context.uc_mcontext.gregs.get_mut(libc::REG_RIP as usize) {
        if *rip >= look && *rip <= call {
            *rip = &raw const chitin_ptrace_wait_skip as i64;
        }
    }
}

/// Prepares this thread to be woken.
pub fn prepare() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: sigaction is plain data, all-zero is a value of it.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_wake as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        // SAFETY: the handler touches nothing but the context it is given.
        unsafe { libc::sigaction(WAKE, &raw const action, std::ptr::null_mut()) };
    });
    let set = 1u64 << (WAKE - 1);
    let none = std::ptr::null_mut::<u64>();
    // SAFETY: the kernel reads one eight-byte signal set.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_UNBLOCK, &raw const set, none, 8) };
}

/// What a tracee did; its report is still to be taken.
#[derive(Clone, Copy, Debug)]
pub enum Seen {
    /// Signal and event as `wait4` tells them, shifted down.
    Stopped { tid: i32, status: i32 },
    /// By this signal, or 0.
    Ended { tid: i32, signal: i32 },
    /// Woken, or there is no tracee.
    Nothing,
}

/// Waits until a tracee of this thread stops or ends, or `flag` is set and [`WAKE`] sent.
pub fn wait(flag: &AtomicU32) -> Seen {
    // SAFETY: siginfo_t is plain data, all-zero is a value of it.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills `info`; the flag outlives the call.
    let r = unsafe { chitin_ptrace_wait(flag, &raw mut info) };
    if r < 0 {
        return Seen::Nothing;
    }
    // SAFETY: waitid fills the SIGCHLD fields, or leaves them zero.
    let tid = unsafe { info.si_pid() };
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    match info.si_code {
        _ if tid == 0 => Seen::Nothing,
        libc::CLD_EXITED => Seen::Ended { tid, signal: 0 },
        libc::CLD_KILLED | libc::CLD_DUMPED => Seen::Ended { tid, signal: status },
        _ => Seen::Stopped { tid, status },
    }
}

/// Wakes the tracer thread `tid` of this process.
pub fn wake(pid: i32, tid: i32) {
    let _ = sys::tgkill(pid, tid, WAKE);
}
