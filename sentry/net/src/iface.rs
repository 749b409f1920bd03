//! Network interfaces as the device ioctls (netdevice(7)) show and change them: [`addr`] their addresses, [`route`] the
//! routes, [`arp`] the neighbours.
//!
//! Who has CAP_NET_ADMIN over the namespace may change what is in it. Others are told so before anything else.

mod addr;
pub(crate) mod arp;
mod route;

use crate::NetNs;
use crate::options::Common;
use chitin_abi::Errno;
use chitin_abi::capability::CAP_NET_ADMIN;
use chitin_abi::ioctl::*;
use chitin_abi::netdevice::*;
use chitin_abi::num::low16;
use chitin_abi::socket::{AF_INET, AF_INET6, AF_PACKET};
use chitin_mm::Mm;
use chitin_netstack::Link;
use chitin_netstack::config::LinkChange;
use chitin_vfs::walk::Caller;
use std::sync::Arc;

/// An interface address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IfaceAddr {
    pub addr: std::net::IpAddr,
    pub prefix: u8,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub name: String,
    /// IFF_*.
    pub flags: u32,
    pub mtu: u32,
    /// ARPHRD_*.
    pub hw_type: u16,
    pub hw_addr: [u8; ETH_ALEN],
    pub tx_queue_len: u32,
    pub addrs: Vec<IfaceAddr>,
}

/// A request with who makes it.
struct Request<'a> {
    ns: &'a NetNs,
    caller: &'a Caller,
    mm: &'a Arc<Mm>,
    cmd: u32,
    arg: u64,
}

impl Request<'_> {
    /// Whether the caller may change the namespace.
    fn administers(&self) -> Result<(), Errno> {
        if self.ns.allows(&self.caller.creds, CAP_NET_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// The link that is meant. What follows a colon is the label of an address.
    fn link(&self, ifr: &Ifreq) -> Result<Link, Errno> {
        let name = label(ifr).split(':').next().unwrap_or_default();
        self.ns.stack.config.link_by_name(name).ok_or(Errno::ENODEV)
    }
}

/// A name as far as it goes; it is no link's if it is no text.
fn label(ifr: &Ifreq) -> &str {
    let name = ifr.ifr_name.get(..IFNAMSIZ - 1).unwrap_or_default();
    std::str::from_utf8(name.split(|&byte| byte == 0).next().unwrap_or_default()).unwrap_or_default()
}

fn union(data: &[u8]) -> [u8; 24] {
    let mut out = [0; 24];
    for (to, from) in out.iter_mut().zip(data) {
        *to = *from;
    }
    out
}

fn int(ifr: &Ifreq) -> i32 {
    ifr.ifr_ifru.first_chunk().map_or(0, |raw| i32::from_ne_bytes(*raw))
}

/// Device requests of a socket (inet_ioctl(), inet6_ioctl(), dev_ioctl()); ENOTTY for all others.
pub fn ioctl(common: &Common, caller: &Caller, (cmd, arg): (u32, u64), mm: &Arc<Mm>) -> Result<i64, Errno> {
    let request = Request { ns: &common.ns, caller, mm, cmd, arg };
    match (common.family, cmd) {
        (AF_INET | AF_PACKET, SIOCADDRT | SIOCDELRT) => route::change4(&request)?,
        (AF_INET | AF_PACKET, SIOCRTMSG) => return Err(Errno::EINVAL),
        (AF_INET | AF_PACKET, SIOCGIFADDR | SIOCGIFBRDADDR | SIOCGIFNETMASK | SIOCGIFDSTADDR) => {
            addr::show(&request)?;
        }
        (
            AF_INET | AF_PACKET,
            SIOCSIFADDR | SIOCSIFBRDADDR | SIOCSIFNETMASK | SIOCSIFDSTADDR | SIOCSIFFLAGS,
        ) => addr::change4(&request)?,
        (AF_INET | AF_PACKET, SIOCSARP | SIOCGARP | SIOCDARP) => arp::request(&request)?,
        (AF_INET6, SIOCADDRT | SIOCDELRT) => route::change6(&request)?,
        (AF_INET6, SIOCSIFADDR | SIOCDIFADDR) => addr::change6(&request)?,
        (_, SIOCGIFCONF) => return conf(&common.ns, arg, mm),
        (_, SIOCGIFNAME | SIOCGIFINDEX | SIOCGIFFLAGS | SIOCGIFMTU | SIOCGIFHWADDR | SIOCGIFTXQLEN)
        | (_, SIOCGIFMETRIC | SIOCGIFMAP) => show(&request)?,
        (_, SIOCSIFFLAGS | SIOCSIFMTU | SIOCSIFNAME | SIOCSIFHWADDR | SIOCSIFTXQLEN | SIOCSIFMETRIC) => {
            change(&request)?;
        }
        _ => return Err(Errno::ENOTTY),
    }
    Ok(0)
}

fn show(request: &Request<'_>) -> Result<(), Errno> {
    let mut ifr: Ifreq = request.mm.read(request.arg)?;
    if request.cmd == SIOCGIFNAME {
        let index = u32::try_from(int(&ifr)).map_err(|_| Errno::ENODEV)?;
        ifr.ifr_name = name(&request.ns.stack.config.link(index).ok_or(Errno::ENODEV)?.name);
        return request.mm.write(request.arg, &ifr);
    }
    let link = request.link(&ifr)?;
    ifr.ifr_ifru = match request.cmd {
        SIOCGIFINDEX => union(&link.index.to_ne_bytes()),
        // A short: the flags above 16 bits are rtnetlink's alone.
        SIOCGIFFLAGS => union(&low16(link.flags).to_ne_bytes()),
        SIOCGIFMTU => union(&link.mtu.to_ne_bytes()),
        SIOCGIFTXQLEN => union(&link.tx_queue_len.to_ne_bytes()),
        SIOCGIFHWADDR => {
            let [low, high] = link.hw_type.to_ne_bytes();
            let [a, b, c, d, e, f] = link.hw_addr;
            union(&[low, high, a, b, c, d, e, f])
        }
        _ => [0; 24],
    };
    request.mm.write(request.arg, &ifr)
}

/// Changes of a link (dev_ifsioc()).
fn change(request: &Request<'_>) -> Result<(), Errno> {
    let ifr: Ifreq = request.mm.read(request.arg)?;
    // The queue's length is the machine's administrator's.
    match request.cmd {
        SIOCSIFTXQLEN if !request.caller.creds.capable(CAP_NET_ADMIN) => return Err(Errno::EPERM),
        _ => request.administers()?,
    }
    let link = request.link(&ifr)?;
    let positive = || u32::try_from(int(&ifr)).map_err(|_| Errno::EINVAL);
    let mut change = LinkChange::default();
    match request.cmd {
        SIOCSIFFLAGS => change.flags = (u32::MAX, flags(&ifr)),
        SIOCSIFMTU => change.mtu = Some(positive()?),
        SIOCSIFTXQLEN => change.tx_queue_len = Some(positive()?),
        SIOCSIFNAME => {
            let new = Ifreq { ifr_name: *ifr.ifr_ifru.first_chunk().ok_or(Errno::EINVAL)?, ..ifr };
            change.name = Some(label(&new).to_owned());
        }
        SIOCSIFHWADDR => {
            let raw = ifr.ifr_ifru.first_chunk().map_or(0, |raw| u16::from_ne_bytes(*raw));
            if raw != link.hw_type {
                return Err(Errno::EINVAL);
            }
            change.hw_addr = ifr.ifr_ifru.get(2..).and_then(<[u8]>::first_chunk).copied();
        }
        _ => return Err(Errno::EOPNOTSUPP),
    }
    request.ns.stack.config.link_change(link.index, &change)
}

/// A short.
fn flags(ifr: &Ifreq) -> u32 {
    ifr.ifr_ifru.first_chunk().map_or(0, |raw| u16::from_ne_bytes(*raw)).into()
}

fn name(name: &str) -> [u8; IFNAMSIZ] {
    let mut raw = [0; IFNAMSIZ];
    for (to, from) in raw.iter_mut().take(IFNAMSIZ - 1).zip(name.as_bytes()) {
        *to = *from;
    }
    raw
}

/// `struct sockaddr_in` with nothing but an address.
fn sockaddr(ip: std::net::Ipv4Addr) -> [u8; 24] {
    let [low, high] = low16(AF_INET).to_ne_bytes();
    let [a, b, c, d] = ip.octets();
    union(&[low, high, 0, 0, a, b, c, d])
}

/// SIOCGIFCONF: interfaces with their IPv4 addresses (inet_gifconf()).
fn conf(ns: &NetNs, arg: u64, mm: &Arc<Mm>) -> Result<i64, Errno> {
    let mut conf: Ifconf = mm.read(arg)?;
    let addresses = ns.stack.config.addresses();
    let mut entries = Vec::new();
    for link in ns.stack.config.links() {
        for own in addresses.iter().filter(|own| own.link == link.index) {
            let std::net::IpAddr::V4(ip) = own.addr else { continue };
            let label = own.label.as_ref().unwrap_or(&link.name);
            entries.push(Ifreq { ifr_name: name(label), ifr_ifru: sockaddr(ip) });
        }
    }
    if conf.ifc_buf != 0 {
        let fits = usize::try_from(conf.ifc_len).unwrap_or(0) / size_of::<Ifreq>();
        entries.truncate(fits);
        for (entry, at) in entries.iter().zip((conf.ifc_buf..).step_by(size_of::<Ifreq>())) {
            mm.write(at, entry)?;
        }
    }
    conf.ifc_len = i32::try_from(entries.len() * size_of::<Ifreq>()).unwrap_or(0);
    mm.write(arg, &conf)?;
    Ok(0)
}
