//! Formats on the wire: headers as they are, unaligned and in network order, and the Internet checksum.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Eth {
    pub dst: [u8; 6],
    pub src: [u8; 6],
    pub proto: U16,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Arp {
    pub hw: U16,
    pub proto: U16,
    pub hw_len: u8,
    pub proto_len: u8,
    pub op: U16,
    pub src_hw: [u8; 6],
    pub src: [u8; 4],
    pub dst_hw: [u8; 6],
    pub dst: [u8; 4],
}

pub const ARP_REQUEST: u16 = 1;
pub const ARP_REPLY: u16 = 2;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Ipv4 {
    /// Version and header length in words.
    pub vihl: u8,
    pub tos: u8,
    pub len: U16,
    pub id: U16,
    /// Flags and offset in units of eight bytes.
    pub frag: U16,
    pub ttl: u8,
    pub proto: u8,
    pub csum: U16,
    pub src: [u8; 4],
    pub dst: [u8; 4],
}

pub const IP_DF: u16 = 0x4000;
pub const IP_MF: u16 = 0x2000;
pub const IP_OFFSET: u16 = 0x1fff;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Ipv6 {
    /// Version, traffic class, flow label.
    pub vtf: U32,
    pub len: U16,
    pub next: u8,
    pub hops: u8,
    pub src: [u8; 16],
    pub dst: [u8; 16],
}

/// IPv6's fragment header.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Frag6 {
    pub next: u8,
    pub reserved: u8,
    /// Offset in units of eight bytes from bit 3 on; bit 0: more follow.
    pub off: U16,
    pub id: U32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Udp {
    pub src: U16,
    pub dst: U16,
    pub len: U16,
    pub csum: U16,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Icmp {
    pub kind: u8,
    pub code: u8,
    pub csum: U16,
    pub rest: U32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Tcp {
    pub src: U16,
    pub dst: U16,
    pub seq: U32,
    pub ack: U32,
    /// Header length in words in the upper four bits, then flags.
    pub off: u8,
    pub flags: u8,
    pub window: U16,
    pub csum: U16,
    pub urgent: U16,
}

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;
pub const URG: u8 = 32;
pub const ECE: u8 = 64;
pub const CWR: u8 = 128;

pub const IPV4_LEN: usize = size_of::<Ipv4>();
pub const IPV6_LEN: usize = size_of::<Ipv6>();
pub const UDP_LEN: usize = size_of::<Udp>();
pub const TCP_LEN: usize = size_of::<Tcp>();

/// The header at the start, and the rest.
pub fn header<T: FromBytes + KnownLayout + Immutable + Unaligned>(data: &[u8]) -> Option<(&T, &[u8])> {
    T::ref_from_prefix(data).ok()
}

pub fn ip4(addr: [u8; 4]) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(addr))
}

pub fn ip6(addr: [u8; 16]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(addr))
}

/// A length of at most 16 bits; what is larger has been refused before.
pub fn len16(len: usize) -> U16 {
    U16::new(u16::try_from(len).unwrap_or(u16::MAX))
}

/// A length as a number of 32 bits; what is larger has been refused before.
pub fn len32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// The Internet checksum over pieces, which may be of odd lengths.
#[derive(Clone, Copy, Default)]
pub struct Sum {
    /// In the machine's own order: the sum of ones' complements does not mind.
    acc: u64,
    odd: bool,
}

impl Sum {
    pub fn put(mut self, data: &[u8]) -> Sum {
        let mut part: u64 = 0;
        let (words, tail) = data.as_chunks::<4>();
        for word in words {
            part += u64::from(u32::from_ne_bytes(*word));
        }
        let mut last = [0; 4];
        last.iter_mut().zip(tail).for_each(|(to, from)| *to = *from);
        part += u64::from(u32::from_ne_bytes(last));
        let folded = fold(part);
        self.acc += u64::from(if self.odd { folded.swap_bytes() } else { folded });
        self.odd ^= data.len() & 1 != 0;
        self
    }

    /// The header that TCP, UDP and ICMPv6 sum up as well.
    pub fn pseudo(self, src: &IpAddr, dst: &IpAddr, proto: u8, len: usize) -> Sum {
        let sum = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.put(&src.octets()).put(&dst.octets()),
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.put(&src.octets()).put(&dst.octets()),
            _ => self,
        };
        sum.put(&len32(len).to_be_bytes()).put(&[0, proto])
    }

    /// The sum as it stands, to be completed by a device.
    pub fn partial(self) -> U16 {
        U16::from_bytes(fold(self.acc).to_ne_bytes())
    }
    /// What goes into the header.
    pub fn finish(self) -> U16 {
        U16::from_bytes((!fold(self.acc)).to_ne_bytes())
    }
    /// For UDP, where zero means that there is none.
    pub fn finish_udp(self) -> U16 {
        let sum = self.finish();
        if sum.get() == 0 { U16::new(0xffff) } else { sum }
    }
    /// Whether a sum over everything, the stored checksum included, is right.
    pub fn ok(self) -> bool {
        fold(self.acc) == 0xffff
    }
}

fn fold(mut acc: u64) -> u16 {
    for _ in 0..4 {
        acc = (acc & 0xffff) + (acc >> 16);
    }
    chitin_abi::num::low16(chitin_abi::num::low32(acc))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums() {
        // RFC 1071's example.
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().put(&data).partial().get(), 0xddf2);
        let whole: Vec<u8> = (0..1000_u32).map(|n| (n * 7 % 251) as u8).collect();
        let expected = Sum::default().put(&whole).finish();
        for cut in 0..64 {
            let (a, b) = whole.split_at(cut);
            assert_eq!(Sum::default().put(a).put(b).finish(), expected, "cut at {cut}");
        }
        let mut packet = whole.clone();
        packet[10..12].fill(0);
        let sum = Sum::default().put(&packet).finish();
        packet[10..12].copy_from_slice(&sum.to_bytes());
        assert!(Sum::default().put(&packet).ok());
        packet[77] ^= 4;
        assert!(!Sum::default().put(&packet).ok());
    }
}
