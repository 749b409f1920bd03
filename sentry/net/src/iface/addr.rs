//! Addresses of interfaces by ioctl: IPv4's one at a time, found by their labels (devinet_ioctl()); IPv6's (addrconf_add_ifaddr()).

use super::{Request, flags, label, sockaddr};
use chitin_abi::Errno;
use chitin_abi::ioctl::*;
use chitin_abi::netdevice::*;
use chitin_abi::num::low16;
use chitin_abi::rtnetlink::RT_SCOPE_HOST;
use chitin_abi::socket::AF_INET;
use chitin_netstack::config::{Address, Config, Link, LinkChange};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The address of a `struct sockaddr`, if it is IPv4's.
pub(super) fn ipv4(raw: &[u8]) -> Option<Ipv4Addr> {
    let (family, rest) = raw.split_first_chunk::<2>()?;
    let ip = rest.get(2..)?.first_chunk::<4>()?;
    (u16::from_ne_bytes(*family) == low16(AF_INET)).then(|| Ipv4Addr::from(*ip))
}

/// The length of a netmask; `None` for what has holes.
pub(super) fn mask_len(mask: Ipv4Addr) -> Option<u8> {
    let bits = mask.to_bits();
    let len = bits.leading_ones();
    u8::try_from(len).ok().filter(|_| bits.checked_shl(len).unwrap_or(0) == 0)
}

pub(super) fn mask(len: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::MAX.checked_shl(32u32.saturating_sub(len.into())).unwrap_or(0))
}

/// The length that an address's class gives it (inet_abc_len()); `None` for groups.
fn class_len(ip: Ipv4Addr) -> Option<u8> {
    match ip.octets()[0] {
        0 => Some(0),
        _ if ip.is_broadcast() => Some(0),
        1..128 => Some(8),
        128..192 => Some(16),
        192..224 => Some(24),
        224..240 => None,
        _ => Some(32),
    }
}

fn v4_of(address: &Address) -> Option<Ipv4Addr> {
    match address.addr {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

/// The address that a label means; with `also`, that one among several.
fn find(config: &Config, link: &Link, name: &str, also: Option<Ipv4Addr>) -> Option<Address> {
    let all = config.addresses();
    let labelled = |address: &&Address| {
        let own = address.label.as_deref().unwrap_or(&link.name);
        address.link == link.index && address.addr.is_ipv4() && own == name
    };
    let mut named = all.iter().filter(labelled);
    named.clone().find(|address| also.is_some() && v4_of(address) == also).or_else(|| named.next()).cloned()
}

/// SIOCGIFADDR and its kind.
pub(super) fn show(request: &Request<'_>) -> Result<(), Errno> {
    let mut ifr: Ifreq = request.mm.read(request.arg)?;
    let link = request.link(&ifr)?;
    let found = find(&request.ns.stack.config, &link, label(&ifr), ipv4(&ifr.ifr_ifru));
    let address = found.ok_or(Errno::EADDRNOTAVAIL)?;
    let own = v4_of(&address).unwrap_or(Ipv4Addr::UNSPECIFIED);
    ifr.ifr_ifru = sockaddr(match (request.cmd, address.peer) {
        (SIOCGIFBRDADDR, _) => address.broadcast.unwrap_or(Ipv4Addr::UNSPECIFIED),
        (SIOCGIFNETMASK, _) => mask(address.prefix),
        (SIOCGIFDSTADDR, Some(IpAddr::V4(peer))) => peer,
        _ => own,
    });
    request.mm.write(request.arg, &ifr)
}

/// The last address of a subnet, where a link has broadcasts.
fn broadcast(link: &Link, ip: Ipv4Addr, len: u8) -> Option<Ipv4Addr> {
    let has = link.flags & IFF_BROADCAST != 0 && len < 31;
    has.then(|| Ipv4Addr::from_bits(ip.to_bits() | !mask(len).to_bits()))
}

/// SIOCSIFADDR and its kind, and SIOCSIFFLAGS, which takes away addresses that are known by an alias ("eth0:1").
pub(super) fn change4(request: &Request<'_>) -> Result<(), Errno> {
    let ifr: Ifreq = request.mm.read(request.arg)?;
    request.administers()?;
    let config = &request.ns.stack.config;
    let name = label(&ifr);
    if request.cmd == SIOCSIFFLAGS {
        let link = request.link(&ifr)?;
        if !name.contains(':') {
            let change = LinkChange { flags: (u32::MAX, flags(&ifr)), ..LinkChange::default() };
            return config.link_change(link.index, &change);
        }
        let address = find(config, &link, name, None).ok_or(Errno::EADDRNOTAVAIL)?;
        let down = flags(&ifr) & IFF_UP == 0;
        return if down { config.addr_del(link.index, address.addr, address.prefix) } else { Ok(()) };
    }
    let wanted = ipv4(&ifr.ifr_ifru).ok_or(Errno::EINVAL)?;
    let link = request.link(&ifr)?;
    let old = find(config, &link, name, None);
    if request.cmd == SIOCSIFADDR {
        return set_address(config, &link, name, old, wanted);
    }
    let old = old.ok_or(Errno::EADDRNOTAVAIL)?;
    let mut new = old.clone();
    match request.cmd {
        SIOCSIFBRDADDR => new.broadcast = Some(wanted).filter(|cast| !cast.is_unspecified()),
        SIOCSIFDSTADDR => {
            class_len(wanted).ok_or(Errno::EINVAL)?;
            new.peer = Some(wanted.into()).filter(|peer| *peer != old.addr);
        }
        _ => {
            new.prefix = mask_len(wanted).ok_or(Errno::EINVAL)?;
            let own = v4_of(&old).unwrap_or(Ipv4Addr::UNSPECIFIED);
            // Another one than the subnet's last was somebody's choice.
            let usual = Ipv4Addr::from_bits(own.to_bits() | !mask(old.prefix).to_bits());
            if old.broadcast == Some(usual) {
                new.broadcast = broadcast(&link, own, new.prefix).or(new.broadcast);
            }
        }
    }
    if new == old { Ok(()) } else { config.addr_change(Some(&old), Some(new)) }
}

fn set_address(
    config: &Config,
    link: &Link,
    name: &str,
    old: Option<Address>,
    ip: Ipv4Addr,
) -> Result<(), Errno> {
    let class = class_len(ip).ok_or(Errno::EINVAL)?;
    if old.as_ref().is_some_and(|old| old.addr == IpAddr::V4(ip)) {
        return Ok(());
    }
    let len = if link.flags & IFF_POINTOPOINT == 0 { class } else { 32 };
    let mut new = Address::new(link.index, ip.into(), len);
    if ip.is_loopback() {
        new.scope = RT_SCOPE_HOST;
    }
    new.label = Some(name.to_owned());
    if link.flags & IFF_POINTOPOINT == 0 {
        new.broadcast = broadcast(link, ip, len);
    }
    // The unspecified address is none: the old one goes.
    config.addr_change(old.as_ref(), Some(new).filter(|_| !ip.is_unspecified()))
}

/// SIOCSIFADDR and SIOCDIFADDR of IPv6.
pub(super) fn change6(request: &Request<'_>) -> Result<(), Errno> {
    request.administers()?;
    let ifr: In6Ifreq = request.mm.read(request.arg)?;
    let config = &request.ns.stack.config;
    let link = u32::try_from(ifr.ifr6_ifindex).map_err(|_| Errno::ENODEV)?;
    let prefix = u8::try_from(ifr.ifr6_prefixlen).ok().filter(|len| *len <= 128).ok_or(Errno::EINVAL)?;
    let ip = Ipv6Addr::from(ifr.ifr6_addr).into();
    if request.cmd == SIOCDIFADDR {
        return config.addr_del(link, ip, prefix);
    }
    config.addr_add(Address::new(link, ip, prefix), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_and_classes() {
        for len in 0..=32 {
            assert_eq!(mask_len(mask(len)), Some(len));
        }
        assert_eq!(mask_len(Ipv4Addr::new(255, 0, 255, 0)), None);
        let classes =
            [(1, Some(8)), (127, Some(8)), (128, Some(16)), (192, Some(24)), (224, None), (240, Some(32))];
        for (first, len) in classes {
            assert_eq!(class_len(Ipv4Addr::new(first, 0, 0, 1)), len, "{first}");
        }
        assert_eq!(class_len(Ipv4Addr::UNSPECIFIED), Some(0));
    }
}
