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

mod sys;

use layout::{LOST, MAGIC, MAX, NONE, PARTS, READY, head, step};
use sys::{CLONE_NEWNS, CLOSE, EPERM, SETNS, call, check, confine, exit, numbers, read};

const WRITE: usize = 1;
const POLL: usize = 7;
const RT_SIGPROCMASK: usize = 14;
const GETPID: usize = 39;
const SENDTO: usize = 44;
const MOUNT: usize = 165;
const UNSHARE: usize = 272;
const SIGNALFD4: usize = 289;
const MOVE_MOUNT: usize = 429;

const EINTR: i32 = 4;
const MSG_NOSIGNAL: usize = 0x4000;
/// Signals that a terminal makes by itself: INT, QUIT, TSTP, WINCH, HUP.
const OF_TERMINALS: [u32; 5] = [2, 3, 20, 28, 1];

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
    let Some(order) = Order::parse(sys::read_order(stack, buffer)) else { exit(LOST) };
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
    sys::give_up_privileges(order.optional(head::USER)).map_err(|e| (step::PRIVILEGES, e))?;
    confine(order.parts[0]).map_err(|e| (step::FILTER, e))?;
    Ok(signals)
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
