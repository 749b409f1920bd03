//! Unit tests of the checker and the interpreter, against known answers; `tests/differential.rs` compares with the host.

use super::bpf::{Program, Words};
use super::filter::Filter;
use chitin_abi::Errno;
use chitin_abi::seccomp::*;
use zerocopy::transmute;

fn op(code: u16, k: u32, jt: u8, jf: u8) -> SockFilter {
    SockFilter { code, jt, jf, k }
}

const LD: u16 = BPF_LD | BPF_W | BPF_ABS;
const RET: u16 = BPF_RET | BPF_K;
const JEQ: u16 = BPF_JMP | BPF_JEQ | BPF_K;

fn refused(code: &[SockFilter]) -> bool {
    matches!(Program::new(code.to_vec()), Err(Errno::EINVAL))
}

fn data(nr: i32) -> SeccompData {
    SeccompData { nr, arch: AUDIT_ARCH_X86_64, instruction_pointer: 0x1_0000_0002, args: [7; 6] }
}

fn errno_for(nr: u32, errno: u32) -> Program {
    let code = vec![
        op(LD, 0, 0, 0),
        op(JEQ, nr, 0, 1),
        op(RET, SECCOMP_RET_ERRNO | errno, 0, 0),
        op(RET, SECCOMP_RET_ALLOW, 0, 0),
    ];
    Program::new(code).unwrap()
}

#[test]
fn what_is_no_program_is_refused() {
    let ret = op(RET, 0, 0, 0);
    assert!(refused(&[]));
    assert!(refused(&vec![ret; BPF_MAXINSNS + 1]));
    assert!(Program::new(vec![ret; BPF_MAXINSNS]).is_ok());
    assert!(refused(&[op(LD, 0, 0, 0)]), "no return at the end");
    assert!(refused(&[op(LD, 2, 0, 0), ret]), "unaligned");
    assert!(refused(&[op(LD, 64, 0, 0), ret]), "past the data");
    assert!(refused(&[op(BPF_LD | BPF_B | BPF_ABS, 0, 0, 0), ret]), "a byte load");
    assert!(refused(&[op(JEQ, 0, 1, 0), ret]), "a jump past the end");
    assert!(refused(&[op(BPF_JMP | BPF_JA, u32::MAX, 0, 0), ret]));
    assert!(refused(&[op(BPF_ALU | BPF_DIV | BPF_K, 0, 0, 0), ret]));
    assert!(refused(&[op(BPF_ALU | BPF_LSH | BPF_K, 32, 0, 0), ret]));
    assert!(refused(&[op(BPF_ALU | BPF_MOD | BPF_K, 3, 0, 0), ret]), "not for seccomp");
    assert!(refused(&[op(BPF_ST, 16, 0, 0), ret]));
    assert!(refused(&[op(0xffff, 0, 0, 0), ret]));
}

#[test]
fn memory_must_be_stored_on_every_path() {
    let load = op(BPF_LD | BPF_MEM, 3, 0, 0);
    let store = op(BPF_ST, 3, 0, 0);
    let ret = op(BPF_RET | BPF_A, 0, 0, 0);
    assert!(refused(&[load, ret]));
    assert!(!refused(&[store, load, ret]));
    // Stored on one of two paths only.
    assert!(refused(&[op(JEQ, 1, 0, 1), store, load, ret]));
    assert!(!refused(&[store, op(JEQ, 1, 0, 1), store, load, ret]));
}

#[test]
fn arithmetic_wraps_and_a_zero_divisor_ends_it() {
    let run = |code: &[SockFilter]| {
        let words: Words = transmute!(data(39));
        Program::new(code.to_vec()).unwrap().run(&words)
    };
    let a = op(BPF_RET | BPF_A, 0, 0, 0);
    let imm = |k| op(BPF_LD | BPF_IMM, k, 0, 0);
    assert_eq!(run(&[imm(1), op(BPF_ALU | BPF_SUB | BPF_K, 2, 0, 0), a]), u32::MAX);
    assert_eq!(run(&[imm(5), op(BPF_ALU | BPF_DIV | BPF_X, 0, 0, 0), imm(9), a]), 0);
    assert_eq!(run(&[op(BPF_LDX | BPF_IMM, 33, 0, 0), imm(1), op(BPF_ALU | BPF_LSH | BPF_X, 0, 0, 0), a]), 2);
    assert_eq!(run(&[op(BPF_LD | BPF_W | BPF_LEN, 0, 0, 0), a]), 64);
    assert_eq!(run(&[op(LD, 8, 0, 0), a]), 2, "the low half of the instruction pointer");
    assert_eq!(run(&[op(LD, 12, 0, 0), a]), 1);
    assert_eq!(run(&[op(LD, 60, 0, 0), a]), 0, "the high half of the last argument");
}

#[test]
fn the_strictest_answer_of_a_chain_wins_and_the_newest_of_equals() {
    let first = Filter::new(errno_for(39, 1), None, 0, None).unwrap();
    let second = Filter::new(errno_for(39, 2), Some(first.clone()), 0, None).unwrap();
    assert_eq!(second.verdict(&data(39)).0, SECCOMP_RET_ERRNO | 2);
    assert_eq!(second.verdict(&data(40)).0, SECCOMP_RET_ALLOW);
    let kill = Program::new(vec![op(RET, SECCOMP_RET_KILL_PROCESS, 0, 0)]).unwrap();
    let bottom = Filter::new(kill, None, 0, None).unwrap();
    let top = Filter::new(errno_for(39, 2), Some(bottom), 0, None).unwrap();
    assert_eq!(top.verdict(&data(39)).0, SECCOMP_RET_KILL_PROCESS, "what an elder allows never counts alone");
    assert_eq!(top.verdict(&data(40)).0, SECCOMP_RET_KILL_PROCESS);
    assert_eq!((top.depth(), first.depth()), (2, 1));
}

#[test]
fn what_passes_by_its_number_alone_is_known_beforehand() {
    let program = errno_for(39, 1);
    assert!(program.always_allows(40, AUDIT_ARCH_X86_64));
    assert!(!program.always_allows(39, AUDIT_ARCH_X86_64));
    let by_argument = Program::new(vec![op(LD, 16, 0, 0), op(RET, SECCOMP_RET_ALLOW, 0, 0)]).unwrap();
    assert!(!by_argument.always_allows(40, AUDIT_ARCH_X86_64));
}

#[test]
fn chains_have_a_bound_and_end_without_recursion() {
    let big = || Program::new(vec![op(RET, SECCOMP_RET_ALLOW, 0, 0); BPF_MAXINSNS]).unwrap();
    let mut chain = None;
    for _ in 0..7 {
        chain = Some(Filter::new(big(), chain, 0, None).unwrap());
    }
    // 7 × 4100 + 4096 is too much.
    assert!(matches!(Filter::new(big(), chain, 0, None), Err(Errno::ENOMEM)));
    let one = || Program::new(vec![op(RET, SECCOMP_RET_ALLOW, 0, 0)]).unwrap();
    let (mut chain, mut count) = (None, 0);
    loop {
        match Filter::new(one(), chain.clone(), 0, None) {
            Ok(filter) => chain = Some(filter),
            Err(error) => break assert_eq!(error, Errno::ENOMEM),
        }
        count += 1;
    }
    assert_eq!(count, (1 << 15) / 5 + 1);
    std::thread::Builder::new().stack_size(64 << 10).spawn(move || drop(chain)).unwrap().join().unwrap();
}
