//! The stand-in's program: waits for the end of one guest process, which becomes its own exit code, and passes signals on.
//!
//! Freestanding: no C library, no heap, no relocations, so that it costs a few pages. In this order it
//! 1. reads its order, blocks all signals, and moves to the sandbox's mount namespace, whose root is empty but for the view
//!    of the container's files;
//! 2. gives up user, groups and capabilities, and puts itself under its seccomp list;
//! 3. says that it is ready, asks the sentry to be told of the process's end, and serves until then.
//!
//! What the sentry says is parsed with checks and decides nothing but the exit code.
#![no_std]
#![no_main]

#[path = "../src/layout.rs"]
mod layout;

use core::arch::{asm, global_asm};
use layout::{LOST, MAGIC, MAX, NONE, PARTS, READY, head, step};

global_asm!(".globl _start", "_start:", "mov rdi, rsp", "and rsp, -16", "call {start}", "ud2", start = sym start);

const READ: usize = 0;
const WRITE: usize = 1;
const CLOSE: usize = 3;
const POLL: usize = 7;
const RT_SIGPROCMASK: usize = 14;
const GETPID: usize = 39;
const SENDTO: usize = 44;
const SETGROUPS: usize = 116;
const SETRESUID: usize = 117;
const SETRESGID: usize = 119;
const CAPSET: usize = 126;
const PRCTL: usize = 157;
const MOUNT: usize = 165;
const EXIT_GROUP: usize = 231;
const UNSHARE: usize = 272;
const SIGNALFD4: usize = 289;
const SETNS: usize = 308;
const SECCOMP: usize = 317;
const MOVE_MOUNT: usize = 429;

const CLONE_NEWNS: usize = 0x2_0000;
const EPERM: i32 = 1;
const EINTR: i32 = 4;
const EINVAL: i32 = 22;
const MSG_NOSIGNAL: usize = 0x4000;
/// Signals that a terminal makes by itself: INT, QUIT, TSTP, WINCH, HUP.
const OF_TERMINALS: [u32; 5] = [2, 3, 20, 28, 1];

/// A system call; a negative errno where it fails.
///
/// # Safety
/// As the call has it.
unsafe fn call(number: usize, args: [usize; 6]) -> isize {
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
fn numbers(number: usize, args: [usize; 3]) -> Result<usize, i32> {
    // SAFETY: the callers pass no addresses.
    check(unsafe { call(number, [args[0], args[1], args[2], 0, 0, 0]) })
}

fn check(result: isize) -> Result<usize, i32> {
    usize::try_from(result).map_err(|_| i32::try_from(-result).unwrap_or(EINVAL))
}

fn read(fd: usize, into: &mut [u8]) -> Result<usize, i32> {
    loop {
        // SAFETY: the kernel writes to the slice at most.
        match check(unsafe { call(READ, [fd, into.as_mut_ptr() as usize, into.len(), 0, 0, 0]) }) {
            Err(EINTR) => {}
            other => return other,
        }
    }
}

/// All of it, or an error.
fn send(fd: usize, mut bytes: &[u8]) -> Result<(), i32> {
    while !bytes.is_empty() {
        // SAFETY: the kernel reads the slice at most.
        match check(unsafe { call(SENDTO, [fd, bytes.as_ptr() as usize, bytes.len(), MSG_NOSIGNAL, 0, 0]) }) {
            Err(EINTR) => {}
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn exit(code: u8) -> ! {
    // SAFETY: ends the process.
    unsafe { call(EXIT_GROUP, [code.into(), 0, 0, 0, 0, 0]) };
    loop {}
}

#[panic_handler]
fn panicked(_: &core::panic::PanicInfo) -> ! {
    exit(LOST)
}

struct Order<'a> {
    words: [u32; head::COUNT],
    parts: [&'a [u8]; PARTS],
}

impl<'a> Order<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut words = [0u32; head::COUNT];
        let (head, mut rest) = bytes.split_at_checked(4 * head::COUNT)?;
        for (word, bytes) in words.iter_mut().zip(head.chunks_exact(4)) {
            *word = u32::from_ne_bytes(bytes.try_into().ok()?);
        }
        let mut parts: [&[u8]; PARTS] = [&[]; PARTS];
        for (part, length) in parts.iter_mut().zip(words.get(head::LENGTHS..)?) {
            (*part, rest) = rest.split_at_checked(*length as usize)?;
        }
        (words[head::MAGIC] == MAGIC).then_some(Self { words, parts })
    }

    fn word(&self, which: usize) -> usize {
        self.words[which] as usize
    }

    fn optional(&self, which: usize) -> Option<usize> {
        (self.words[which] != NONE).then_some(self.words[which] as usize)
    }
}

static mut ORDER: [u8; MAX] = [0; MAX];

/// `stack` is what the kernel leaves on it: the number of arguments, and their addresses.
extern "C" fn start(stack: *const usize) -> ! {
    // SAFETY: nobody else has it, and this function runs once.
    let buffer = unsafe { &mut *(&raw mut ORDER) };
    let mut length = 0;
    let config = config_fd(stack).unwrap_or(0);
    while let Some(room) = buffer.get_mut(length..).filter(|room| !room.is_empty())
        && let Ok(count @ 1..) = read(config, room)
    {
        length += count;
    }
    let Some(order) = Order::parse(buffer.get(..length).unwrap_or_default()) else { exit(LOST) };
    let _ = numbers(CLOSE, [config, 0, 0]);
    let ready = order.word(head::READY);
    let told = match prepare(&order) {
        Ok(signals) => {
            tell(ready, &[READY]);
            signals
        }
        Err((step, errno)) => {
            tell(ready, &[step, errno.to_le_bytes()[0]]);
            exit(LOST)
        }
    };
    let _ = numbers(CLOSE, [ready, 0, 0]);
    exit(serve(&order, told))
}

fn tell(ready: usize, bytes: &[u8]) {
    // SAFETY: the kernel reads the slice at most.
    unsafe { call(WRITE, [ready, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0]) };
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

type Step<T> = Result<T, (u8, i32)>;

/// Everything before the first word to the sentry. Returns the descriptor that signals are read from.
fn prepare(order: &Order<'_>) -> Step<usize> {
    let all = u64::MAX;
    let mask = (&raw const all) as usize;
    // SAFETY: the kernel reads eight bytes.
    check(unsafe { call(RT_SIGPROCMASK, [2, mask, 0, 8, 0, 0]) }).map_err(|e| (step::SIGNALS, e))?;
    const NONBLOCK_CLOEXEC: usize = 0o4000 | 0o200_0000;
    // SAFETY: as above.
    let signals = check(unsafe { call(SIGNALFD4, [usize::MAX, mask, 8, NONBLOCK_CLOEXEC, 0, 0]) });
    let signals = signals.map_err(|e| (step::SIGNALS, e))?;
    if let Some(namespace) = order.optional(head::NAMESPACE) {
        match numbers(SETNS, [namespace, CLONE_NEWNS, 0]) {
            Ok(_) => view(order).map_err(|e| (step::VIEW, e))?,
            // The rootless have no power over it, and go without.
            Err(EPERM) => {}
            Err(errno) => return Err((step::NAMESPACE, errno)),
        }
        let _ = numbers(CLOSE, [namespace, 0, 0]);
    }
    privileges(order).map_err(|e| (step::PRIVILEGES, e))?;
    let filter = order.parts[0];
    let program = Program { length: u16::try_from(filter.len() / 8).unwrap_or(0), at: filter.as_ptr() };
    const SET_MODE_FILTER: usize = 1;
    // SAFETY: the kernel reads the program, which is `length` times eight bytes.
    check(unsafe { call(SECCOMP, [SET_MODE_FILTER, 0, (&raw const program) as usize, 0, 0, 0]) })
        .map_err(|e| (step::FILTER, e))?;
    Ok(signals)
}

/// `struct sock_fprog`.
#[repr(C)]
struct Program {
    length: u16,
    at: *const u8,
}

/// Lays the view over the root of a namespace of our own.
fn view(order: &Order<'_>) -> Result<(), i32> {
    let Some(view) = order.optional(head::VIEW) else { return Ok(()) };
    numbers(UNSHARE, [CLONE_NEWNS, 0, 0])?;
    const REC_PRIVATE: usize = 0x4000 | 1 << 18;
    let root = c"/".as_ptr() as usize;
    // SAFETY: a constant string, and null where nothing is meant.
    check(unsafe { call(MOUNT, [0, root, 0, REC_PRIVATE, 0, 0]) })?;
    const EMPTY_PATH: usize = 4;
    const AT_FDCWD: usize = (-100isize).cast_unsigned();
    // SAFETY: constant strings.
    check(unsafe { call(MOVE_MOUNT, [view, c"".as_ptr() as usize, AT_FDCWD, root, EMPTY_PATH, 0]) })?;
    numbers(CLOSE, [view, 0, 0]).map(drop)
}

/// Gives up every capability, for good, and the user if we may choose.
fn privileges(order: &Order<'_>) -> Result<(), i32> {
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
    if let Some(user) = order.optional(head::USER) {
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

/// `struct pollfd`.
#[repr(C)]
struct Poll {
    fd: i32,
    events: i16,
    revents: i16,
}

/// Waits for the end; the exit code.
fn serve(order: &Order<'_>, signals: usize) -> u8 {
    let (connection, post) = (order.word(head::CONNECTION), order.word(head::POST));
    if send(connection, order.parts[1]).is_err() {
        return LOST;
    }
    let input = |fd: usize| Poll { fd: i32::try_from(fd).unwrap_or(-1), events: 1, revents: 0 };
    let mut fds = [input(connection), input(signals), input(post)];
    let mut answer = [0u8; 512];
    let mut length = 0;
    loop {
        // SAFETY: three structures that the kernel may write to; no timeout.
        let polled = check(unsafe { call(POLL, [fds.as_mut_ptr() as usize, fds.len(), usize::MAX, 0, 0, 0]) });
        match polled {
            Ok(_) => {}
            Err(EINTR) => continue,
            Err(_) => return LOST,
        }
        if fds[1].revents != 0 {
            pass_on(order, signals, post);
        }
        if fds[2].revents != 0 {
            // Answers, which tell nothing; at its end nobody listens any more.
            let mut scrap = [0u8; 256];
            if !matches!(read(post, &mut scrap), Ok(1..)) {
                fds[2].fd = -1;
            }
        }
        if fds[0].revents != 0 {
            let room = answer.get_mut(length..).unwrap_or_default();
            match read(connection, room) {
                Ok(count @ 1..) => length += count,
                _ => return LOST,
            }
            let said = answer.get(..length).unwrap_or_default();
            if said.contains(&b'\n') {
                return exit_code(said).unwrap_or(LOST);
            }
        }
    }
}

/// Passes on the signals that are there.
fn pass_on(order: &Order<'_>, signals: usize, post: usize) {
    let own = numbers(GETPID, [0, 0, 0]).unwrap_or(0);
    // `struct signalfd_siginfo`: number, errno, code, pid.
    let mut info = [0u8; 128];
    while let Ok(128) = read(signals, &mut info) {
        let word = |at: usize| info.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
        let (signal, from_kernel) = (word(0), word(8).cast_signed() > 0);
        // Our own: of a pipe without a reader.
        if word(12) as usize == own && !from_kernel {
            continue;
        }
        // What the kernel sends comes from our terminal; what somebody sends by kill(2) is for the process alone.
        let first = if from_kernel && OF_TERMINALS.contains(&signal) { 4 } else { 2 };
        let tens = (signal / 10 % 10) as u8;
        let digits = [b'0' + tens, b'0' + (signal % 10) as u8];
        let digits = if tens == 0 { &digits[1..] } else { &digits[..] };
        let mut message = [0u8; 1024];
        let mut length = 0;
        for part in [order.parts[first], digits, order.parts[first + 1]] {
            let Some(place) = message.get_mut(length..length + part.len()) else { return };
            place.copy_from_slice(part);
            length += part.len();
        }
        // The process may have ended meanwhile.
        let _ = send(post, message.get(..length).unwrap_or_default());
    }
}

/// Of `{"re":"exited","status":{"exited":N}}`, or `"signaled":N`.
fn exit_code(said: &[u8]) -> Option<u8> {
    let number = |key: &[u8]| {
        let at = said.windows(key.len()).position(|window| window == key)? + key.len();
        let digits = said.get(at..)?.iter().take_while(|b| b.is_ascii_digit());
        digits.fold(None, |n: Option<u32>, b| Some(n.unwrap_or(0) * 10 % 10_000 + u32::from(b - b'0')))
    };
    let code = number(b"\"exited\":").or_else(|| number(b"\"signaled\":").map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok())
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
