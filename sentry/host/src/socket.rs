//! Sockets of the host, for `--network=host`: the calls as they are, addresses and options as bytes.
//!
//! Neighbour: `net::host`, which decides what may be asked for. All sockets are non-blocking.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Room for any address (`struct sockaddr_storage`).
const ADDRESS: usize = 128;

fn socklen(bytes: &[u8]) -> libc::socklen_t {
    libc::socklen_t::try_from(bytes.len()).unwrap_or(0)
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    done(fd)?;
    // SAFETY: the host has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: integers only.
    owned(unsafe { libc::socket(family, kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, protocol) })
}

pub fn bind(socket: BorrowedFd<'_>, address: &[u8]) -> io::Result<()> {
    // SAFETY: readable bytes and their number.
    done(unsafe { libc::bind(socket.as_raw_fd(), address.as_ptr().cast(), socklen(address)) })
}

pub fn connect(socket: BorrowedFd<'_>, address: &[u8]) -> io::Result<()> {
    // SAFETY: readable bytes and their number.
    done(unsafe { libc::connect(socket.as_raw_fd(), address.as_ptr().cast(), socklen(address)) })
}

pub fn listen(socket: BorrowedFd<'_>, backlog: i32) -> io::Result<()> {
    // SAFETY: integers only.
    done(unsafe { libc::listen(socket.as_raw_fd(), backlog) })
}

pub fn accept(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (none, flags) = (std::ptr::null_mut(), libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC);
    // SAFETY: no address is asked for.
    owned(unsafe { libc::accept4(socket.as_raw_fd(), none, std::ptr::null_mut(), flags) })
}

pub fn shutdown(socket: BorrowedFd<'_>, how: i32) -> io::Result<()> {
    // SAFETY: integers only.
    done(unsafe { libc::shutdown(socket.as_raw_fd(), how) })
}

type NameCall = unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

fn name_by(call: NameCall, socket: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut address = vec![0u8; ADDRESS];
    let mut length = socklen(&address);
    // SAFETY: writable bytes and their number.
    done(unsafe { call(socket.as_raw_fd(), address.as_mut_ptr().cast(), &raw mut length) })?;
    address.truncate(usize::try_from(length).unwrap_or(0));
    Ok(address)
}

/// Its own address.
pub fn name(socket: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    name_by(libc::getsockname, socket)
}

pub fn peer_name(socket: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    name_by(libc::getpeername, socket)
}

pub fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    // SAFETY: readable bytes and their number.
    done(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), socklen(value)) })
}

/// The option's value, at most `room` bytes.
pub fn option(socket: BorrowedFd<'_>, level: i32, name: i32, room: usize) -> io::Result<Vec<u8>> {
    let mut value = vec![0u8; room];
    let mut length = socklen(&value);
    // SAFETY: writable bytes and their number.
    done(unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut length)
    })?;
    value.truncate(usize::try_from(length).unwrap_or(0));
    Ok(value)
}

/// Sends without waiting.
pub fn send(socket: BorrowedFd<'_>, data: &[u8], to: Option<&[u8]>, flags: i32) -> io::Result<usize> {
    let mut part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: a structure of numbers and pointers, for which zero is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if let Some(to) = to {
        message.msg_name = to.as_ptr().cast_mut().cast();
        message.msg_namelen = socklen(to);
    }
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: bytes and address are only read, over their stated lengths.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// What came with a message.
#[derive(Debug, Default)]
pub struct Incoming {
    /// Bytes; with MSG_TRUNC the message's whole length.
    pub count: usize,
    pub address: Vec<u8>,
    /// Control messages as the host wrote them.
    pub control: Vec<u8>,
    pub flags: i32,
}

/// Receives without waiting.
pub fn receive(socket: BorrowedFd<'_>, data: &mut [u8], flags: i32) -> io::Result<Incoming> {
    let mut part = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    let mut address = [0u8; ADDRESS];
    // Words, as the alignment of control messages wants it.
    let mut control = [0u64; 64];
    // SAFETY: a structure of numbers and pointers, for which zero is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_name = address.as_mut_ptr().cast();
    message.msg_namelen = socklen(&address);
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: all buffers are writable over their stated lengths.
    let count = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags | libc::MSG_DONTWAIT) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    let named = usize::try_from(message.msg_namelen).unwrap_or(0);
    let control: Vec<u8> = control.iter().flat_map(|word| word.to_ne_bytes()).collect();
    Ok(Incoming {
        count,
        address: address.get(..named).unwrap_or_default().to_vec(),
        control: control.get(..message.msg_controllen).unwrap_or_default().to_vec(),
        flags: message.msg_flags,
    })
}

/// One of the ioctl requests that answer an int: SIOCINQ, SIOCOUTQ, SIOCATMARK.
pub fn number(socket: BorrowedFd<'_>, request: u32) -> io::Result<i32> {
    let mut value: libc::c_int = 0;
    // SAFETY: the requests named above write an int.
    done(unsafe { libc::ioctl(socket.as_raw_fd(), libc::Ioctl::from(request), &raw mut value) })?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn datagrams_bring_their_sender() {
        let a = socket(libc::AF_INET, libc::SOCK_DGRAM, 0).unwrap();
        let b = socket(libc::AF_INET, libc::SOCK_DGRAM, 0).unwrap();
        let mut any = vec![0u8; 16];
        any[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        any[4..8].copy_from_slice(&[127, 0, 0, 1]);
        bind(a.as_fd(), &any).unwrap();
        bind(b.as_fd(), &any).unwrap();
        let (at_a, at_b) = (name(a.as_fd()).unwrap(), name(b.as_fd()).unwrap());
        assert_eq!(send(b.as_fd(), b"hello", Some(&at_a), 0).unwrap(), 5);
        assert_eq!(number(a.as_fd(), 0x541b).unwrap(), 5);
        let mut data = [0; 3];
        let got = receive(a.as_fd(), &mut data, libc::MSG_TRUNC).unwrap();
        assert_eq!((got.count, &data, got.address), (5, b"hel", at_b.clone()));
        assert!(got.flags & libc::MSG_TRUNC != 0);
        assert!(peer_name(a.as_fd()).is_err());
        connect(a.as_fd(), &at_b).unwrap();
        assert_eq!(peer_name(a.as_fd()).unwrap(), at_b);
        set_option(a.as_fd(), libc::SOL_SOCKET, libc::SO_BROADCAST, &1i32.to_ne_bytes()).unwrap();
        let value = option(a.as_fd(), libc::SOL_SOCKET, libc::SO_BROADCAST, 64).unwrap();
        assert_eq!(value, 1i32.to_ne_bytes());
        assert_eq!(receive(a.as_fd(), &mut data, 0).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
