//! `linux.netDevices`: interfaces of the host that become the container's, as runc moves them.
//!
//! Each is set down, moved and renamed in one step, so that names cannot clash, gets back the addresses that somebody has set
//! for good (a move takes all away) and is set up. At the start the sandbox takes it over like any other. When the
//! namespace goes, the kernel gives a physical interface back to the host's first one.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use chitin_control::rtnetlink::{AF_INET, AF_INET6, push_attribute};
use chitin_control::{AddressConfig, LinkConfig};

use super::dump::dump;
use super::netlink::Netlink;
use super::{namespace_of, within};
use crate::util::Result;

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_F_PERMANENT: u32 = 0x80;
const RT_SCOPE_UNIVERSE: u8 = 0;
const IFF_UP: u32 = 1;

/// Moves `from` into the network namespace of the process `pid`, where its name is `to`.
pub fn move_in(from: &str, to: &str, pid: i32) -> Result<()> {
    let failed = |e: String| format!("linux.netDevices[{from:?}]: {e}");
    let namespace = namespace_of(pid)?;
    // First: the kernel finds a name taken only when the interface has moved, and would leave it there.
    within(namespace_of(pid)?, || refuse_taken(to)).map_err(failed)?;
    let link = take(from, to, &namespace).map_err(failed)?;
    within(namespace, || settle(to, &link)).map_err(failed)
}

fn refuse_taken(name: &str) -> Result<()> {
    match dump(&mut Netlink::open()?)?.links.iter().any(|link| link.name == name) {
        true => Err(format!(
            "the container's network namespace has an interface {name} already; choose another name"
        )),
        false => Ok(()),
    }
}

/// On the host's side. What the interface was.
fn take(from: &str, to: &str, namespace: &File) -> Result<LinkConfig> {
    let mut netlink = Netlink::open()?;
    let found = dump(&mut netlink)?.links.into_iter().find(|link| link.name == from);
    let link = found.ok_or("there is no such interface on the host")?;
    netlink.order(RTM_NEWLINK, &request(link.index, 0)).map_err(|e| format!("cannot set it down: {e}"))?;
    let mut body = request(link.index, 0);
    // Neither up nor down: the name and the namespace alone.
    body.truncate(8);
    body.extend_from_slice(&[0; 8]);
    push_attribute(&mut body, IFLA_IFNAME, format!("{to}\0").as_bytes());
    push_attribute(&mut body, IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
    if let Err(e) = netlink.order(RTM_NEWLINK, &body) {
        if link.flags & IFF_UP != 0 {
            let _ = netlink.order(RTM_NEWLINK, &request(link.index, IFF_UP));
        }
        return Err(format!("cannot move it into the container's network namespace as {to}: {e}"));
    }
    Ok(link)
}

/// Inside the namespace.
fn settle(name: &str, was: &LinkConfig) -> Result<()> {
    let mut netlink = Netlink::open()?;
    let link = dump(&mut netlink)?.links.into_iter().find(|link| link.name == name);
    let index = link.ok_or("it is not where it was moved to")?.index;
    // What is dynamic or has a narrower scope depends on where it was.
    let kept = |a: &&AddressConfig| a.flags & IFA_F_PERMANENT != 0 && a.scope == RT_SCOPE_UNIVERSE;
    for address in was.addresses.iter().filter(kept) {
        netlink
            .order(RTM_NEWADDR, &address_body(index, address))
            .map_err(|e| format!("cannot give it back its address {}: {e}", address.address))?;
    }
    netlink.order(RTM_NEWLINK, &request(index, IFF_UP)).map_err(|e| format!("cannot set it up: {e}"))
}

/// `struct ifinfomsg` that sets an interface up or down.
fn request(index: u32, flags: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend_from_slice(&index.to_ne_bytes());
    body.extend_from_slice(&flags.to_ne_bytes());
    body.extend_from_slice(&IFF_UP.to_ne_bytes());
    body
}

/// `struct ifaddrmsg` with its attributes.
fn address_body(index: u32, address: &AddressConfig) -> Vec<u8> {
    let raw = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let family = if address.address.is_ipv4() { AF_INET } else { AF_INET6 };
    let mut body = vec![family, address.prefix, 0, address.scope];
    body.extend_from_slice(&index.to_ne_bytes());
    push_attribute(&mut body, 2, &raw(address.address));
    push_attribute(&mut body, 1, &raw(address.peer.unwrap_or(address.address)));
    if let Some(broadcast) = address.broadcast {
        push_attribute(&mut body, 4, &raw(broadcast));
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_bytes() {
        let address = AddressConfig {
            address: "10.1.2.3".parse().unwrap(),
            prefix: 24,
            broadcast: Some("10.1.2.255".parse().unwrap()),
            peer: None,
            scope: 0,
            flags: IFA_F_PERMANENT,
            label: Some("old0".into()),
        };
        let body = address_body(7, &address);
        assert_eq!(body.get(..8), Some(&[2, 24, 0, 0, 7, 0, 0, 0][..]));
        let found: Vec<_> = chitin_control::rtnetlink::attributes(&body[8..]).collect();
        let ip: &[u8] = &[10, 1, 2, 3];
        assert_eq!(found, [(2, ip), (1, ip), (4, &[10, 1, 2, 255][..])]);
    }

    #[test]
    fn what_is_not_there_cannot_be_moved() {
        let e = move_in("no-such-link", "no-such-name", std::process::id().cast_signed()).unwrap_err();
        assert_eq!(e, "linux.netDevices[\"no-such-link\"]: there is no such interface on the host");
    }
}
