//! Classic BPF over `struct seccomp_data`: what may be installed (bpf_check_classic(), seccomp_check_filter()), and
//! what it answers.
//!
//! A checked program only jumps forward, loads aligned words of the data and ends in a return, so a run takes at most as
//! many steps as it has instructions. Nothing here panics on a program that was not checked, either: it would answer 0.

use chitin_abi::Errno;
use chitin_abi::num::low32;
use chitin_abi::seccomp::*;

/// `struct seccomp_data` as the words that a program loads.
pub type Words = [u32; size_of::<SeccompData>() / 4];

/// What the programs are told the length of their data is.
const DATA_LEN: u32 = low32(size_of::<SeccompData>() as u64);

const LD_ABS: u16 = BPF_LD | BPF_W | BPF_ABS;
const LD_LEN: u16 = BPF_LD | BPF_W | BPF_LEN;
const LD_IMM: u16 = BPF_LD | BPF_IMM;
const LD_MEM: u16 = BPF_LD | BPF_MEM;
const LDX_LEN: u16 = BPF_LDX | BPF_W | BPF_LEN;
const LDX_IMM: u16 = BPF_LDX | BPF_IMM;
const LDX_MEM: u16 = BPF_LDX | BPF_MEM;
const ST: u16 = BPF_ST;
const STX: u16 = BPF_STX;
const RET_K: u16 = BPF_RET | BPF_K;
const RET_A: u16 = BPF_RET | BPF_A;
const TAX: u16 = BPF_MISC | BPF_TAX;
const TXA: u16 = BPF_MISC | BPF_TXA;
const NEG: u16 = BPF_ALU | BPF_NEG;
const JA: u16 = BPF_JMP | BPF_JA;

/// Both forms (constant, X) of an arithmetic or jump operation.
macro_rules! both {
    ($($name_k:ident $name_x:ident = $class:ident $op:ident;)*) => {$(
        const $name_k: u16 = $class | $op | BPF_K;
        const $name_x: u16 = $class | $op | BPF_X;
    )*};
}
both! {
    ADD_K ADD_X = BPF_ALU BPF_ADD;
    SUB_K SUB_X = BPF_ALU BPF_SUB;
    MUL_K MUL_X = BPF_ALU BPF_MUL;
    DIV_K DIV_X = BPF_ALU BPF_DIV;
    OR_K OR_X = BPF_ALU BPF_OR;
    AND_K AND_X = BPF_ALU BPF_AND;
    XOR_K XOR_X = BPF_ALU BPF_XOR;
    LSH_K LSH_X = BPF_ALU BPF_LSH;
    RSH_K RSH_X = BPF_ALU BPF_RSH;
    JEQ_K JEQ_X = BPF_JMP BPF_JEQ;
    JGT_K JGT_X = BPF_JMP BPF_JGT;
    JGE_K JGE_X = BPF_JMP BPF_JGE;
    JSET_K JSET_X = BPF_JMP BPF_JSET;
}

/// A checked program.
pub struct Program(Box<[SockFilter]>);

impl Program {
    /// Checks a program; EINVAL for what Linux refuses.
    pub fn new(code: Vec<SockFilter>) -> Result<Program, Errno> {
        check(&code).ok_or(Errno::EINVAL)?;
        Ok(Program(code.into_boxed_slice()))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Runs the program over the data of a call.
    pub fn run(&self, data: &Words) -> u32 {
        let (mut a, mut x) = (0u32, 0u32);
        let mut mem = [0u32; BPF_MEMWORDS];
        let mut pc = 0usize;
        while let Some(op) = self.0.get(pc) {
            let k = op.k;
            let jump = |taken: bool| usize::from(if taken { op.jt } else { op.jf });
            pc += 1;
            match op.code {
                LD_ABS => a = data.get(k as usize / 4).copied().unwrap_or(0),
                LD_LEN => a = DATA_LEN,
                LDX_LEN => x = DATA_LEN,
                LD_IMM => a = k,
                LDX_IMM => x = k,
                LD_MEM => a = mem.get(k as usize).copied().unwrap_or(0),
                LDX_MEM => x = mem.get(k as usize).copied().unwrap_or(0),
                ST | STX => {
                    if let Some(cell) = mem.get_mut(k as usize) {
                        *cell = if op.code == ST { a } else { x };
                    }
                }
                RET_K => return k,
                RET_A => return a,
                TAX => x = a,
                TXA => a = x,
                NEG => a = a.wrapping_neg(),
                ADD_K => a = a.wrapping_add(k),
                ADD_X => a = a.wrapping_add(x),
                SUB_K => a = a.wrapping_sub(k),
                SUB_X => a = a.wrapping_sub(x),
                MUL_K => a = a.wrapping_mul(k),
                MUL_X => a = a.wrapping_mul(x),
                DIV_K | DIV_X => match a.checked_div(if op.code == DIV_K { k } else { x }) {
                    Some(quotient) => a = quotient,
                    // A division by zero ends the program.
                    None => return 0,
                },
                OR_K => a |= k,
                OR_X => a |= x,
                AND_K => a &= k,
                AND_X => a &= x,
                XOR_K => a ^= k,
                XOR_X => a ^= x,
                // Shifts count modulo 32, as the machine's do.
                LSH_K => a = a.wrapping_shl(k),
                LSH_X => a = a.wrapping_shl(x),
                RSH_K => a = a.wrapping_shr(k),
                RSH_X => a = a.wrapping_shr(x),
                JA => pc = pc.saturating_add(k as usize),
                JEQ_K => pc += jump(a == k),
                JEQ_X => pc += jump(a == x),
                JGT_K => pc += jump(a > k),
                JGT_X => pc += jump(a > x),
                JGE_K => pc += jump(a >= k),
                JGE_X => pc += jump(a >= x),
                JSET_K => pc += jump(a & k != 0),
                JSET_X => pc += jump(a & x != 0),
                _ => return 0,
            }
        }
        0
    }

    /// Whether the program lets a call of this number and architecture pass whatever its arguments are
    /// (seccomp_is_const_allow()).
    pub fn always_allows(&self, nr: u32, arch: u32) -> bool {
        let mut a = 0u32;
        let mut pc = 0usize;
        while let Some(op) = self.0.get(pc) {
            let k = op.k;
            let jump = |taken: bool| usize::from(if taken { op.jt } else { op.jf });
            pc += 1;
            match op.code {
                LD_ABS if k == 0 => a = nr,
                LD_ABS if k == 4 => a = arch,
                RET_K => return k == SECCOMP_RET_ALLOW,
                JA => pc = pc.saturating_add(k as usize),
                JEQ_K => pc += jump(a == k),
                JGE_K => pc += jump(a >= k),
                JGT_K => pc += jump(a > k),
                JSET_K => pc += jump(a & k != 0),
                AND_K => a &= k,
                // It depends on arguments, or might.
                _ => return false,
            }
        }
        false
    }
}

/// `None`: not a program for seccomp.
fn check(code: &[SockFilter]) -> Option<()> {
    if code.is_empty() || code.len() > BPF_MAXINSNS {
        return None;
    }
    for (pc, op) in code.iter().enumerate() {
        // Instructions after this one.
        let rest = code.len() - pc - 1;
        let fine = match op.code {
            LD_ABS => (op.k as usize) < size_of::<SeccompData>() && op.k.is_multiple_of(4),
            DIV_K => op.k != 0,
            LSH_K | RSH_K => op.k < 32,
            LD_MEM | LDX_MEM | ST | STX => (op.k as usize) < BPF_MEMWORDS,
            JA => (op.k as usize) < rest,
            JEQ_K | JEQ_X | JGT_K | JGT_X | JGE_K | JGE_X | JSET_K | JSET_X => {
                usize::from(op.jt) < rest && usize::from(op.jf) < rest
            }
            LD_LEN | LDX_LEN | LD_IMM | LDX_IMM | RET_K | RET_A | TAX | TXA | NEG | ADD_K | ADD_X | SUB_K
            | SUB_X | MUL_K | MUL_X | DIV_X | OR_K | OR_X | AND_K | AND_X | XOR_K | XOR_X | LSH_X | RSH_X => {
                true
            }
            _ => false,
        };
        if !fine {
            return None;
        }
    }
    match code.last()?.code {
        RET_K | RET_A => check_memory(code),
        _ => None,
    }
}

/// No memory cell is loaded on a path on which it was not stored (check_load_and_stores()).
fn check_memory(code: &[SockFilter]) -> Option<()> {
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
        match op.code {
            ST | STX => valid |= cell()?,
            LD_MEM | LDX_MEM if valid & cell()? == 0 => return None,
            JA => {
                meet(op.k as usize, valid)?;
                valid = u16::MAX;
            }
            JEQ_K | JEQ_X | JGT_K | JGT_X | JGE_K | JGE_X | JSET_K | JSET_X => {
                meet(op.jt.into(), valid)?;
                meet(op.jf.into(), valid)?;
                valid = u16::MAX;
            }
            _ => {}
        }
    }
    Some(())
}
