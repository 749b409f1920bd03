//! Keeping the host's own stack quiet about addresses that are the sandbox's from now on.
//!
//! The interface keeps its addresses and routes, so that whoever made them finds them again: CNI's CHECK compares
//! them, its DEL reads them to remove masquerading rules (with addresses removed, as gVisor does it, the rules stay
//! behind), `podman` and `docker network disconnect` and a restarted sandbox use them. What changes is the table
//! `local`: the entry that makes an address the kernel's own becomes a blackhole. A packet for it is then dropped
//! without an answer, whatever `ip_forward` says (an address that is merely no longer local would be forwarded, and
//! answered with "host unreachable", where forwarding is on), while packet sockets have seen it before. ARP and neighbour
//! solicitations are answered by the sandbox, with the same hardware address.
//!
//! Nothing may change by itself afterwards, which [`settle`] sees to beforehand. An address under duplicate detection would
//! get its local entry back at the end of it, so it is set anew without. The kernel gives an interface its link-local
//! address only once it has noticed the carrier, up to a second after the other end came up; so a missing one is set.
//! Router advertisements are the sandbox's to follow.

use std::net::{IpAddr, Ipv6Addr};

use chitin_control::{LinkConfig, NetworkConfig};

use super::dump::{AF_INET, AF_INET6, RT_TABLE_LOCAL, all_routes};
use super::is_loopback;
use super::netlink::{Netlink, push_attribute};
use crate::util::{Context, Result};

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTN_LOCAL: u8 = 2;
const RTN_ANYCAST: u8 = 4;
const RTN_BLACKHOLE: u8 = 6;
const RTPROT_KERNEL: u8 = 2;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_LINK: u8 = 253;
const IFA_F_NODAD: u8 = 2;
const IFA_F_TENTATIVE: u32 = 0x40;

/// Does it for all interfaces that were taken over.
pub fn silence(netlink: &mut Netlink, config: &NetworkConfig) -> Result<()> {
    let taken: Vec<&LinkConfig> = config.links.iter().filter(|link| !is_loopback(link)).collect();
    let ours = |address: IpAddr| taken.iter().any(|l| l.addresses.iter().any(|a| a.address == address));
    for route in all_routes(netlink)? {
        let on_taken = route.hops.iter().any(|hop| taken.iter().any(|link| link.index == hop.link));
        let own = route.kind == RTN_LOCAL && ours(route.destination);
        let anycast = route.kind == RTN_ANYCAST && on_taken;
        if route.table != RT_TABLE_LOCAL || route.protocol != RTPROT_KERNEL || !(own || anycast) {
            continue;
        }
        let link = route.hops.first().map(|hop| hop.link);
        let destination = route.destination;
        let failed = || format!("cannot keep the host from answering for {destination}");
        order(netlink, RTM_DELROUTE, destination, (route.kind, route.scope, RTPROT_KERNEL), link)
            .context(failed)?;
        order(netlink, RTM_NEWROUTE, destination, (RTN_BLACKHOLE, 0, RTPROT_BOOT), None).context(failed)?;
    }
    Ok(())
}

/// Adds or removes the entry of a single address in the table `local`.
fn order(
    netlink: &mut Netlink,
    request: u16,
    destination: IpAddr,
    (kind, scope, protocol): (u8, u8, u8),
    link: Option<u32>,
) -> Result<()> {
    let (family, raw) = octets(destination);
    let prefix = if family == AF_INET { 32 } else { 128 };
    let table = RT_TABLE_LOCAL.to_le_bytes()[0];
    let mut body = vec![family, prefix, 0, 0, table, protocol, scope, kind, 0, 0, 0, 0];
    push_attribute(&mut body, 1, &raw);
    if let Some(link) = link {
        push_attribute(&mut body, 4, &link.to_ne_bytes());
    }
    netlink.order(request, &body)
}

/// Leaves nothing of an interface's IPv6 configuration to time.
pub fn settle(netlink: &mut Netlink, link: &LinkConfig) -> Result<()> {
    let setting = |name: &str| format!("/proc/sys/net/ipv6/conf/{}/{name}", link.name);
    let is =
        |name: &str, value: &str| std::fs::read_to_string(setting(name)).is_ok_and(|v| v.trim() == value);
    // A kernel without IPv6 has no such files.
    if !is("disable_ipv6", "0") {
        return Ok(());
    }
    let by_hardware = is("addr_gen_mode", "0");
    let failed = |address: Ipv6Addr| move || format!("cannot settle the address {address}");
    for (name, value) in [("accept_ra", "0"), ("addr_gen_mode", "1")] {
        std::fs::write(setting(name), value).context(|| format!("cannot set {name} of {}", link.name))?;
    }
    let mut has_link_local = false;
    for address in &link.addresses {
        let IpAddr::V6(v6) = address.address else { continue };
        has_link_local |= v6.is_unicast_link_local();
        if address.flags & IFA_F_TENTATIVE != 0 {
            let body = address_body(link.index, v6, (address.prefix, address.scope));
            netlink.order(RTM_DELADDR, &body).context(failed(v6))?;
            netlink.order(RTM_NEWADDR, &body).context(failed(v6))?;
        }
    }
    if let Some(v6) = link_local(&link.address).filter(|_| by_hardware && !has_link_local) {
        netlink.order(RTM_NEWADDR, &address_body(link.index, v6, (64, RT_SCOPE_LINK))).context(failed(v6))?;
    }
    Ok(())
}

/// The address that a hardware address makes (RFC 4291, appendix A).
fn link_local(hardware: &[u8]) -> Option<Ipv6Addr> {
    let [a, b, c, d, e, f] = *hardware.first_chunk::<6>()?;
    Some(Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]))
}

/// `struct ifaddrmsg` of an IPv6 address without duplicate detection, with its attributes.
fn address_body(link: u32, address: Ipv6Addr, (prefix, scope): (u8, u8)) -> Vec<u8> {
    let raw = address.octets();
    let mut body = vec![AF_INET6, prefix, IFA_F_NODAD, scope];
    body.extend_from_slice(&link.to_ne_bytes());
    push_attribute(&mut body, 2, &raw);
    push_attribute(&mut body, 1, &raw);
    body
}

fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(v4) => (AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AF_INET6, v6.octets().to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses() {
        let address = link_local(&[0x02, 0xfc, 0, 0, 0, 1]).unwrap();
        assert_eq!(address, "fe80::fc:ff:fe00:1".parse::<Ipv6Addr>().unwrap());
        assert_eq!(link_local(&[]), None);
    }
}
