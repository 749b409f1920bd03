//! Network interfaces as the device ioctls (netdevice(7)) and rtnetlink show them.

use crate::NetNs;
use chitin_abi::Errno;
use chitin_abi::ioctl::*;
use chitin_abi::netdevice::*;
use chitin_abi::num::low16;
use chitin_mm::Mm;
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

impl Interface {
    pub fn loopback(up: bool) -> Interface {
        let on = if up { IFF_UP | IFF_RUNNING | IFF_LOWER_UP } else { 0 };
        let v4 = IfaceAddr { addr: std::net::Ipv4Addr::LOCALHOST.into(), prefix: 8 };
        let v6 = IfaceAddr { addr: std::net::Ipv6Addr::LOCALHOST.into(), prefix: 128 };
        Interface {
            index: 1,
            name: "lo".to_owned(),
            flags: IFF_LOOPBACK | on,
            mtu: 65536,
            hw_type: ARPHRD_LOOPBACK,
            hw_addr: [0; ETH_ALEN],
            tx_queue_len: 1000,
            addrs: if up { vec![v4, v6] } else { Vec::new() },
        }
    }

    fn ifr_name(&self) -> [u8; IFNAMSIZ] {
        let mut name = [0; IFNAMSIZ];
        for (to, from) in name.iter_mut().take(IFNAMSIZ - 1).zip(self.name.as_bytes()) {
            *to = *from;
        }
        name
    }
}

fn union(data: &[u8]) -> [u8; 24] {
    let mut out = [0; 24];
    for (to, from) in out.iter_mut().zip(data) {
        *to = *from;
    }
    out
}

/// Device requests that sockets of every family answer (dev_ioctl()); ENOTTY for all others.
pub fn ioctl(ns: &NetNs, cmd: u32, arg: u64, mm: &Arc<Mm>) -> Result<i64, Errno> {
    match cmd {
        SIOCGIFCONF => return conf(ns, arg, mm),
        SIOCGIFNAME | SIOCGIFINDEX | SIOCGIFFLAGS | SIOCGIFMTU | SIOCGIFHWADDR | SIOCGIFTXQLEN
        | SIOCGIFMETRIC | SIOCGIFMAP => {}
        SIOCSIFFLAGS | SIOCSIFMTU | SIOCSIFNAME | SIOCSIFHWADDR | SIOCSIFTXQLEN => return Err(Errno::EPERM),
        _ => return Err(Errno::ENOTTY),
    }
    let mut ifr: Ifreq = mm.read(arg)?;
    let interfaces = ns.interfaces();
    let found = if cmd == SIOCGIFNAME {
        let index = ifr.ifr_ifru.first_chunk().map(|raw| u32::from_ne_bytes(*raw));
        interfaces.iter().find(|iface| Some(iface.index) == index)
    } else {
        if let Some(last) = ifr.ifr_name.last_mut() {
            *last = 0;
        }
        let name = ifr.ifr_name.split(|&b| b == 0 || b == b':').next().unwrap_or_default();
        interfaces.iter().find(|iface| iface.name.as_bytes() == name)
    };
    let iface = found.ok_or(Errno::ENODEV)?;
    match cmd {
        SIOCGIFNAME => ifr.ifr_name = iface.ifr_name(),
        SIOCGIFINDEX => ifr.ifr_ifru = union(&iface.index.to_ne_bytes()),
        // A short: the flags above 16 bits are rtnetlink's alone.
        SIOCGIFFLAGS => ifr.ifr_ifru = union(&low16(iface.flags).to_ne_bytes()),
        SIOCGIFMTU => ifr.ifr_ifru = union(&iface.mtu.to_ne_bytes()),
        SIOCGIFTXQLEN => ifr.ifr_ifru = union(&iface.tx_queue_len.to_ne_bytes()),
        SIOCGIFMETRIC | SIOCGIFMAP => ifr.ifr_ifru = [0; 24],
        _ => {
            let mut raw = iface.hw_type.to_ne_bytes().to_vec();
            raw.extend_from_slice(&iface.hw_addr);
            ifr.ifr_ifru = union(&raw);
        }
    }
    mm.write(arg, &ifr)?;
    Ok(0)
}

/// SIOCGIFCONF: interfaces with their IPv4 addresses.
fn conf(ns: &NetNs, arg: u64, mm: &Arc<Mm>) -> Result<i64, Errno> {
    let mut conf: Ifconf = mm.read(arg)?;
    let mut entries = Vec::new();
    for iface in ns.interfaces() {
        for addr in &iface.addrs {
            let std::net::IpAddr::V4(v4) = addr.addr else { continue };
            let mut raw = low16(chitin_abi::socket::AF_INET).to_ne_bytes().to_vec();
            raw.extend_from_slice(&[0, 0]);
            raw.extend_from_slice(&v4.octets());
            entries.push(Ifreq { ifr_name: iface.ifr_name(), ifr_ifru: union(&raw) });
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
