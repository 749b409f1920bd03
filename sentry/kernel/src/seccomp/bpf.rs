//! Classic BPF over `struct seccomp_data`: which programs may be installed (seccomp_check_filter()), and what they answer.

use chitin_abi::Errno;
use chitin_abi::num::low32;
use chitin_abi::seccomp::*;
use chitin_bpf::*;

/// `struct seccomp_data` as the words that a program loads.
pub type Words = [u32; size_of::<SeccompData>() / 4];

/// What the programs are told the length of their data is.
const DATA_LEN: u32 = low32(size_of::<SeccompData>() as u64);

/// The data of a call.
struct Call<'a>(&'a Words);

impl Data for Call<'_> {
    fn length(&self) -> u32 {
        DATA_LEN
    }

    fn load(&self, at: u32, _: usize) -> Option<u32> {
        self.0.get(at as usize / 4).copied()
    }
}

/// What seccomp leaves of classic BPF: loads of aligned words of the data, and no remainders.
fn permitted(op: &SockFilter) -> bool {
    match (op.code & 7, op.code & 0xe0) {
        (BPF_LD, BPF_ABS) => op.code == LD_ABS && op.k < DATA_LEN && op.k.is_multiple_of(4),
        (BPF_LD, BPF_IND) | (BPF_LDX, BPF_MSH) => false,
        _ => !matches!(op.code, MOD_K | MOD_X),
    }
}

/// A checked program.
pub struct Program(chitin_bpf::Program);

impl Program {
    /// Checks a program; EINVAL for what Linux refuses.
    pub fn new(code: Vec<SockFilter>) -> Result<Program, Errno> {
        chitin_bpf::Program::new(code, permitted).map(Program)
    }

    pub fn len(&self) -> usize {
        self.0.code().len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.code().is_empty()
    }

    /// Runs the program over the data of a call.
    pub fn run(&self, data: &Words) -> u32 {
        self.0.run(&Call(data))
    }

    /// Whether the program lets a call of this number and architecture pass whatever its arguments are
    /// (seccomp_is_const_allow()).
    pub fn always_allows(&self, nr: u32, arch: u32) -> bool {
        let mut a = 0u32;
        let mut pc = 0usize;
        while let Some(op) = self.0.code().get(pc) {
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
