//! A host file: its nodes at the gofer, its attributes, and what is cached with it.

use crate::attrs::{Cached, guest_attr, refresh, time_set};
use crate::error::{from_gofer, from_host};
use crate::fds::Fds;
use crate::file::GoferFile;
use crate::fs::Core;
use crate::listing::Listing;
use crate::states::State;
use crate::xattrs::Values;
use chitin_abi::Errno;
use chitin_abi::fcntl::{O_ACCMODE, O_NOATIME, O_RDONLY, O_SYNC, O_TRUNC};
use chitin_gofer_protocol::{Attr as HostAttr, Client, NodeId};
use chitin_host::{filestore, hostfile};
use chitin_vfs::walk::Caller;
use chitin_vfs::{Attr, Directory, FileKind, FileOps, Inode, InodeState, LinkTarget, SetAttr, Xattrs};
use parking_lot::Mutex;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// Nodes kept of one file: one per name it was found by, as far as they are of use.
const NODES_MAX: usize = 4;
/// A deleted file of this size is let go at once, smaller ones with the next batch.
const LARGE: u64 = 64 << 10;

pub struct GoferInode {
    pub(crate) core: Arc<Core>,
    pub(crate) me: Weak<GoferInode>,
    ino: u64,
    kind: FileKind,
    host: (u64, u64),
    nodes: Mutex<Vec<NodeId>>,
    pub(crate) cached: Mutex<Cached>,
    change: Mutex<()>,
    pub(crate) appending: Mutex<()>,
    /// No name leads here any more.
    gone: AtomicBool,
    /// Written through a mapping: attributes change unseen.
    mapped: AtomicBool,
    dirty: AtomicBool,
    pub(crate) target: OnceLock<Box<[u8]>>,
    pub(crate) fds: Mutex<Fds>,
    pub(crate) listing: Mutex<Option<Arc<Listing>>>,
    pub(crate) values: Mutex<Option<Box<Values>>>,
    state: State,
}

impl GoferInode {
    pub(crate) fn new(
        core: &Arc<Core>,
        node: NodeId,
        ino: u64,
        kind: FileKind,
        attr: HostAttr,
    ) -> Arc<GoferInode> {
        Arc::new_cyclic(|me| GoferInode {
            core: core.clone(),
            me: me.clone(),
            ino,
            kind,
            host: (attr.dev, attr.ino),
            state: State::of(&attr, core.shared()),
            nodes: Mutex::new(vec![node]),
            cached: Mutex::new(Cached::new(attr, core.shared())),
            change: Mutex::new(()),
            appending: Mutex::new(()),
            gone: AtomicBool::new(false),
            mapped: AtomicBool::new(false),
            dirty: AtomicBool::new(false),
            target: OnceLock::new(),
            fds: Mutex::default(),
            listing: Mutex::default(),
            values: Mutex::default(),
        })
    }

    pub(crate) fn key(&self) -> (u64, u64) {
        self.host
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Whether what was found under our number is still this file.
    pub(crate) fn is_same(&self, kind: FileKind, found: &HostAttr) -> bool {
        let born = self.cached.lock().attr.btime;
        let unknown = Default::default();
        let same_birth = born == found.btime || born == unknown || found.btime == unknown;
        self.kind == kind && same_birth && !self.is_gone()
    }

    /// The file was found once more, perhaps by another name: keeps or gives back the node.
    pub(crate) fn found_again(&self, node: NodeId, attr: HostAttr) {
        let keep = {
            let mut nodes = self.nodes.lock();
            let keep = !nodes.contains(&node) && nodes.len() < NODES_MAX;
            if keep {
                nodes.push(node);
            }
            keep
        };
        if !keep {
            self.core.client.forget(node);
        }
        if self.core.shared() {
            let mut cached = self.cached.lock();
            let version = cached.version;
            cached.store(attr, version, true);
        }
    }

    /// A request about this file; where one node has turned stale, by the others.
    pub(crate) fn with_node<T>(
        &self,
        request: impl Fn(&Client, NodeId) -> chitin_gofer_protocol::Result<T>,
    ) -> Result<T, Errno> {
        let nodes = self.nodes.lock().clone();
        let mut outcome = Err(Errno::ESTALE);
        for node in nodes {
            outcome = request(&self.core.client, node).map_err(from_gofer);
            if !matches!(outcome, Err(Errno::ESTALE)) {
                break;
            }
            // The next request shall begin with another one.
            let mut nodes = self.nodes.lock();
            if nodes.first() == Some(&node) {
                nodes.rotate_left(1);
            }
        }
        outcome
    }

    /// Something of the file was changed by us.
    pub(crate) fn changed(&self) {
        self.cached.lock().changed();
        if !self.core.shared() && self.kind == FileKind::Directory {
            self.drop_listing();
        }
    }

    /// Content was read: the access time may have changed.
    pub(crate) fn accessed(&self) {
        if !self.core.shared() {
            self.cached.lock().changed();
        }
    }

    /// Content was written through a descriptor.
    pub(crate) fn written(&self) {
        self.cached.lock().changed();
        self.drop_values();
        if !self.dirty.swap(true, Ordering::AcqRel)
            && let Some(me) = self.me.upgrade()
        {
            self.core.add_dirty(&me);
        }
    }

    pub(crate) fn set_mapped(&self) {
        self.mapped.store(true, Ordering::Release);
        self.written();
    }

    /// A name of the file is gone; when it was the last, nothing will find it any more.
    pub(crate) fn unlinked(&self) {
        let last = {
            let mut cached = self.cached.lock();
            let last = cached.attr.nlink <= 1 || self.kind == FileKind::Directory;
            let fresh = cached.fresh(self.core.shared());
            let mut attr = cached.attr;
            cached.changed();
            if last && fresh {
                // Spares the question that surely follows (its status change time is the host's clock, too).
                attr.nlink = 0;
                attr.ctime = now();
                let version = cached.version;
                cached.store(attr, version, self.core.shared());
            }
            last && fresh
        };
        let last = last || self.attr().is_ok_and(|attr| attr.nlink == 0);
        if last {
            self.gone.store(true, Ordering::Release);
            self.core.unlist(self);
            drop(self.release_kept());
        }
    }

    /// The descriptors that are open right now, for what they can answer without the gofer.
    fn live_fd(&self) -> Option<Arc<OwnedFd>> {
        self.fds.lock().any()
    }

    fn fetch(&self) -> Result<HostAttr, Errno> {
        let shared = self.core.shared();
        let (mut attr, version) = {
            let cached = self.cached.lock();
            if cached.fresh(shared) && !self.mapped.load(Ordering::Acquire) {
                return Ok(cached.attr);
            }
            (cached.attr, cached.version)
        };
        let fd = if shared { None } else { self.live_fd() };
        match fd {
            Some(fd) => refresh(&mut attr, &hostfile::attr(fd.as_fd()).map_err(from_host)?),
            None => match self.with_node(|client, node| client.getattr(node)) {
                Ok(fresh) => attr = fresh,
                // The gofer has lost a deleted file that is still open here.
                Err(Errno::ESTALE) => match self.live_fd() {
                    Some(fd) => refresh(&mut attr, &hostfile::attr(fd.as_fd()).map_err(from_host)?),
                    None => return Err(Errno::ESTALE),
                },
                Err(error) => return Err(error),
            },
        }
        self.cached.lock().store(attr, version, shared);
        Ok(attr)
    }

    fn change_size(&self, size: u64) -> Result<bool, Errno> {
        let fd = self.fds.lock().writable();
        let Some(fd) = fd else { return Ok(false) };
        filestore::truncate(fd.as_fd(), size).map_err(from_host)?;
        self.written();
        Ok(true)
    }

    /// Flushes written content to the host's disk.
    pub(crate) fn flush_content(&self) -> Result<(), Errno> {
        self.dirty.store(false, Ordering::Release);
        match self.live_fd() {
            Some(fd) => hostfile::sync(fd.as_fd(), false).map_err(from_host),
            None => self.with_node(|client, node| client.fsync(node, false)),
        }
    }
}

fn now() -> chitin_gofer_protocol::Timestamp {
    // The clock the host's kernel stamps files with.
    let ns = chitin_host::clock::now_ns(chitin_abi::time::CLOCK_REALTIME_COARSE);
    let (sec, nsec) = (ns / 1_000_000_000, ns % 1_000_000_000);
    chitin_gofer_protocol::Timestamp {
        sec: i64::try_from(sec).unwrap_or(i64::MAX),
        nsec: u32::try_from(nsec).unwrap_or(0),
    }
}

impl Inode for GoferInode {
    fn ino(&self) -> u64 {
        self.ino
    }

    fn kind(&self) -> FileKind {
        self.kind
    }

    fn attr(&self) -> Result<Attr, Errno> {
        Ok(guest_attr(&self.fetch()?, self.kind, self.core.dev, self.ino))
    }

    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        self.core.writable()?;
        let SetAttr { perm, uid, gid, size, atime, mtime } = *change;
        let only_size =
            perm.is_none() && uid.is_none() && gid.is_none() && atime.is_none() && mtime.is_none();
        if let Some(size) = size
            && only_size
            && self.change_size(size)?
        {
            return Ok(());
        }
        let request = chitin_gofer_protocol::SetAttr {
            mode: perm,
            uid,
            gid,
            size,
            atime: time_set(atime),
            mtime: time_set(mtime),
        };
        let _order = self.change.lock();
        let version = self.cached.lock().version;
        let outcome = self.with_node(|client, node| client.setattr(node, request));
        let mut cached = self.cached.lock();
        let result = match outcome {
            Ok(attr) => {
                let undisturbed = cached.version == version;
                cached.changed();
                // Owner and mode are ours alone to change, and changes come one by one: they hold in any case.
                cached.attr = attr;
                if undisturbed {
                    let version = cached.version;
                    cached.store(attr, version, self.core.shared());
                }
                Ok(())
            }
            Err(error) => {
                // It may have been done in part.
                cached.changed();
                Err(error)
            }
        };
        drop(cached);
        self.drop_values();
        result
    }

    fn state(&self) -> &InodeState {
        self.state.get()
    }

    fn dir(&self) -> Option<&dyn Directory> {
        (self.kind == FileKind::Directory).then_some(self)
    }

    fn xattrs(&self) -> Option<&dyn Xattrs> {
        Some(self)
    }

    fn link_target(&self, _caller: &Caller) -> Result<LinkTarget, Errno> {
        if self.kind != FileKind::Symlink {
            return Err(Errno::EINVAL);
        }
        // The target of a link never changes.
        if self.target.get().is_none() {
            let text = self.with_node(|client, node| client.readlink(node))?;
            let _ = self.target.set(text.into_boxed_slice());
        }
        Ok(LinkTarget::Text(self.target.get().map(|text| text.to_vec()).unwrap_or_default()))
    }

    fn open(self: Arc<Self>, flags: u32) -> Result<Arc<dyn FileOps>, Errno> {
        if self.kind != FileKind::Regular {
            return Err(Errno::ENXIO);
        }
        let writes = flags & O_ACCMODE != O_RDONLY;
        if writes || flags & O_TRUNC != 0 {
            self.core.writable()?;
        }
        let special = flags & (O_SYNC | O_NOATIME);
        let fd = if special != 0 {
            self.private_descriptor(writes, special)?
        } else if writes {
            self.descriptor(true)?
        } else {
            self.readable_descriptor()?
        };
        Ok(GoferFile::new(self, fd, writes))
    }
}

impl Drop for GoferInode {
    fn drop(&mut self) {
        self.core.unlist(self);
        if *self.dirty.get_mut() {
            self.core.remove_dirty(self);
        }
        self.drop_listing();
        drop(self.release_kept());
        for node in self.nodes.get_mut().drain(..) {
            self.core.client.forget(node);
        }
        if *self.gone.get_mut() && self.kind == FileKind::Regular && self.cached.get_mut().attr.size >= LARGE
        {
            // The gofer still holds the file: its space is free only when the node is closed.
            let _ = self.core.client.flush_forgotten();
        }
    }
}
