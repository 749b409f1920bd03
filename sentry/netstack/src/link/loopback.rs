//! What comes in again: packets sent on `lo`, and this host's copies of what it sends to groups and to all. They wait
//! until the sender has let go of its locks.

use crate::config::LO;
use crate::device::{Device, DeviceInfo, TxFrame};
use chitin_abi::netdevice::{ARPHRD_ETHER, ARPHRD_LOOPBACK};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Packets that may wait: as many as a CPU's backlog (net.core.netdev_max_backlog).
const MAX_PACKETS: usize = 1000;

/// Packets on their way back, each with the link it comes in from.
#[derive(Default)]
pub(crate) struct Backlog {
    queue: Mutex<VecDeque<(u32, Vec<u8>)>>,
    waiting: AtomicBool,
    /// Somebody takes packets in now, and will see what is added.
    draining: AtomicBool,
}

impl Backlog {
    /// Hands each waiting packet to `input`, unless somebody does so already.
    pub(crate) fn drain(&self, mut input: impl FnMut(u32, &[u8])) {
        while self.waiting.load(Ordering::Acquire) {
            if self.draining.swap(true, Ordering::AcqRel) {
                return;
            }
            while let Some((link, packet)) = self.pop() {
                input(link, &packet);
            }
            self.draining.store(false, Ordering::Release);
        }
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.queue.lock().iter().map(|(_, packet)| packet.capacity()).sum()
    }

    /// Whether there was room.
    pub(crate) fn push(&self, link: u32, packet: Vec<u8>) -> bool {
        let mut queue = self.queue.lock();
        let room = queue.len() < MAX_PACKETS;
        if room {
            queue.push_back((link, packet));
            self.waiting.store(true, Ordering::Release);
        }
        room
    }

    fn pop(&self) -> Option<(u32, Vec<u8>)> {
        let mut queue = self.queue.lock();
        let packet = queue.pop_front();
        if packet.is_none() {
            self.waiting.store(false, Ordering::Release);
        }
        packet
    }
}

/// The device of a link that leads nowhere, with its hardware address.
pub(crate) struct Dummy(pub [u8; 6]);

impl Device for Dummy {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { mtu: 1500, hw_type: ARPHRD_ETHER, hw_addr: self.0, csum: true, tso: true, uso: true }
    }
    fn transmit(&self, frames: &[TxFrame<'_>]) -> usize {
        frames.len()
    }
}

/// The device of `lo`.
pub(crate) struct Loopback(pub Arc<Backlog>);

impl Device for Loopback {
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            mtu: 65536,
            hw_type: ARPHRD_LOOPBACK,
            hw_addr: [0; 6],
            csum: true,
            tso: false,
            uso: false,
        }
    }

    fn transmit(&self, frames: &[TxFrame<'_>]) -> usize {
        let packet = |frame: &TxFrame<'_>| {
            let mut packet = Vec::with_capacity(frame.len());
            frame.copy_to(&mut packet);
            packet
        };
        frames.iter().take_while(|frame| self.0.push(LO, packet(frame))).count()
    }
}
