//! SO_ATTACH_FILTER: classic BPF over packets: what may be attached, and how much of a packet it keeps. A load beyond the packet
//! answers 0: the packet is lost.

use chitin_abi::Errno;
use chitin_abi::seccomp::*;
use chitin_bpf::Data;

/// SKF_AD_OFF, SKF_NET_OFF and SKF_LL_OFF: places that are counted from somewhere else than the data's start.
const AD_OFF: u32 = 0xffff_f000;
const NET_OFF: u32 = 0xfff0_0000;
const LL_OFF: u32 = 0xffe0_0000;
/// SKF_AD_*.
const AD_PROTOCOL: u32 = AD_OFF;
const AD_PKTTYPE: u32 = AD_OFF + 4;
const AD_IFINDEX: u32 = AD_OFF + 8;
const AD_MARK: u32 = AD_OFF + 20;
const AD_QUEUE: u32 = AD_OFF + 24;
const AD_RXHASH: u32 = AD_OFF + 32;
const AD_CPU: u32 = AD_OFF + 36;
const AD_XOR_X: u32 = AD_OFF + 40;
const AD_VLAN_TAG: u32 = AD_OFF + 44;
const AD_VLAN_PRESENT: u32 = AD_OFF + 48;
const AD_VLAN_TPID: u32 = AD_OFF + 60;

/// A packet as a filter sees it.
#[derive(Default)]
pub struct Packet<'a> {
    pub bytes: &'a [u8],
    /// Where in them the data begins that the program's places count from.
    pub start: usize,
    /// Where the network header is, and the hardware's.
    pub net: Option<usize>,
    pub mac: Option<usize>,
    /// EtherType, PACKET_*, and the interface.
    pub protocol: u16,
    pub kind: u8,
    pub index: u32,
}

impl Packet<'_> {
    /// What is not in its bytes. `None`: an unknown place.
    fn about(&self, at: u32, a: u32, x: u32) -> Option<u32> {
        Some(match at {
            AD_PROTOCOL => self.protocol.into(),
            AD_PKTTYPE => self.kind.into(),
            AD_IFINDEX => self.index,
            AD_XOR_X => a ^ x,
            // There are no marks, queues, hashes and tags on packets here, and nobody is told of CPUs.
            AD_MARK | AD_QUEUE | AD_RXHASH | AD_CPU | AD_VLAN_TAG | AD_VLAN_PRESENT | AD_VLAN_TPID => 0,
            _ => return None,
        })
    }
}

impl Data for Packet<'_> {
    fn length(&self) -> u32 {
        u32::try_from(self.bytes.len().saturating_sub(self.start)).unwrap_or(u32::MAX)
    }

    /// Most significant byte first.
    fn load(&self, at: u32, size: usize) -> Option<u32> {
        let (base, offset) = match at {
            0..=0x7fff_ffff => (self.start, at),
            NET_OFF.. => (self.net?, at - NET_OFF),
            LL_OFF.. => (self.mac?, at - LL_OFF),
            _ => return None,
        };
        let from = base.checked_add(usize::try_from(offset).ok()?)?;
        let raw = self.bytes.get(from..from.checked_add(size)?)?;
        Some(raw.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }

    fn load_absolute(&self, at: u32, size: usize, a: u32, x: u32) -> Option<u32> {
        if at >= AD_OFF { self.about(at, a, x) } else { self.load(at, size) }
    }
}

/// Whether a program may look at this: what is not in a packet's bytes must be something there is.
fn permitted(op: &SockFilter) -> bool {
    op.code & 0xe7 != BPF_LD | BPF_ABS || op.k < AD_OFF || Packet::default().about(op.k, 0, 0).is_some()
}

/// A checked program.
pub struct Program(chitin_bpf::Program);

impl Program {
    /// Checks a program; EINVAL for what Linux refuses.
    pub fn new(code: Vec<SockFilter>) -> Result<Program, Errno> {
        chitin_bpf::Program::new(code, permitted).map(Program)
    }

    pub fn code(&self) -> &[SockFilter] {
        self.0.code()
    }

    /// How many bytes of a packet are kept, from its data's start; 0: it is lost.
    pub fn run(&self, packet: &Packet<'_>) -> u32 {
        self.0.run(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(code: u16, jt: u8, jf: u8, k: u32) -> SockFilter {
        SockFilter { code, jt, jf, k }
    }

    #[test]
    fn refuses_what_is_no_program() {
        let ret = op(BPF_RET | BPF_K, 0, 0, 1);
        let refused = |code: &[SockFilter]| Program::new(code.to_vec()).is_err();
        assert!(refused(&[]) && refused(&[op(BPF_LD | BPF_ABS, 0, 0, 0)]));
        assert!(refused(&[op(BPF_JMP | BPF_JA, 0, 0, 1), ret]));
        assert!(refused(&[op(BPF_JMP | BPF_JEQ, 1, 0, 1), ret]));
        assert!(refused(&[op(BPF_LD | BPF_MEM, 0, 0, 3), ret]));
        assert!(refused(&[op(BPF_ALU | BPF_DIV, 0, 0, 0), ret]));
        assert!(refused(&[op(BPF_ALU | BPF_MOD, 0, 0, 0), ret]));
        assert!(refused(&[op(BPF_LD | BPF_ABS, 0, 0, AD_OFF + 12), ret]));
        assert!(refused(&[op(0x1ff, 0, 0, 0), ret]) && refused(&[op(BPF_LD | 0x18 | BPF_ABS, 0, 0, 0), ret]));
        // Stored on one way only.
        let maybe = [
            op(BPF_JMP | BPF_JEQ, 0, 1, 0),
            op(BPF_ST, 0, 0, 3),
            op(BPF_LD | BPF_MEM, 0, 0, 3),
            op(BPF_RET | BPF_A, 0, 0, 0),
        ];
        assert!(refused(&maybe));
        assert!(!refused(&maybe[1..]));
    }

    /// Codes of instructions there are.
    const CODES: [u16; 26] = [
        0x00, 0x20, 0x28, 0x30, 0x40, 0x60, 0x80, 0x01, 0x61, 0xb1, 0x02, 0x03, 0x04, 0x0c, 0x34, 0x3c, 0x64,
        0x84, 0x05, 0x15, 0x25, 0x45, 0x06, 0x16, 0x07, 0x87,
    ];

    #[test]
    fn any_program_that_passes_ends() {
        let packet = Packet { bytes: &[0x45; 40], start: 20, net: Some(0), ..Packet::default() };
        let mut seed = 0x1234_5678_9abc_def0u64;
        let mut passed = 0;
        for _ in 0..200_000 {
            let mut next = || {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (seed >> 33) as u32
            };
            let mut code: Vec<_> = (0..3)
                .map(|_| {
                    let any = next() as u16 & 0xff;
                    let known = CODES[next() as usize % CODES.len()];
                    let code = if any & 7 == 7 { any } else { known };
                    op(code, next() as u8 & 1, next() as u8 & 1, next() % 20)
                })
                .collect();
            code.push(op(BPF_RET | BPF_A, 0, 0, 0));
            if let Ok(program) = Program::new(code) {
                passed += 1;
                program.run(&packet);
            }
        }
        assert!(passed > 1000);
    }
}
