//! User namespaces of gofers and of id-mapped mounts: who writes their maps.
//!
//! Who has CAP_SETUID and CAP_SETGID (root, also that of a user namespace) writes any map. Others map their own id, and
//! leave what /etc/subuid and /etc/subgid grant them to `newuidmap` and `newgidmap`, as every rootless runtime does.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::process::Command;

use chitin_control::{ContainerConfig, IdMapping, IdMappings};

use super::Creation;
use super::launch::{self, Child, Role};
use crate::util::{Context, Result, in_user_namespace};

/// In lines of `/proc/PID/uid_map`.
fn lines(ranges: &[IdMapping]) -> String {
    ranges.iter().map(|r| format!("{} {} {}\n", r.container, r.host, r.size)).collect()
}

/// Whether it is our own id and no other.
fn only_own(ranges: &[IdMapping], own: u32) -> bool {
    matches!(ranges, [IdMapping { host, size: 1, .. }] if *host == own)
}

/// The one id that we are, as root.
pub fn own() -> IdMappings {
    let one = |host: u32| vec![IdMapping { container: 0, host, size: 1 }];
    IdMappings { uids: one(nix::unistd::geteuid().as_raw()), gids: one(nix::unistd::getegid().as_raw()) }
}

/// The ids of a container without a user namespace of its own: those that there are in ours, as by runc. A user without
/// power has one id, as which crun then runs the container. What `do` runs has all ids, on a machine of its own.
pub fn inherited(creation: &Creation<'_>) -> Result<Option<IdMappings>> {
    if creation.plain_command {
        return Ok(None);
    }
    if !nix::unistd::geteuid().is_root() {
        return Ok(Some(own()));
    }
    if !in_user_namespace() {
        return Ok(None);
    }
    let read = |file: &str| {
        let text = std::fs::read_to_string(file).context(|| format!("cannot read {file}"))?;
        parse(&text).ok_or_else(|| format!("{file} is no list of ranges"))
    };
    Ok(Some(IdMappings { uids: read("/proc/self/uid_map")?, gids: read("/proc/self/gid_map")? }))
}

/// The lines of a map.
fn parse(text: &str) -> Option<Vec<IdMapping>> {
    let range = |line: &str| {
        let mut numbers = line.split_ascii_whitespace().map(|n| n.parse::<u32>().ok());
        let mut next = || numbers.next().flatten();
        Some(IdMapping { container: next()?, host: next()?, size: next()? })
    };
    text.lines().map(range).collect()
}

/// Whether the container's users may not change their groups, as the host does not let them.
pub fn without_setgroups(container: &ContainerConfig) -> bool {
    match (&container.id_mappings, &container.inherited_ids) {
        (Some(own), _) => denies_setgroups(own),
        (None, Some(inherited)) => denies_setgroups(inherited) || groups_are_denied(),
        (None, None) => false,
    }
}

/// Whether they are in our own namespace.
fn groups_are_denied() -> bool {
    std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny")
}

/// Whether we may not let anybody drop groups in a namespace with these maps.
fn denies_setgroups(maps: &IdMappings) -> bool {
    !nix::unistd::geteuid().is_root() && only_own(&maps.gids, nix::unistd::getegid().as_raw())
}

/// Sets a waiting child's maps.
pub fn map(child: &Child, maps: &IdMappings) -> Result<()> {
    let what = || "cannot map ids into the container's user namespace".to_owned();
    let root = nix::unistd::geteuid().is_root();
    let single = only_own(&maps.uids, nix::unistd::geteuid().as_raw())
        && only_own(&maps.gids, nix::unistd::getegid().as_raw());
    if root || single {
        let written = child.write_maps(&lines(&maps.uids), &lines(&maps.gids), denies_setgroups(maps));
        return written.context(|| {
            format!("{} (linux.uidMappings, linux.gidMappings; the host ids must be ours to give)", what())
        });
    }
    if only_own(&maps.gids, nix::unistd::getegid().as_raw()) {
        let denied = std::fs::write(format!("/proc/{}/setgroups", child.pid()), "deny");
        denied.context(what)?;
    }
    helper("newgidmap", "/etc/subgid", child, &maps.gids).context(what)?;
    helper("newuidmap", "/etc/subuid", child, &maps.uids).context(what)
}

/// Lets a privileged program write a map that is beyond us.
fn helper(program: &str, file: &str, child: &Child, ranges: &[IdMapping]) -> Result<()> {
    let mut command = Command::new(program);
    command.arg(child.pid().to_string());
    for range in ranges {
        command.args([range.container, range.host, range.size].map(|n| n.to_string()));
    }
    let output = command
        .output()
        .map_err(|e| format!("{program}: {e}; install it (Debian: uidmap), or map your own id alone"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}; {file} must grant these ids to the user", said.trim()))
}

/// A user namespace with these maps, for a process or a mount to be put into. Only for root.
pub fn namespace(exe: BorrowedFd<'_>, maps: &IdMappings, null: BorrowedFd<'_>) -> Result<OwnedFd> {
    let holder = launch::spawn(
        exe,
        &Role {
            name: c"gofer",
            id: "ids",
            config: null,
            namespaces: libc::CLONE_NEWUSER,
            stdio: [null; 3],
            inherited: Vec::new(),
            terminal: None,
            namespace_root: false,
            cgroups: None,
            memory: None,
        },
    )?;
    map(&holder, maps)?;
    // It waits for a word that never comes, and ends with `holder`.
    holder.user_namespace().context(|| "cannot open a user namespace".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read_as_they_are_written() {
        let ranges = parse("         0       1000          1\n         1     100000      65536\n").unwrap();
        assert_eq!(lines(&ranges), "0 1000 1\n1 100000 65536\n");
        assert_eq!(parse(""), Some(Vec::new()));
        for wrong in ["0 1000", "0 x 1", "0 1 -1", "0 1 4294967296"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
