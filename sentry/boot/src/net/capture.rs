//! Packet capture: frames of the sandbox's links as pcapng, to a descriptor of the runtime's (`chitin debug --pcap`).
//!
//! The stack shows frames with locks held, so they are copied into a bounded queue; a thread of the capture's own writes them.
//! What does not fit is counted, and told in the interface's statistics at the end. Without a capture nothing is shown (see
//! `NetNs::add_tap`), which costs the stack the one load that it does for packet sockets anyhow.

use chitin_host::clock::now_ns;
use chitin_net::{NetNs, Tap};
use chitin_netstack::{FrameIn, FrameKind, Stack};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};

const CLOCK_REALTIME: i32 = 0;
const STACK_SIZE: usize = 256 << 10;
/// What may wait to be written, of one capture.
const MAX_BYTES: usize = 8 << 20;
const MAX_FRAMES: usize = 8192;
/// The longest frame that there is, and more.
pub const MAX_SNAPLEN: u32 = 262_144;
const LINKTYPE_ETHERNET: u16 = 1;
const LINKTYPE_RAW: u16 = 101;

struct Frame {
    link: u32,
    ether: bool,
    outgoing: bool,
    at: u64,
    len: usize,
    data: Vec<u8>,
}

/// The end that the stack shows frames to.
struct Queue {
    frames: SyncSender<Frame>,
    waiting: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
    snaplen: usize,
}

impl Tap for Queue {
    fn show(&self, frame: &FrameIn<'_>) {
        let len = frame.pieces.iter().map(|piece| piece.len()).sum();
        let mut data = Vec::with_capacity(self.snaplen.min(len));
        for piece in frame.pieces {
            let room = self.snaplen.saturating_sub(data.len());
            data.extend_from_slice(piece.get(..room).unwrap_or(piece));
        }
        let size = data.len();
        let taken = Frame {
            link: frame.link,
            ether: frame.header > 0,
            outgoing: frame.kind == FrameKind::Outgoing,
            at: now_ns(CLOCK_REALTIME),
            len,
            data,
        };
        let before = self.waiting.fetch_add(size, Ordering::AcqRel);
        if before.saturating_add(size) > MAX_BYTES || self.frames.try_send(taken).is_err() {
            self.waiting.fetch_sub(size, Ordering::AcqRel);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A capture that goes on until this is dropped; what was seen until then is still written.
pub struct Capture {
    ns: Arc<NetNs>,
    tap: Arc<dyn Tap>,
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.ns.remove_tap(&self.tap);
    }
}

/// Begins one.
pub fn start(ns: &Arc<NetNs>, snaplen: u32, to: OwnedFd) -> Result<Capture, String> {
    let snaplen = usize::try_from(snaplen.clamp(1, MAX_SNAPLEN)).unwrap_or(1);
    let (frames, taken) = sync_channel(MAX_FRAMES);
    let (waiting, dropped) = (Arc::<AtomicUsize>::default(), Arc::<AtomicU64>::default());
    let writer = Writer {
        out: File::from(to),
        stack: Arc::downgrade(ns.stack()),
        links: HashMap::new(),
        snaplen,
        dropped: dropped.clone(),
    };
    let left = waiting.clone();
    std::thread::Builder::new()
        .name("capture".into())
        .stack_size(STACK_SIZE)
        .spawn(move || {
            // Whoever reads is gone: the rest is thrown away until the capture ends.
            if let Err(error) = writer.run(&taken, &left) {
                tracing::debug!(%error, "a capture ends");
                for frame in taken {
                    left.fetch_sub(frame.data.len(), Ordering::AcqRel);
                }
            }
        })
        .map_err(|error| format!("cannot start a thread for the capture: {error}"))?;
    let tap: Arc<dyn Tap> = Arc::new(Queue { frames, waiting, dropped, snaplen });
    if !ns.add_tap(tap.clone()) {
        return Err("there are too many captures of this sandbox; end one".into());
    }
    Ok(Capture { ns: ns.clone(), tap })
}

/// Writes pcapng (draft-ietf-opsawg-pcapng): little-endian blocks, an interface when its first frame comes.
struct Writer {
    out: File,
    stack: Weak<Stack>,
    /// The number of an interface in the file.
    links: HashMap<u32, u32>,
    snaplen: usize,
    dropped: Arc<AtomicU64>,
}

fn u32_of(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Adds an option, padded.
fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    body.extend(u16::try_from(value.len()).unwrap_or(0).to_le_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let total = u32_of(body.len().saturating_add(12)).to_le_bytes();
    [&kind.to_le_bytes()[..], &total, body, &total].concat()
}

/// High half first, as blocks have times.
fn halves(at: u64) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h] = at.to_le_bytes();
    [e, f, g, h, a, b, c, d]
}

impl Writer {
    fn run(mut self, frames: &Receiver<Frame>, waiting: &AtomicUsize) -> io::Result<()> {
        let mut body = 0x1a2b_3c4d_u32.to_le_bytes().to_vec();
        body.extend([1, 0, 0, 0]);
        body.extend([0xff; 8]);
        option(&mut body, 4, b"chitin");
        option(&mut body, 0, &[]);
        self.out.write_all(&block(0x0a0d_0d0a, &body))?;
        for frame in frames {
            waiting.fetch_sub(frame.data.len(), Ordering::AcqRel);
            self.frame(&frame)?;
        }
        self.statistics()
    }

    fn frame(&mut self, frame: &Frame) -> io::Result<()> {
        let number = match self.links.get(&frame.link) {
            Some(number) => *number,
            None => {
                let number = u32_of(self.links.len());
                self.interface(frame)?;
                self.links.insert(frame.link, number);
                number
            }
        };
        let mut body = number.to_le_bytes().to_vec();
        body.extend(halves(frame.at));
        body.extend(u32_of(frame.data.len()).to_le_bytes());
        body.extend(u32_of(frame.len).to_le_bytes());
        body.extend(&frame.data);
        body.resize(body.len().next_multiple_of(4), 0);
        let direction: u32 = if frame.outgoing { 2 } else { 1 };
        option(&mut body, 2, &direction.to_le_bytes());
        option(&mut body, 0, &[]);
        self.out.write_all(&block(6, &body))
    }

    fn interface(&mut self, frame: &Frame) -> io::Result<()> {
        let kind = if frame.ether { LINKTYPE_ETHERNET } else { LINKTYPE_RAW };
        let mut body = kind.to_le_bytes().to_vec();
        body.extend([0, 0]);
        body.extend(u32_of(self.snaplen).to_le_bytes());
        let link = self.stack.upgrade().and_then(|stack| stack.config.link(frame.link));
        if let Some(link) = link {
            option(&mut body, 2, link.name.as_bytes());
        }
        // Times are in nanoseconds.
        option(&mut body, 9, &[9]);
        option(&mut body, 0, &[]);
        self.out.write_all(&block(1, &body))
    }

    /// How many frames there was no room for; they are not told apart by interface.
    fn statistics(&mut self) -> io::Result<()> {
        if self.links.is_empty() {
            return Ok(());
        }
        let mut body = 0u32.to_le_bytes().to_vec();
        body.extend(halves(now_ns(CLOCK_REALTIME)));
        option(&mut body, 5, &self.dropped.load(Ordering::Relaxed).to_le_bytes());
        option(&mut body, 0, &[]);
        self.out.write_all(&block(5, &body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn frames_become_blocks() {
        let ns = NetNs::new(true);
        let (mut reader, writer) = std::io::pipe().unwrap();
        let capture = start(&ns, 20, OwnedFd::from(writer)).unwrap();
        let frame = |link, header, kind, data: &[u8]| {
            let (a, b) = data.split_at(15);
            capture.tap.show(&FrameIn { link, pieces: [a, b, &[]], header, protocol: 0x800, kind, time: 0 });
        };
        frame(1, 0, FrameKind::Outgoing, &[0x45; 30]);
        frame(7, 14, FrameKind::Host, &[3; 17]);
        drop(capture);
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let (mut at, mut kinds) = (0, Vec::new());
        while at < bytes.len() {
            let len = word(at + 4) as usize;
            assert!(len % 4 == 0 && word(at + len - 4) as usize == len, "block at {at}");
            if word(at) == 6 {
                kinds.push((6, word(at + 8), word(at + 20), word(at + 24)));
            } else {
                kinds.push((word(at), word(at + 8) & 0xffff, 0, 0));
            }
            at += len;
        }
        let section = (0x0a0d_0d0a, 0x3c4d, 0, 0);
        assert_eq!(
            kinds,
            [section, (1, 101, 0, 0), (6, 0, 20, 30), (1, 1, 0, 0), (6, 1, 17, 17), (5, 0, 0, 0)]
        );
    }
}
