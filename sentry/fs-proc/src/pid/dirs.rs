//! Look-ups and listings of the directories below /proc/PID.

use super::node::{PidInode, PidNode};
use super::table::{self, PidEntry, PidKind};
use super::{Subject, Who, fds, links};
use crate::fs::parse_id;
use chitin_abi::Errno;
use chitin_vfs::{DirEntry, DirSink};
use std::sync::Arc;

/// The node behind a row of a table; `number` is the row's place among all rows.
fn node(entry: &'static PidEntry, number: u8) -> PidNode {
    match entry.kind {
        PidKind::Special(node) => node,
        _ => PidNode::Entry(entry, number),
    }
}

/// The table of a directory that has one, and the number of its first row.
fn rows(inode: &PidInode, single: bool) -> Option<(&'static [PidEntry], u8)> {
    match inode.node {
        PidNode::Root if single => Some((table::THREAD, 0)),
        PidNode::Root => Some((table::PROCESS, 0)),
        PidNode::Entry(PidEntry { kind: PidKind::Dir(entries), .. }, _) => Some((entries, 64)),
        _ => None,
    }
}

fn thread_of(subject: &Subject, tid: i32) -> Option<Who> {
    let threads = subject.process.threads();
    match threads.iter().find(|task| task.tid_in(&subject.shared.ns) == tid) {
        Some(task) => Some(Who::thread(&subject.shared, &subject.process, Some(task))),
        // The leader stays as a zombie.
        None => (tid == subject.pid()).then(|| Who::thread(&subject.shared, &subject.process, None)),
    }
}

fn thread_ids(subject: &Subject) -> Vec<i32> {
    let mut ids: Vec<i32> =
        subject.process.threads().iter().map(|task| task.tid_in(&subject.shared.ns)).collect();
    ids.push(subject.pid());
    ids.sort_unstable();
    ids.dedup();
    ids
}

pub(super) fn lookup(inode: &PidInode, name: &[u8]) -> Result<Arc<PidInode>, Errno> {
    let subject = inode.subject(Errno::ENOENT)?;
    let make = |node| Ok(PidInode::new(&inode.shared, inode.who.clone(), node));
    if let Some((entries, first)) = rows(inode, subject.single) {
        for (entry, number) in entries.iter().zip(first..) {
            if entry.name.as_bytes() == name {
                return make(node(entry, number));
            }
        }
        return Err(Errno::ENOENT);
    }
    match inode.node {
        PidNode::Tasks => {
            let tid = parse_id(name).ok_or(Errno::ENOENT)?;
            let who = thread_of(&subject, tid).ok_or(Errno::ENOENT)?;
            Ok(PidInode::new(&inode.shared, who, PidNode::Root))
        }
        PidNode::Fds | PidNode::FdInfos => {
            let fd = if name == b"0" { Some(0) } else { parse_id(name) };
            let fd = fd.filter(|&fd| fds::get(&subject, fd).is_some()).ok_or(Errno::ENOENT)?;
            let fd = u32::try_from(fd).map_err(|_| Errno::ENOENT)?;
            make(if matches!(inode.node, PidNode::Fds) { PidNode::Fd(fd) } else { PidNode::FdInfo(fd) })
        }
        PidNode::Namespaces => {
            let at = links::NAMESPACES.iter().position(|known| known.as_bytes() == name);
            make(PidNode::Namespace(at.ok_or(Errno::ENOENT)?))
        }
        _ => Err(Errno::ENOTDIR),
    }
}

pub(super) fn list(inode: &PidInode, cookie: u64, sink: &mut dyn DirSink) -> Result<(), Errno> {
    let subject = inode.subject(Errno::ENOENT)?;
    let mut emit = |at: u64, name: &[u8], who: &Who, node: PidNode| {
        let ino = node.ino(&inode.shared, who);
        at < cookie || sink.entry(&DirEntry { name, ino, kind: node.file_kind(), next: at.saturating_add(1) })
    };
    if let Some((entries, first)) = rows(inode, subject.single) {
        for ((entry, number), at) in entries.iter().zip(first..).zip(0..) {
            if !emit(at, entry.name.as_bytes(), &inode.who, node(entry, number)) {
                break;
            }
        }
        return Ok(());
    }
    match inode.node {
        PidNode::Tasks => {
            for tid in thread_ids(&subject) {
                let Some(who) = thread_of(&subject, tid) else { continue };
                let at = u64::try_from(tid).unwrap_or(0);
                if !emit(at, tid.to_string().as_bytes(), &who, PidNode::Root) {
                    break;
                }
            }
        }
        PidNode::Fds | PidNode::FdInfos => {
            for fd in fds::numbers(&subject) {
                let Ok(number) = u32::try_from(fd) else { continue };
                let infos = matches!(inode.node, PidNode::FdInfos);
                let node = if infos { PidNode::FdInfo(number) } else { PidNode::Fd(number) };
                if !emit(u64::from(number), fd.to_string().as_bytes(), &inode.who, node) {
                    break;
                }
            }
        }
        PidNode::Namespaces => {
            for (at, name) in links::NAMESPACES.iter().enumerate() {
                if !emit(at as u64, name.as_bytes(), &inode.who, PidNode::Namespace(at)) {
                    break;
                }
            }
        }
        _ => return Err(Errno::ENOTDIR),
    }
    Ok(())
}
