//! Small packets that are held back until there are more, or nothing else to do ([`later`]).
//!
//! Each packet that comes to the host makes it process it on the spot and wake whoever waits for it, which costs several times what it
//! took to make the packet, and where CPUs are few takes the one away that the next call needs. A server that answers many
//! has its answers sent together.
//!
//! Neighbours: `device` holds packets here and sends nothing past them; the platform's poller says when it is time.
//!
//! Lock: `queue` is held while its packets are sent, so that the order stays; nothing else is locked within.

use chitin_host::packet::{BATCH, Outgoing, VnetHdr};
use chitin_netstack::TxFrame;
use chitin_platform::later::{self, Later};
use parking_lot::Mutex;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::device::{header, send_all};

/// What is larger goes at once: waking somebody costs little beside it.
const SMALL: usize = 4096;
/// So many packets in a row that were sent alone: nothing is gained here.
const ALONE: u32 = 8;
/// So many are sent at once until it is tried again.
const UNTRIED: u32 = 256;

pub struct Held {
    fd: Arc<OwnedFd>,
    to: Option<u32>,
    any: AtomicBool,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    /// Each packet's header, and where its bytes end.
    packets: Vec<(Option<VnetHdr>, usize)>,
    bytes: Vec<u8>,
    /// Packets that were sent alone, and those that were not held since, for that.
    alone: u32,
    untried: u32,
}

impl Held {
    pub fn new(fd: Arc<OwnedFd>, to: Option<u32>) -> Held {
        Held { fd, to, any: AtomicBool::new(false), queue: Mutex::default() }
    }

    /// Takes small packets, for a thread that catches up soon. False: they are better sent at once.
    pub fn hold(self: &Arc<Self>, frames: &[TxFrame<'_>], offload: bool) -> bool {
        if frames.iter().map(TxFrame::len).sum::<usize>() > SMALL {
            return false;
        }
        let mut queue = self.queue.lock();
        if !queue.is_worth_while() {
            return false;
        }
        let first = queue.packets.is_empty();
        for frame in frames {
            let [a, b] = frame.body;
            [frame.head, a, b].iter().for_each(|piece| queue.bytes.extend_from_slice(piece));
            let end = queue.bytes.len();
            queue.packets.push((offload.then(|| header(frame)), end));
        }
        self.any.store(true, Ordering::Release);
        let full = queue.packets.len() >= BATCH;
        if full {
            self.send(&mut queue);
        }
        drop(queue);
        if first && !full {
            later::put_off(self.clone());
        }
        true
    }

    /// Sends what is held, before anything else is sent.
    fn send(&self, queue: &mut Queue) {
        queue.alone = if queue.packets.len() == 1 { queue.alone.saturating_add(1) } else { 0 };
        let mut rest = &queue.bytes[..];
        let mut start = 0;
        let packets: Vec<Outgoing<'_>> = queue
            .packets
            .iter()
            .map(|(header, end)| {
                let (packet, later) = rest.split_at_checked(end.saturating_sub(start)).unwrap_or_default();
                (rest, start) = (later, *end);
                Outgoing { header: *header, pieces: [packet, &[], &[]] }
            })
            .collect();
        let _dropped = send_all(&self.fd, self.to, &packets);
        queue.packets.clear();
        queue.bytes.clear();
        // Not before: who finds nothing here sends at once.
        self.any.store(false, Ordering::Release);
    }
}

impl Queue {
    fn is_worth_while(&mut self) -> bool {
        if self.alone < ALONE {
            return true;
        }
        self.untried += 1;
        if self.untried > UNTRIED {
            (self.alone, self.untried) = (ALONE - 1, 0);
        }
        false
    }
}

impl Later for Held {
    fn catch_up(&self) {
        if self.any.load(Ordering::Acquire) {
            let mut queue = self.queue.lock();
            if !queue.packets.is_empty() {
                self.send(&mut queue);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chitin_host::packet::{Receiver, send};
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::os::fd::AsFd;

    /// What holds packets for a wire, and the wire's ends.
    fn wire() -> (Arc<Held>, Arc<OwnedFd>, OwnedFd) {
        let (family, kind) = (AddressFamily::Unix, SockType::SeqPacket);
        let (ours, theirs) = socketpair(family, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let ours = Arc::new(ours);
        (Arc::new(Held::new(ours.clone(), None)), ours, theirs)
    }

    #[test]
    fn packets_go_together_and_in_order() {
        let (held, _ours, theirs) = wire();
        let frame = |head: &'static [u8], body: &'static [u8]| TxFrame {
            head,
            body: [body, b"."],
            csum: None,
            gso: None,
        };
        let mut receiver = Receiver::new(true, false);
        let mut come = || {
            let count = receiver.look(theirs.as_fd()).unwrap_or(0);
            receiver.packets().take(count).map(|packet| packet.data.to_vec()).collect::<Vec<_>>()
        };
        assert!(held.hold(&[frame(b"a", b"b")], true));
        assert!(held.hold(&[frame(b"c", b""), frame(b"", b"d")], true));
        assert!(!held.hold(&[frame(&[0; SMALL], b"")], true), "large");
        assert!(come().is_empty());
        later::catch_up();
        assert_eq!(come(), [&b"ab."[..], b"c.", b"d."]);
        held.catch_up();
        assert!(come().is_empty());
        // As many as are sent at once go by themselves.
        for n in 1..BATCH {
            assert!(held.hold(&[frame(b"x", b"")], true));
            assert!(come().is_empty(), "{n}");
        }
        assert!(held.hold(&[frame(b"x", b"")], true));
        let mut count = 0;
        while let Some(more) = Some(come().len()).filter(|n| *n > 0) {
            count += more;
        }
        assert_eq!(count, BATCH);
        // Where each goes alone nothing is held, but that is tried again.
        for _ in 0..ALONE {
            assert!(held.hold(&[frame(b"y", b"")], true));
            held.catch_up();
        }
        let untried = (0..).take_while(|_| !held.hold(&[frame(b"y", b"")], true)).count();
        assert_eq!(untried, UNTRIED as usize + 1);
    }

    /// Also when a test fails.
    struct Ends<'a>(&'a AtomicBool);

    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn nothing_overtakes_what_is_held() {
        let (held, ours, theirs) = wire();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Somebody else may be at it just when something is sent past what is held.
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    held.catch_up();
                }
            });
            let _end = Ends(&over);
            let mut receiver = Receiver::new(true, false);
            let mut expected = 0_u32;
            for n in 0..50_000_u32 {
                let (first, second) = ((2 * n).to_ne_bytes(), (2 * n + 1).to_ne_bytes());
                let frame = TxFrame { head: &first, body: [&[], &[]], csum: None, gso: None };
                while !held.hold(&[frame], true) {}
                held.catch_up();
                let past = Outgoing { header: Some(VnetHdr::default()), pieces: [&second, &[], &[]] };
                assert_eq!(send(ours.as_fd(), None, &[past]).0, 1);
                while expected < 2 * n + 2 {
                    let count = receiver.wait(theirs.as_fd()).unwrap();
                    for packet in receiver.packets().take(count) {
                        assert_eq!(packet.data, expected.to_ne_bytes());
                        expected += 1;
                    }
                }
            }
        });
    }
}
