//! The options of the configuration's mounts, by their names in the OCI specification. `mounts` mounts with them, and the
//! runtime's `features` lists them.

use chitin_abi::mount::*;
use chitin_vfs::Propagation;

/// Flags of a mount: the option's name, the bit, and whether it is set or cleared. Each is there with an `r` before it, too
/// (`rro`): with what is mounted below. A bind mount brings that along as part of one mount, so both mean the same.
const FLAGS: [(&str, u64, bool); 18] = [
    ("ro", MS_RDONLY, true),
    ("rw", MS_RDONLY, false),
    ("nosuid", MS_NOSUID, true),
    ("suid", MS_NOSUID, false),
    ("nodev", MS_NODEV, true),
    ("dev", MS_NODEV, false),
    ("noexec", MS_NOEXEC, true),
    ("exec", MS_NOEXEC, false),
    ("noatime", MS_NOATIME, true),
    ("atime", MS_NOATIME, false),
    ("nodiratime", MS_NODIRATIME, true),
    ("diratime", MS_NODIRATIME, false),
    ("relatime", MS_RELATIME, true),
    ("norelatime", MS_RELATIME, false),
    ("strictatime", MS_STRICTATIME, true),
    ("nostrictatime", MS_STRICTATIME, false),
    ("nosymfollow", MS_NOSYMFOLLOW, true),
    ("symfollow", MS_NOSYMFOLLOW, false),
];

/// The propagation, and whether that of what is below, too.
const PROPAGATIONS: [(&str, Propagation, bool); 8] = [
    ("shared", Propagation::Shared, false),
    ("rshared", Propagation::Shared, true),
    ("slave", Propagation::Slave, false),
    ("rslave", Propagation::Slave, true),
    ("private", Propagation::Private, false),
    ("rprivate", Propagation::Private, true),
    ("unbindable", Propagation::Unbindable, false),
    ("runbindable", Propagation::Unbindable, true),
];

/// What is mounted rather than how, or what has its meaning elsewhere: in the gofer, the runtime, `mounts`.
const ELSEWHERE: [&str; 6] = ["bind", "rbind", "idmap", "ridmap", "remount", "tmpcopyup"];

/// What makes no difference: nothing is written later than the guest has been told (sync, lazytime), file systems have
/// no version counters or mandatory locks to switch, ACLs are always there, and nothing is printed.
const WITHOUT_EFFECT: [&str; 14] = [
    "defaults",
    "sync",
    "async",
    "dirsync",
    "lazytime",
    "nolazytime",
    "iversion",
    "noiversion",
    "mand",
    "nomand",
    "acl",
    "noacl",
    "silent",
    "loud",
];

/// Options of `source`'s, which are never a file system's: Podman's way to say that links are copied as such.
const UNLISTED: [&str; 1] = ["copy-symlink"];

/// A mount option's effect on per-mount flags: set, or clear.
fn flag(option: &str) -> Option<(u64, bool)> {
    let named = |name: &str| FLAGS.iter().find(|(known, ..)| *known == name);
    let found = named(option).or_else(|| named(option.strip_prefix('r')?))?;
    Some((found.1, found.2))
}

/// A mount option that sets the propagation, and whether that of what is below, too.
pub fn propagation(option: &str) -> Option<(Propagation, bool)> {
    let found = PROPAGATIONS.iter().find(|(known, ..)| *known == option)?;
    Some((found.1, found.2))
}

/// Flags for the mount, and the option string for the file system.
pub fn split(options: &[String]) -> (u64, Vec<u8>) {
    let mut flags = 0;
    let mut data: Vec<&str> = Vec::new();
    for option in options {
        let known = |list: &[&str]| list.contains(&option.as_str());
        match flag(option) {
            Some((bit, true)) => flags |= bit,
            Some((bit, false)) => flags &= !bit,
            None if propagation(option).is_some() => {}
            None if known(&ELSEWHERE) || known(&WITHOUT_EFFECT) || known(&UNLISTED) => {}
            None => data.push(option),
        }
    }
    (flags, data.join(",").into_bytes())
}

/// All options that are not a file system's own, by name.
pub fn mount_options() -> Vec<String> {
    let flags = FLAGS.iter().flat_map(|(name, ..)| [(*name).to_owned(), format!("r{name}")]);
    let others = PROPAGATIONS.iter().map(|(name, ..)| *name).chain(ELSEWHERE).chain(WITHOUT_EFFECT);
    let mut all: Vec<String> = flags.chain(others.map(str::to_owned)).collect();
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_flags_and_data() {
        let of = |options: &[&str]| split(&options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>());
        let (flags, data) = of(&[
            "nosuid",
            "strictatime",
            "mode=755",
            "size=65536k",
            "rbind",
            "rro",
            "rprivate",
            "relatime",
            "tmpcopyup",
            "lazytime",
        ]);
        assert_eq!(flags, MS_NOSUID | MS_STRICTATIME | MS_RDONLY | MS_RELATIME);
        assert_eq!(data, b"mode=755,size=65536k");
        assert_eq!(of(&["ro", "rrw", "noexec", "rexec"]), (0, vec![]));
        assert_eq!(of(&["rrelatime", "rnosymfollow"]).0, MS_RELATIME | MS_NOSYMFOLLOW);
    }

    #[test]
    fn every_listed_option_is_known() {
        let all = mount_options();
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]), "one is listed twice: {all:?}");
        for option in all {
            assert_eq!(split(std::slice::from_ref(&option)).1, b"", "{option} reaches the file system");
        }
    }
}
