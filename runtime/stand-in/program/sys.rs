//! What the programs here have in common: system calls, their beginning, and giving up what they do not need.

use core::arch::{asm, global_asm};

global_asm!(".globl _start", "_start:", "mov rdi, rsp", "and rsp, -16", "call {start}", "ud2", start = sym crate::start);

const READ: usize = 0;
pub const CLOSE: usize = 3;
const SETGROUPS: usize = 116;
const SETRESUID: usize = 117;
const SETRESGID: usize = 119;
const CAPSET: usize = 126;
const PRCTL: usize = 157;
const EXIT_GROUP: usize = 231;
pub const SETNS: usize = 308;
const SECCOMP: usize = 317;

pub const CLONE_NEWNS: usize = 0x2_0000;
pub const EPERM: i32 = 1;
const EINTR: i32 = 4;
const EINVAL: i32 = 22;
/// The exit code of a program that cannot go on: that of SIGKILL.
pub const FAILED: u8 = 137;

/// A system call; a negative errno where it fails.
///
/// # Safety
/// As the call has it.
pub unsafe fn call(number: usize, args: [usize; 6]) -> isize {
    let result: isize;
    let [a, b, c, d, e, f] = args;
    // SAFETY: the caller's; the kernel clobbers rcx and r11 beside the result.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
             in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// A call that takes numbers only.
pub fn numbers(number: usize, args: [usize; 3]) -> Result<usize, i32> {
    // SAFETY: the callers pass no addresses.
    check(unsafe { call(number, [args[0], args[1], args[2], 0, 0, 0]) })
}

pub fn check(result: isize) -> Result<usize, i32> {
    usize::try_from(result).map_err(|_| i32::try_from(-result).unwrap_or(EINVAL))
}

pub fn read(fd: usize, into: &mut [u8]) -> Result<usize, i32> {
    loop {
        // SAFETY: the kernel writes to the slice at most.
        match check(unsafe { call(READ, [fd, into.as_mut_ptr() as usize, into.len(), 0, 0, 0]) }) {
            Err(EINTR) => {}
            other => return other,
        }
    }
}

pub fn exit(code: u8) -> ! {
    // SAFETY: ends the process.
    unsafe { call(EXIT_GROUP, [code.into(), 0, 0, 0, 0, 0]) };
    loop {}
}

#[panic_handler]
pub fn panicked(_: &core::panic::PanicInfo) -> ! {
    exit(FAILED)
}

/// The whole of the file that the runtime has put the order in, or as much as fits.
pub fn read_order(stack: *const usize, buffer: &mut [u8]) -> &[u8] {
    let config = config_fd(stack).unwrap_or(0);
    let mut length = 0;
    while let Some(room) = buffer.get_mut(length..).filter(|room| !room.is_empty())
        && let Ok(count @ 1..) = read(config, room)
    {
        length += count;
    }
    let _ = numbers(CLOSE, [config, 0, 0]);
    buffer.get(..length).unwrap_or_default()
}

/// The number in the argument `--config-fd=N`.
fn config_fd(stack: *const usize) -> Option<usize> {
    // SAFETY: argc, three arguments and more lie on the stack that the kernel has made (argv[0], role, this one, id).
    let argument = unsafe { *stack.add(3) } as *const u8;
    if argument.is_null() {
        return None;
    }
    let mut number = None;
    for at in 0..64 {
        // SAFETY: not beyond the NUL at the argument's end.
        match unsafe { *argument.add(at) } {
            0 => break,
            b'=' => number = Some(0usize),
            digit @ b'0'..=b'9' => number = number.map(|n| n * 10 + usize::from(digit - b'0')),
            _ => {}
        }
    }
    number
}

/// Gives up every capability, for good, and the user if we may choose.
pub fn give_up_privileges(user: Option<usize>) -> Result<(), i32> {
    const CAPBSET_DROP: usize = 24;
    const NO_NEW_PRIVS: usize = 38;
    const SET_DUMPABLE: usize = 4;
    const AMBIENT: (usize, usize) = (47, 4);
    for capability in 0..64 {
        // Beyond the last one, or without CAP_SETPCAP; no_new_privs makes the set void in any case.
        if numbers(PRCTL, [CAPBSET_DROP, capability, 0]).is_err() {
            break;
        }
    }
    let _ = numbers(PRCTL, [AMBIENT.0, AMBIENT.1, 0]);
    if let Some(user) = user {
        // SAFETY: an empty list.
        let _ = unsafe { call(SETGROUPS, [0, 0, 0, 0, 0, 0]) };
        // A user namespace around us may have no such user.
        match numbers(SETRESGID, [user, user, user]).and_then(|_| numbers(SETRESUID, [user, user, user])) {
            Ok(_) | Err(EINVAL) => {}
            Err(errno) => return Err(errno),
        }
    }
    // `_LINUX_CAPABILITY_VERSION_3`, ourselves; two sets of three words.
    let header = [0x2008_0522u32, 0];
    let none = [0u32; 6];
    // SAFETY: version 3 reads one header and two data structures.
    check(unsafe { call(CAPSET, [header.as_ptr() as usize, none.as_ptr() as usize, 0, 0, 0, 0]) })?;
    numbers(PRCTL, [NO_NEW_PRIVS, 1, 0])?;
    numbers(PRCTL, [SET_DUMPABLE, 0, 0]).map(drop)
}

/// Puts the process under a seccomp list.
pub fn confine(filter: &[u8]) -> Result<(), i32> {
    let program = Program { length: u16::try_from(filter.len() / 8).unwrap_or(0), at: filter.as_ptr() };
    const SET_MODE_FILTER: usize = 1;
    // SAFETY: the kernel reads the program, which is `length` times eight bytes.
    check(unsafe { call(SECCOMP, [SET_MODE_FILTER, 0, (&raw const program) as usize, 0, 0, 0]) }).map(drop)
}

/// `struct sock_fprog`.
#[repr(C)]
struct Program {
    length: u16,
    at: *const u8,
}

/// What the compiler may call.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller's.
    unsafe { asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") count => _, options(nostack)) };
    to
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
    // SAFETY: the caller's.
    unsafe { asm!("rep stosb", inout("rdi") to => _, in("al") byte as u8, inout("rcx") count => _, options(nostack)) };
    to
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    for at in 0..count {
        // SAFETY: the caller's.
        let left = unsafe { *a.add(at) };
        // SAFETY: the caller's.
        let right = unsafe { *b.add(at) };
        if left != right {
            return i32::from(left) - i32::from(right);
        }
    }
    0
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    // SAFETY: the caller's.
    unsafe { memcmp(a, b, count) }
}

/// Never called: nothing unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
