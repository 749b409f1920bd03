//! The name proxy's program: makes sockets that are connected to one name server, for a sentry that may make none.
//!
//! Freestanding like the stand-in, since every container of Docker's may have one and most never ask. In this order it
//! 1. reads its order, and moves to the container's network namespace and to the sandbox's mount namespace;
//! 2. gives up user, groups and capabilities, and puts itself under its seccomp list;
//! 3. answers requests until the sentry is gone, which ends it.
//!
//! What the sentry says is compared with the one request that there is; anything else is refused.
#![no_std]
#![no_main]

#[path = "../src/layout.rs"]
mod layout;
mod sys;

use layout::names::{self, head};
use layout::{MAX, NONE};
use sys::{CLONE_NEWNS, CLOSE, EPERM, FAILED, SETNS, call, check, confine, exit, numbers, read};

const SOCKET: usize = 41;
const CONNECT: usize = 42;
const SENDMSG: usize = 46;

const CLONE_NEWNET: usize = 0x4000_0000;
const EINPROGRESS: i32 = 115;
const EHOSTUNREACH: i32 = 113;
const EPROTONOSUPPORT: i32 = 93;
const EINVAL: i32 = 22;
const AF_INET: u16 = 2;
const NONBLOCK_CLOEXEC: usize = 0o4000 | 0o200_0000;
/// (SOCK_STREAM, IPPROTO_TCP), (SOCK_DGRAM, IPPROTO_UDP).
const KINDS: [(usize, u8); 2] = [(1, 6), (2, 17)];

struct Order<'a> {
    words: [u32; head::COUNT],
    /// The only address that there is, as in a request.
    to: &'a [u8; names::ADDRESS],
    filter: &'a [u8],
}

impl<'a> Order<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut words = [0u32; head::COUNT];
        let (head, rest) = bytes.split_at_checked(4 * head::COUNT)?;
        for (word, bytes) in words.iter_mut().zip(head.chunks_exact(4)) {
            *word = u32::from_ne_bytes(bytes.try_into().ok()?);
        }
        let (to, filter) = rest.split_first_chunk()?;
        (words[head::MAGIC] == names::MAGIC).then_some(Self { words, to, filter })
    }

    fn optional(&self, which: usize) -> Option<usize> {
        (self.words[which] != NONE).then_some(self.words[which] as usize)
    }
}

static mut ORDER: [u8; MAX] = [0; MAX];

extern "C" fn start(stack: *const usize) -> ! {
    // SAFETY: nobody else has it, and this function runs once.
    let buffer = unsafe { &mut *(&raw mut ORDER) };
    let Some(order) = Order::parse(sys::read_order(stack, buffer)) else { exit(FAILED) };
    if prepare(&order).is_err() {
        exit(FAILED);
    }
    let socket = order.words[head::SOCKET] as usize;
    loop {
        // One byte more than a request has.
        let mut request = [0; names::REQUEST + 1];
        let Ok(count @ 1..) = read(socket, &mut request) else { exit(0) };
        let made = open(&order, request.get(..count).unwrap_or_default());
        if answer(socket, made).is_err() {
            exit(0);
        }
        if let Ok(fd) = made {
            let _ = numbers(CLOSE, [fd, 0, 0]);
        }
    }
}

/// Everything before the first request.
fn prepare(order: &Order<'_>) -> Result<(), i32> {
    // Without it, this would be the way to somebody else's name server.
    if let Some(network) = order.optional(head::NETWORK) {
        numbers(SETNS, [network, CLONE_NEWNET, 0])?;
        numbers(CLOSE, [network, 0, 0])?;
    }
    if let Some(mounts) = order.optional(head::MOUNTS) {
        match numbers(SETNS, [mounts, CLONE_NEWNS, 0]) {
            // The rootless have no power over it, and go without.
            Ok(_) | Err(EPERM) => {}
            Err(errno) => return Err(errno),
        }
        numbers(CLOSE, [mounts, 0, 0])?;
    }
    sys::give_up_privileges(order.optional(head::USER))?;
    confine(order.filter)
}

/// A socket on its way to be connected.
fn open(order: &Order<'_>, request: &[u8]) -> Result<usize, i32> {
    let Some(([1, stream @ (0 | 1), protocol, 0], to)) = request.split_first_chunk::<4>() else {
        return Err(EINVAL);
    };
    if to != order.to {
        return Err(EHOSTUNREACH);
    }
    let (kind, only) = KINDS[usize::from(*stream == 0)];
    if *protocol != only {
        return Err(EPROTONOSUPPORT);
    }
    let fd = numbers(SOCKET, [AF_INET.into(), kind | NONBLOCK_CLOEXEC, only.into()])?;
    // `struct sockaddr_in`. In the request the port comes first, and an IPv4 address stands at the end.
    let [port_high, port_low, .., a, b, c, d] = *order.to;
    let [family_low, family_high] = AF_INET.to_ne_bytes();
    let address: [u8; 16] =
        [family_low, family_high, port_high, port_low, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: the kernel reads the address.
    match check(unsafe { call(CONNECT, [fd, address.as_ptr() as usize, address.len(), 0, 0, 0]) }) {
        Ok(_) | Err(EINPROGRESS) => Ok(fd),
        Err(errno) => {
            let _ = numbers(CLOSE, [fd, 0, 0]);
            Err(errno)
        }
    }
}

/// `struct iovec`.
#[repr(C)]
struct Piece {
    at: *const u8,
    length: usize,
}

/// `struct cmsghdr` with one descriptor.
#[repr(C)]
struct Rights {
    length: usize,
    level: i32,
    kind: i32,
    fd: i32,
    padding: i32,
}

/// `struct msghdr`.
#[repr(C)]
struct Message {
    name: usize,
    name_length: usize,
    pieces: *const Piece,
    count: usize,
    control: *const Rights,
    control_length: usize,
    flags: usize,
}

fn answer(socket: usize, made: Result<usize, i32>) -> Result<(), i32> {
    const MSG_NOSIGNAL: usize = 0x4000;
    const SOL_SOCKET: i32 = 1;
    const SCM_RIGHTS: i32 = 1;
    let (number, fd) = match made {
        Ok(fd) => (0, i32::try_from(fd).ok()),
        Err(errno) => (errno, None),
    };
    let bytes = number.to_ne_bytes();
    let piece = Piece { at: bytes.as_ptr(), length: bytes.len() };
    // Without the padding.
    let length = size_of::<Rights>() - size_of::<i32>();
    let rights =
        Rights { length, level: SOL_SOCKET, kind: SCM_RIGHTS, fd: fd.unwrap_or(-1), padding: 0 };
    let message = Message {
        name: 0,
        name_length: 0,
        pieces: &raw const piece,
        count: 1,
        control: &raw const rights,
        control_length: if fd.is_some() { size_of::<Rights>() } else { 0 },
        flags: 0,
    };
    // SAFETY: the kernel reads the message and what it names, all of which lies here.
    check(unsafe { call(SENDMSG, [socket, (&raw const message) as usize, MSG_NOSIGNAL, 0, 0, 0]) }).map(drop)
}
