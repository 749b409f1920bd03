//! The stack: what its parts share, and the ways in.

use crate::config::{Config, Neighbour, Route};
use crate::device::{Device, RxFrame};
use crate::env::{Env, Nanos};
use crate::sockets::{SendOpts, Sockets};
use crate::sysctl::Sysctls;
use chitin_abi::Errno;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// The protocols of one network namespace.
pub struct Stack {
    pub config: Config,
    pub sysctls: Sysctls,
    env: Arc<dyn Env>,
    sockets: OnceLock<Arc<dyn Sockets>>,
    want_raw: AtomicBool,
    want_frames: AtomicBool,
}

impl Stack {
    /// A stack with nothing but `lo`, which is down.
    pub fn new(env: Arc<dyn Env>) -> Arc<Stack> {
        Arc::new(Stack {
            config: Config::new(),
            sysctls: Sysctls::default(),
            env,
            sockets: OnceLock::new(),
            want_raw: AtomicBool::new(false),
            want_frames: AtomicBool::new(false),
        })
    }

    pub fn env(&self) -> &Arc<dyn Env> {
        &self.env
    }

    /// Installs the sockets layer; once.
    pub fn install(&self, sockets: Arc<dyn Sockets>) {
        let first = self.sockets.set(sockets).is_ok();
        debug_assert!(first, "the sockets layer is installed once");
    }

    /// Whether raw sockets exist, so that packets are shown to [`Sockets::raw`].
    pub fn want_raw(&self, wanted: bool) {
        self.want_raw.store(wanted, Ordering::Release);
    }
    /// Whether AF_PACKET sockets exist, so that frames are shown to [`Sockets::packet`].
    pub fn want_frames(&self, wanted: bool) {
        self.want_frames.store(wanted, Ordering::Release);
    }

    /// Gives a configured link its device.
    pub fn add_device(&self, _link: u32, _device: Arc<dyn Device>) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Frames that have arrived on a link, in order.
    pub fn receive(&self, _link: u32, _frames: &[RxFrame<'_>]) {}
    /// Does what is due. Answers when there is more, if at all.
    pub fn on_timer(&self, _now: Nanos) -> Option<Nanos> {
        None
    }

    /// Sends a datagram along a route that [`Config::route`] has found. What is local is delivered before this returns.
    pub fn udp_send(
        &self,
        _route: &Route,
        _src: SocketAddr,
        _dst: SocketAddr,
        _payload: &[u8],
        _opts: &SendOpts<'_>,
    ) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Sends a packet of any protocol (raw and ping sockets): the IP header is made here, checksums above it are not.
    pub fn ip_send(
        &self,
        _route: &Route,
        _src: IpAddr,
        _proto: u8,
        _payload: &[u8],
        _opts: &SendOpts<'_>,
    ) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Sends a packet with its IP header (IP_HDRINCL); its checksum, length and, if zero, id and source are filled in.
    pub fn packet_send(&self, _route: &Route, _packet: &[u8], _opts: &SendOpts<'_>) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Sends a frame as it is (AF_PACKET).
    pub fn frame_send(&self, _link: u32, _frame: &[u8]) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Joins or leaves a group on a link; counted, so each join needs its leave.
    pub fn join(&self, _link: u32, _group: IpAddr) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    pub fn leave(&self, _link: u32, _group: IpAddr) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Groups with their links and how often they were joined (/proc/net/igmp).
    pub fn groups(&self) -> Vec<(u32, IpAddr, u32)> {
        Vec::new()
    }

    pub fn neighbours(&self) -> Vec<Neighbour> {
        Vec::new()
    }
}
