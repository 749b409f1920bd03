//! The same scripts on the host's AF_UNIX and on ours: every result, address, flag and poll mask must be the same.

#![allow(unsafe_code)]

#[path = "../support/mod.rs"]
mod support;

use chitin_mm::{SliceSource, VecSink};
use chitin_net::*;
use chitin_vfs::{Context, File};
use std::fmt::Write as _;
use std::sync::Arc;

const STREAM: u32 = 1;
const DGRAM: u32 = 2;
const SEQ: u32 = 5;

type Fd = usize;
type Res<T = usize> = Result<T, i32>;

#[derive(Debug, Default, PartialEq)]
struct Got {
    count: usize,
    data: Vec<u8>,
    addr: Option<Vec<u8>>,
    flags: u32,
    fds: usize,
    control: usize,
    creds: bool,
}

/// What both kernels can do.
trait Kernel {
    fn socket(&mut self, family: i32, kind: u32, protocol: i32) -> Res<Fd>;
    fn pair(&mut self, kind: u32) -> (Fd, Fd);
    fn bind(&mut self, fd: Fd, addr: &[u8]) -> Res<()>;
    fn connect(&mut self, fd: Fd, addr: &[u8]) -> Res<()>;
    fn listen(&mut self, fd: Fd, backlog: i32) -> Res<()>;
    fn accept(&mut self, fd: Fd) -> Res<Fd>;
    fn send(&mut self, fd: Fd, data: &[u8], flags: u32, dest: Option<&[u8]>, rights: &[Fd]) -> Res;
    fn recv(&mut self, fd: Fd, room: usize, flags: u32, control: usize) -> Res<Got>;
    fn shutdown(&mut self, fd: Fd, how: i32) -> Res<()>;
    fn close(&mut self, fd: Fd);
    fn poll(&mut self, fd: Fd) -> u32;
    fn name(&mut self, fd: Fd, peer: bool) -> Res<Vec<u8>>;
    fn get(&mut self, fd: Fd, level: u32, name: u32, room: usize) -> Res<Vec<u8>>;
    fn set(&mut self, fd: Fd, level: u32, name: u32, value: &[u8]) -> Res<()>;
    fn queued(&mut self, fd: Fd, out: bool) -> Res;
}

struct Ours {
    ns: Arc<NetNs>,
    ctx: Context,
    files: Vec<Option<Arc<File>>>,
}

impl Ours {
    fn new() -> Ours {
        Ours { ns: NetNs::new(true), ctx: support::context(), files: Vec::new() }
    }
    fn add(&mut self, file: Arc<File>) -> Fd {
        self.files.push(Some(file));
        self.files.len() - 1
    }
    fn file(&self, fd: Fd) -> Arc<File> {
        self.files[fd].clone().unwrap()
    }
}

fn raw<T>(result: Result<T, chitin_abi::Errno>) -> Res<T> {
    result.map_err(|error| error.raw())
}

impl Kernel for Ours {
    fn socket(&mut self, family: i32, kind: u32, protocol: i32) -> Res<Fd> {
        let file = raw(create(&self.ns, family, kind, protocol, &self.ctx.caller))?;
        Ok(self.add(file))
    }
    fn pair(&mut self, kind: u32) -> (Fd, Fd) {
        let [a, b] = support::pair(&self.ns, &self.ctx, kind);
        (self.add(a), self.add(b))
    }
    fn bind(&mut self, fd: Fd, addr: &[u8]) -> Res<()> {
        let file = self.file(fd);
        raw(SocketFile::of(&file).unwrap().bind(&self.ctx, &SockAddr::parse(addr)))
    }
    fn connect(&mut self, fd: Fd, addr: &[u8]) -> Res<()> {
        let file = self.file(fd);
        let mut wait_on = None;
        raw(SocketFile::of(&file).unwrap().connect(&self.ctx, &SockAddr::parse(addr), &mut wait_on))
    }
    fn listen(&mut self, fd: Fd, backlog: i32) -> Res<()> {
        let file = self.file(fd);
        file.set_flags(libc::O_NONBLOCK as u32).unwrap();
        raw(SocketFile::of(&file).unwrap().listen(backlog, &self.ctx.caller))
    }
    fn accept(&mut self, fd: Fd) -> Res<Fd> {
        let file = self.file(fd);
        let new = raw(SocketFile::of(&file).unwrap().accept(0, &self.ctx.caller))?;
        Ok(self.add(new))
    }
    fn send(&mut self, fd: Fd, data: &[u8], flags: u32, dest: Option<&[u8]>, rights: &[Fd]) -> Res {
        let file = self.file(fd);
        let mut source = SliceSource::new(data);
        let mut msg = SendMsg::new(&mut source, flags);
        msg.ctx = Some(&self.ctx);
        msg.dest = dest.map(SockAddr::parse);
        msg.control.rights = rights.iter().map(|&fd| self.file(fd)).collect();
        raw(SocketFile::of(&file).unwrap().sendmsg(&mut msg))
    }
    fn recv(&mut self, fd: Fd, room: usize, flags: u32, control: usize) -> Res<Got> {
        let file = self.file(fd);
        let mut sink = VecSink { data: Vec::new(), limit: room };
        let mut msg = RecvMsg::new(&mut sink, flags | 0x40);
        let count = raw(SocketFile::of(&file).unwrap().recvmsg(&mut msg))?;
        let addr = msg.addr.take().map(|addr| addr.encode());
        let mut out_flags = msg.out_flags;
        let fds = std::cell::Cell::new(0);
        let ancillary = std::mem::take(&mut msg.control);
        let creds = ancillary.creds.is_some();
        let mut bytes = Vec::new();
        if control > 0 || !ancillary.is_empty() {
            let mut install = |_| {
                fds.set(fds.get() + 1);
                Ok(9)
            };
            let (encoded, more) = ancillary.encode(control, &mut install);
            out_flags |= more;
            bytes = encoded;
        }
        let creds = creds && bytes.len() >= 28;
        Ok(Got {
            count,
            data: sink.data,
            addr,
            flags: out_flags,
            fds: fds.get(),
            control: bytes.len(),
            creds,
        })
    }
    fn shutdown(&mut self, fd: Fd, how: i32) -> Res<()> {
        raw(SocketFile::of(&self.file(fd)).unwrap().shutdown(how))
    }
    fn close(&mut self, fd: Fd) {
        self.files[fd] = None;
    }
    fn poll(&mut self, fd: Fd) -> u32 {
        self.file(fd).ops().poll(None)
    }
    fn name(&mut self, fd: Fd, peer: bool) -> Res<Vec<u8>> {
        let file = self.file(fd);
        let socket = SocketFile::of(&file).unwrap();
        let addr = if peer { socket.getpeername() } else { socket.getsockname() };
        Ok(raw(addr)?.encode())
    }
    fn get(&mut self, fd: Fd, level: u32, name: u32, room: usize) -> Res<Vec<u8>> {
        match raw(SocketFile::of(&self.file(fd)).unwrap().getsockopt(level, name, room))? {
            OptValue::Value(value) | OptValue::Program(value, _) => Ok(value),
            OptValue::Needs(_) => Err(libc::ERANGE),
        }
    }
    fn set(&mut self, fd: Fd, level: u32, name: u32, value: &[u8]) -> Res<()> {
        raw(SocketFile::of(&self.file(fd)).unwrap().setsockopt(level, name, value, &self.ctx.caller))
    }
    fn queued(&mut self, fd: Fd, out: bool) -> Res {
        let file = self.file(fd);
        let ops = SocketFile::of(&file).unwrap().ops().clone();
        raw(if out { ops.output_queued() } else { ops.input_queued() })
    }
}

#[derive(Default)]
struct Host {
    fds: Vec<i32>,
}

fn host(result: i64) -> Res {
    if result < 0 {
        return Err(std::io::Error::last_os_error().raw_os_error().unwrap());
    }
    Ok(result as usize)
}

impl Kernel for Host {
    fn socket(&mut self, family: i32, kind: u32, protocol: i32) -> Res<Fd> {
        // SAFETY: no memory is passed.
        let fd = host(unsafe { libc::socket(family, kind as i32, protocol) }.into())?;
        self.fds.push(fd as i32);
        Ok(self.fds.len() - 1)
    }
    fn pair(&mut self, kind: u32) -> (Fd, Fd) {
        let mut fds = [0; 2];
        // SAFETY: there is room for two descriptors.
        host(unsafe { libc::socketpair(1, kind as i32, 0, fds.as_mut_ptr()) }.into()).unwrap();
        self.fds.extend(fds);
        (self.fds.len() - 2, self.fds.len() - 1)
    }
    fn bind(&mut self, fd: Fd, addr: &[u8]) -> Res<()> {
        // SAFETY: the address is as long as it says.
        host(unsafe { libc::bind(self.fds[fd], addr.as_ptr().cast(), addr.len() as u32) }.into()).map(|_| ())
    }
    fn connect(&mut self, fd: Fd, addr: &[u8]) -> Res<()> {
        // SAFETY: no memory is passed.
        unsafe { libc::fcntl(self.fds[fd], libc::F_SETFL, libc::O_NONBLOCK) };
        // SAFETY: the address is as long as it says.
        host(unsafe { libc::connect(self.fds[fd], addr.as_ptr().cast(), addr.len() as u32) }.into())
            .map(|_| ())
    }
    fn listen(&mut self, fd: Fd, backlog: i32) -> Res<()> {
        // SAFETY: no memory is passed.
        unsafe { libc::fcntl(self.fds[fd], libc::F_SETFL, libc::O_NONBLOCK) };
        // SAFETY: no memory is passed.
        host(unsafe { libc::listen(self.fds[fd], backlog) }.into()).map(|_| ())
    }
    fn accept(&mut self, fd: Fd) -> Res<Fd> {
        // SAFETY: no memory is passed.
        unsafe { libc::fcntl(self.fds[fd], libc::F_SETFL, libc::O_NONBLOCK) };
        let null = std::ptr::null_mut();
        // SAFETY: the address is not asked for.
        let new = host(unsafe { libc::accept(self.fds[fd], null, null.cast()) }.into())?;
        self.fds.push(new as i32);
        Ok(self.fds.len() - 1)
    }
    fn send(&mut self, fd: Fd, data: &[u8], flags: u32, dest: Option<&[u8]>, rights: &[Fd]) -> Res {
        let mut iov = libc::iovec { iov_base: data.as_ptr() as *mut _, iov_len: data.len() };
        let mut control = [0u64; 64];
        let len = 16 + 4 * rights.len();
        control[0] = len as u64;
        control[1] = 1 | 1 << 32;
        for (i, &fd) in rights.iter().enumerate() {
            control[2 + i / 2] |= u64::from(self.fds[fd] as u32) << (32 * (i % 2));
        }
        // SAFETY: all zeroes is a valid header.
        let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
        msg.msg_iov = &mut iov;
        msg.msg_iovlen = 1;
        if let Some(dest) = dest {
            msg.msg_name = dest.as_ptr() as *mut _;
            msg.msg_namelen = dest.len() as u32;
        }
        if !rights.is_empty() {
            msg.msg_control = control.as_mut_ptr().cast();
            msg.msg_controllen = len;
        }
        let flags = flags as i32 | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: everything the header points to lives on.
        host(unsafe { libc::sendmsg(self.fds[fd], &msg, flags) } as i64)
    }
    fn recv(&mut self, fd: Fd, room: usize, flags: u32, control: usize) -> Res<Got> {
        let mut data = vec![0u8; room];
        let mut iov = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: room };
        let mut cbuf = [0u64; 64];
        let mut name = [0u8; 128];
        // SAFETY: all zeroes is a valid header.
        let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
        msg.msg_iov = &mut iov;
        msg.msg_iovlen = 1;
        msg.msg_name = name.as_mut_ptr().cast();
        msg.msg_namelen = 128;
        if control > 0 {
            msg.msg_control = cbuf.as_mut_ptr().cast();
            msg.msg_controllen = control;
        }
        let flags = flags as i32 | libc::MSG_DONTWAIT;
        // SAFETY: everything the header points to lives on and is as long as it says.
        let count = host(unsafe { libc::recvmsg(self.fds[fd], &mut msg, flags) } as i64)?;
        data.truncate(count.min(room));
        let addr = (msg.msg_namelen > 0).then(|| name[..msg.msg_namelen as usize].to_vec());
        let length = if control > 0 { msg.msg_controllen } else { 0 };
        let bytes: Vec<u8> = cbuf.iter().flat_map(|word| word.to_ne_bytes()).take(length).collect();
        let mut got =
            Got { count, data, addr, flags: msg.msg_flags as u32, control: length, ..Got::default() };
        for message in control::messages(&bytes).flatten() {
            if message.kind == 1 {
                for fd in message.data.as_chunks::<4>().0 {
                    got.fds += 1;
                    // SAFETY: the descriptor just came and nobody else has it.
                    unsafe { libc::close(i32::from_ne_bytes(*fd)) };
                }
            }
            got.creds |= message.kind == 2 && message.data.len() == 12;
        }
        Ok(got)
    }
    fn shutdown(&mut self, fd: Fd, how: i32) -> Res<()> {
        // SAFETY: no memory is passed.
        host(unsafe { libc::shutdown(self.fds[fd], how) }.into()).map(|_| ())
    }
    fn close(&mut self, fd: Fd) {
        // SAFETY: the descriptor is ours.
        unsafe { libc::close(self.fds[fd]) };
        self.fds[fd] = -1;
    }
    fn poll(&mut self, fd: Fd) -> u32 {
        let events = 0x3fff & !(libc::POLLNVAL);
        let mut poll = libc::pollfd { fd: self.fds[fd], events, revents: 0 };
        // SAFETY: there is one entry.
        unsafe { libc::poll(&mut poll, 1, 0) };
        poll.revents as u32
    }
    fn name(&mut self, fd: Fd, peer: bool) -> Res<Vec<u8>> {
        let mut name = [0u8; 128];
        let mut len = 128;
        let call = if peer { libc::getpeername } else { libc::getsockname };
        // SAFETY: the buffer is as long as it says.
        host(unsafe { call(self.fds[fd], name.as_mut_ptr().cast(), &mut len) }.into())?;
        Ok(name[..len as usize].to_vec())
    }
    fn get(&mut self, fd: Fd, level: u32, name: u32, room: usize) -> Res<Vec<u8>> {
        let mut value = vec![0u8; room];
        let mut len = room as u32;
        let fd = self.fds[fd];
        let at = value.as_mut_ptr().cast();
        // SAFETY: the buffer is as long as it says.
        let result = unsafe { libc::getsockopt(fd, level as i32, name as i32, at, &mut len) };
        host(result.into())?;
        value.truncate(len as usize);
        Ok(value)
    }
    fn set(&mut self, fd: Fd, level: u32, name: u32, value: &[u8]) -> Res<()> {
        let (fd, len) = (self.fds[fd], value.len() as u32);
        let at = value.as_ptr().cast();
        // SAFETY: the value is as long as it says.
        let result = unsafe { libc::setsockopt(fd, level as i32, name as i32, at, len) };
        host(result.into()).map(|_| ())
    }
    fn queued(&mut self, fd: Fd, out: bool) -> Res {
        let mut count = 0i32;
        let request = if out { libc::TIOCOUTQ } else { libc::FIONREAD };
        // SAFETY: there is room for an int.
        host(unsafe { libc::ioctl(self.fds[fd], request, &mut count) }.into())?;
        Ok(count as usize)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for &fd in self.fds.iter().filter(|fd| **fd >= 0) {
            // SAFETY: the descriptor is ours.
            unsafe { libc::close(fd) };
        }
    }
}

fn un(path: &[u8]) -> Vec<u8> {
    let mut addr = vec![1, 0];
    addr.extend_from_slice(path);
    addr
}

/// Names differ between tests that run at the same time on the host.
fn name(tag: &str) -> Vec<u8> {
    un(format!("\0chitin-{tag}-{}", std::process::id()).as_bytes())
}

/// Runs a script on both and compares line by line.
fn same(script: fn(&mut dyn Kernel, &mut String)) {
    let (mut expected, mut got) = (String::new(), String::new());
    script(&mut Host::default(), &mut expected);
    script(&mut Ours::new(), &mut got);
    let mut bad = String::new();
    for (number, (expected, got)) in expected.lines().zip(got.lines()).enumerate() {
        if expected != got {
            writeln!(bad, "line {}\n  host: {expected}\n  ours: {got}", number + 1).unwrap();
        }
    }
    assert!(bad.is_empty(), "{bad}");
    assert_eq!(expected.lines().count(), got.lines().count());
}

macro_rules! log {
    ($out:expr, $($call:expr),+ $(,)?) => {
        $(writeln!($out, "{}: {:?}", stringify!($call), $call).unwrap();)+
    };
}

// Below the macros that they use.
mod dgram;
mod inet;
mod messages;
mod streams;
