//! What sockets there are: for /proc/net/tcp and the like, and SOCK_DIAG.

use super::addr::Endpoint;
use crate::NetNs;
use std::sync::Weak;

/// A socket, or what is left of a connection.
#[derive(Clone, Debug)]
pub struct Entry {
    /// AF_INET or AF_INET6.
    pub v6: bool,
    /// IPPROTO_*.
    pub protocol: u32,
    /// TCP_*; datagram sockets are ESTABLISHED when connected and CLOSE otherwise.
    pub state: u32,
    pub local: Endpoint,
    pub remote: Endpoint,
    /// Bytes to send and to receive; of a listener its limit and its connections to accept.
    pub send_queue: usize,
    pub receive_queue: usize,
    pub uid: u32,
    pub inode: u64,
    pub cookie: u64,
    /// How long TIME_WAIT lasts yet, in nanoseconds.
    pub timer: Option<u64>,
}

/// All TCP sockets that have a port, and connections in TIME_WAIT.
pub fn tcp(ns: &NetNs) -> Vec<Entry> {
    let socks: Vec<_> = ns.inet.tcp.lock().values().filter_map(Weak::upgrade).collect();
    let mut all: Vec<Entry> = socks.iter().filter_map(|sock| sock.entry()).collect();
    all.extend(ns.inet.connections.waiting().into_iter().map(|past| Entry {
        v6: past.local.ip.is_ipv6(),
        protocol: chitin_abi::inet::IPPROTO_TCP,
        state: chitin_abi::inet::TCP_TIME_WAIT,
        local: past.local,
        remote: past.remote,
        send_queue: 0,
        receive_queue: 0,
        uid: 0,
        inode: 0,
        cookie: 0,
        timer: Some(past.left),
    }));
    all
}

/// All UDP sockets that have a port.
pub fn udp(ns: &NetNs) -> Vec<Entry> {
    with_port(&ns.inet.udp)
}

/// The same of UDP-Lite.
pub fn udplite(ns: &NetNs) -> Vec<Entry> {
    with_port(&ns.inet.lite)
}

fn with_port(table: &super::udp::Table) -> Vec<Entry> {
    let socks: Vec<_> = table.lock().values().flatten().filter_map(Weak::upgrade).collect();
    socks.iter().filter_map(|sock| sock.entry()).collect()
}

/// All raw sockets, or (`ping`) all ping sockets that have an identifier.
pub fn raw(ns: &NetNs, ping: bool) -> Vec<Entry> {
    let socks: Vec<_> = ns.inet.raw.lock().values().filter_map(Weak::upgrade).collect();
    let shown = socks.iter().filter(|sock| sock.is_ping() == ping).map(|sock| sock.entry());
    shown.filter(|entry| !ping || entry.local.port != 0).collect()
}
