//! Netlink messages: building them, and reading attributes of what a guest sent.

use chitin_abi::Errno;
use chitin_abi::netdevice::IFNAMSIZ;
use chitin_abi::netlink::*;
use chitin_abi::socket::NlMsgHdr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Bytes of a message's head.
pub(super) const HEAD: usize = size_of::<NlMsgHdr>();

pub(super) fn align(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// A message being built.
pub(super) struct Message(Vec<u8>);

impl Message {
    /// `port` is the receiver's; of events both numbers are 0.
    pub(super) fn new(kind: u16, flags: u16, seq: u32, port: u32) -> Message {
        let head =
            NlMsgHdr { nlmsg_len: 0, nlmsg_type: kind, nlmsg_flags: flags, nlmsg_seq: seq, nlmsg_pid: port };
        Message(head.as_bytes().to_vec())
    }
    pub(super) fn bytes(mut self, data: &[u8]) -> Message {
        self.0.extend_from_slice(data);
        self
    }
    pub(super) fn body(self, body: &(impl IntoBytes + Immutable)) -> Message {
        self.bytes(body.as_bytes())
    }
    pub(super) fn attr(mut self, kind: u16, data: &[u8]) -> Message {
        // Nothing here is longer than a packet.
        let len = u16::try_from(data.len().saturating_add(4)).unwrap_or(4);
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(data.get(..usize::from(len).saturating_sub(4)).unwrap_or_default());
        self.0.resize(align(self.0.len()), 0);
        self
    }
    pub(super) fn text(self, kind: u16, text: &str) -> Message {
        let mut raw = text.as_bytes().to_vec();
        raw.push(0);
        self.attr(kind, &raw)
    }
    pub(super) fn u32(self, kind: u16, value: u32) -> Message {
        self.attr(kind, &value.to_ne_bytes())
    }
    pub(super) fn u8(self, kind: u16, value: u8) -> Message {
        self.attr(kind, &[value])
    }
    pub(super) fn ip(self, kind: u16, addr: &IpAddr) -> Message {
        match addr {
            IpAddr::V4(v4) => self.attr(kind, &v4.octets()),
            IpAddr::V6(v6) => self.attr(kind, &v6.octets()),
        }
    }
    /// If there is something to tell.
    pub(super) fn maybe<T>(self, value: Option<T>, add: impl FnOnce(Message, T) -> Message) -> Message {
        match value {
            Some(value) => add(self, value),
            None => self,
        }
    }
    /// An attribute made of attributes.
    pub(super) fn nest(self, kind: u16, add: impl FnOnce(Message) -> Message) -> Message {
        let inner = add(Message(Vec::new())).0;
        self.attr(kind, &inner)
    }
    /// The bytes alone, for what is no message.
    pub(super) fn part(add: impl FnOnce(Message) -> Message) -> Vec<u8> {
        add(Message(Vec::new())).0
    }
    pub(super) fn finish(mut self) -> Vec<u8> {
        let len = u32::try_from(self.0.len()).unwrap_or(0);
        if let Some(head) = self.0.first_chunk_mut::<4>() {
            *head = len.to_ne_bytes();
        }
        self.0.resize(align(self.0.len()), 0);
        self.0
    }
}

/// The attributes behind a structure, the last of each type.
pub(super) struct Attrs<'a>(Vec<(u16, &'a [u8])>);

impl<'a> Attrs<'a> {
    /// What is cut short at the end is passed over, as nla_parse() does.
    pub(super) fn read(mut raw: &'a [u8]) -> Attrs<'a> {
        let mut found = Vec::new();
        while let Some(([l0, l1, k0, k1], _)) = raw.split_first_chunk::<4>() {
            let len = usize::from(u16::from_ne_bytes([*l0, *l1]));
            let kind = u16::from_ne_bytes([*k0, *k1]) & NLA_TYPE_MASK;
            let Some(data) = raw.get(4..len) else { break };
            found.push((kind, data));
            raw = raw.get(align(len)..).unwrap_or_default();
        }
        Attrs(found)
    }

    pub(super) fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.0.iter().rev().find(|(known, _)| *known == kind).map(|(_, data)| *data)
    }
    /// A number; EINVAL (nla_policy's ERANGE came later) if it is too short.
    pub(super) fn u32(&self, kind: u16) -> Result<Option<u32>, Errno> {
        self.get(kind)
            .map(|data| data.first_chunk().map(|raw| u32::from_ne_bytes(*raw)).ok_or(Errno::EINVAL))
            .transpose()
    }
    pub(super) fn u8(&self, kind: u16) -> Result<Option<u8>, Errno> {
        self.get(kind).map(|data| data.first().copied().ok_or(Errno::EINVAL)).transpose()
    }
    /// An address of the family; EINVAL if it has another length.
    pub(super) fn ip(&self, kind: u16, v4: bool) -> Result<Option<IpAddr>, Errno> {
        self.get(kind).map(|data| ip(data, v4)).transpose()
    }
    /// A name of an interface; ERANGE if it is too long.
    pub(super) fn name(&self, kind: u16) -> Result<Option<String>, Errno> {
        self.text(kind, IFNAMSIZ - 1)
    }
    /// A string of at most so many bytes, as NLA_STRING of nla_policy has it.
    pub(super) fn text(&self, kind: u16, most: usize) -> Result<Option<String>, Errno> {
        self.get(kind)
            .map(|data| {
                if data.strip_suffix(&[0]).unwrap_or(data).len() > most {
                    return Err(Errno::ERANGE);
                }
                let text = data.split(|byte| *byte == 0).next().unwrap_or_default();
                String::from_utf8(text.to_vec()).map_err(|_| Errno::EINVAL)
            })
            .transpose()
    }
}

pub(super) fn ip(data: &[u8], v4: bool) -> Result<IpAddr, Errno> {
    if v4 {
        let raw: [u8; 4] = data.try_into().map_err(|_| Errno::EINVAL)?;
        Ok(Ipv4Addr::from(raw).into())
    } else {
        let raw: [u8; 16] = data.try_into().map_err(|_| Errno::EINVAL)?;
        Ok(Ipv6Addr::from(raw).into())
    }
}

/// A structure and the attributes behind it; EINVAL if it is cut short.
pub(super) fn split<T: FromBytes>(body: &[u8]) -> Result<(T, Attrs<'_>), Errno> {
    let (head, _) = T::read_from_prefix(body).map_err(|_| Errno::EINVAL)?;
    Ok((head, Attrs::read(body.get(align(size_of::<T>())..).unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let raw = Message::new(1, 2, 3, 4).text(IFLA_IFNAME, "lo").u32(IFLA_MTU, 7).finish();
        assert_eq!(raw.len() % 4, 0);
        assert_eq!(raw.first_chunk().map(|raw| u32::from_ne_bytes(*raw)), Some(raw.len() as u32));
        let attrs = Attrs::read(&raw[HEAD..]);
        assert_eq!(attrs.name(IFLA_IFNAME), Ok(Some("lo".to_owned())));
        assert_eq!(attrs.u32(IFLA_MTU), Ok(Some(7)));
        assert_eq!(attrs.u32(IFLA_IFNAME), Err(Errno::EINVAL));
        assert_eq!(attrs.u8(IFLA_GROUP), Ok(None));
    }

    #[test]
    fn nonsense_is_passed_over() {
        for raw in [&[][..], &[1], &[0, 0, 0, 0], &[255, 255, 1, 0, 1], &[3, 0, 1, 0], &[4, 0, 1, 0, 9]] {
            assert!(Attrs::read(raw).0.len() <= 1, "{raw:?}");
        }
        assert!(split::<IfInfoMsg>(&[0; 15]).is_err());
    }
}
