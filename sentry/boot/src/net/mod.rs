//! Attaching the sandbox's network namespace to the world.
//!
//! The runtime has looked at the host's side and sends what it found ([`NetworkConfig`]) with a descriptor for each
//! interface, once, before the first container starts ([`Network::attach`]).

use chitin_abi::socket::{AF_INET, AF_INET6};
use chitin_control::{LinkConfig, NetworkConfig};
use chitin_kernel::Kernel;
use chitin_kernel::reactor::Reactor;
use chitin_net::host::{HostFamily, Watch, Watcher};
use chitin_net::{IfaceAddr, Interface, NetNs};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The sandbox's network.
pub struct Network {
    ns: Arc<NetNs>,
    attached: AtomicBool,
}

impl Network {
    pub fn new(kernel: &Kernel) -> Result<Network, String> {
        let ns = kernel.extension::<NetNs>().ok_or("the kernel has no network namespace; this is a bug")?;
        Ok(Network { ns, attached: AtomicBool::new(false) })
    }

    /// Takes over what `config` names; once.
    pub fn attach(&self, config: &NetworkConfig, _fds: Vec<OwnedFd>) -> Result<(), String> {
        if self.attached.swap(true, Ordering::AcqRel) {
            return Err("the sandbox is attached to a network already".into());
        }
        self.ns.set_interfaces(config.links.iter().map(interface).collect());
        Ok(())
    }
}

struct Reactors(Arc<Reactor>);

impl Watcher for Reactors {
    fn watch(&self, fd: Arc<OwnedFd>, on_ready: Box<dyn Fn(u32) + Send + Sync>) -> io::Result<Watch> {
        self.0.watch_with(fd, on_ready).map(|watch| Box::new(watch) as Watch)
    }
}

/// Gives the guest the host's TCP/IP (`--network=host`).
pub fn use_host_sockets(ns: &NetNs, reactor: &Arc<Reactor>) {
    let watcher = Arc::new(Reactors(reactor.clone()));
    for family in [AF_INET, AF_INET6] {
        ns.add_family(family, Arc::new(HostFamily::new(family, watcher.clone())));
    }
}

fn interface(link: &LinkConfig) -> Interface {
    let mut hw_addr = [0; 6];
    for (to, from) in hw_addr.iter_mut().zip(&link.address) {
        *to = *from;
    }
    let addrs = link.addresses.iter().map(|a| IfaceAddr { addr: a.address, prefix: a.prefix });
    Interface {
        index: link.index,
        name: link.name.clone(),
        flags: link.flags,
        mtu: link.mtu,
        hw_type: link.hardware,
        hw_addr,
        tx_queue_len: link.tx_queue_len,
        addrs: addrs.collect(),
    }
}
