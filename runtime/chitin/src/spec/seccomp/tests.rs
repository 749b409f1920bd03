use super::*;
use chitin_control::SeccompOp;
use serde_json::{Value, json};

fn compiled(config: Value) -> SeccompConfig {
    let config: LinuxSeccomp = serde_json::from_value(config).unwrap();
    compile(&config).unwrap()
}

/// Runs what `compile` may emit.
fn run(program: &[SeccompOp], arch: u32, nr: u32, args: [u64; 6]) -> u32 {
    let word = |offset: u32| match offset {
        0 => nr,
        4 => arch,
        8 | 12 => 0,
        _ => (args[(offset as usize - 16) / 8] >> (8 * (offset & 4))) as u32,
    };
    let (mut a, mut pc) = (0, 0);
    loop {
        let SeccompOp(code, jt, jf, k) = program[pc];
        let jump = |taken| usize::from(if taken { jt } else { jf });
        pc += 1;
        match code {
            assemble::LD => a = word(k),
            assemble::AND => a &= k,
            assemble::JEQ => pc += jump(a == k),
            assemble::JGT => pc += jump(a > k),
            assemble::JGE => pc += jump(a >= k),
            0x05 => pc += k as usize,
            0x06 => return k,
            _ => panic!("{code:#x}"),
        }
    }
}

fn answer(config: &Value, nr: u32, first: u64) -> u32 {
    run(&compiled(config.clone()).program, ARCH_X86_64, nr, [first, 0, 0, 0, 0, 0])
}

#[test]
fn rules_by_name() {
    let config = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 7, "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["read", "write", "openat2", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["getpid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7},
            {"names": ["mkdir"], "action": "SCMP_ACT_TRAP"}, {"names": ["rmdir"], "action": "SCMP_ACT_KILL"},
            {"names": ["chmod"], "action": "SCMP_ACT_ERRNO"}]});
    for (nr, want) in [
        (0, RET_ALLOW),
        (1, RET_ALLOW),
        (2, RET_ERRNO | 7),
        (39, RET_ERRNO | 7),
        (83, RET_TRAP),
        (84, RET_KILL_THREAD),
        (90, RET_ERRNO | 1),
        (436, RET_ERRNO | 7),
        (437, RET_ALLOW),
        (438, ENOSYS),
        (u32::MAX, ENOSYS),
    ] {
        assert_eq!(answer(&config, nr, 0), want, "{nr}");
    }
    let program = compiled(config).program;
    assert_eq!(run(&program, ARCH_I386, 3, [0; 6]), BAD_ARCH);
    assert_eq!(run(&program, 0xc000_00b7, 0, [0; 6]), BAD_ARCH);
}

#[test]
fn newer_calls_are_only_hidden_where_the_default_forbids() {
    let allow = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_KILL_PROCESS"}]});
    assert_eq!(answer(&allow, 460, 0), RET_ALLOW);
    assert_eq!(answer(&allow, 0, 0), RET_KILL_PROCESS);
    assert_eq!(answer(&allow, X32_BIT, 0), BAD_ARCH);
    assert_eq!(answer(&allow, u32::MAX, 0), RET_ALLOW);
    let empty = json!({"defaultAction": "SCMP_ACT_ERRNO"});
    assert_eq!(answer(&empty, 460, 0), RET_ERRNO | 1);
    let enosys = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
        "syscalls": [{"names": ["close"], "action": "SCMP_ACT_ALLOW"}]});
    assert_eq!(answer(&enosys, 460, 0), ENOSYS);
}

#[test]
fn other_architectures() {
    let config = json!({"defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": ["read", "ioctl", "openat2"], "action": "SCMP_ACT_ALLOW"}]});
    let program = compiled(config).program;
    let call = |arch, nr| run(&program, arch, nr, [0; 6]);
    assert_eq!(call(ARCH_I386, 3), ENOSYS);
    assert_eq!(call(ARCH_X86_64, X32_BIT), RET_ALLOW);
    assert_eq!(call(ARCH_X86_64, X32_BIT | 514), RET_ALLOW);
    assert_eq!(call(ARCH_X86_64, X32_BIT | 16), RET_ERRNO | 1);
    assert_eq!(call(ARCH_X86_64, 16), RET_ALLOW);
    assert_eq!(call(ARCH_X86_64, X32_BIT | 600), ENOSYS);
}

#[test]
fn every_operator_compares_64_bits() {
    let edge = 0x1_0000_0002u64;
    let around = [0, 1, 2, 3, edge - 1, edge, edge + 1, 0x2_0000_0000, 0x2_0000_0002, u64::MAX];
    type Case = (&'static str, fn(u64, u64) -> bool);
    let cases: [Case; 6] = [
        ("SCMP_CMP_NE", |a, v| a != v),
        ("SCMP_CMP_LT", |a, v| a < v),
        ("SCMP_CMP_LE", |a, v| a <= v),
        ("SCMP_CMP_EQ", |a, v| a == v),
        ("SCMP_CMP_GE", |a, v| a >= v),
        ("SCMP_CMP_GT", |a, v| a > v),
    ];
    for (op, holds) in cases {
        for value in around {
            let config = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["dup"],
                "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": value, "op": op}]}]});
            for arg in around {
                let want = if holds(arg, value) { RET_ERRNO | 1 } else { RET_ALLOW };
                assert_eq!(answer(&config, 32, arg), want, "{arg:#x} {op} {value:#x}");
            }
        }
    }
    let masked = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["clone"],
        "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 0x7e02_0000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}]});
    assert_eq!(answer(&masked, 56, 0x11), RET_ALLOW);
    assert_eq!(answer(&masked, 56, 0x1000_0011), RET_ERRNO | 1);
    assert_eq!(answer(&masked, 56, 0xff_8000_0000), RET_ALLOW);
}

#[test]
fn alternatives_and_conjunctions() {
    let arg = |index: u32, value: u64| json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"});
    let config = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["dup2"], "action": "SCMP_ACT_ALLOW", "args": [arg(0, 1), arg(1, 2)]},
        {"names": ["dup2"], "action": "SCMP_ACT_LOG", "args": [arg(0, 5)]},
        {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [arg(0, 8), arg(0, 9)]},
        {"names": ["dup"], "action": "SCMP_ACT_ALLOW", "args": [arg(0, 1)]},
        {"names": ["dup"], "action": "SCMP_ACT_TRAP"},
        {"names": ["dup"], "action": "SCMP_ACT_ALLOW", "args": [arg(0, 2)]}]});
    let program = compiled(config).program;
    let call = |nr, a, b| run(&program, ARCH_X86_64, nr, [a, b, 0, 0, 0, 0]);
    assert_eq!(call(33, 1, 2), RET_ALLOW);
    assert_eq!(call(33, 1, 3), RET_ERRNO | 1);
    assert_eq!(call(33, 5, 3), RET_LOG);
    assert_eq!((call(135, 8, 0), call(135, 9, 0), call(135, 7, 0)), (RET_ALLOW, RET_ALLOW, RET_ERRNO | 1));
    assert_eq!((call(32, 1, 0), call(32, 2, 0), call(32, 3, 0)), (RET_TRAP, RET_TRAP, RET_TRAP));
}

#[test]
fn what_is_wrong_is_named() {
    let paths = |config: Value| -> Vec<String> {
        let config: LinuxSeccomp = serde_json::from_value(config).unwrap();
        compile(&config).unwrap_err().into_iter().map(|(path, _)| path).collect()
    };
    assert_eq!(paths(json!({"defaultAction": "SCMP_ACT_NOTIFY"})), ["defaultAction"]);
    assert_eq!(
        paths(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": [], "action": "SCMP_ACT_ERRNO"},
            {"names": ["read", ""], "action": "SCMP_ACT_NOTIFY",
                "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]})),
        ["syscalls[0].names", "syscalls[1].action", "syscalls[1].args[0].index", "syscalls[1].names[1]"]
    );
}

#[test]
fn an_errno_needs_an_action_that_has_one() {
    let problems = |config: Value| {
        let config: LinuxSeccomp = serde_json::from_value(config).unwrap();
        compile(&config).err().unwrap_or_default().into_iter().map(|(field, _)| field).collect::<Vec<_>>()
    };
    let of = |action: &str| {
        problems(json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["read"], "action": action, "errnoRet": 1}]}))
    };
    assert!(of("SCMP_ACT_ERRNO").is_empty() && of("SCMP_ACT_TRACE").is_empty());
    for action in ["SCMP_ACT_ALLOW", "SCMP_ACT_KILL", "SCMP_ACT_LOG", "SCMP_ACT_TRAP"] {
        assert_eq!(of(action), ["syscalls[0].errnoRet"], "{action}");
    }
    let default = problems(json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}));
    assert_eq!(default, ["defaultErrnoRet"]);
}
