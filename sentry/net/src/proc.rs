//! /proc/net: the texts of a namespace's tables, in Linux's own layout.

use crate::NetNs;
use crate::inet::list::{self, Entry};
use crate::unix;
use chitin_abi::inet::{TCP_LISTEN, TCP_TIME_WAIT};
use chitin_abi::netdevice::{ARPHRD_ETHER, ATF_PERM, ATF_PUBL};
use chitin_abi::rtnetlink::*;
use chitin_netstack::config::{LinkStats, RouteEntry};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

/// The text of a file, if this stack makes one.
pub fn text(ns: &NetNs, name: &str) -> Option<Vec<u8>> {
    let text = match name {
        "unix" => return Some(unix::proc_net_unix(ns)),
        "tcp" => sockets(&list::tcp(ns), false, Kind::Tcp),
        "tcp6" => sockets(&list::tcp(ns), true, Kind::Tcp),
        "udp" => sockets(&list::udp(ns), false, Kind::Udp),
        "udp6" => sockets(&list::udp(ns), true, Kind::Udp),
        "raw" => sockets(&list::raw(ns, false), false, Kind::Raw),
        "raw6" => sockets(&list::raw(ns, false), true, Kind::Raw),
        "icmp" => sockets(&list::raw(ns, true), false, Kind::Udp),
        "icmp6" => sockets(&list::raw(ns, true), true, Kind::Udp),
        "dev" => dev(ns),
        "route" => route(ns),
        "ipv6_route" => route6(ns),
        "if_inet6" => addresses6(ns),
        "arp" => arp(ns),
        "sockstat" => sockstat(ns, false),
        "sockstat6" => sockstat(ns, true),
        _ => return None,
    };
    Some(text.into_bytes())
}

/// What differs between the tables of sockets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Udp,
    Raw,
}

/// Words of four bytes, as the machine's byte order has them.
fn hex(ip: &IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => format!("{:08X}", u32::from_ne_bytes(v4.octets())),
        IpAddr::V6(v6) => {
            let octets = v6.octets();
            let words = octets.chunks_exact(4).filter_map(|word| word.first_chunk::<4>());
            words.map(|word| format!("{:08X}", u32::from_ne_bytes(*word))).collect()
        }
    }
}

fn wide(v4: &Ipv4Addr) -> IpAddr {
    // The unspecified address has no mapped form.
    if v4.is_unspecified() { Ipv6Addr::UNSPECIFIED.into() } else { v4.to_ipv6_mapped().into() }
}

fn sockets(all: &[Entry], v6: bool, kind: Kind) -> String {
    let heading = match (kind, v6) {
        (Kind::Tcp, false) => {
            format!("{:<149}", "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode")
        }
        (Kind::Udp, false) => {
            format!("{:<127}", "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops")
        }
        (Kind::Raw, false) => "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops".to_owned(),
        (Kind::Tcp, true) => "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode".to_owned(),
        (_, true) => "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops".to_owned(),
    };
    let mut text = heading;
    text.push('\n');
    for (slot, entry) in all.iter().filter(|entry| entry.v6 == v6).enumerate() {
        let side = |ip: &IpAddr, port: u16| match ip {
            IpAddr::V4(v4) if v6 => format!("{}:{port:04X}", hex(&wide(v4))),
            ip => format!("{}:{port:04X}", hex(ip)),
        };
        let listens = kind == Kind::Tcp && entry.state == TCP_LISTEN;
        // Of a listener, what waits to be accepted; its limit is not shown here.
        let (send, receive) = (if listens { 0 } else { entry.send_queue }, entry.receive_queue);
        let waits = kind == Kind::Tcp && entry.state == TCP_TIME_WAIT;
        // Hundredths of seconds.
        let when = entry.timer.map_or(0, |left| left / 10_000_000);
        let line = format!(
            "{slot:4}: {} {} {:02X} {send:08X}:{receive:08X} {:02X}:{when:08X} {:08X} {:5} {:8} {}",
            side(&entry.local.ip, entry.local.port),
            side(&entry.remote.ip, entry.remote.port),
            entry.state,
            if waits { 3 } else { 0 },
            0,
            entry.uid,
            0,
            entry.inode,
        );
        let rest = match kind {
            Kind::Tcp if waits => " 3 0000000000000000".to_owned(),
            Kind::Tcp => " 1 0000000000000000 100 0 0 10 0".to_owned(),
            Kind::Udp | Kind::Raw => " 2 0000000000000000 0".to_owned(),
        };
        let line = line + &rest;
        // IPv4's lines are padded to the length of the heading.
        let width = match (kind, v6) {
            (Kind::Tcp, false) => 149,
            (Kind::Udp, false) => 127,
            _ => 0,
        };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{line:<width$}");
    }
    text
}

fn dev(ns: &NetNs) -> String {
    let mut text = String::from(
        "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame \
         compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n",
    );
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    for link in ns.stack().config.links() {
        let stats: &LinkStats = &link.stats;
        let _ = writeln!(
            text,
            "{:>6}: {:7} {:7} {:4} {:4} {:4} {:5} {:10} {:9} {:8} {:7} {:4} {:4} {:4} {:5} {:7} {:10}",
            link.name,
            count(&stats.rx_bytes),
            count(&stats.rx_packets),
            count(&stats.rx_errors),
            count(&stats.rx_dropped),
            0,
            0,
            0,
            count(&stats.rx_multicast),
            count(&stats.tx_bytes),
            count(&stats.tx_packets),
            count(&stats.tx_errors),
            count(&stats.tx_dropped),
            0,
            0,
            0,
            0,
        );
    }
    text
}

/// The name of a link, `*` for none.
fn name_of(ns: &NetNs, link: Option<u32>) -> String {
    link.and_then(|index| ns.stack().config.link(index)).map_or_else(|| "*".to_owned(), |link| link.name)
}

/// A netmask of so many bits.
fn mask(len: u8) -> u32 {
    u32::MAX.checked_shl(32u32.saturating_sub(u32::from(len))).unwrap_or(0)
}

// Flags of routes (RTF_*).
const UP: u32 = 1;
const GATEWAY: u32 = 2;
const HOST: u32 = 4;
const REJECT: u32 = 0x200;
const LOCAL: u32 = 0x8000_0000;

fn flags(route: &RouteEntry, host_len: u8) -> u32 {
    let gateway = route.hops.iter().any(|hop| hop.gateway.is_some());
    UP | if gateway { GATEWAY } else { 0 }
        | if route.dst.len == host_len { HOST } else { 0 }
        | if route.hops.is_empty() { REJECT } else { 0 }
}

/// The main table (fib_route_seq_show()).
fn route(ns: &NetNs) -> String {
    let heading = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT";
    let mut text = format!("{heading:<127}\n");
    let skipped = [RTN_BROADCAST, RTN_MULTICAST];
    for route in ns.stack().config.routes() {
        let IpAddr::V4(dst) = route.dst.addr else { continue };
        if route.table != RT_TABLE_MAIN || skipped.contains(&route.kind) {
            continue;
        }
        let hop = route.hops.first();
        let gateway = match hop.and_then(|hop| hop.gateway) {
            Some(IpAddr::V4(gateway)) => gateway,
            _ => Ipv4Addr::UNSPECIFIED,
        };
        let line = format!(
            "{}\t{}\t{}\t{:04X}\t0\t0\t{}\t{:08X}\t{}\t0\t0",
            name_of(ns, hop.map(|hop| hop.link)),
            hex(&dst.into()),
            hex(&gateway.into()),
            flags(&route, 32),
            route.metric,
            u32::from_ne_bytes(mask(route.dst.len).to_be_bytes()),
            if route.advmss == 0 { 0 } else { route.advmss.saturating_add(40) },
        );
        let _ = writeln!(text, "{line:<127}");
    }
    text
}

fn octets(ip: &IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => v4.octets().iter().map(|byte| format!("{byte:02x}")).collect(),
        IpAddr::V6(v6) => v6.octets().iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// All tables (rt6_info_route()).
fn route6(ns: &NetNs) -> String {
    let mut text = String::new();
    for route in ns.stack().config.routes() {
        if route.dst.addr.is_ipv4() {
            continue;
        }
        let hop = route.hops.first();
        let gateway = hop.and_then(|hop| hop.gateway).unwrap_or(Ipv6Addr::UNSPECIFIED.into());
        let local = if route.kind == RTN_LOCAL { LOCAL } else { 0 };
        let none = "00000000000000000000000000000000";
        let _ = writeln!(
            text,
            "{} {:02x} {none} 00 {} {:08x} {:08x} {:08x} {:08x} {:>8}",
            octets(&route.dst.addr),
            route.dst.len,
            octets(&gateway),
            route.metric,
            1,
            0,
            flags(&route, 128) & !(if local != 0 { HOST } else { 0 }) | local,
            name_of(ns, hop.map(|hop| hop.link)),
        );
    }
    text
}

fn addresses6(ns: &NetNs) -> String {
    let mut text = String::new();
    // The scopes of this file are those of in6_addr (IPV6_ADDR_*).
    let scope = |scope: u8| match scope {
        RT_SCOPE_HOST => 0x10,
        RT_SCOPE_LINK => 0x20,
        RT_SCOPE_SITE => 0x40,
        _ => 0,
    };
    for address in ns.stack().config.addresses().iter().filter(|address| address.addr.is_ipv6()) {
        let _ = writeln!(
            text,
            "{} {:02x} {:02x} {:02x} {:02x} {:>8}",
            octets(&address.addr),
            address.link,
            address.prefix,
            scope(address.scope),
            address.flags & 0xff,
            name_of(ns, Some(address.link)),
        );
    }
    text
}

fn arp(ns: &NetNs) -> String {
    let mut text = format!(
        "{:<17}{:<12}{:<12}{:<22}{:<9}{}\n",
        "IP address", "HW type", "Flags", "HW address", "Mask", "Device"
    );
    let mut line = |addr: IpAddr, hw_type: u16, flags: u32, hw_addr: [u8; 6], device: &str| {
        let hw_addr: Vec<_> = hw_addr.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(
            text,
            "{:<17}0x{hw_type:<10x}0x{flags:<10x}{:<22}*        {device}",
            addr.to_string(),
            hw_addr.join(":"),
        );
    };
    for neighbour in ns.stack().neighbours() {
        if neighbour.addr.is_ipv4() && neighbour.state & NUD_NOARP == 0 {
            let flags = crate::iface::arp::arp_flags(&neighbour);
            let hw_addr = neighbour.hw_addr.unwrap_or_default();
            line(neighbour.addr, ARPHRD_ETHER, flags, hw_addr, &name_of(ns, Some(neighbour.link)));
        }
    }
    for proxy in ns.stack().proxies().iter().filter(|proxy| proxy.addr.is_ipv4()) {
        let link = ns.stack().config.link(proxy.link);
        let (hw_type, device) = link.as_ref().map_or((0, "*"), |link| (link.hw_type, &link.name));
        line(proxy.addr, hw_type, ATF_PUBL | ATF_PERM, [0; 6], device);
    }
    text
}

fn sockstat(ns: &NetNs, v6: bool) -> String {
    let count =
        |all: &[Entry]| all.iter().filter(|entry| entry.v6 == v6 && entry.state != TCP_TIME_WAIT).count();
    let (tcp, udp, raw) = (list::tcp(ns), list::udp(ns), list::raw(ns, false));
    let waiting = tcp.iter().filter(|entry| entry.state == TCP_TIME_WAIT).count();
    let (tcps, udps, raws) = (count(&tcp), count(&udp), count(&raw));
    if v6 {
        return format!(
            "TCP6: inuse {tcps}\nUDP6: inuse {udps}\nUDPLITE6: inuse 0\nRAW6: inuse {raws}\nFRAG6: inuse 0 memory 0\n"
        );
    }
    let used = [tcp.len().saturating_sub(waiting), udp.len(), raw.len(), unix::list::entries(ns).len()];
    let used = used.iter().fold(0usize, |sum, n| sum.saturating_add(*n));
    format!(
        "sockets: used {used}\nTCP: inuse {tcps} orphan 0 tw {waiting} alloc {tcps} mem 0\nUDP: inuse {udps} mem 0\n\
         UDPLITE: inuse 0\nRAW: inuse {raws}\nFRAG: inuse 0 memory 0\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(ns: &NetNs, name: &str) -> Vec<String> {
        String::from_utf8(text(ns, name).expect(name)).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_namespace_with_lo() {
        let ns = NetNs::new(true);
        assert!(lines(&ns, "dev")[2].starts_with("    lo: "));
        assert_eq!(lines(&ns, "if_inet6"), ["00000000000000000000000000000001 01 80 10 80       lo"]);
        // 127.0.0.0/8 is in the local table, which this file does not show.
        assert_eq!(lines(&ns, "route").len(), 1);
        assert!(
            lines(&ns, "ipv6_route")
                .iter()
                .any(|line| line.starts_with("00000000000000000000000000000001 80 "))
        );
        for name in ["tcp", "tcp6", "udp", "udp6", "raw", "raw6", "icmp", "arp"] {
            assert_eq!(lines(&ns, name).len(), 1, "{name}");
        }
        assert!(text(&ns, "nonsense").is_none());
    }

    #[test]
    fn masks_and_words() {
        assert_eq!([mask(0), mask(8), mask(32)], [0, 0xff00_0000, u32::MAX]);
        assert_eq!(hex(&Ipv4Addr::LOCALHOST.into()), "0100007F");
        assert_eq!(hex(&Ipv6Addr::LOCALHOST.into()), "00000000000000000000000001000000");
    }
}
