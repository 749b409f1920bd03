//! Magic links: exe, cwd, root, fd/N, ns/*.

use super::access::{self, Access};
use super::node::{PidInode, PidNode};
use super::table::PidKind;
use super::{Subject, fds};
use chitin_abi::Errno;
use chitin_kernel::Namespace;
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
    if let Some(text) = path.inode().anon_text() {
        return text;
    }
    let viewer = subject.shared.kernel.task_by_kid(caller.tid).or_else(|| subject.task.clone());
    match viewer {
        Some(viewer) => {
            let fs = viewer.fs();
            fs.ns().text(&fs.root(), path).0
        }
        None => b"/".to_vec(),
    }
}

fn namespace(subject: &Subject, at: usize) -> Result<Namespace, Errno> {
    let name = NAMESPACES.get(at).ok_or(Errno::ENOENT)?;
    let task = subject.task.as_ref().ok_or(Errno::ENOENT)?;
    Namespace::of(task, name).ok_or(Errno::ENOENT)
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
        PidNode::Namespace(at) => Ok(LinkTarget::Magic(namespace(&subject, at)?.path())),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn text(inode: &PidInode, caller: &Caller) -> Result<Vec<u8>, Errno> {
    let subject = inode.subject(Errno::ENOENT)?;
    if let PidNode::Namespace(at) = inode.node {
        access::check(caller, &subject, Access::Inspect)?;
        return namespace(&subject, at).map(|namespace| namespace.text().into_bytes());
    }
    match target(inode, caller)? {
        LinkTarget::Text(text) => Ok(text),
        LinkTarget::Magic(path) => Ok(path_text(&subject, caller, &path)),
        LinkTarget::File(file) => Ok(file.anon_text()),
    }
}
