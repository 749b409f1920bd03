//! What changes in the host's network namespace while the sandbox has it: interfaces that engines and plugins add (`docker
//! network connect`) or take away, and addresses and routes on them. The sandbox's namespace follows.
//!
//! The runtime has left two sockets: one hears the kernel's news, the other has the packets of all interfaces that were not
//! there at the start, and sends on any. One thread each; both end with the stack.

use chitin_abi::netdevice::ARPHRD_ETHER;
use chitin_abi::netlink::{RTM_DELADDR, RTM_DELLINK, RTM_DELROUTE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE};
use chitin_abi::rtnetlink::RTPROT_KERNEL;
use chitin_control::rtnetlink::{self, Message};
use chitin_control::{AddressConfig, LinkConfig, RouteConfig};
use chitin_egress::Engine;
use chitin_host::packet::Receiver;
use chitin_kernel::run;
use chitin_netstack::config::RouteMode;
use chitin_netstack::{RxFrame, Stack};
use nix::sys::socket::{MsgFlags, recv};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Weak};

use super::answers::Answers;
use super::{apply, device};

const STACK_SIZE: usize = 256 << 10;
/// The kernel sends no more at a time.
const NEWS: usize = 64 << 10;
/// Interfaces that are not up yet and are remembered.
const MAX_PENDING: usize = 64;

/// Packets of interfaces to come.
#[derive(Clone)]
pub struct Frames {
    pub fd: Arc<OwnedFd>,
    pub offload: bool,
    pub engine: Arc<Engine>,
    pub answers: Option<Answers>,
}

/// A link of the sandbox's that is an interface of the host.
#[derive(Clone, Copy)]
struct Taken {
    /// Its index here: the host's, unless a guest was first.
    index: u32,
    ether: bool,
}

/// By the host's index.
type Links = Mutex<HashMap<u32, Taken>>;

struct Follower {
    stack: Weak<Stack>,
    links: Arc<Links>,
    /// Not up yet.
    pending: HashMap<u32, LinkConfig>,
    frames: Frames,
}

/// Begins to follow. `known`: the interfaces that were taken over already.
pub fn start(
    stack: &Arc<Stack>,
    known: impl Iterator<Item = u32>,
    news: OwnedFd,
    frames: Frames,
) -> io::Result<()> {
    // Their packets come by sockets of their own.
    let links: Arc<Links> =
        Arc::new(Mutex::new(known.map(|index| (index, Taken { index, ether: true })).collect()));
    let (weak, shared) = (Arc::downgrade(stack), links.clone());
    let received = frames.clone();
    std::thread::Builder::new()
        .name("net-later".into())
        .stack_size(device::STACK_SIZE)
        .spawn(move || receive(&weak, &shared, &received))?;
    let mut follower = Follower { stack: Arc::downgrade(stack), links, pending: HashMap::new(), frames };
    std::thread::Builder::new().name("net-news".into()).stack_size(STACK_SIZE).spawn(move || {
        let mut room = vec![0; NEWS];
        loop {
            let count = match recv(news.as_raw_fd(), &mut room, MsgFlags::empty()) {
                Ok(count) => count,
                Err(nix::Error::EINTR) => continue,
                Err(error) => {
                    // ENOBUFS: more than could wait.
                    tracing::warn!(%error, "changes of the host's network were missed");
                    std::thread::sleep(device::PAUSE);
                    continue;
                }
            };
            let mut rest = room.get(..count).unwrap_or_default();
            while let Some(message) = Message::split(&mut rest) {
                let Some(stack) = follower.stack.upgrade() else { return };
                let _ = follower.hear(&stack, &message);
            }
            run::drain();
        }
    })?;
    Ok(())
}

impl Follower {
    /// None: it is nothing that concerns the sandbox.
    fn hear(&mut self, stack: &Arc<Stack>, message: &Message<'_>) -> Option<()> {
        let body = message.body;
        match message.kind {
            // Those of a family (AF_BRIDGE) are about ports of bridges.
            RTM_NEWLINK if body.first() == Some(&0) => self.link(stack, rtnetlink::link(body)?),
            RTM_DELLINK if body.first() == Some(&0) => self.link_gone(stack, rtnetlink::link(body)?.index),
            RTM_NEWADDR => {
                let (link, address) = rtnetlink::address(body)?;
                match self.taken(link) {
                    Some(index) => apply::address(stack, index, &address),
                    None => {
                        let link = self.pending.get_mut(&link)?;
                        link.addresses.retain(|other| !same(other, &address));
                        link.addresses.push(address);
                    }
                }
                Some(())
            }
            RTM_DELADDR => {
                let (link, address) = rtnetlink::address(body)?;
                match self.taken(link) {
                    Some(index) => stack.config.addr_del(index, address.address, address.prefix).ok(),
                    None => {
                        self.pending.get_mut(&link)?.addresses.retain(|other| !same(other, &address));
                        Some(())
                    }
                }
            }
            RTM_NEWROUTE => {
                let entry = apply::entry(&self.route(body)?);
                if !stack.config.routes().contains(&entry) {
                    stack.config.route_add(entry, RouteMode::Append).ok()?;
                }
                Some(())
            }
            RTM_DELROUTE => {
                let gone = apply::entry(&self.route(body)?);
                let v4 = gone.dst.addr.is_ipv4();
                let hop = gone.hops.first();
                let fits = |r: &chitin_netstack::RouteEntry| {
                    r.dst == gone.dst
                        && r.metric == gone.metric
                        && r.hops.first().map(|h| (h.link, h.gateway)) == hop.map(|h| (h.link, h.gateway))
                };
                stack.config.route_del(gone.table, v4, fits).ok()
            }
            _ => None,
        }
    }

    fn taken(&self, host: u32) -> Option<u32> {
        self.links.lock().get(&host).map(|link| link.index)
    }

    /// A route with the indices of the sandbox; not what an address brings along by itself, nor what leads elsewhere.
    fn route(&self, body: &[u8]) -> Option<RouteConfig> {
        let mut route = rtnetlink::route(body)?;
        if route.protocol == RTPROT_KERNEL || rtnetlink::is_derived(&route) || route.hops.is_empty() {
            return None;
        }
        for hop in &mut route.hops {
            hop.link = self.taken(hop.link)?;
        }
        Some(route)
    }

    fn link(&mut self, stack: &Arc<Stack>, mut link: LinkConfig) -> Option<()> {
        if rtnetlink::is_loopback(&link) || self.taken(link.index).is_some() {
            return None;
        }
        let host = link.index;
        link.addresses = self.pending.remove(&host).map(|known| known.addresses).unwrap_or_default();
        if !rtnetlink::can_take(&link) {
            if self.pending.len() < MAX_PENDING {
                self.pending.insert(host, link);
            }
            return Some(());
        }
        if stack.config.link(host).is_some() {
            link.index = 0;
        }
        let ether = link.hardware == ARPHRD_ETHER;
        let hardware = (link.hardware, apply::hardware(&link.address));
        let Frames { fd, offload, engine, .. } = &self.frames;
        let added = apply::link(stack, &link, |index| {
            self.links.lock().insert(host, Taken { index, ether });
            let on = (fd.clone(), Some(host));
            let device = Arc::new(device::HostDevice::new(on, link.mtu, hardware, *offload, engine.clone()));
            stack.add_device(index, device).map_err(|error| error.to_string())
        });
        match added {
            Ok(index) => tracing::info!(link = link.name, index, "an interface was added"),
            Err(error) => tracing::warn!(link = link.name, error, "an interface is not taken over"),
        }
        Some(())
    }

    fn link_gone(&mut self, stack: &Stack, host: u32) -> Option<()> {
        self.pending.remove(&host);
        let link = self.links.lock().remove(&host)?;
        stack.config.link_del(link.index).ok()
    }
}

fn same(a: &AddressConfig, b: &AddressConfig) -> bool {
    (a.address, a.prefix) == (b.address, b.prefix)
}

/// Hands packets to the links they came by.
fn receive(stack: &Weak<Stack>, links: &Links, frames: &Frames) {
    let mut receiver = Receiver::new(frames.offload, true);
    loop {
        device::wait(&mut receiver, &frames.fd, None);
        let Some(stack) = stack.upgrade() else { return };
        let mut packets = receiver.packets().peekable();
        while let Some(first) = packets.next() {
            let link = first.link;
            let mut burst: Vec<RxFrame<'_>> = vec![device::frame(&first)];
            while let Some(next) = packets.next_if(|next| next.link == link) {
                burst.push(device::frame(&next));
            }
            let Some(taken) = links.lock().get(&link).copied() else { continue };
            if let Some(answers) = &frames.answers {
                burst.retain(|frame| !answers.are_not_ours(frame.data, taken.ether));
            }
            if frames.engine.is_on() {
                burst.iter().for_each(|frame| frames.engine.incoming(frame.data, taken.ether));
            }
            stack.receive(taken.index, &burst);
        }
        run::drain();
    }
}
