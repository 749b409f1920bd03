//! mounts, mountinfo, mountstats (fs/proc_namespace.c).

use super::Subject;
use crate::format::{escape, put};
use chitin_abi::Errno;
use chitin_abi::mount::*;
use chitin_abi::stat::{major, minor};
use chitin_vfs::{Caller, Dentry, Mount, path_text};
use std::sync::Arc;

/// What separates fields, and how comments start.
const SPECIAL: &[u8] = b" \t\n\\#";

/// A mount and where it is seen.
struct Seen {
    mount: Arc<Mount>,
    at: Vec<u8>,
}

/// The mounts that are reachable from the process's root, in the order they were made.
fn seen(subject: &Subject) -> Result<Vec<Seen>, Errno> {
    let place = subject.task.as_ref().ok_or(Errno::EINVAL)?.fs().place();
    let (ns, root) = (&place.ns, &place.root);
    let mut seen = Vec::new();
    for mount in ns.mounts() {
        let top = chitin_vfs::Path { mount: mount.clone(), dentry: mount.root().clone() };
        let (at, reachable) = ns.text(root, &top);
        if reachable {
            seen.push(Seen { mount, at });
        }
    }
    Ok(seen)
}

fn flags(mount: &Mount, out: &mut Vec<u8>) {
    put!(out, "{}", if mount.has(MS_RDONLY) { "ro" } else { "rw" });
    for (flag, text) in [
        (MS_NOSUID, ",nosuid"),
        (MS_NODEV, ",nodev"),
        (MS_NOEXEC, ",noexec"),
        (MS_NOATIME, ",noatime"),
        (MS_NODIRATIME, ",nodiratime"),
        (MS_RELATIME, ",relatime"),
        (MS_NOSYMFOLLOW, ",nosymfollow"),
    ] {
        if mount.has(flag) {
            out.extend_from_slice(text.as_bytes());
        }
    }
}

fn source(mount: &Mount, out: &mut Vec<u8>) {
    match mount.source() {
        [] => out.extend_from_slice(b"none"),
        source => escape(out, source, SPECIAL),
    }
}

/// mounts (show_vfsmnt()).
pub(super) fn mounts(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Result<(), Errno> {
    for Seen { mount, at } in seen(subject)? {
        source(&mount, out);
        out.push(b' ');
        escape(out, &at, SPECIAL);
        put!(out, " {} ", mount.fs().fs_type());
        flags(&mount, out);
        out.extend_from_slice(mount.fs().show_options().as_bytes());
        out.extend_from_slice(b" 0 0\n");
    }
    Ok(())
}

/// The path of a mount's root within its file system.
fn root_text(mount: &Mount) -> Vec<u8> {
    let mut names = Vec::new();
    let mut at: Arc<Dentry> = mount.root().clone();
    while let (name, Some(parent)) = at.place() {
        names.push(name);
        at = parent;
    }
    let mut text = path_text(&names);
    if mount.root().is_dead() {
        text.extend_from_slice(b"//deleted");
    }
    text
}

/// mountinfo (show_mountinfo()).
pub(super) fn mountinfo(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Result<(), Errno> {
    for Seen { mount, at } in seen(subject)? {
        let parent = mount.mountpoint().map_or(mount.id(), |point| point.mount.id());
        let dev = mount.fs().dev();
        put!(out, "{} {parent} {}:{} ", mount.id(), major(dev), minor(dev));
        escape(out, &root_text(&mount), SPECIAL);
        out.push(b' ');
        escape(out, &at, SPECIAL);
        out.push(b' ');
        flags(&mount, out);
        if let Some(group) = mount.peer_group() {
            put!(out, " shared:{group}");
        }
        if let Some(group) = mount.master_group() {
            put!(out, " master:{group}");
        }
        if mount.is_unbindable() {
            put!(out, " unbindable");
        }
        put!(out, " - {} ", mount.fs().fs_type());
        source(&mount, out);
        put!(out, " rw{}\n", mount.fs().show_options());
    }
    Ok(())
}

/// mountstats (show_vfsstat()).
pub(super) fn mountstats(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Result<(), Errno> {
    for Seen { mount, at } in seen(subject)? {
        out.extend_from_slice(b"device ");
        source(&mount, out);
        out.extend_from_slice(b" mounted on ");
        escape(out, &at, SPECIAL);
        put!(out, " with fstype {}\n", mount.fs().fs_type());
    }
    Ok(())
}
