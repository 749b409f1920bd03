//! A link's device: packets from and to a host descriptor, in batches.
//!
//! The descriptor is a packet socket on an interface of the namespace. One thread per link waits for packets, hands
//! them to the stack and completes what guests wait for on the spot; sending is done by whoever has something to send, or a
//! little later (`held`).
//! A packet comes and goes with a `virtio_net_hdr`, so that checksums and the cutting of large TCP segments are left to
//! the other end, and a stream travels in pieces of up to 64 KiB.
//!
//! What the host will not take is dropped, as by any interface whose queue is full.

use chitin_abi::netdevice::ARPHRD_ETHER;
use chitin_egress::{Engine, Fate, Pieces};
use chitin_host::epoll::{Doorbell, either};
use chitin_host::packet::{
    BATCH, HDR_F_DATA_VALID, HDR_F_NEEDS_CSUM, HDR_GSO_ECN, HDR_GSO_NONE, HDR_GSO_TCPV4, HDR_GSO_TCPV6,
    HDR_GSO_UDP_L4, Outgoing, Packet, Receiver, VnetHdr, send,
};
use chitin_kernel::run;
use chitin_netstack::device::GsoKind;
use chitin_netstack::{Device, DeviceInfo, RxFrame, Stack, TxFrame};
use chitin_platform::later::{self, Later};
use chitin_platform::set_goes_on;
use chitin_platform_host::sys::current_cpu;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::answers::Answers;
use super::aside;
use super::clear::Clear;
use super::held::Held;

/// Receive threads run the calls of guests to their end.
pub const STACK_SIZE: usize = 512 << 10;
/// How long to leave a descriptor alone that has shown an error (an interface that went down shows it once).
pub const PAUSE: Duration = Duration::from_millis(50);
/// A packet of a stream that is in a hurry.
const LARGE: usize = 16_384;

/// The sending half.
pub struct HostDevice {
    fd: Arc<OwnedFd>,
    info: DeviceInfo,
    /// Each packet has a `virtio_net_hdr`.
    offload: bool,
    /// The host's index of the interface, where the descriptor is on several.
    to: Option<u32>,
    egress: Arc<Engine>,
    presence: Arc<Presence>,
    /// What has not been sent yet.
    held: Arc<Held>,
}

impl HostDevice {
    pub fn new(
        (fd, to): (Arc<OwnedFd>, Option<u32>),
        mtu: u32,
        (hw_type, hw_addr): (u16, [u8; 6]),
        offload: bool,
        egress: Arc<Engine>,
    ) -> HostDevice {
        let info = DeviceInfo { mtu, hw_type, hw_addr, csum: offload, tso: offload, uso: false };
        let held = Arc::new(Held::new(fd.clone(), to));
        HostDevice { fd, info, offload, to, egress, presence: Arc::default(), held }
    }

    /// With a thread of its own that receives.
    pub fn attended(self, presence: Arc<Presence>) -> HostDevice {
        HostDevice { presence, ..self }
    }

    /// Sends what the policy lets through. What it does not counts as sent: as on Linux, the sender of a packet learns of a
    /// filter further down only if it was told before.
    fn transmit_some(&self, frames: &[TxFrame<'_>]) -> usize {
        let ether = self.info.hw_type == ARPHRD_ETHER;
        let mut passed = Vec::with_capacity(frames.len());
        let mut end = frames.len();
        for (at, frame) in frames.iter().enumerate() {
            let [first, second] = frame.body;
            match self.egress.outgoing(&Pieces([frame.head, first, second]), ether) {
                Fate::Pass => passed.push((at, *frame)),
                Fate::Drop => {}
                Fate::Later => {
                    end = at;
                    break;
                }
            }
        }
        let chosen: Vec<TxFrame<'_>> = passed.iter().map(|(_, frame)| *frame).collect();
        let count = self.transmit_all(&chosen);
        passed.get(count).map_or(end, |(at, _)| *at)
    }

    fn transmit_all(&self, frames: &[TxFrame<'_>]) -> usize {
        if later::puts_off() && self.held.hold(frames, self.offload) {
            return frames.len();
        }
        // What is held goes before it.
        self.held.catch_up();
        let mut taken = 0;
        for chunk in frames.chunks(BATCH) {
            let none = Outgoing { header: None, pieces: [&[]; 3] };
            let mut packets = [none; BATCH];
            for (packet, frame) in packets.iter_mut().zip(chunk) {
                let [first, second] = frame.body;
                *packet = Outgoing {
                    header: self.offload.then(|| header(frame)),
                    pieces: [frame.head, first, second],
                };
            }
            let packets = packets.get(..chunk.len()).unwrap_or_default();
            let send = || send_all(&self.fd, self.to, packets);
            let large = chunk.iter().any(|frame| frame.len() >= LARGE);
            let count = if large { aside::sending(send) } else { send() };
            taken += count;
            if count < chunk.len() {
                break;
            }
        }
        taken
    }
}

/// How many of the packets the host has taken.
pub fn send_all(fd: &OwnedFd, to: Option<u32>, packets: &[Outgoing<'_>]) -> usize {
    let (count, error) = send(fd.as_fd(), to, packets);
    if let Some(error) = error.filter(|error| error.kind() != io::ErrorKind::WouldBlock) {
        tracing::debug!(%error, "a packet could not be sent");
    }
    count
}

pub fn header(frame: &TxFrame<'_>) -> VnetHdr {
    let mut header = VnetHdr::default();
    if let Some(csum) = frame.csum {
        header.flags = HDR_F_NEEDS_CSUM;
        header.csum_start = csum.start;
        header.csum_offset = csum.offset;
    }
    if let Some(gso) = frame.gso {
        header.gso_type = match gso.kind {
            GsoKind::Tcp4 => HDR_GSO_TCPV4,
            GsoKind::Tcp6 => HDR_GSO_TCPV6,
            GsoKind::Udp => HDR_GSO_UDP_L4,
        };
        header.gso_size = gso.size;
        header.hdr_len = gso.header;
    }
    header
}

impl Device for HostDevice {
    fn info(&self) -> DeviceInfo {
        self.info.clone()
    }

    fn transmit(&self, frames: &[TxFrame<'_>]) -> usize {
        if self.egress.is_on() { self.transmit_some(frames) } else { self.transmit_all(frames) }
    }

    fn comes(&self) -> bool {
        self.presence.comes()
    }

    fn is_busy_here(&self) {
        self.presence.busy.store(current_cpu().map_or(0, |cpu| cpu + 1), Ordering::Relaxed);
    }
}

/// The receiving half.
pub struct Rx {
    pub fd: Arc<OwnedFd>,
    pub presence: Arc<Presence>,
    pub offload: bool,
    pub ether: bool,
    pub engine: Arc<Engine>,
    pub answers: Option<Answers>,
}

/// Starts its thread, which ends with the stack.
pub fn receive(stack: &Arc<Stack>, link: u32, name: &str, rx: Rx) -> io::Result<()> {
    let weak = Arc::downgrade(stack);
    std::thread::Builder::new()
        .name(format!("net-{name}"))
        .stack_size(STACK_SIZE)
        .spawn(move || serve(&weak, link, &rx))
        .map(drop)
}

/// What the receiving thread is at, for those who leave something to it ([`Device::comes`]). Where nobody does it waits
/// for packets only, which takes one call less.
#[derive(Default)]
pub struct Presence {
    at: AtomicU32,
    /// Something has been left to it.
    asked: AtomicBool,
    /// One more than the CPU where somebody has read or sent much; 0: nobody has since that was asked last.
    busy: AtomicUsize,
    /// None: it always waits for packets only.
    bell: Option<Doorbell>,
}

/// At work, and looks whether something has been left to it before it waits.
const AWAKE: u32 = 0;
/// Waits for packets.
const DEAF: u32 = 1;
/// Waits for packets and for the bell.
const ASLEEP: u32 = 2;
/// So many waits with an ear for the bell follow one after something has been left.
const KEEN: u32 = 64;

impl Presence {
    pub fn new() -> io::Result<Presence> {
        Ok(Presence { bell: Some(Doorbell::new()?), ..Presence::default() })
    }

    fn comes(&self) -> bool {
        let Some(bell) = &self.bell else { return false };
        self.asked.store(true, Ordering::SeqCst);
        match self.at.compare_exchange(ASLEEP, AWAKE, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => bell.ring(),
            // If it has woken since, it has seen that it is asked, or will before it waits again.
            Err(at) => return at != DEAF,
        }
        true
    }

    /// Goes to sleep as `how` says by `wait`, unless there is something to do.
    fn rest<T>(&self, how: u32, wait: impl FnOnce() -> T) -> Option<T> {
        self.at.store(how, Ordering::SeqCst);
        let answer = (!self.asked.load(Ordering::SeqCst)).then(wait);
        self.at.store(AWAKE, Ordering::SeqCst);
        answer
    }
}

/// A packet of the host's as the stack takes it.
pub fn frame<'a>(packet: &Packet<'a>) -> RxFrame<'a> {
    let VnetHdr { flags, gso_type, gso_size, .. } = packet.header;
    let large = gso_type & !HDR_GSO_ECN != HDR_GSO_NONE;
    RxFrame {
        data: packet.data,
        csum_ok: flags & (HDR_F_NEEDS_CSUM | HDR_F_DATA_VALID) != 0,
        gso_size: if large { gso_size } else { 0 },
        buffer: packet.buffer,
    }
}

/// Waits for packets of `link` (or of several), also beyond an interface's going down or away.
pub fn wait(receiver: &mut Receiver, fd: &OwnedFd, link: Option<u32>) {
    while let Err(error) = receiver.wait(fd.as_fd()) {
        pause(&error, link);
    }
}

fn pause(error: &io::Error, link: Option<u32>) {
    if !matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) {
        tracing::debug!(link, %error, "no packets at the moment");
        std::thread::sleep(PAUSE);
    }
}

/// Waits for packets, or for what is left to this thread; it may go on with neither. `keen`: waits that listen for the bell.
fn attend(receiver: &mut Receiver, rx: &Rx, link: u32, keen: &mut u32) {
    let presence = &*rx.presence;
    match &presence.bell {
        Some(bell) if *keen > 0 => {
            let mut looked = receiver.look(rx.fd.as_fd());
            if matches!(&looked, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                *keen -= 1;
                if presence.rest(ASLEEP, || either(rx.fd.as_fd(), bell.as_fd())) == Some(true) {
                    bell.clear();
                }
                looked = receiver.look(rx.fd.as_fd());
            }
            if let Err(error) = looked {
                pause(&error, Some(link));
            }
        }
        _ => {
            if presence.rest(DEAF, || wait(receiver, &rx.fd, Some(link))).is_none() {
                receiver.nothing();
            }
        }
    }
    if presence.asked.swap(false, Ordering::SeqCst) {
        *keen = KEEN;
    }
}

fn serve(stack: &Weak<Stack>, link: u32, rx: &Rx) {
    let mut receiver = Receiver::new(rx.offload, false);
    let mut keen = 0;
    let mut clear = Clear::new();
    loop {
        attend(&mut receiver, rx, link, &mut keen);
        let busy = rx.presence.busy.swap(0, Ordering::Relaxed).checked_sub(1);
        clear.of(busy);
        let Some(stack) = stack.upgrade() else { return };
        let frames: Vec<RxFrame<'_>> = receiver
            .packets()
            .filter(|packet| !rx.answers.as_ref().is_some_and(|a| a.are_not_ours(packet.data, rx.ether)))
            .map(|packet| frame(&packet))
            .collect();
        if rx.engine.is_on() {
            frames.iter().for_each(|frame| rx.engine.incoming(frame.data, rx.ether));
        }
        // Of a large packet there is more where it came from, as of what is acknowledged to who sends much: both go on meanwhile.
        set_goes_on(busy.is_some() || frames.iter().any(|frame| frame.data.len() >= LARGE));
        stack.receive(link, &frames);
        drop(frames);
        run::drain();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn who_receives_comes_when_it_is_awake_or_hears_the_bell() {
        assert!(!Presence::default().comes());
        let presence = Presence::new().unwrap();
        let bell = presence.bell.as_ref().unwrap();
        assert!(presence.comes());
        // It does not go to sleep before it has come.
        assert!(presence.rest(DEAF, || unreachable!()).is_none());
        assert!(presence.asked.swap(false, Ordering::SeqCst));
        // Who waits for packets only does not, but learns that it has been asked.
        assert_eq!(presence.rest(DEAF, || presence.comes()), Some(false));
        assert!(presence.asked.swap(false, Ordering::SeqCst));
        let (quiet, _peer) = UnixStream::pair().unwrap();
        let slept = presence.rest(ASLEEP, || presence.comes() && either(quiet.as_fd(), bell.as_fd()));
        assert_eq!(slept, Some(true));
    }
}
