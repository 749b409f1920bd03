//! Control messages that come with a datagram to be sent (ip_cmsg_send(), ip6_datagram_send_ctl(), udp_cmsg_send()).

use super::addr::canonical;
use chitin_abi::Errno;
use chitin_abi::inet::*;
use chitin_abi::num::low8;
use chitin_abi::socket::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use zerocopy::FromBytes;

/// What they say.
#[derive(Clone, Debug, Default)]
pub struct Ancillary {
    pub index: u32,
    pub source: Option<IpAddr>,
    pub ttl: Option<u8>,
    pub tos: Option<u8>,
    pub segment: Option<u16>,
}

impl Ancillary {
    pub fn parse(messages: &[(u32, u32, Vec<u8>)], v6: bool) -> Result<Ancillary, Errno> {
        let mut said = Ancillary::default();
        for (level, kind, data) in messages {
            let int = || data.first_chunk().map(|raw| i32::from_ne_bytes(*raw)).ok_or(Errno::EINVAL);
            match (*level, *kind) {
                (SOL_IP, IP_PKTINFO) => {
                    let info = InPktinfo::read_from_bytes(data).map_err(|_| Errno::EINVAL)?;
                    said.index = info.ipi_ifindex.cast_unsigned();
                    let source = Ipv4Addr::from(info.ipi_spec_dst);
                    said.source = (!source.is_unspecified()).then_some(IpAddr::V4(source));
                }
                (SOL_IP, IP_TTL) => {
                    said.ttl = Some(u8::try_from(int()?).ok().filter(|&ttl| ttl > 0).ok_or(Errno::EINVAL)?);
                }
                (SOL_IP, IP_TOS) => {
                    let tos = if data.len() == 1 { data.first().copied().map(i32::from) } else { int().ok() };
                    said.tos = Some(low8(tos.ok_or(Errno::EINVAL)?.cast_unsigned()));
                }
                (SOL_IP, IP_RETOPTS | IP_PROTOCOL) => {}
                (SOL_IPV6, IPV6_PKTINFO) if v6 => {
                    let (info, _) = In6Pktinfo::read_from_prefix(data).map_err(|_| Errno::EINVAL)?;
                    said.index = info.ipi6_ifindex.cast_unsigned();
                    let source = canonical(Ipv6Addr::from(info.ipi6_addr));
                    said.source = (!source.is_unspecified()).then_some(source);
                }
                (SOL_IPV6, IPV6_HOPLIMIT) if v6 => {
                    let hops = int()?;
                    if !(-1..=255).contains(&hops) {
                        return Err(Errno::EINVAL);
                    }
                    said.ttl = u8::try_from(hops).ok();
                }
                (SOL_IPV6, IPV6_TCLASS) if v6 => {
                    let class = int()?;
                    if !(-1..=255).contains(&class) {
                        return Err(Errno::EINVAL);
                    }
                    said.tos = u8::try_from(class).ok();
                }
                (SOL_IPV6, IPV6_DONTFRAG | IPV6_HOPOPTS | IPV6_DSTOPTS | IPV6_RTHDR) if v6 => {}
                (SOL_IP | SOL_IPV6, _) => return Err(Errno::EINVAL),
                (SOL_UDP, UDP_SEGMENT) => {
                    let raw = <[u8; 2]>::try_from(data.as_slice()).map_err(|_| Errno::EINVAL)?;
                    said.segment = Some(u16::from_ne_bytes(raw));
                }
                (SOL_UDP, _) => return Err(Errno::EINVAL),
                _ => {}
            }
        }
        Ok(said)
    }
}
