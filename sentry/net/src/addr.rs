//! Socket addresses: parsing what guests pass and encoding what they get back, with Linux's length rules.
//!
//! Parsing never fails: what is no address of its family becomes [`SockAddr::Invalid`], and the operation it was meant
//! for answers the error that Linux gives there. Neighbours: the families use the variants that are theirs.

use chitin_abi::num::low16;
use chitin_abi::socket::*;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use zerocopy::{FromBytes, IntoBytes};

/// Bytes before `sun_path`.
const UNIX_HEAD: usize = 2;

/// A name of AF_UNIX.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UnixAddr {
    /// Not bound; as an argument of bind(2) it asks for a name of the kernel's choice.
    Unnamed,
    /// A path, without NUL.
    Path(Vec<u8>),
    /// A name in the abstract namespace, without the leading NUL; any bytes, possibly none.
    Abstract(Vec<u8>),
}

/// An address of any family.
#[derive(Clone, Debug)]
pub enum SockAddr {
    /// AF_UNSPEC: dissolves an association.
    Unspec,
    Unix(UnixAddr),
    Inet(SockaddrIn),
    Inet6(SockaddrIn6),
    Netlink(SockaddrNl),
    Packet(SockaddrLl),
    /// A family without a variant here.
    Other(u16),
    /// Too short or too long for its family, or without a family at all.
    Invalid,
}

impl SockAddr {
    /// An endpoint of TCP/IP. IPv4 behind IPv6's clothes counts as IPv4.
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            SockAddr::Inet(v4) => {
                Some(SocketAddr::new(IpAddr::from(v4.sin_addr), u16::from_be_bytes(v4.sin_port)))
            }
            SockAddr::Inet6(v6) => {
                let ip = Ipv6Addr::from(v6.sin6_addr).to_canonical();
                Some(SocketAddr::new(ip, u16::from_be_bytes(v6.sin6_port)))
            }
            _ => None,
        }
    }

    /// From the bytes that came with a system call; `raw.len()` is the length that was passed.
    pub fn parse(raw: &[u8]) -> SockAddr {
        let Some(family) = raw.first_chunk::<2>() else { return SockAddr::Invalid };
        let family = u16::from_ne_bytes(*family);
        match u32::from(family) {
            AF_UNSPEC => SockAddr::Unspec,
            AF_UNIX => match UnixAddr::parse(raw.get(UNIX_HEAD..).unwrap_or_default()) {
                Some(addr) => SockAddr::Unix(addr),
                None => SockAddr::Invalid,
            },
            AF_INET => read(raw).map_or(SockAddr::Invalid, SockAddr::Inet),
            AF_INET6 => {
                // The scope was added later: addresses without it are as long as 24 bytes (SIN6_LEN_RFC2133).
                let mut full = [0; size_of::<SockaddrIn6>()];
                if raw.len() < 24 {
                    return SockAddr::Invalid;
                }
                for (to, from) in full.iter_mut().zip(raw) {
                    *to = *from;
                }
                read(&full).map_or(SockAddr::Invalid, SockAddr::Inet6)
            }
            AF_NETLINK => read(raw).map_or(SockAddr::Invalid, SockAddr::Netlink),
            AF_PACKET => read(raw).map_or(SockAddr::Invalid, SockAddr::Packet),
            _ => SockAddr::Other(family),
        }
    }

    /// As it is handed to the guest. Its length is what the guest is told, whatever fits in its buffer.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            SockAddr::Unspec | SockAddr::Invalid => low16(AF_UNSPEC).to_ne_bytes().to_vec(),
            SockAddr::Other(family) => family.to_ne_bytes().to_vec(),
            SockAddr::Unix(addr) => addr.encode(),
            SockAddr::Inet(addr) => addr.as_bytes().to_vec(),
            SockAddr::Inet6(addr) => addr.as_bytes().to_vec(),
            SockAddr::Netlink(addr) => addr.as_bytes().to_vec(),
            SockAddr::Packet(addr) => addr.as_bytes().to_vec(),
        }
    }
}

fn read<T: FromBytes>(raw: &[u8]) -> Option<T> {
    T::read_from_prefix(raw).ok().map(|(value, _)| value)
}

impl UnixAddr {
    /// From what follows the family; `None` when too long.
    fn parse(path: &[u8]) -> Option<UnixAddr> {
        if path.len() > UNIX_PATH_MAX {
            return None;
        }
        Some(match path.split_first() {
            None => UnixAddr::Unnamed,
            Some((0, name)) => UnixAddr::Abstract(name.to_vec()),
            Some(_) => UnixAddr::Path(path.split(|&b| b == 0).next().unwrap_or_default().to_vec()),
        })
    }

    /// `struct sockaddr_un`: a path ends with a NUL that counts, so the longest one makes 111 bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut raw = low16(AF_UNIX).to_ne_bytes().to_vec();
        match self {
            UnixAddr::Unnamed => {}
            UnixAddr::Path(path) => {
                raw.extend_from_slice(path);
                raw.push(0);
            }
            UnixAddr::Abstract(name) => {
                raw.push(0);
                raw.extend_from_slice(name);
            }
        }
        raw
    }

    /// As /proc/net/unix shows it.
    pub fn text(&self) -> Vec<u8> {
        match self {
            UnixAddr::Unnamed => Vec::new(),
            UnixAddr::Path(path) => path.clone(),
            UnixAddr::Abstract(name) => {
                let shown = name.iter().map(|&b| if b == 0 { b'@' } else { b });
                std::iter::once(b'@').chain(shown).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(path: &[u8]) -> SockAddr {
        let mut raw = (AF_UNIX as u16).to_ne_bytes().to_vec();
        raw.extend_from_slice(path);
        SockAddr::parse(&raw)
    }

    #[test]
    fn unix_lengths() {
        let is = |addr: SockAddr, want: UnixAddr| assert!(matches!(addr, SockAddr::Unix(got) if got == want));
        is(unix(b""), UnixAddr::Unnamed);
        is(unix(b"/a"), UnixAddr::Path(b"/a".to_vec()));
        is(unix(b"/a\0junk"), UnixAddr::Path(b"/a".to_vec()));
        is(unix(b"\0"), UnixAddr::Abstract(Vec::new()));
        is(unix(b"\0a\0b"), UnixAddr::Abstract(b"a\0b".to_vec()));
        is(unix(&[b'x'; 108]), UnixAddr::Path(vec![b'x'; 108]));
        assert!(matches!(unix(&[b'x'; 109]), SockAddr::Invalid));
        assert!(matches!(SockAddr::parse(&[1]), SockAddr::Invalid));
        assert_eq!(unix(&[b'x'; 108]).encode().len(), 111);
        assert_eq!(unix(b"\0a\0b").encode(), [1, 0, 0, b'a', 0, b'b']);
        assert_eq!(UnixAddr::Abstract(b"a\0b".to_vec()).text(), b"@a@b");
    }

    #[test]
    fn inet_lengths() {
        let mut raw = vec![0u8; 16];
        raw[0] = AF_INET as u8;
        assert!(matches!(SockAddr::parse(&raw), SockAddr::Inet(_)));
        assert!(matches!(SockAddr::parse(&raw[..15]), SockAddr::Invalid));
        let mut raw = vec![0u8; 28];
        raw[0] = AF_INET6 as u8;
        assert!(matches!(SockAddr::parse(&raw[..24]), SockAddr::Inet6(_)));
        assert!(matches!(SockAddr::parse(&raw[..23]), SockAddr::Invalid));
        assert_eq!(SockAddr::parse(&raw).encode(), raw);
    }
}
