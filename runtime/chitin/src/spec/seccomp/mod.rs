//! `linux.seccomp`: from the configuration to a BPF program, with the meaning that libseccomp and runc give it.
//!
//! - Names that x86-64 does not have are ignored. Several rules for one call are alternatives, the conditions of a rule
//!   must all hold; where one rule has two conditions on the same argument, runc makes a rule of each.
//! - A rule without conditions wins over those with some, and the first of them over later ones; a rule whose action is
//!   the default one is left out.
//! - Other architectures are killed (x32 by its bit), unless they are listed. Of those the sandbox makes ENOSYS: it has
//!   no calls of i386 or x32.
//! - Where the default action forbids, numbers above all that the profile knows get ENOSYS, so that programs see an older
//!   kernel instead of a strange one (runc's patched filter).
//!
//! Neighbours: `check` reports the errors, `translate` hands the program over; the sentry's kernel runs it.

mod assemble;
mod syscalls;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use assemble::{Assembler, JEQ, JGE, JGT, Label};
use chitin_control::SeccompConfig;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
};
use syscalls::X32_BIT;

const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_KILL_THREAD: u32 = 0;
const RET_TRAP: u32 = 0x0003_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_TRACE: u32 = 0x7ff0_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_ALLOW: u32 = 0x7fff_0000;

const ENOSYS: u32 = RET_ERRNO | libc::ENOSYS as u32;
/// What libseccomp does to calls of an architecture that the filter is not for.
const BAD_ARCH: u32 = RET_KILL_THREAD;

const ARCH_X86_64: u32 = 0xc000_003e;
const ARCH_I386: u32 = 0x4000_0003;

/// Offsets in `struct seccomp_data`.
const NR: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

/// The most instructions that a filter may have.
const MAX_OPS: usize = 4096;

/// What is wrong, and with which field (below `linux.seccomp`).
pub type Problem = (String, String);

/// The rules of one call: alternatives, each with its conditions and its action.
type Rules = Vec<(Vec<LinuxSeccompArg>, u32)>;

/// Compiles a configuration; `Err` names every field that is wrong.
pub fn compile(config: &LinuxSeccomp) -> Result<SeccompConfig, Vec<Problem>> {
    let mut problems = Vec::new();
    let default = action(config.default_action(), config.default_errno_ret());
    if config.default_action() == LinuxSeccompAction::ScmpActNotify {
        problems.push(("defaultAction".into(), "SCMP_ACT_NOTIFY cannot be the default action".into()));
    }
    if config.default_errno_ret().is_some() && !takes_errno(config.default_action()) {
        problems.push(("defaultErrnoRet".into(), no_errno(config.default_action())));
    }
    let mut native: BTreeMap<u32, Rules> = BTreeMap::new();
    let mut x32: BTreeMap<u32, Rules> = BTreeMap::new();
    let (mut last, mut last_x32) = (0, 0);
    for (index, call) in config.syscalls().iter().flatten().enumerate() {
        let path = |field: &str| format!("syscalls[{index}].{field}");
        if call.action() == LinuxSeccompAction::ScmpActNotify {
            problems.push((
                path("action"),
                "SCMP_ACT_NOTIFY is not supported: an agent on the host cannot act on the processes of a sandbox; \
                 use another action"
                    .into(),
            ));
        }
        if call.errno_ret().is_some() && !takes_errno(call.action()) {
            problems.push((path("errnoRet"), no_errno(call.action())));
        }
        if call.names().is_empty() {
            problems.push((path("names"), "must not be empty".into()));
        }
        let args = call.args().as_deref().unwrap_or_default();
        for (at, arg) in args.iter().enumerate() {
            if arg.index() > 5 {
                problems.push((
                    format!("syscalls[{index}].args[{at}].index"),
                    format!("{} is not between 0 and 5", arg.index()),
                ));
            }
        }
        let answer = action(call.action(), call.errno_ret());
        for (at, name) in call.names().iter().enumerate() {
            if name.is_empty() {
                problems.push((format!("syscalls[{index}].names[{at}]"), "must not be empty".into()));
            }
            for (number, rules, last) in [
                (syscalls::number(name), &mut native, &mut last),
                (syscalls::x32_number(name), &mut x32, &mut last_x32),
            ] {
                let Some(number) = number else { continue };
                *last = number.max(*last);
                if answer != default {
                    add(rules.entry(number).or_default(), args, answer);
                }
            }
        }
    }
    let listed = |wanted: Arch| config.architectures().iter().flatten().any(|arch| *arch == wanted);
    let permissive =
        matches!(config.default_action(), LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog);
    let filter = Filter {
        default,
        native,
        x32: listed(Arch::ScmpArchX32).then_some(x32),
        i386: listed(Arch::ScmpArchX86),
        newer: (!permissive && default != ENOSYS && last != 0).then_some((last, last_x32)),
    };
    let program = filter.program();
    if program.len() > MAX_OPS {
        let text =
            format!("the rules make a filter of {} instructions, at most {MAX_OPS} fit", program.len());
        problems.push(("syscalls".into(), text));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let flags = config.flags().iter().flatten().fold(0, |all, flag| all | flag_bit(*flag));
    Ok(SeccompConfig { flags, program })
}

fn flag_bit(flag: LinuxSeccompFilterFlag) -> u32 {
    match flag {
        // There is one thread when the filter is installed.
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => 1 << 1,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 1 << 2,
        // It belongs to a listener.
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
    }
}

/// Whether an action comes with an errno.
fn takes_errno(action: LinuxSeccompAction) -> bool {
    matches!(action, LinuxSeccompAction::ScmpActErrno | LinuxSeccompAction::ScmpActTrace)
}

fn no_errno(action: LinuxSeccompAction) -> String {
    format!("the action {action} has none; remove it")
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> u32 {
    let errno = errno.unwrap_or(libc::EPERM as u32) & 0xffff;
    match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => RET_KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => RET_KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => RET_TRAP,
        LinuxSeccompAction::ScmpActErrno => RET_ERRNO | errno,
        LinuxSeccompAction::ScmpActTrace => RET_TRACE | errno,
        LinuxSeccompAction::ScmpActLog => RET_LOG,
        // NOTIFY has been refused.
        LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActNotify => RET_ALLOW,
    }
}

/// Adds a rule to those of its call.
fn add(rules: &mut Rules, args: &[LinuxSeccompArg], answer: u32) {
    if rules.iter().any(|(conditions, _)| conditions.is_empty()) {
        return;
    }
    if args.is_empty() {
        rules.clear();
    }
    let twice = args.iter().enumerate().any(|(at, arg)| args[..at].iter().any(|a| a.index() == arg.index()));
    if twice {
        rules.extend(args.iter().map(|arg| (vec![*arg], answer)));
    } else {
        rules.push((args.to_vec(), answer));
    }
}

/// Everything the program depends on.
struct Filter {
    default: u32,
    native: BTreeMap<u32, Rules>,
    x32: Option<BTreeMap<u32, Rules>>,
    i386: bool,
    /// The highest numbers that the profile knows, where higher ones are ENOSYS.
    newer: Option<(u32, u32)>,
}

/// Where a number leads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Answer(u32),
    /// Conditions decide.
    Rules(Label),
}

impl Filter {
    fn program(&self) -> Vec<chitin_control::SeccompOp> {
        let mut a = Assembler::default();
        let (native, x32) = (a.label(), a.label());
        a.load(ARCH);
        a.jump_if(JEQ, ARCH_X86_64, native);
        if self.i386 {
            let other = a.label();
            a.jump_unless(JEQ, ARCH_I386, other);
            a.ret(ENOSYS);
            a.place(other);
        }
        a.ret(BAD_ARCH);
        a.place(native);
        a.load(NR);
        let newer = |a: &mut Assembler, last: u32| {
            let known = a.label();
            a.jump_unless(JGT, last, known);
            a.ret(ENOSYS);
            a.place(known);
        };
        if let (Some((last, _)), None) = (self.newer, &self.x32) {
            newer(&mut a, last);
        }
        a.jump_if(JGE, X32_BIT, x32);
        if let (Some((last, _)), Some(_)) = (self.newer, &self.x32) {
            newer(&mut a, last);
        }
        self.dispatch(&mut a, &self.native);
        a.place(x32);
        match &self.x32 {
            Some(rules) => {
                if let Some((_, last)) = self.newer {
                    newer(&mut a, last);
                }
                self.dispatch(&mut a, rules);
            }
            None => {
                // -1 is how a tracer skips a call: it is no number of x32.
                let other = a.label();
                a.jump_unless(JEQ, u32::MAX, other);
                a.ret(self.default);
                a.place(other);
                a.ret(BAD_ARCH);
            }
        }
        a.finish()
    }

    /// Finds the number, which is loaded, among all rules, and answers.
    fn dispatch(&self, a: &mut Assembler, rules: &BTreeMap<u32, Rules>) {
        // Ranges of numbers that lead to the same place, by their first number.
        let mut ranges = vec![(0, Target::Answer(self.default))];
        let mut blocks = Vec::new();
        for (number, rules) in rules {
            let target = match rules.as_slice() {
                [(conditions, answer)] if conditions.is_empty() => Target::Answer(*answer),
                _ => {
                    let label = a.label();
                    blocks.push((label, rules));
                    Target::Rules(label)
                }
            };
            let default = Target::Answer(self.default);
            match ranges.last().copied() {
                Some((first, _)) if first == *number => {
                    ranges.pop();
                }
                _ => {}
            }
            if ranges.last().is_none_or(|(_, last)| *last != target) {
                ranges.push((*number, target));
            }
            ranges.push((number + 1, default));
        }
        search(a, &ranges);
        for (label, rules) in blocks {
            a.place(label);
            for (conditions, answer) in rules {
                let fail = a.label();
                for condition in conditions {
                    check(a, condition, fail);
                }
                a.ret(*answer);
                a.place(fail);
            }
            a.ret(self.default);
        }
    }
}

/// A binary search over ranges.
fn search(a: &mut Assembler, ranges: &[(u32, Target)]) {
    match ranges {
        [] => {}
        [(_, Target::Answer(answer))] => a.ret(*answer),
        [(_, Target::Rules(label))] => a.jump(*label),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let above = a.label();
            a.jump_if(JGE, high[0].0, above);
            search(a, low);
            a.place(above);
            search(a, high);
        }
    }
}

/// Falls through if the condition holds.
fn check(a: &mut Assembler, condition: &LinuxSeccompArg, fail: Label) {
    use LinuxSeccompOperator as Op;
    let low_word = ARGS + 8 * condition.index() as u32;
    let high_word = low_word + 4;
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let (high, low) = halves(condition.value());
    let holds = a.label();
    match condition.op() {
        Op::ScmpCmpEq => {
            a.load(high_word);
            a.jump_unless(JEQ, high, fail);
            a.load(low_word);
            a.jump_unless(JEQ, low, fail);
        }
        Op::ScmpCmpNe => {
            a.load(high_word);
            a.jump_unless(JEQ, high, holds);
            a.load(low_word);
            a.jump_if(JEQ, low, fail);
        }
        Op::ScmpCmpGt | Op::ScmpCmpGe => {
            let compare = if condition.op() == Op::ScmpCmpGt { JGT } else { JGE };
            a.load(high_word);
            a.jump_if(JGT, high, holds);
            a.jump_unless(JEQ, high, fail);
            a.load(low_word);
            a.jump_unless(compare, low, fail);
        }
        Op::ScmpCmpLt | Op::ScmpCmpLe => {
            let compare = if condition.op() == Op::ScmpCmpLt { JGE } else { JGT };
            a.load(high_word);
            a.jump_if(JGT, high, fail);
            a.jump_unless(JEQ, high, holds);
            a.load(low_word);
            a.jump_if(compare, low, fail);
        }
        Op::ScmpCmpMaskedEq => {
            let mask = condition.value();
            let (mask_high, mask_low) = halves(mask);
            let (high, low) = halves(condition.value_two().unwrap_or(0) & mask);
            a.load(high_word);
            a.and(mask_high);
            a.jump_unless(JEQ, high, fail);
            a.load(low_word);
            a.and(mask_low);
            a.jump_unless(JEQ, low, fail);
        }
    }
    a.place(holds);
}
