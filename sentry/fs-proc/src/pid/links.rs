//! Magic links: exe, cwd, root, fd/N, ns/*.

use super::access::{self, Access};
use super::node::{PidInode, PidNode};
use super::table::PidKind;
use super::{Subject, fds};
use chitin_abi::Errno;
use chitin_vfs::{Caller, LinkTarget, Path};

/// In the order that readdir shows them.
pub(super) const NAMESPACES: &[&str] =
    &["net", "uts", "ipc", "pid", "pid_for_children", "user", "mnt", "cgroup", "time", "time_for_children"];

/// Which of the objects in the process a link shows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum PidLink {
    Exe,
    Cwd,
    Root,
}

fn path(subject: &Subject, which: PidLink) -> Result<Path, Errno> {
    match which {
        PidLink::Exe => subject.process.exe().ok_or(Errno::ENOENT),
        PidLink::Cwd => Ok(subject.task.as_ref().ok_or(Errno::ENOENT)?.fs().cwd()),
        PidLink::Root => Ok(subject.task.as_ref().ok_or(Errno::ENOENT)?.fs().root()),
    }
}

/// The text of a path as the caller sees it.
pub(super) fn path_text(subject: &Subject, caller: &Caller, path: &Path) -> Vec<u8> {
    let viewer = subject.shared.kernel.task_by_kid(caller.tid).or_else(|| subject.task.clone());
    match viewer {
        Some(viewer) => {
            let fs = viewer.fs();
            fs.ns().text(&fs.root(), path).0
        }
        None => b"/".to_vec(),
    }
}

/// The namespace's name and number. There is one of each kind in the sandbox, but for mounts.
fn namespace(subject: &Subject, at: usize) -> Result<String, Errno> {
    let name = NAMESPACES.get(at).ok_or(Errno::ENOENT)?;
    let kind = name.strip_suffix("_for_children").unwrap_or(name);
    let number = match kind {
        "mnt" => subject.task.as_ref().ok_or(Errno::ENOENT)?.fs().ns().id(),
        // The numbers that Linux gives to the first ones (PROC_*_INIT_INO).
        "ipc" => 0xefff_ffff,
        "uts" => 0xefff_fffe,
        "user" => 0xefff_fffd,
        "pid" => 0xefff_fffc,
        "cgroup" => 0xefff_fffb,
        "time" => 0xefff_fffa,
        _ => 0xefff_fff9,
    };
    Ok(format!("{kind}:[{number}]"))
}

pub(super) fn target(inode: &PidInode, caller: &Caller) -> Result<LinkTarget, Errno> {
    let subject = inode.subject(Errno::ENOENT)?;
    access::check(caller, &subject, Access::Inspect)?;
    match inode.node {
        PidNode::Entry(entry, _) => match entry.kind {
            PidKind::Link(which) => path(&subject, which).map(LinkTarget::Magic),
            _ => Err(Errno::EINVAL),
        },
        PidNode::Fd(fd) => {
            let file = fds::get(&subject, fd.cast_signed()).ok_or(Errno::ENOENT)?.file;
            Ok(match file.path() {
                Some(path) => LinkTarget::Magic(path.clone()),
                None => LinkTarget::File(file),
            })
        }
        // Namespaces are no files one could enter: setns(2) has nowhere to go.
        PidNode::Namespace(_) => Err(Errno::EACCES),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn text(inode: &PidInode, caller: &Caller) -> Result<Vec<u8>, Errno> {
    let subject = inode.subject(Errno::ENOENT)?;
    if let PidNode::Namespace(at) = inode.node {
        access::check(caller, &subject, Access::Inspect)?;
        return namespace(&subject, at).map(String::into_bytes);
    }
    match target(inode, caller)? {
        LinkTarget::Text(text) => Ok(text),
        LinkTarget::Magic(path) => Ok(path_text(&subject, caller, &path)),
        LinkTarget::File(file) => Ok(file.anon_text()),
    }
}
