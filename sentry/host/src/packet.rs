//! Packets in batches, to and from a packet socket (or a SOCK_SEQPACKET one): recvmmsg(2) and sendmmsg(2), with the
//! `virtio_net_hdr` before each packet that tells about checksums and segmentation.
//!
//! Neighbour: the sentry's network devices. The host is trusted to fill in what it says; lengths are checked all the same.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

/// The largest packet: 64 KiB of IP, and a link header.
pub const MAX_PACKET: usize = 65_536 + 32;
/// Packets per call.
pub const BATCH: usize = 32;
/// Packets that the shortest call asks for; the next asks for twice as many as came.
const FEW: usize = 4;
/// Buffers for packets. Those that somebody holds on to are left alone; the last few are never given to hold.
const BUFFERS: usize = 64;
const KEPT: usize = 16;
/// Pieces that a packet to be sent may have.
pub const MAX_PIECES: usize = 4;

pub const HDR_F_NEEDS_CSUM: u8 = 1;
pub const HDR_F_DATA_VALID: u8 = 2;
pub const HDR_GSO_NONE: u8 = 0;
pub const HDR_GSO_TCPV4: u8 = 1;
pub const HDR_GSO_TCPV6: u8 = 4;
pub const HDR_GSO_UDP_L4: u8 = 5;
pub const HDR_GSO_ECN: u8 = 0x80;

/// `struct virtio_net_hdr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHdr {
    pub flags: u8,
    pub gso_type: u8,
    pub hdr_len: u16,
    pub gso_size: u16,
    pub csum_start: u16,
    pub csum_offset: u16,
}

const NO_PART: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

fn no_message() -> libc::mmsghdr {
    // SAFETY: a structure of numbers and pointers, for which zero is valid.
    unsafe { std::mem::zeroed() }
}

const ADDRESS_LEN: libc::socklen_t = 20;
const _: () = assert!(size_of::<libc::sockaddr_ll>() == 20);
/// AF_PACKET
const FAMILY: libc::c_ushort = 17;

/// An interface as a packet's destination.
fn address(link: u32) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: FAMILY,
        sll_protocol: 0,
        sll_ifindex: link.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}

/// A received packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    pub header: VnetHdr,
    pub data: &'a [u8],
    /// The buffer that the data is in, if it may be held on to.
    pub buffer: Option<&'a Arc<Vec<u8>>>,
    /// The index of its interface, if the receiver asks for it; else 0.
    pub link: u32,
}

/// Buffers for received packets.
pub struct Receiver {
    buffers: Vec<Arc<Vec<u8>>>,
    /// Those that the last wait had, in order, and their packets' headers. Of those that nobody holds the first ones, which are in
    /// the CPU's cache.
    free: Vec<usize>,
    headers: Vec<VnetHdr>,
    /// The length of each received packet; `None` for one that was cut off.
    lengths: Vec<Option<usize>>,
    /// The interface of each one.
    from: Vec<libc::sockaddr_ll>,
    with_header: bool,
    with_link: bool,
}

impl Receiver {
    /// `with_header`: each packet has a `virtio_net_hdr`. `with_link`: the socket is on several interfaces.
    pub fn new(with_header: bool, with_link: bool) -> Receiver {
        Receiver {
            buffers: (0..BUFFERS).map(|_| Arc::new(vec![0; MAX_PACKET])).collect(),
            free: Vec::with_capacity(BUFFERS),
            headers: vec![VnetHdr::default(); BATCH],
            lengths: Vec::new(),
            from: vec![address(0); BATCH],
            with_header,
            with_link,
        }
    }

    /// Waits for a packet, and takes what else is there. None on ENETDOWN and the like; the end of a SOCK_SEQPACKET
    /// socket shows as an empty packet.
    pub fn wait(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.receive(socket, libc::MSG_WAITFORONE)
    }

    /// Takes what is there; EAGAIN if that is nothing.
    pub fn look(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.receive(socket, libc::MSG_DONTWAIT)
    }

    /// Nothing has been brought.
    pub fn nothing(&mut self) {
        self.lengths.clear();
    }

    fn receive(&mut self, socket: BorrowedFd<'_>, flags: libc::c_int) -> io::Result<usize> {
        let mut parts = [[NO_PART; 2]; BATCH];
        let mut messages = [no_message(); BATCH];
        let head = if self.with_header { size_of::<VnetHdr>() } else { 0 };
        let wanted = (2 * self.lengths.len()).clamp(FEW, BATCH);
        self.free.clear();
        let all = self.buffers.iter_mut().enumerate();
        let free = all.filter_map(|(index, buffer)| Some((index, Arc::get_mut(buffer)?))).take(wanted);
        let free = free.inspect(|(index, _)| self.free.push(*index)).map(|(_, buffer)| buffer);
        let slots = parts.iter_mut().zip(messages.iter_mut()).zip(self.headers.iter_mut());
        for (buffer, ((pair, message), header)) in free.zip(slots) {
            *pair = [
                libc::iovec { iov_base: std::ptr::from_mut(header).cast(), iov_len: head },
                libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() },
            ];
            message.msg_hdr.msg_iov = pair.as_mut_ptr();
            message.msg_hdr.msg_iovlen = pair.len();
        }
        if self.with_link {
            for (message, from) in messages.iter_mut().zip(self.from.iter_mut()) {
                message.msg_hdr.msg_name = std::ptr::from_mut(from).cast();
                message.msg_hdr.msg_namelen = ADDRESS_LEN;
            }
        }
        self.lengths.clear();
        let most = libc::c_uint::try_from(self.free.len()).unwrap_or(1);
        // SAFETY: parts and names point to buffers of the stated lengths, which outlive the call; no time is passed.
        let count = unsafe {
            libc::recvmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), most, flags, std::ptr::null_mut())
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        self.lengths.extend(messages.iter().take(count).map(|message| {
            let cut = message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            (message.msg_len as usize).checked_sub(head).filter(|_| !cut)
        }));
        Ok(count)
    }

    /// What the last wait has brought.
    pub fn packets(&self) -> impl Iterator<Item = Packet<'_>> {
        let all = self.free.iter().zip(&self.headers).zip(&self.lengths).zip(&self.from);
        all.filter_map(|(((index, header), length), from)| {
            let buffer = self.buffers.get(*index)?;
            Some(Packet {
                header: if self.with_header { *header } else { VnetHdr::default() },
                data: buffer.get(..(*length)?)?,
                buffer: (*index < BUFFERS - KEPT).then_some(buffer),
                link: from.sll_ifindex.cast_unsigned(),
            })
        })
    }
}

/// A packet to be sent, in pieces.
#[derive(Clone, Copy)]
pub struct Outgoing<'a> {
    pub header: Option<VnetHdr>,
    pub pieces: [&'a [u8]; 3],
}

/// Sends without waiting, to the interface that the socket is on or to `link`; the number of packets taken. An error is about
/// the first one that was not.
pub fn send(
    socket: BorrowedFd<'_>,
    link: Option<u32>,
    packets: &[Outgoing<'_>],
) -> (usize, Option<io::Error>) {
    let mut sent = 0;
    for chunk in packets.chunks(BATCH) {
        match send_chunk(socket, link, chunk) {
            Ok(count) => {
                sent += count;
                if count < chunk.len() {
                    return (sent, None);
                }
            }
            Err(error) => return (sent, Some(error)),
        }
    }
    (sent, None)
}

fn send_chunk(socket: BorrowedFd<'_>, link: Option<u32>, packets: &[Outgoing<'_>]) -> io::Result<usize> {
    let mut to = link.map(address);
    let mut parts = [[NO_PART; MAX_PIECES]; BATCH];
    let mut messages = [no_message(); BATCH];
    for ((packet, parts), message) in packets.iter().zip(parts.iter_mut()).zip(messages.iter_mut()) {
        let header = packet.header.as_ref().map(|header| libc::iovec {
            iov_base: std::ptr::from_ref(header).cast_mut().cast(),
            iov_len: size_of::<VnetHdr>(),
        });
        let pieces = packet.pieces.iter().filter(|piece| !piece.is_empty());
        let pieces = pieces
            .map(|piece| libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() });
        let mut used = 0;
        for (slot, part) in parts.iter_mut().zip(header.into_iter().chain(pieces)) {
            *slot = part;
            used += 1;
        }
        message.msg_hdr.msg_iov = parts.as_mut_ptr();
        message.msg_hdr.msg_iovlen = used;
        if let Some(to) = &mut to {
            message.msg_hdr.msg_name = std::ptr::from_mut(to).cast();
            message.msg_hdr.msg_namelen = ADDRESS_LEN;
        }
    }
    let count = libc::c_uint::try_from(packets.len().min(BATCH)).unwrap_or(0);
    // SAFETY: parts and names point to borrowed bytes of the stated lengths, which the host only reads.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            count,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::os::fd::AsFd;

    #[test]
    fn batches_keep_boundaries_and_headers() {
        let (a, b) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let header =
            VnetHdr { flags: HDR_F_NEEDS_CSUM, csum_start: 34, csum_offset: 16, ..VnetHdr::default() };
        let big = vec![7u8; 60_000];
        let packets: Vec<_> = (0..40)
            .map(|n| Outgoing {
                header: Some(header),
                pieces: [b"head", if n == 39 { &big } else { b"body" }, if n % 2 == 0 { b"" } else { b"x" }],
            })
            .collect();
        assert_eq!(send(a.as_fd(), None, &packets).0, 40);
        let mut receiver = Receiver::new(true, false);
        let mut all = Vec::new();
        while all.len() < 40 {
            assert!(receiver.wait(b.as_fd()).unwrap() > 0);
            all.extend(receiver.packets().map(|p| (p.header, p.data.to_vec())));
        }
        assert!(all.iter().all(|(h, _)| *h == header));
        assert_eq!((&all[0].1[..], &all[1].1[..]), (&b"headbody"[..], &b"headbodyx"[..]));
        assert_eq!(all[39].1.len(), 60_005);
        // Packets that somebody holds on to stay what they are, and there is still room for others.
        let mut held = Vec::new();
        for n in 0..200_u8 {
            assert_eq!(
                send(a.as_fd(), None, &[Outgoing { header: Some(header), pieces: [&[n], b"", b""] }]).0,
                1
            );
            assert_eq!(receiver.wait(b.as_fd()).unwrap(), 1);
            held.extend(receiver.packets().filter_map(|p| Some((n, p.buffer?.clone()))));
        }
        assert_eq!(held.len(), BUFFERS - KEPT);
        assert!(held.iter().all(|(n, buffer)| buffer[0] == *n));
        drop(a);
        // The end reads as empty messages, which are no packets.
        assert!(receiver.wait(b.as_fd()).unwrap() > 0);
        assert_eq!(receiver.packets().count(), 0);
    }
}
