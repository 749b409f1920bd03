//! What changes in the host's network namespace while the sandbox has it: interfaces that engines and plugins add (`docker
//! network connect`) or take away, and addresses and routes on them. The sandbox's namespace follows.
//!
//! The runtime has left two sockets: one hears the kernel's news, the other has the packets of all interfaces that were not
//! there at the start, and sends on any. One thread each; both end with the stack. When more changes than can wait to be heard,
//! the sandbox lists what there is and makes up for what it has missed ([`known`]).

mod known;
mod listing;

use chitin_abi::netdevice::ARPHRD_ETHER;
use chitin_control::rtnetlink;
use chitin_control::{LinkConfig, NetworkConfig, RouteConfig};
use chitin_egress::Engine;
use chitin_host::packet::Receiver;
use chitin_kernel::run;
use chitin_netstack::config::RouteMode;
use chitin_netstack::{RxFrame, Stack};
use known::{Known, News};
use listing::Listing;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use super::answers::Answers;
use super::{apply, device};

const STACK_SIZE: usize = 256 << 10;

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
    known: Known,
    frames: Frames,
}

/// Begins to follow what `config` says was there.
pub fn start(stack: &Arc<Stack>, config: &NetworkConfig, news: OwnedFd, frames: Frames) -> io::Result<()> {
    // Their packets come by sockets of their own.
    let known = config.links.iter().map(|link| (link.index, Taken { index: link.index, ether: true }));
    let links: Arc<Links> = Arc::new(Mutex::new(known.collect()));
    let (weak, shared) = (Arc::downgrade(stack), links.clone());
    let received = frames.clone();
    std::thread::Builder::new()
        .name("net-later".into())
        .stack_size(device::STACK_SIZE)
        .spawn(move || receive(&weak, &shared, &received))?;
    let mut follower = Follower { stack: Arc::downgrade(stack), links, known: Known::new(config), frames };
    std::thread::Builder::new().name("net-news".into()).stack_size(STACK_SIZE).spawn(move || {
        let mut news = Listing::new(news);
        while follower.stack.strong_count() > 0 {
            match news.next() {
                Ok(all) => all.iter().for_each(|news| follower.hear(news)),
                Err(nix::Error::ENOBUFS) => follower.catch_up(&mut news),
                Err(error) => {
                    tracing::warn!(%error, "changes of the host's network were missed");
                    std::thread::sleep(device::PAUSE);
                }
            }
            run::drain();
        }
    })?;
    Ok(())
}

impl Follower {
    fn hear(&mut self, news: &News) {
        self.known.note(news);
        self.follow(news);
    }

    /// More has changed than could wait: looks what there is, and makes up for it.
    fn catch_up(&mut self, news: &mut Listing) {
        loop {
            // As long as something waits the kernel drops what follows; and what has waited is older than what is listed.
            match news.waiting() {
                Ok(all) => all.iter().for_each(|news| self.hear(news)),
                Err(error) => tracing::warn!(%error, "changes of the host's network were missed"),
            }
            match news.list() {
                Ok((now, heard)) => {
                    let changes = self.known.changes(&now);
                    tracing::info!(
                        changes = changes.len(),
                        "made up for missed changes of the host's network"
                    );
                    self.known = now;
                    changes.iter().for_each(|news| self.follow(news));
                    heard.iter().for_each(|news| self.hear(news));
                    return;
                }
                // It changes all the time; or there is no memory.
                Err(_) if self.stack.strong_count() > 0 => std::thread::sleep(device::PAUSE),
                Err(_) => return,
            }
        }
    }

    /// Makes a change of the host's here.
    fn follow(&self, news: &News) {
        let Some(stack) = self.stack.upgrade() else { return };
        // What has no link here concerns nobody; what is there, or gone, already is as it should be.
        let _ = self.make(&stack, news);
    }

    fn make(&self, stack: &Arc<Stack>, news: &News) -> Option<()> {
        match news {
            News::Link(link) => self.link(stack, self.known.link(link.index)?.clone()),
            News::LinkGone(host) => {
                let link = self.links.lock().remove(host)?;
                stack.config.link_del(link.index).ok()
            }
            News::Address(link, address) => {
                apply::address(stack, self.taken(*link)?, address);
                Some(())
            }
            News::AddressGone(link, address) => {
                stack.config.addr_del(self.taken(*link)?, address.address, address.prefix).ok()
            }
            News::Route(route) => {
                let entry = apply::entry(&self.route(route)?);
                if !stack.config.routes().contains(&entry) {
                    stack.config.route_add(entry, RouteMode::Append).ok()?;
                }
                Some(())
            }
            News::RouteGone(route) => {
                let gone = apply::entry(&self.route(route)?);
                let v4 = gone.dst.addr.is_ipv4();
                let hop = gone.hops.first();
                let fits = |r: &chitin_netstack::RouteEntry| {
                    r.dst == gone.dst
                        && r.metric == gone.metric
                        && r.hops.first().map(|h| (h.link, h.gateway)) == hop.map(|h| (h.link, h.gateway))
                };
                stack.config.route_del(gone.table, v4, fits).ok()
            }
        }
    }

    fn taken(&self, host: u32) -> Option<u32> {
        self.links.lock().get(&host).map(|link| link.index)
    }

    /// A route with the indices of the sandbox; none if it leads elsewhere.
    fn route(&self, route: &RouteConfig) -> Option<RouteConfig> {
        let mut route = route.clone();
        for hop in &mut route.hops {
            hop.link = self.taken(hop.link)?;
        }
        Some(route)
    }

    fn link(&self, stack: &Arc<Stack>, mut link: LinkConfig) -> Option<()> {
        let host = link.index;
        if rtnetlink::is_loopback(&link) || self.taken(host).is_some() || !rtnetlink::can_take(&link) {
            return None;
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
