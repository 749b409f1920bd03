//! rtnetlink(7): answers about interfaces and addresses. Changing them is not supported.

use crate::NetNs;
use crate::iface::{IfaceAddr, Interface};
use chitin_abi::Errno;
use chitin_abi::netdevice::*;
use chitin_abi::num::low8;
use chitin_abi::socket::*;
use std::net::IpAddr;
use zerocopy::{FromBytes, IntoBytes};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Types below are the protocol's own.
const NLMSG_MIN_TYPE: u16 = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_MULTI: u16 = 2;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// On an error: the request was cut off after its head.
const NLM_F_CAPPED: u16 = 0x100;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const RTM_MAX: u16 = 123;

const IFLA_ADDRESS: u16 = 1;
const IFLA_BROADCAST: u16 = 2;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_QDISC: u16 = 6;
const IFLA_TXQLEN: u16 = 13;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKMODE: u16 = 17;
const IFLA_ALT_IFNAME: u16 = 53;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
const RT_SCOPE_HOST: u8 = 254;

/// Bytes of a message's head, and of `struct ifinfomsg`.
const HEAD: usize = size_of::<NlMsgHdr>();
const IFINFO: usize = 16;
/// An answer's packets are about as long as this.
const PACKET: usize = 8192;

/// Who asks.
pub struct Asker {
    pub port: u32,
    pub admin: bool,
    /// Switches of SOL_NETLINK.
    pub options: u32,
}

fn align(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// A message being built.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16, request: &NlMsgHdr, asker: &Asker) -> Message {
        let head = NlMsgHdr {
            nlmsg_len: 0,
            nlmsg_type: kind,
            nlmsg_flags: flags,
            nlmsg_seq: request.nlmsg_seq,
            nlmsg_pid: asker.port,
        };
        Message(head.as_bytes().to_vec())
    }
    fn bytes(mut self, data: &[u8]) -> Message {
        self.0.extend_from_slice(data);
        self
    }
    fn attr(mut self, kind: u16, data: &[u8]) -> Message {
        let len = u16::try_from(4 + data.len()).unwrap_or(4);
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(data.get(..usize::from(len) - 4).unwrap_or_default());
        self.0.resize(align(self.0.len()), 0);
        self
    }
    fn text(self, kind: u16, text: &str) -> Message {
        let mut raw = text.as_bytes().to_vec();
        raw.push(0);
        self.attr(kind, &raw)
    }
    fn finish(mut self) -> Vec<u8> {
        let len = u32::try_from(self.0.len()).unwrap_or(0);
        if let Some(head) = self.0.first_chunk_mut::<4>() {
            *head = len.to_ne_bytes();
        }
        self.0.resize(align(self.0.len()), 0);
        self.0
    }
}

/// Answers the requests in a buffer: the packets to be received.
pub fn handle(ns: &NetNs, mut raw: &[u8], asker: &Asker) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    // What is cut short is passed over, as netlink_rcv_skb() does.
    while let Ok((head, _)) = NlMsgHdr::read_from_prefix(raw) {
        let len = head.nlmsg_len as usize;
        let Some(request) = raw.get(..len).filter(|_| len >= HEAD) else { break };
        let mut result = Ok(());
        if head.nlmsg_flags & NLM_F_REQUEST != 0 && head.nlmsg_type >= NLMSG_MIN_TYPE {
            result = answer(ns, &head, request.get(HEAD..).unwrap_or_default(), asker, &mut out);
        }
        let dumped = head.nlmsg_flags & NLM_F_DUMP != 0 && result.is_ok();
        if result.is_err() || (head.nlmsg_flags & NLM_F_ACK != 0 && !dumped) {
            out.push(error(&head, request, result, asker));
        }
        raw = raw.get(align(len)..).unwrap_or_default();
    }
    out
}

/// NLMSG_ERROR, also as an acknowledgement.
fn error(head: &NlMsgHdr, request: &[u8], result: Result<(), Errno>, asker: &Asker) -> Vec<u8> {
    let code = result.map_or_else(|error| -error.raw(), |()| 0);
    let capped = asker.options & 1 << NETLINK_CAP_ACK != 0 || code == 0;
    let flags = if capped { NLM_F_CAPPED } else { 0 };
    let quoted = if capped { request.get(..HEAD) } else { Some(request) };
    let message = Message::new(NLMSG_ERROR, flags, head, asker);
    message.bytes(&code.to_ne_bytes()).bytes(quoted.unwrap_or_default()).finish()
}

fn answer(
    ns: &NetNs,
    head: &NlMsgHdr,
    body: &[u8],
    asker: &Asker,
    out: &mut Vec<Vec<u8>>,
) -> Result<(), Errno> {
    if head.nlmsg_type > RTM_MAX {
        return Err(Errno::EOPNOTSUPP);
    }
    // Types come in fours: new, delete, get, set.
    if head.nlmsg_type & 3 != 2 && !asker.admin {
        return Err(Errno::EPERM);
    }
    let Some(&family) = body.first() else { return Ok(()) };
    let dump = head.nlmsg_flags & NLM_F_DUMP != 0;
    let interfaces = ns.interfaces();
    let mut messages: Vec<Vec<u8>> = Vec::new();
    match head.nlmsg_type {
        RTM_GETLINK if dump => {
            messages.extend(interfaces.iter().map(|iface| link(iface, NLM_F_MULTI, head, asker)));
        }
        RTM_GETLINK => {
            let iface = find(&interfaces, body)?;
            out.push(link(iface, 0, head, asker));
            return Ok(());
        }
        RTM_GETADDR if dump => {
            let strict = asker.options & 1 << NETLINK_GET_STRICT_CHK != 0;
            let index =
                body.get(4..8).and_then(|raw| raw.first_chunk()).map_or(0, |raw| u32::from_ne_bytes(*raw));
            for v6 in [false, true] {
                let asked = if v6 { AF_INET6 } else { AF_INET };
                if family != 0 && u32::from(family) != asked {
                    continue;
                }
                for iface in interfaces.iter().filter(|iface| !strict || index == 0 || iface.index == index) {
                    let addrs = iface.addrs.iter().filter(|addr| addr.addr.is_ipv6() == v6);
                    messages.extend(addrs.map(|addr| address(iface, addr, head, asker)));
                }
            }
        }
        // There is no routing without the stack: an empty table.
        RTM_GETROUTE if dump => {}
        _ => return Err(Errno::EOPNOTSUPP),
    }
    let mut packet = Vec::new();
    for message in messages {
        if !packet.is_empty() && packet.len() + message.len() > PACKET {
            out.push(std::mem::take(&mut packet));
        }
        packet.extend(message);
    }
    if !packet.is_empty() {
        out.push(packet);
    }
    out.push(Message::new(NLMSG_DONE, NLM_F_MULTI, head, asker).bytes(&0i32.to_ne_bytes()).finish());
    Ok(())
}

/// The interface that a RTM_GETLINK names by index or name.
fn find<'a>(interfaces: &'a [Interface], body: &[u8]) -> Result<&'a Interface, Errno> {
    let info = body.get(..IFINFO).ok_or(Errno::EINVAL)?;
    let index = info.get(4..8).and_then(|raw| raw.first_chunk()).map_or(0, |raw| u32::from_ne_bytes(*raw));
    if index != 0 {
        return interfaces.iter().find(|iface| iface.index == index).ok_or(Errno::ENODEV);
    }
    let mut rest = body.get(IFINFO..).unwrap_or_default();
    while let Some((head, _)) = rest.split_first_chunk::<4>() {
        let [a, b, c, d] = *head;
        let (len, kind) = (usize::from(u16::from_ne_bytes([a, b])), u16::from_ne_bytes([c, d]));
        let Some(data) = rest.get(4..len) else { return Err(Errno::EINVAL) };
        if kind == IFLA_IFNAME || kind == IFLA_ALT_IFNAME {
            let name = data.split(|&byte| byte == 0).next().unwrap_or_default();
            return interfaces.iter().find(|iface| iface.name.as_bytes() == name).ok_or(Errno::ENODEV);
        }
        rest = rest.get(align(len)..).unwrap_or_default();
    }
    Err(Errno::EINVAL)
}

fn link(iface: &Interface, flags: u16, head: &NlMsgHdr, asker: &Asker) -> Vec<u8> {
    // struct ifinfomsg: family, padding, hardware type, index, flags, change mask.
    let mut info = vec![0, 0];
    info.extend_from_slice(&iface.hw_type.to_ne_bytes());
    info.extend_from_slice(&iface.index.to_ne_bytes());
    info.extend_from_slice(&iface.flags.to_ne_bytes());
    info.extend_from_slice(&0u32.to_ne_bytes());
    let state = match (iface.flags & IFF_UP != 0, iface.flags & IFF_LOOPBACK != 0) {
        (false, _) => IF_OPER_DOWN,
        (true, true) => IF_OPER_UNKNOWN,
        (true, false) => IF_OPER_UP,
    };
    let broadcast = if iface.flags & IFF_LOOPBACK != 0 { [0; ETH_ALEN] } else { [0xff; ETH_ALEN] };
    Message::new(RTM_NEWLINK, flags, head, asker)
        .bytes(&info)
        .text(IFLA_IFNAME, &iface.name)
        .attr(IFLA_TXQLEN, &iface.tx_queue_len.to_ne_bytes())
        .attr(IFLA_OPERSTATE, &[state])
        .attr(IFLA_LINKMODE, &[0])
        .attr(IFLA_MTU, &iface.mtu.to_ne_bytes())
        .text(IFLA_QDISC, "noqueue")
        .attr(IFLA_ADDRESS, &iface.hw_addr)
        .attr(IFLA_BROADCAST, &broadcast)
        .finish()
}

fn address(iface: &Interface, addr: &IfaceAddr, head: &NlMsgHdr, asker: &Asker) -> Vec<u8> {
    let family = if addr.addr.is_ipv4() { AF_INET } else { AF_INET6 };
    let scope = if addr.addr.is_loopback() { RT_SCOPE_HOST } else { 0 };
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let mut info = vec![low8(family), addr.prefix, low8(IFA_F_PERMANENT), scope];
    info.extend_from_slice(&iface.index.to_ne_bytes());
    let message = Message::new(RTM_NEWADDR, NLM_F_MULTI, head, asker).bytes(&info);
    let message = match addr.addr {
        IpAddr::V4(v4) => {
            message.attr(IFA_ADDRESS, &v4.octets()).attr(IFA_LOCAL, &v4.octets()).text(IFA_LABEL, &iface.name)
        }
        IpAddr::V6(v6) => message.attr(IFA_ADDRESS, &v6.octets()),
    };
    message.attr(IFA_FLAGS, &IFA_F_PERMANENT.to_ne_bytes()).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(kind: u16, flags: u16, body: &[u8], admin: bool) -> Vec<Vec<u8>> {
        let head = NlMsgHdr {
            nlmsg_len: (HEAD + body.len()) as u32,
            nlmsg_type: kind,
            nlmsg_flags: flags | NLM_F_REQUEST,
            nlmsg_seq: 7,
            nlmsg_pid: 0,
        };
        let raw = [head.as_bytes(), body].concat();
        handle(&NetNs::new(true), &raw, &Asker { port: 42, admin, options: 0 })
    }

    fn heads(packets: &[Vec<u8>]) -> Vec<(u16, u16, u32, u32)> {
        let mut out = Vec::new();
        for packet in packets {
            let mut rest = &packet[..];
            while let Ok((head, _)) = NlMsgHdr::read_from_prefix(rest) {
                out.push((head.nlmsg_type, head.nlmsg_flags, head.nlmsg_seq, head.nlmsg_pid));
                rest = &rest[align(head.nlmsg_len as usize)..];
            }
            assert!(rest.is_empty());
        }
        out
    }

    #[test]
    fn dumps() {
        let done = (NLMSG_DONE, NLM_F_MULTI, 7, 42);
        let links = ask(RTM_GETLINK, NLM_F_DUMP, &[0; 16], false);
        assert_eq!(heads(&links), [(RTM_NEWLINK, NLM_F_MULTI, 7, 42), done]);
        assert!(links[0].windows(3).any(|three| three == b"lo\0"));
        let addr = (RTM_NEWADDR, NLM_F_MULTI, 7, 42);
        assert_eq!(heads(&ask(RTM_GETADDR, NLM_F_DUMP, &[0; 8], false)), [addr, addr, done]);
        let v4 = ask(RTM_GETADDR, NLM_F_DUMP, &[2, 0, 0, 0, 0, 0, 0, 0], false);
        assert_eq!(heads(&v4), [addr, done]);
        assert!(v4[0].windows(4).any(|four| four == [127, 0, 0, 1]));
        assert_eq!(heads(&ask(RTM_GETROUTE, NLM_F_DUMP, &[0; 12], false)), [done]);
    }

    #[test]
    fn single_links_and_errors() {
        let by_index = |index: u8| {
            let mut body = [0; 16];
            body[4] = index;
            ask(RTM_GETLINK, 0, &body, false)
        };
        assert_eq!(heads(&by_index(1)), [(RTM_NEWLINK, 0, 7, 42)]);
        let code = |packets: &[Vec<u8>]| i32::from_ne_bytes(packets[0][HEAD..HEAD + 4].try_into().unwrap());
        assert_eq!(code(&by_index(9)), -Errno::ENODEV.raw());
        let named = [&[0u8; 16][..], &[7, 0, 3, 0, b'l', b'o', 0, 0]].concat();
        assert_eq!(heads(&ask(RTM_GETLINK, NLM_F_ACK, &named, false))[0].0, RTM_NEWLINK);
        assert_eq!(code(&ask(RTM_NEWLINK, 0, &[0; 16], false)), -Errno::EPERM.raw());
        assert_eq!(code(&ask(RTM_NEWLINK, 0, &[0; 16], true)), -Errno::EOPNOTSUPP.raw());
        // Lengths that lie are passed over.
        let lie =
            NlMsgHdr { nlmsg_len: 99, nlmsg_type: RTM_GETLINK, nlmsg_flags: 1, nlmsg_seq: 0, nlmsg_pid: 0 };
        let asker = Asker { port: 1, admin: false, options: 0 };
        assert!(handle(&NetNs::new(true), lie.as_bytes(), &asker).is_empty());
    }
}
