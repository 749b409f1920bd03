//! Classic BPF (net/core/filter.c): what is a program, and what it answers.
//!
//! A checked program only jumps forward and ends in a return, so a run takes at most as many steps as it has instructions.
//! Nothing here panics on a program that was not checked, either: it would answer 0.
//!
//! Neighbours: `kernel/seccomp` runs programs over system calls, `net/filter` over packets; each says what its data are
//! ([`Data`]) and which instructions it forbids besides.

// Programs are a guest's; tests may.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::unimplemented,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

use chitin_abi::Errno;
use chitin_abi::seccomp::*;

/// The size of a load: two bytes.
const BPF_H: u16 = 0x08;

pub const LD_ABS: u16 = BPF_LD | BPF_W | BPF_ABS;
const LD_ABS_H: u16 = BPF_LD | BPF_H | BPF_ABS;
const LD_ABS_B: u16 = BPF_LD | BPF_B | BPF_ABS;
const LD_IND: u16 = BPF_LD | BPF_W | BPF_IND;
const LD_IND_H: u16 = BPF_LD | BPF_H | BPF_IND;
const LD_IND_B: u16 = BPF_LD | BPF_B | BPF_IND;
const LDX_MSH: u16 = BPF_LDX | BPF_B | BPF_MSH;
const LD_LEN: u16 = BPF_LD | BPF_W | BPF_LEN;
const LD_IMM: u16 = BPF_LD | BPF_IMM;
const LD_MEM: u16 = BPF_LD | BPF_MEM;
const LDX_LEN: u16 = BPF_LDX | BPF_W | BPF_LEN;
const LDX_IMM: u16 = BPF_LDX | BPF_IMM;
const LDX_MEM: u16 = BPF_LDX | BPF_MEM;
const ST: u16 = BPF_ST;
const STX: u16 = BPF_STX;
pub const RET_K: u16 = BPF_RET | BPF_K;
const RET_A: u16 = BPF_RET | BPF_A;
const TAX: u16 = BPF_MISC | BPF_TAX;
const TXA: u16 = BPF_MISC | BPF_TXA;
const NEG: u16 = BPF_ALU | BPF_NEG;
pub const JA: u16 = BPF_JMP | BPF_JA;

/// Both forms (constant, X) of an arithmetic or jump operation.
macro_rules! both {
    ($($name_k:ident $name_x:ident = $class:ident $op:ident;)*) => {$(
        pub const $name_k: u16 = $class | $op | BPF_K;
        pub const $name_x: u16 = $class | $op | BPF_X;
    )*};
}
both! {
    ADD_K ADD_X = BPF_ALU BPF_ADD;
    SUB_K SUB_X = BPF_ALU BPF_SUB;
    MUL_K MUL_X = BPF_ALU BPF_MUL;
    DIV_K DIV_X = BPF_ALU BPF_DIV;
    MOD_K MOD_X = BPF_ALU BPF_MOD;
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

/// What a program runs over.
pub trait Data {
    /// Its length, as programs are told.
    fn length(&self) -> u32;

    /// `size` bytes (1, 2 or 4) from `at` on. `None` ends the program with 0.
    fn load(&self, at: u32, size: usize) -> Option<u32>;

    /// As `load`, for a place that stands in the program: some say something else than the data do.
    fn load_absolute(&self, at: u32, size: usize, a: u32, x: u32) -> Option<u32> {
        let _ = (a, x);
        self.load(at, size)
    }
}

/// A checked program.
pub struct Program(Box<[SockFilter]>);

impl Program {
    /// Checks a program; EINVAL for what Linux refuses, or `permitted` does.
    pub fn new(code: Vec<SockFilter>, permitted: impl Fn(&SockFilter) -> bool) -> Result<Program, Errno> {
        check(&code).filter(|()| code.iter().all(permitted)).ok_or(Errno::EINVAL)?;
        Ok(Program(code.into_boxed_slice()))
    }

    pub fn code(&self) -> &[SockFilter] {
        &self.0
    }

    /// Runs the program. 0 as well where a load or a division ends it.
    pub fn run(&self, data: &impl Data) -> u32 {
        self.steps(data).unwrap_or(0)
    }

    fn steps(&self, data: &impl Data) -> Option<u32> {
        let (mut a, mut x) = (0u32, 0u32);
        let mut mem = [0u32; BPF_MEMWORDS];
        let mut pc = 0usize;
        loop {
            let op = self.0.get(pc)?;
            let k = op.k;
            let jump = |taken: bool| usize::from(if taken { op.jt } else { op.jf });
            pc += 1;
            match op.code {
                LD_ABS => a = data.load_absolute(k, 4, a, x)?,
                LD_ABS_H => a = data.load_absolute(k, 2, a, x)?,
                LD_ABS_B => a = data.load_absolute(k, 1, a, x)?,
                LD_IND => a = data.load(x.wrapping_add(k), 4)?,
                LD_IND_H => a = data.load(x.wrapping_add(k), 2)?,
                LD_IND_B => a = data.load(x.wrapping_add(k), 1)?,
                LDX_MSH => x = (data.load(k, 1)? & 15) << 2,
                LD_LEN => a = data.length(),
                LDX_LEN => x = data.length(),
                LD_IMM => a = k,
                LDX_IMM => x = k,
                LD_MEM => a = *mem.get(k as usize)?,
                LDX_MEM => x = *mem.get(k as usize)?,
                ST => *mem.get_mut(k as usize)? = a,
                STX => *mem.get_mut(k as usize)? = x,
                RET_K => return Some(k),
                RET_A => return Some(a),
                TAX => x = a,
                TXA => a = x,
                NEG => a = a.wrapping_neg(),
                ADD_K => a = a.wrapping_add(k),
                ADD_X => a = a.wrapping_add(x),
                SUB_K => a = a.wrapping_sub(k),
                SUB_X => a = a.wrapping_sub(x),
                MUL_K => a = a.wrapping_mul(k),
                MUL_X => a = a.wrapping_mul(x),
                // A division by zero ends the program.
                DIV_K => a = a.checked_div(k)?,
                DIV_X => a = a.checked_div(x)?,
                MOD_K => a = a.checked_rem(k)?,
                MOD_X => a = a.checked_rem(x)?,
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
                _ => return None,
            }
        }
    }
}

/// bpf_check_classic(); `None`: not a program.
fn check(code: &[SockFilter]) -> Option<()> {
    if code.is_empty() || code.len() > BPF_MAXINSNS {
        return None;
    }
    for (pc, op) in code.iter().enumerate() {
        // Instructions after this one.
        let rest = code.len() - pc - 1;
        let fine = match op.code {
            DIV_K | MOD_K => op.k != 0,
            LSH_K | RSH_K => op.k < 32,
            LD_MEM | LDX_MEM | ST | STX => (op.k as usize) < BPF_MEMWORDS,
            JA => (op.k as usize) < rest,
            JEQ_K | JEQ_X | JGT_K | JGT_X | JGE_K | JGE_X | JSET_K | JSET_X => {
                usize::from(op.jt) < rest && usize::from(op.jf) < rest
            }
            LD_ABS | LD_ABS_H | LD_ABS_B | LD_IND | LD_IND_H | LD_IND_B | LDX_MSH | LD_LEN | LDX_LEN
            | LD_IMM | LDX_IMM | RET_K | RET_A | TAX | TXA | NEG | ADD_K | ADD_X | SUB_K | SUB_X | MUL_K
            | MUL_X | DIV_X | MOD_X | OR_K | OR_X | AND_K | AND_X | XOR_K | XOR_X | LSH_X | RSH_X => true,
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
