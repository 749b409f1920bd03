//! /proc/sys/net: the tunables of the network namespace that whoever walks here is in.
//!
//! The network says what there is ([`NetFiles`]); files and directories are made of it at each look-up. An open file
//! stays its namespace's, and does not keep it.

use crate::format::trimmed;
use crate::fs::{Shared, keep_attr};
use crate::sysctl::{numbers, test_perm};
use crate::text::{Text, TextFile};
use chitin_abi::Errno;
use chitin_abi::capability::CAP_NET_ADMIN;
use chitin_kernel::Kernel;
use chitin_kernel::inspect::{NetFiles, ProcNet, TunableValue};
use chitin_kernel::ns::NetNs;
use chitin_vfs::userns::UserNs;
use chitin_vfs::{
    Attr, Caller, DirEntry, DirSink, Directory, FileKind, FileOps, Inode, InodeState, NewInode, SetAttr,
};
use std::hash::BuildHasher;
use std::sync::{Arc, Weak};

/// A file or directory of a namespace's /proc/sys/net.
pub(crate) struct NetSys {
    shared: Arc<Shared>,
    net: Weak<NetNs>,
    /// From /proc/sys/net on; "" is that itself.
    path: String,
    perm: u32,
    kind: FileKind,
    ino: u64,
    state: InodeState,
}

impl NetSys {
    /// What /proc/sys/net is for `caller`, and the namespace's number.
    pub(crate) fn root(shared: &Arc<Shared>, caller: &Caller, ino: u64) -> Option<(u64, Arc<dyn Inode>)> {
        let net = shared.kernel.task_by_kid(caller.tid)?.net();
        // Without a network it is empty.
        files(&shared.kernel).ok()?;
        let (shared, state) = (shared.clone(), InodeState::default());
        let (path, perm, kind) = (String::new(), 0o555, FileKind::Directory);
        Some((net.inum, Arc::new(NetSys { shared, net: Arc::downgrade(&net), path, perm, kind, ino, state })))
    }

    fn make(shared: &Arc<Shared>, net: &Arc<NetNs>, path: String, perm: u32, kind: FileKind) -> Arc<NetSys> {
        let ino = number(shared, net, &path);
        let (shared, net) = (shared.clone(), Arc::downgrade(net));
        Arc::new(NetSys { shared, net, path, perm, kind, ino, state: InodeState::default() })
    }

    /// The namespace, if it is there still, and who knows its tunables.
    fn net(&self) -> Result<(Arc<NetNs>, Arc<ProcNet>), Errno> {
        let net = self.net.upgrade().ok_or(Errno::ENOENT)?;
        Ok((net, files(&self.shared.kernel)?))
    }

    fn below(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.path) }
    }
}

fn files(kernel: &Kernel) -> Result<Arc<ProcNet>, Errno> {
    kernel.extension::<ProcNet>().ok_or(Errno::ENOENT)
}

/// An inode number; the same for the same file. Beyond those of everything else in proc.
fn number(shared: &Shared, net: &NetNs, path: &str) -> u64 {
    shared.hasher.hash_one((net.inum, path)) | 1 << 63
}

/// Holds groups, which go by the numbers that writer and reader know (ipv4_ping_group_range()).
const GROUPS: &str = "ipv4/ping_group_range";

/// Kernel ids of a range of groups; none for one that holds nothing.
fn groups(user_ns: &UserNs, range: &[i64]) -> Result<[i64; 2], Errno> {
    let id = |at: usize| {
        let group = range.get(at).and_then(|group| u32::try_from(*group).ok());
        group.and_then(|group| user_ns.kgid(group)).ok_or(Errno::EINVAL)
    };
    let (low, high) = (id(0)?, id(1)?);
    Ok(if range.get(1) < range.first() || high < low { [1, 0] } else { [low.into(), high.into()] })
}

/// Works on what somebody of a user namespace wrote to a file.
pub(crate) fn store(
    kernel: &Kernel,
    net: &NetNs,
    path: &str,
    user_ns: &UserNs,
    data: &[u8],
) -> Result<(), Errno> {
    let files = files(kernel)?;
    let known = files.0.tunable(&net.stack, path).ok_or(Errno::ENOENT)?;
    if !known.writable {
        return Err(Errno::EACCES);
    }
    let text = trimmed(data)?;
    match known.value {
        TunableValue::Numbers { values, min, max } => {
            let new = numbers(text, values.len(), min, max)?;
            if path != GROUPS {
                return files.0.tune(&net.stack, path, &new);
            }
            // A number that is not given stays.
            let range = [new.first(), new.get(1).or(values.get(1))].map(|group| group.copied().unwrap_or(0));
            files.0.tune(&net.stack, path, &groups(user_ns, &range)?)
        }
        TunableValue::Words(_) => files.0.tune_words(&net.stack, path, text),
    }
}

fn show(files: &dyn NetFiles, net: &NetNs, path: &str, user_ns: &UserNs) -> Result<String, Errno> {
    let known = |group: &i64| i64::from(user_ns.show_gid(u32::try_from(*group).unwrap_or(u32::MAX)));
    Ok(match files.tunable(&net.stack, path).ok_or(Errno::ENOENT)?.value {
        TunableValue::Numbers { mut values, .. } => {
            if path == GROUPS {
                values = values.iter().map(known).collect();
            }
            values.iter().map(i64::to_string).collect::<Vec<_>>().join("\t")
        }
        TunableValue::Words(words) => words,
    })
}

impl Inode for NetSys {
    fn ino(&self) -> u64 {
        self.ino
    }
    fn kind(&self) -> FileKind {
        self.kind
    }
    /// The owner is root of the namespace's owner (net_ctl_set_ownership()).
    fn attr(&self) -> Result<Attr, Errno> {
        let mut attr = self.shared.attr(self.ino, self.kind, self.perm, self.shared.kernel.boot_ns);
        if let Some(net) = self.net.upgrade().filter(|_| self.kind == FileKind::Regular) {
            attr.uid = net.user_ns.kuid(0).unwrap_or(0);
            attr.gid = net.user_ns.kgid(0).unwrap_or(0);
        }
        Ok(attr)
    }
    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        keep_attr(change)
    }
    fn state(&self) -> &InodeState {
        &self.state
    }
    fn dir(&self) -> Option<&dyn Directory> {
        (self.kind == FileKind::Directory).then_some(self)
    }
    fn open(self: Arc<Self>, _flags: u32) -> Result<Arc<dyn FileOps>, Errno> {
        // Only who opens as somebody gets here; see `open_as`.
        Err(Errno::EACCES)
    }
    fn open_as(self: Arc<Self>, _flags: u32, caller: &Caller) -> Result<Arc<dyn FileOps>, Errno> {
        Ok(TextFile::open(NetText(self), caller))
    }

    /// Who administers the namespace is its root (net_ctl_permissions()).
    fn permission(&self, caller: &Caller, mask: u32) -> Result<(), Errno> {
        if self.kind == FileKind::Directory {
            return Ok(());
        }
        let net = self.net.upgrade().ok_or(Errno::ENOENT)?;
        let own = self.perm >> 6;
        let administers = caller.creds.capable_in(&net.user_ns, CAP_NET_ADMIN);
        test_perm(&caller.creds, if administers { own << 6 | own << 3 | own } else { self.perm }, mask)
    }
    fn has_own_rules(&self) -> bool {
        self.kind == FileKind::Regular
    }
}

impl Directory for NetSys {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let (net, files) = self.net()?;
        let path = self.below(std::str::from_utf8(name).map_err(|_| Errno::ENOENT)?);
        let (perm, kind) = match files.0.tunable(&net.stack, &path) {
            Some(file) => (if file.writable { 0o644 } else { 0o444 }, FileKind::Regular),
            None if files.0.tunables_in(&net.stack, &path).is_empty() => return Err(Errno::ENOENT),
            None => (0o555, FileKind::Directory),
        };
        Ok(NetSys::make(&self.shared, &net, path, perm, kind))
    }

    fn read_dir(&self, cookie: u64, sink: &mut dyn DirSink) -> Result<(), Errno> {
        let (net, files) = self.net()?;
        for ((name, is_dir), at) in files.0.tunables_in(&net.stack, &self.path).into_iter().zip(0u64..) {
            if at < cookie {
                continue;
            }
            let ino = number(&self.shared, &net, &self.below(&name));
            let kind = if is_dir { FileKind::Directory } else { FileKind::Regular };
            if !sink.entry(&DirEntry { name: name.as_bytes(), ino, kind, next: at.saturating_add(1) }) {
                break;
            }
        }
        Ok(())
    }
    /// The look-up's answer: nothing here can be made, so the name stays unknown.
    fn create(&self, _name: &[u8], _new: &NewInode) -> Result<Arc<dyn Inode>, Errno> {
        Err(Errno::ENOENT)
    }
}

struct NetText(Arc<NetSys>);

impl Text for NetText {
    fn show(&self, opener: &Caller, out: &mut Vec<u8>) -> Result<(), Errno> {
        let (net, files) = self.0.net()?;
        out.extend_from_slice(show(&*files.0, &net, &self.0.path, &opener.creds.user_ns)?.as_bytes());
        out.push(b'\n');
        Ok(())
    }
    fn write(&self, opener: &Caller, data: &[u8]) -> Result<(), Errno> {
        let net = self.0.net.upgrade().ok_or(Errno::ENOENT)?;
        store(&self.0.shared.kernel, &net, &self.0.path, &opener.creds.user_ns, data)
    }
    fn pollable(&self) -> bool {
        true
    }
}
