//! A small rtnetlink client: dumps, and single requests with their acknowledgement.
//!
//! It speaks to the kernel of the network namespace that the calling thread is in.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use crate::util::{Context, Result};

const HEADER: usize = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_DUMP: u16 = 0x300;
/// The kernel never sends more at a time.
const BUFFER: usize = 64 << 10;

pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub fn open() -> Result<Self> {
        let socket =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute);
        Ok(Self { socket: socket.context(|| "cannot open a netlink socket".into())?, sequence: 0 })
    }

    /// All objects of a kind: the bodies of the answers. `head` is the request's fixed part.
    pub fn dump(&mut self, kind: u16, head: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        self.talk(kind, NLM_F_DUMP, head, &mut |body| found.push(body.to_vec()))?;
        Ok(found)
    }

    /// One request that changes something, or makes it.
    pub fn order(&mut self, kind: u16, body: &[u8]) -> Result<()> {
        self.talk(kind, NLM_F_ACK | NLM_F_CREATE, body, &mut |_| {})
    }

    fn talk(&mut self, kind: u16, flags: u16, body: &[u8], each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let failed = || "netlink".to_owned();
        self.sequence += 1;
        let length = u32::try_from(HEADER + body.len()).context(failed)?;
        let mut request = length.to_ne_bytes().to_vec();
        request.extend_from_slice(&kind.to_ne_bytes());
        request.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        request.extend_from_slice(&self.sequence.to_ne_bytes());
        request.extend_from_slice(&[0; 4]);
        request.extend_from_slice(body);
        send(self.socket.as_raw_fd(), &request, MsgFlags::empty()).context(failed)?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(nix::Error::EINTR) => continue,
                other => other.context(failed)?,
            };
            let mut rest = buffer.get(..count).unwrap_or_default();
            while let Some(message) = Message::split(&mut rest) {
                if message.sequence != self.sequence {
                    continue;
                }
                match message.kind {
                    // NLMSG_ERROR (0 is the acknowledgement) and NLMSG_DONE.
                    2 | 3 => {
                        let code = i32_at(message.body, 0).unwrap_or(0);
                        return match code {
                            0 => Ok(()),
                            code => Err(std::io::Error::from_raw_os_error(code.wrapping_neg()).to_string()),
                        };
                    }
                    _ => each(message.body),
                }
            }
        }
    }
}

struct Message<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    /// Takes the first message off.
    fn split(rest: &mut &'a [u8]) -> Option<Self> {
        let length = usize::try_from(u32_at(rest, 0)?).ok()?;
        let message = rest.get(..length)?;
        let body = message.get(HEADER..)?;
        *rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Self { kind: u16_at(message, 4)?, sequence: u32_at(message, 8)?, body })
    }
}

/// The attributes in `bytes`: kinds without flags, and values.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Appends an attribute.
pub fn push_attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    to.extend_from_slice(&length.to_ne_bytes());
    to.extend_from_slice(&kind.to_ne_bytes());
    to.extend_from_slice(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

pub fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|raw| u16::from_ne_bytes(*raw))
}

pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|raw| u32::from_ne_bytes(*raw))
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    u32_at(bytes, at).map(u32::cast_signed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_taken_apart() {
        let mut bytes = Vec::new();
        push_attribute(&mut bytes, 3, b"lo\0");
        push_attribute(&mut bytes, 0x8000 | 4, &7u32.to_ne_bytes());
        let all: Vec<_> = attributes(&bytes).collect();
        assert_eq!(all, [(3, &b"lo\0"[..]), (4, &7u32.to_ne_bytes()[..])]);
        // Lengths that lie end the list.
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[9, 0, 1, 0, 5]).count(), 0);
        assert_eq!(attributes(&[4]).count(), 0);
    }

    #[test]
    fn the_kernel_answers() {
        let mut netlink = Netlink::open().unwrap();
        // RTM_GETLINK: there is at least `lo`.
        let links = netlink.dump(18, &[0; 16]).unwrap();
        assert!(links.iter().any(|link| attributes(link.get(16..).unwrap()).any(|a| a == (3, b"lo\0"))));
        // RTM_DELLINK of an index that nobody has.
        let mut head = [0; 16];
        head[4..8].copy_from_slice(&0x7fff_fff0u32.to_ne_bytes());
        assert!(netlink.order(17, &head).is_err());
    }
}
