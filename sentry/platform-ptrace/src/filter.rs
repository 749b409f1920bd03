//! The BPF program that every stub runs under.
//!
//! A traced guest's calls never come this far: SYSEMU takes them before. What the sentry lets the host run stops here once
//! more (RET_TRACE), number and arguments as the host will use them; and where no tracer is left nothing runs at all
//! (ENOSYS), but for the constant wait and the end of a new thread, from the stub's page only.

use crate::stub::{STUB_BASE, WAIT_SET, WAIT_TIME};
use libc::sock_filter;

const LD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54;
const JEQ: u16 = 0x15;
const RET: u16 = 0x06;
const ARCH: u32 = 4;
const ARCH_X86_64: u32 = 0xc000_003e;
const IP_LO: u32 = 8;
const IP_HI: u32 = 12;
const RET_TRACE: u32 = 0x7ff0_0000;
const RET_ALLOW: u32 = 0x7fff_0000;

fn op(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// The low and the high half of argument `n`.
fn arg(n: u32, value: u64) -> [(u32, u32); 2] {
    [(16 + 8 * n, value as u32), (20 + 8 * n, (value >> 32) as u32)]
}

/// The program.
pub fn program() -> Vec<sock_filter> {
    let wait: Vec<(u32, u32)> =
        [arg(0, WAIT_SET), arg(1, 0), arg(2, WAIT_TIME), arg(3, 8)].into_iter().flatten().collect();
    let mut stub = vec![
        op(LD, 0, 0, 0),
        op(JEQ, libc::SYS_exit_group as u32, 0, 1),
        op(RET, RET_ALLOW, 0, 0),
        op(JEQ, libc::SYS_rt_sigtimedwait as u32, 0, (wait.len() * 2 + 1) as u8),
    ];
    let total = wait.len();
    for (i, (offset, want)) in wait.into_iter().enumerate() {
        stub.push(op(LD, offset, 0, 0));
        stub.push(op(JEQ, want, 0, ((total - i - 1) * 2 + 1) as u8));
    }
    stub.push(op(RET, RET_ALLOW, 0, 0));

    let mut p = vec![
        op(LD, ARCH, 0, 0),
        op(JEQ, ARCH_X86_64, 0, (stub.len() + 5) as u8),
        op(LD, IP_HI, 0, 0),
        op(JEQ, (STUB_BASE >> 32) as u32, 0, (stub.len() + 3) as u8),
        op(LD, IP_LO, 0, 0),
        op(AND, 0xffff_f000, 0, 0),
        op(JEQ, STUB_BASE as u32, 0, stub.len() as u8),
    ];
    p.extend(stub);
    p.push(op(RET, RET_TRACE, 0, 0));
    p
}
