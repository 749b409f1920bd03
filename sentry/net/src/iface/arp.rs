//! Entries of the neighbour table by ioctl, as arp(8) makes them (arp_ioctl()).

use super::{Request, addr::ipv4, label, name};
use chitin_abi::Errno;
use chitin_abi::ioctl::{SIOCDARP, SIOCGARP};
use chitin_abi::netdevice::*;
use chitin_abi::rtnetlink::*;
use chitin_netstack::Link;
use chitin_netstack::config::{Neighbour, Proxy};
use std::net::{IpAddr, Ipv4Addr};

pub(super) fn request(request: &Request<'_>) -> Result<(), Errno> {
    if request.cmd != SIOCGARP {
        request.administers()?;
    }
    let mut arp: ArpReq = request.mm.read(request.arg)?;
    let ip = ipv4(&arp.arp_pa).ok_or(Errno::EPFNOSUPPORT)?;
    let published = arp.arp_flags & ATF_PUBL != 0;
    if !published && arp.arp_flags & (ATF_NETMASK | ATF_DONTPUB) != 0 {
        return Err(Errno::EINVAL);
    }
    let named = named(request, &mut arp)?;
    if request.cmd == SIOCGARP {
        let link = named.ok_or(Errno::ENODEV)?;
        let known = find(request, &link, ip).filter(|known| known.state & NUD_NOARP == 0);
        show(&mut arp, &link, &known.ok_or(Errno::ENXIO)?);
        return request.mm.write(request.arg, &arp);
    }
    if published {
        return publish(request, &arp, named.as_ref(), ip);
    }
    let link = match named {
        Some(link) => link,
        None => near(request, ip)?,
    };
    if request.cmd == SIOCDARP {
        let gone = request.ns.stack.neighbour_del(link.index, ip.into());
        return gone.map_err(|error| if error == Errno::ENOENT { Errno::ENXIO } else { error });
    }
    set(request, &arp, &link, ip)
}

/// The link that is named, with its type where none was said (arp_req_dev_by_name()).
fn named(request: &Request<'_>, arp: &mut ArpReq) -> Result<Option<Link>, Errno> {
    if arp.arp_dev[0] == 0 {
        return Ok(None);
    }
    let ifr = Ifreq { ifr_name: arp.arp_dev, ..Ifreq::default() };
    let link = request.ns.stack.config.link_by_name(label(&ifr)).ok_or(Errno::ENODEV)?;
    if arp.arp_ha_family == 0 {
        arp.arp_ha_family = link.hw_type;
    }
    if arp.arp_flags & ATF_COM != 0 && arp.arp_ha_family != link.hw_type {
        return Err(Errno::EINVAL);
    }
    Ok(Some(link))
}

/// Has an address answered for, or all that there is a way to (arp_req_set_public(), arp_req_delete_public()).
fn publish(request: &Request<'_>, arp: &ArpReq, link: Option<&Link>, ip: Ipv4Addr) -> Result<(), Errno> {
    let (stack, adds) = (&request.ns.stack, request.cmd != SIOCDARP);
    let one = match arp.arp_netmask.get(4..8) {
        _ if arp.arp_flags & ATF_NETMASK == 0 => true,
        Some([0xff, 0xff, 0xff, 0xff]) => true,
        Some([0, 0, 0, 0]) => false,
        _ => return Err(Errno::EINVAL),
    };
    // By a hardware address nobody looks for the link here.
    if adds && link.is_none() && arp.arp_flags & ATF_COM != 0 {
        return Err(Errno::ENODEV);
    }
    let at = link.map_or(0, |link| link.index);
    match (one, adds) {
        (true, true) => stack.proxy_set(Proxy { link: at, addr: ip.into(), flags: 0, protocol: 0 }),
        (true, false) => stack.proxy_del(at, ip.into()),
        _ => {
            let of = link.map_or("all", |link| &link.name);
            stack.config.set_conf("ipv4", of, "proxy_arp", adds.into())
        }
    }
}

/// The link by which an address is reached directly.
fn near(request: &Request<'_>, ip: Ipv4Addr) -> Result<Link, Errno> {
    let config = &request.ns.stack.config;
    let route = config.route(ip.into(), None, 0, 0)?;
    if route.gateway.is_some() {
        return Err(Errno::ENETUNREACH);
    }
    config.link(route.link).ok_or(Errno::EINVAL)
}

fn find(request: &Request<'_>, link: &Link, ip: Ipv4Addr) -> Option<Neighbour> {
    let mut all = request.ns.stack.neighbours().into_iter();
    all.find(|known| known.link == link.index && known.addr == IpAddr::V4(ip))
}

fn set(request: &Request<'_>, arp: &ArpReq, link: &Link, ip: Ipv4Addr) -> Result<(), Errno> {
    let permanent = arp.arp_flags & ATF_PERM != 0;
    let complete = permanent || arp.arp_flags & ATF_COM != 0;
    if complete && arp.arp_ha_family != link.hw_type {
        return Err(Errno::EINVAL);
    }
    let said = arp.arp_ha.first_chunk().copied().filter(|_| complete);
    let hw_addr = said.or_else(|| find(request, link, ip)?.hw_addr).ok_or(Errno::EINVAL)?;
    request.ns.stack.neighbour_set(&Neighbour {
        link: link.index,
        addr: ip.into(),
        hw_addr: Some(hw_addr),
        state: if permanent { NUD_PERMANENT } else { NUD_STALE },
        flags: 0,
        confirmed: 0,
        used: 0,
        updated: 0,
    })
}

fn show(arp: &mut ArpReq, link: &Link, known: &Neighbour) {
    let [a, b, c, d, e, f] = known.hw_addr.unwrap_or_default();
    arp.arp_ha = [a, b, c, d, e, f, 0, 0, 0, 0, 0, 0, 0, 0];
    arp.arp_ha_family = link.hw_type;
    arp.arp_dev = name(&link.name);
    arp.arp_flags = arp_flags(known);
}

/// ATF_* of an entry (arp_state_to_flags()).
pub(crate) fn arp_flags(known: &Neighbour) -> u32 {
    match known.state {
        NUD_PERMANENT => ATF_PERM | ATF_COM,
        _ if known.hw_addr.is_some() => ATF_COM,
        _ => 0,
    }
}
