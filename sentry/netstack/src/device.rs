//! Devices: where frames leave, and the form in which they come and go.

use std::sync::Arc;

/// What a device is and can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    pub mtu: u32,
    /// ARPHRD_*: Ethernet has headers, neighbours and a hardware address; loopback an Ethernet header of zeroes on
    /// AF_PACKET only; anything else is plain IP.
    pub hw_type: u16,
    pub hw_addr: [u8; 6],
    /// Takes packets whose TCP or UDP checksum is only the pseudo header's ([`TxFrame::csum`]).
    pub csum: bool,
    /// Takes TCP segments up to 64 KiB and cuts them itself ([`TxFrame::gso`]). Implies `csum`.
    pub tso: bool,
    /// The same for UDP (UDP_SEGMENT).
    pub uso: bool,
}

/// What kind of cutting a large packet needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    Tcp4,
    Tcp6,
    Udp,
}

/// Cutting into packets of `size` bytes of payload, each behind `header` bytes (as in `virtio_net_hdr`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    pub kind: GsoKind,
    pub size: u16,
    pub header: u16,
}

/// Where a checksum is missing: sum from `start` on, store at `start + offset` (as in `virtio_net_hdr`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Csum {
    pub start: u16,
    pub offset: u16,
}

/// A frame to be sent: headers, and the payload in up to two pieces.
#[derive(Clone, Copy, Debug)]
pub struct TxFrame<'a> {
    pub head: &'a [u8],
    pub body: [&'a [u8]; 2],
    pub csum: Option<Csum>,
    pub gso: Option<Gso>,
}

impl TxFrame<'_> {
    pub fn len(&self) -> usize {
        self.head.len() + self.body.iter().map(|piece| piece.len()).sum::<usize>()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The frame in one piece, for devices that cannot gather.
    pub fn copy_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.head);
        self.body.iter().for_each(|piece| out.extend_from_slice(piece));
    }
}

/// A frame that has arrived.
#[derive(Clone, Copy, Debug, Default)]
pub struct RxFrame<'a> {
    pub data: &'a [u8],
    /// The checksum above IP has been verified, or the frame never was on a wire (virtio_net_hdr's DATA_VALID or
    /// NEEDS_CSUM).
    pub csum_ok: bool,
    /// Payload bytes per packet where several have been put together; 0 otherwise.
    pub gso_size: u16,
    /// The buffer that `data` is in, if the stack may hold on to it: its device leaves it alone until nobody else does.
    pub buffer: Option<&'a Arc<Vec<u8>>>,
}

/// Where frames leave.
pub trait Device: Send + Sync {
    fn info(&self) -> DeviceInfo;
    /// Hands frames over in order; answers how many were taken. The rest did not fit, and is lost or sent again later.
    /// Must neither block nor call back into the stack: locks of it are held.
    fn transmit(&self, frames: &[TxFrame<'_>]) -> usize;
    /// Whether whoever brings frames ([`Stack::receive`](crate::Stack::receive)) does so at once, or comes without any: then
    /// acknowledgements of readers are left to it. It is asked after they have been.
    fn comes(&self) -> bool {
        false
    }
    /// The calling thread reads much of what has been brought, or sends much. Connections are locked.
    fn is_busy_here(&self) {}
}
