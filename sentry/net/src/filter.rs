//! SO_ATTACH_FILTER: classic BPF over packets (net/core/filter.c): what may be attached, and how much of a packet it keeps.
//!
//! A checked program only jumps forward and ends in a return, so a run takes at most as many steps as it has instructions. A
//! load beyond the packet answers 0: the packet is lost. Neighbour: `kernel/seccomp/bpf.rs` has the subset for system calls.

use chitin_abi::Errno;
use chitin_abi::seccomp::*;

const H: u16 = 0x08;
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
    fn len(&self) -> u32 {
        u32::try_from(self.bytes.len().saturating_sub(self.start)).unwrap_or(u32::MAX)
    }

    /// `size` bytes at a program's place, most significant first.
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

/// Bytes of a load's operand.
fn size(code: u16) -> Option<usize> {
    match code & 0x18 {
        BPF_W => Some(4),
        H => Some(2),
        BPF_B => Some(1),
        _ => None,
    }
}

/// A checked program.
pub struct Program(Box<[SockFilter]>);

impl Program {
    /// Checks a program; EINVAL for what Linux refuses.
    pub fn new(code: Vec<SockFilter>) -> Result<Program, Errno> {
        check(&code).ok_or(Errno::EINVAL)?;
        Ok(Program(code.into_boxed_slice()))
    }

    /// How many bytes of a packet are kept, from its data's start; 0: it is lost.
    pub fn run(&self, packet: &Packet<'_>) -> u32 {
        self.steps(packet).unwrap_or(0)
    }

    /// `None`: a load beyond the packet, or a division by zero.
    fn steps(&self, packet: &Packet<'_>) -> Option<u32> {
        let (mut a, mut x) = (0u32, 0u32);
        let mut cells = [0u32; BPF_MEMWORDS];
        let mut pc = 0usize;
        loop {
            let op = self.0.get(pc)?;
            pc += 1;
            let k = op.k;
            let operand = if op.code & BPF_X != 0 { x } else { k };
            match (op.code & 7, op.code & 0xe0) {
                (BPF_LD, BPF_ABS) if k >= AD_OFF => a = packet.about(k, a, x)?,
                (BPF_LD, BPF_ABS) => a = packet.load(k, size(op.code)?)?,
                (BPF_LD, BPF_IND) => a = packet.load(x.wrapping_add(k), size(op.code)?)?,
                (BPF_LD, BPF_IMM) => a = k,
                (BPF_LD, BPF_LEN) => a = packet.len(),
                (BPF_LD, BPF_MEM) => a = *cells.get(k as usize)?,
                (BPF_LDX, BPF_MSH) => x = (packet.load(k, 1)? & 15) << 2,
                (BPF_LDX, BPF_IMM) => x = k,
                (BPF_LDX, BPF_LEN) => x = packet.len(),
                (BPF_LDX, BPF_MEM) => x = *cells.get(k as usize)?,
                (BPF_ST, _) => *cells.get_mut(k as usize)? = a,
                (BPF_STX, _) => *cells.get_mut(k as usize)? = x,
                (BPF_ALU, _) => a = compute(op.code & 0xf0, a, operand)?,
                (BPF_JMP, _) if op.code & 0xf0 == BPF_JA => pc = pc.saturating_add(k as usize),
                (BPF_JMP, _) => {
                    let taken = match op.code & 0xf0 {
                        BPF_JEQ => a == operand,
                        BPF_JGT => a > operand,
                        BPF_JGE => a >= operand,
                        _ => a & operand != 0,
                    };
                    pc += usize::from(if taken { op.jt } else { op.jf });
                }
                (BPF_RET, _) => return Some(if op.code & 0x18 == BPF_A { a } else { k }),
                _ if op.code & 0xf8 == BPF_TXA => a = x,
                _ => x = a,
            }
        }
    }
}

fn compute(operation: u16, a: u32, operand: u32) -> Option<u32> {
    Some(match operation {
        BPF_ADD => a.wrapping_add(operand),
        BPF_SUB => a.wrapping_sub(operand),
        BPF_MUL => a.wrapping_mul(operand),
        BPF_DIV => a.checked_div(operand)?,
        BPF_MOD => a.checked_rem(operand)?,
        BPF_OR => a | operand,
        BPF_AND => a & operand,
        BPF_XOR => a ^ operand,
        // Shifts count modulo 32, as the machine's do.
        BPF_LSH => a.wrapping_shl(operand),
        BPF_RSH => a.wrapping_shr(operand),
        _ => a.wrapping_neg(),
    })
}

/// bpf_check_classic(); `None`: not a program.
fn check(code: &[SockFilter]) -> Option<()> {
    if code.is_empty() || code.len() > BPF_MAXINSNS {
        return None;
    }
    for (pc, op) in code.iter().enumerate() {
        // Instructions after this one.
        let rest = code.len() - pc - 1;
        let (cell, by_k) = ((op.k as usize) < BPF_MEMWORDS, op.code & BPF_X == 0);
        let fine = match (op.code & 7, op.code & 0xe0) {
            (BPF_LD, BPF_ABS) if op.k >= AD_OFF => {
                size(op.code).is_some() && Packet::default().about(op.k, 0, 0).is_some()
            }
            (BPF_LD, BPF_ABS | BPF_IND) => size(op.code).is_some(),
            (BPF_LD | BPF_LDX, BPF_IMM | BPF_LEN) => op.code & 0x18 == BPF_W,
            (BPF_LD | BPF_LDX, BPF_MEM) => op.code & 0x18 == BPF_W && cell,
            (BPF_LDX, BPF_MSH) => op.code & 0x18 == BPF_B,
            (BPF_ST, _) => op.code == BPF_ST && cell,
            (BPF_STX, _) => op.code == BPF_STX && cell,
            (BPF_ALU, _) => match op.code & 0xf0 {
                BPF_DIV | BPF_MOD => !by_k || op.k != 0,
                BPF_LSH | BPF_RSH => !by_k || op.k < 32,
                BPF_NEG => by_k,
                BPF_ADD | BPF_SUB | BPF_MUL | BPF_OR | BPF_AND | BPF_XOR => true,
                _ => false,
            },
            (BPF_JMP, _) => match op.code & 0xf0 {
                BPF_JA => by_k && (op.k as usize) < rest,
                BPF_JEQ | BPF_JGT | BPF_JGE | BPF_JSET => {
                    usize::from(op.jt) < rest && usize::from(op.jf) < rest
                }
                _ => false,
            },
            (BPF_RET, _) => op.code == BPF_RET | BPF_K || op.code == BPF_RET | BPF_A,
            (BPF_MISC, _) => op.code == BPF_MISC | BPF_TAX || op.code == BPF_MISC | BPF_TXA,
            _ => false,
        };
        // No other bits.
        if !fine || op.code > 0xff {
            return None;
        }
    }
    match code.last()?.code & 7 {
        BPF_RET => check_cells(code),
        _ => None,
    }
}

/// No memory cell is loaded on a path on which it was not stored (check_load_and_stores()).
fn check_cells(code: &[SockFilter]) -> Option<()> {
    // Cells surely stored when an instruction is reached by a jump; all bits set: by none yet.
    let mut masks = vec![u16::MAX; code.len()];
    let mut valid = 0u16;
    for (pc, op) in code.iter().enumerate() {
        valid &= masks.get(pc)?;
        let cell = || 1u16.checked_shl(op.k);
        let mut meet = |offset: usize, valid: u16| {
            let mask = masks.get_mut(pc + 1 + offset)?;
            *mask &= valid;
            Some(())
        };
        match (op.code & 7, op.code & 0xe0) {
            (BPF_ST | BPF_STX, _) => valid |= cell()?,
            (BPF_LD | BPF_LDX, BPF_MEM) if valid & cell()? == 0 => return None,
            (BPF_JMP, _) => {
                if op.code & 0xf0 == BPF_JA {
                    meet(op.k as usize, valid)?;
                } else {
                    meet(op.jt.into(), valid)?;
                    meet(op.jf.into(), valid)?;
                }
                valid = u16::MAX;
            }
            _ => {}
        }
    }
    Some(())
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
