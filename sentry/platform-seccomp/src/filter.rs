//! The BPF program that every stub runs under.
//!
//! Neighbours: `stub` (the addresses it compares with), `zygote` (installs it).
//!
//! Invariant: nothing is allowed but `rt_sigreturn`, the constant parking wait and a wait for a word of the windows' to change,
//! all from the stub's page only; the instruction pointer decides nothing else than between notify and trap.

use crate::stub::{PARK_SET, STUB_BASE};
use libc::sock_filter;

const LD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54;
const JEQ: u16 = 0x15;
const RET: u16 = 0x06;

const ARCH: u32 = 4;
pub const ARCH_X86_64: u32 = 0xc000_003e;
const ARCH_I386: u32 = 0x4000_0003;
const IP_LO: u32 = 8;
const IP_HI: u32 = 12;

const RET_ENOSYS: u32 = 0x0005_0000 | libc::ENOSYS as u32;
const RET_TRAP: u32 = 0x0003_0000;
const RET_NOTIF: u32 = 0x7fc0_0000;
const RET_ALLOW: u32 = 0x7fff_0000;

/// Calls that need the whole register file.
const TRAPPED: [i64; 8] = [
    libc::SYS_clone,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_clone3,
    libc::SYS_rt_sigreturn,
    libc::SYS_brk,
    libc::SYS_shmat,
    libc::SYS_shmdt,
];

fn op(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn arg(n: u32, high: bool) -> u32 {
    16 + 8 * n + if high { 4 } else { 0 }
}

/// Lets a call pass whose arguments have these values, and whose first one is in the 4 GiB of `near`, if any; is skipped by
/// other calls. Looks at the call's number where that has been loaded.
fn allowed(nr: i64, values: &[(u32, u64)], near: Option<u64>) -> Vec<sock_filter> {
    let halves = |(n, v): &(u32, u64)| [(arg(*n, true), (v >> 32) as u32), (arg(*n, false), *v as u32)];
    let mut wanted: Vec<(u32, u32)> = values.iter().flat_map(halves).collect();
    wanted.extend(near.map(|near| (arg(0, true), (near >> 32) as u32)));
    let total = wanted.len();
    let mut p = vec![op(JEQ, nr as u32, 0, (total * 2 + 2) as u8)];
    for (i, (off, want)) in wanted.into_iter().enumerate() {
        p.push(op(LD, off, 0, 0));
        p.push(op(JEQ, want, 0, ((total - i - 1) * 2 + 1) as u8));
    }
    p.push(op(RET, RET_ALLOW, 0, 0));
    p.push(op(RET, RET_NOTIF, 0, 0));
    p
}

/// The program.
pub fn program() -> Vec<sock_filter> {
    let mut p = vec![
        op(LD, ARCH, 0, 0),
        op(JEQ, ARCH_X86_64, 5, 0),
        // i386: told, as a guest's own filters may have an opinion; never from the stub, nor from near it.
        op(JEQ, ARCH_I386, 0, 2),
        op(LD, IP_HI, 0, 0),
        op(JEQ, (STUB_BASE >> 32) as u32, 0, 1),
        op(RET, RET_ENOSYS, 0, 0),
        op(RET, RET_NOTIF, 0, 0),
    ];
    // From the stub's page?
    let mut stub =
        vec![op(LD, 0, 0, 0), op(JEQ, libc::SYS_rt_sigreturn as u32, 0, 1), op(RET, RET_ALLOW, 0, 0)];
    stub.extend(allowed(libc::SYS_rt_sigtimedwait, &[(0, PARK_SET), (1, 0), (2, 0), (3, 8)], None));
    stub.extend(allowed(libc::SYS_futex, &[(1, libc::FUTEX_WAIT as u64), (3, 0)], Some(STUB_BASE)));
    stub.push(op(RET, RET_NOTIF, 0, 0));

    p.push(op(LD, IP_HI, 0, 0));
    p.push(op(JEQ, (STUB_BASE >> 32) as u32, 0, (stub.len() + 3) as u8));
    p.push(op(LD, IP_LO, 0, 0));
    p.push(op(AND, 0xffff_f000, 0, 0));
    p.push(op(JEQ, STUB_BASE as u32, 0, stub.len() as u8));
    p.extend(stub);

    p.push(op(LD, 0, 0, 0));
    let n = TRAPPED.len();
    for (i, nr) in TRAPPED.into_iter().enumerate() {
        p.push(op(JEQ, nr as u32, (n - i) as u8, 0));
    }
    p.push(op(RET, RET_NOTIF, 0, 0));
    p.push(op(RET, RET_TRAP, 0, 0));
    p
}
