//! uid_map, gid_map, projid_map, setgroups (kernel/user_namespace.c) and timens_offsets (kernel/time/namespace.c).

use super::Subject;
use crate::format::{number, put, trimmed};
use chitin_abi::Errno;
use chitin_abi::capability::{CAP_SYS_ADMIN, CAP_SYS_TIME};
use chitin_abi::time::*;
use chitin_vfs::Caller;
use chitin_vfs::userns::{Extent, IdKind, IdMap};

type Shown = Result<(), Errno>;

fn show_map(subject: &Subject, opener: &Caller, kind: IdKind, out: &mut Vec<u8>) -> Shown {
    for Extent { first, lower, count } in subject.creds().user_ns.shown_map(kind, &opener.creds.user_ns) {
        put!(out, "{first:10} {lower:10} {count:10}\n");
    }
    Ok(())
}

/// Three numbers on each line.
fn parse_map(text: &str) -> Result<IdMap, Errno> {
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace().map(|word| word.parse::<u32>());
        let mut next = || words.next().and_then(Result::ok).ok_or(Errno::EINVAL);
        let extent = Extent { first: next()?, lower: next()?, count: next()? };
        if words.next().is_some() { Err(Errno::EINVAL) } else { Ok(extent) }
    };
    IdMap::new(text.lines().map(line).collect::<Result<_, _>>()?)
}

fn store_map(subject: &Subject, opener: &Caller, kind: IdKind, data: &[u8]) -> Shown {
    let ns = subject.task()?.creds().user_ns.clone();
    ns.may_write_map(kind, &opener.creds)?;
    let text = std::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
    ns.set_map(kind, &opener.creds, &parse_map(text.trim_end_matches('\0'))?)
}

pub(super) fn uid_map(subject: &Subject, opener: &Caller, out: &mut Vec<u8>) -> Shown {
    show_map(subject, opener, IdKind::User, out)
}
pub(super) fn set_uid_map(subject: &Subject, opener: &Caller, data: &[u8]) -> Shown {
    store_map(subject, opener, IdKind::User, data)
}
pub(super) fn gid_map(subject: &Subject, opener: &Caller, out: &mut Vec<u8>) -> Shown {
    show_map(subject, opener, IdKind::Group, out)
}
pub(super) fn set_gid_map(subject: &Subject, opener: &Caller, data: &[u8]) -> Shown {
    store_map(subject, opener, IdKind::Group, data)
}
pub(super) fn projid_map(subject: &Subject, opener: &Caller, out: &mut Vec<u8>) -> Shown {
    show_map(subject, opener, IdKind::Project, out)
}
pub(super) fn set_projid_map(subject: &Subject, opener: &Caller, data: &[u8]) -> Shown {
    store_map(subject, opener, IdKind::Project, data)
}

pub(super) fn setgroups(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Shown {
    let allowed = subject.creds().user_ns.allows_setgroups();
    put!(out, "{}\n", if allowed { "allow" } else { "deny" });
    Ok(())
}

pub(super) fn set_setgroups(subject: &Subject, opener: &Caller, data: &[u8]) -> Shown {
    let ns = subject.task()?.creds().user_ns.clone();
    if !opener.creds.capable_in(&ns, CAP_SYS_ADMIN) {
        return Err(Errno::EACCES);
    }
    match trimmed(data)? {
        "allow" => ns.set_setgroups(true),
        "deny" => ns.set_setgroups(false),
        _ => Err(Errno::EINVAL),
    }
}

/// Those that children get.
pub(super) fn timens_offsets(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Shown {
    let offsets = subject.task()?.namespaces().time_for_children.offsets();
    for (name, offset) in [("monotonic", offsets.monotonic), ("boottime", offsets.boottime)] {
        let (seconds, rest) = (offset.div_euclid(NSEC_PER_SEC), offset.rem_euclid(NSEC_PER_SEC));
        put!(out, "{name:<10} {seconds:10} {rest:9}\n");
    }
    Ok(())
}

pub(super) fn set_timens_offsets(subject: &Subject, opener: &Caller, data: &[u8]) -> Shown {
    let ns = subject.task()?.namespaces().time_for_children.clone();
    let mut changes = Vec::new();
    for line in trimmed(data)?.lines() {
        let mut words = line.split_ascii_whitespace();
        let clock = match words.next().ok_or(Errno::EINVAL)? {
            "monotonic" | "1" => CLOCK_MONOTONIC,
            "boottime" | "7" => CLOCK_BOOTTIME,
            _ => return Err(Errno::EINVAL),
        };
        let tv_sec = number(words.next().ok_or(Errno::EINVAL)?)?;
        let tv_nsec = number(words.next().ok_or(Errno::EINVAL)?)?;
        if !(0..NSEC_PER_SEC).contains(&tv_nsec) || words.next().is_some() || changes.len() >= 2 {
            return Err(Errno::EINVAL);
        }
        changes.push((clock, Timespec { tv_sec, tv_nsec }));
    }
    if changes.is_empty() {
        return Err(Errno::EINVAL);
    }
    if !opener.creds.capable_in(&ns.user_ns, CAP_SYS_TIME) {
        return Err(Errno::EPERM);
    }
    ns.set(&changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read_line_by_line() {
        let map = parse_map("0 1000 1\n 1  100000\t65536 \n").unwrap();
        assert_eq!(map.extents().len(), 2);
        assert_eq!(map.down(2), Some(100_001));
        for bad in ["", "\n", "0 0", "0 0 1 1", "a b c", "-1 0 1", "0 0 0", "0 0 4294967296"] {
            assert_eq!(parse_map(bad), Err(Errno::EINVAL), "{bad:?}");
        }
    }
}
