//! Neighbours that this host answers for, since it forwards to them and they are behind another link: single ones
//! (`ip neigh add proxy`), and with proxy_arp all that there is a way to. Answers go at once (proxy_delay 0).
//!
//! Lock: a leaf.

use super::Port;
use crate::config::Proxy;
use crate::ip::{ICMPV6, Meta};
use crate::sockets::Cast;
use crate::stack::Stack;
use chitin_abi::Errno;
use chitin_abi::rtnetlink::RTN_UNICAST;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What guests may make us hold.
const MAX_PROXIES: usize = 1024;

#[derive(Default)]
pub(crate) struct Proxies(Mutex<BTreeMap<(IpAddr, u32), Proxy>>);

impl Proxies {
    /// The entry for an address on a link: the link's own, or one for all links (pneigh_lookup()).
    fn find(&self, link: u32, addr: IpAddr) -> Option<Proxy> {
        let all = self.0.lock();
        all.get(&(addr, link)).or_else(|| all.get(&(addr, 0))).cloned()
    }

    /// A link has gone down.
    pub fn gone(&self, link: u32) {
        self.0.lock().retain(|_, proxy| proxy.link != link);
    }
}

impl Stack {
    pub fn proxies(&self) -> Vec<Proxy> {
        self.proxies.0.lock().values().cloned().collect()
    }

    pub fn proxy(&self, link: u32, addr: IpAddr) -> Option<Proxy> {
        self.proxies.find(link, addr)
    }

    /// Adds an entry, or changes the one that there is.
    pub fn proxy_set(&self, mut wanted: Proxy) -> Result<(), Errno> {
        let mut all = self.proxies.0.lock();
        if all.contains_key(&(wanted.addr, 0)) {
            wanted.link = 0;
        }
        let key = (wanted.addr, wanted.link);
        if all.len() >= MAX_PROXIES && !all.contains_key(&key) {
            return Err(Errno::ENOBUFS);
        }
        if let Some(known) = all.get(&key).filter(|_| wanted.protocol == 0) {
            wanted.protocol = known.protocol;
        }
        all.insert(key, wanted);
        Ok(())
    }

    pub fn proxy_del(&self, link: u32, addr: IpAddr) -> Result<(), Errno> {
        self.proxies.0.lock().remove(&(addr, link)).map(drop).ok_or(Errno::ENOENT)
    }

    /// Whether `src`, who asks by a link, is told that `dst` is here (arp_process()).
    pub(super) fn proxies4(&self, port: &Port, src: IpAddr, dst: IpAddr) -> bool {
        let conf = &port.conf;
        if !conf.forwarding.on() || src.is_unspecified() {
            return false;
        }
        let all = conf.proxy_arp.on() || self.config.all.proxy_arp.on();
        let elsewhere = || {
            let way = self.config.route_through(dst, src, port.index);
            way.is_ok_and(|way| way.kind == RTN_UNICAST && way.link != port.index)
        };
        (all || self.proxies.find(port.index, dst).is_some()) && self.comes_rightly(port, src) && elsewhere()
    }

    /// The same for IPv6, where the way there does not matter (ndisc_recv_ns()).
    pub(crate) fn proxy6(&self, port: &Port, target: IpAddr) -> Option<Proxy> {
        let conf = &port.conf;
        let on = conf.forwarding6.on() && (conf.proxy_ndp.on() || self.config.all.proxy_ndp.on());
        self.proxies.find(port.index, target).filter(|_| on)
    }

    /// Whether a packet for somebody else asks whether he is still there, or tells so: that is not passed on, or it would be
    /// of no use (ip6_forward_proxy_check()).
    pub(crate) fn is_for_proxy(&self, meta: &Meta<'_>) -> bool {
        let all = &self.config.all;
        meta.cast == Cast::Unicast
            && meta.proto == ICMPV6
            && matches!(meta.payload.first(), Some(133..=137))
            && all.forwarding6.on()
            && all.proxy_ndp.on()
            && self.proxies.find(meta.port.index, meta.dst).is_some()
    }
}
