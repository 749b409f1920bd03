//! Reading directories.
//!
//! The protocol is stateless (a cookie is the host's `d_off`), but a few open directories are kept
//! where the last batch ended: some filesystems only keep their place well per descriptor, and it
//! saves an open per batch. A descriptor is out of the cache while a batch is read from it.

use std::os::fd::{AsFd, OwnedFd};

use chitin_gofer_protocol::wire::Writer;
use chitin_gofer_protocol::{DirEntry, NodeId};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat2};
use nix::unistd::{Whence, lseek};

use crate::host;
use crate::server::Server;
use crate::tree::Key;

/// How many directories are kept open between batches.
const KEPT: usize = 8;
/// Bytes of raw entries per batch: however short the names, a batch with attributes fits one reply.
const BATCH: usize = 8 * 1024;

/// Directories in the middle of being read, least recently used first.
#[derive(Debug, Default)]
pub struct DirCache(Vec<Stream>);

#[derive(Debug)]
struct Stream {
    key: Key,
    fd: OwnedFd,
    /// Cookie of the next batch.
    at: u64,
}

impl DirCache {
    fn take(&mut self, key: Key) -> Option<Stream> {
        let found = self.0.iter().position(|stream| stream.key == key)?;
        Some(self.0.remove(found))
    }

    /// Keeps a stream; returns the one to close for it.
    fn keep(&mut self, stream: Stream) -> Option<Stream> {
        let over = (self.0.len() >= KEPT).then(|| self.0.remove(0));
        self.0.push(stream);
        over
    }
}

impl Server {
    pub(super) fn readdir(
        &self,
        id: NodeId,
        cookie: u64,
        attrs: bool,
        data: &mut Vec<u8>,
        w: &mut Writer<'_>,
    ) -> Result<(), Errno> {
        let dir = self.dir(id)?;
        let kept = self.dirs.lock().take(dir.key);
        let mut stream = match kept {
            Some(stream) => stream,
            None => {
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                let how = self.beneath(dir.root).flags(flags);
                let fd = self.with_room(|| openat2(dir.fd(), c".", how))?;
                Stream { key: dir.key, fd, at: 0 }
            }
        };
        // From the start means afresh, also where the descriptor happens to be there.
        if cookie == 0 || cookie != stream.at {
            let offset = i64::try_from(cookie).map_err(|_| Errno::EINVAL)?;
            lseek(stream.fd.as_fd(), offset, Whence::SeekSet)?;
            stream.at = cookie;
        }
        data.resize(BATCH, 0);
        let count_at = w.position();
        w.u32(0);
        let mut count = 0_u32;
        // A batch of nothing but "." and ".." must not look like the end.
        while count == 0 {
            let len = host::getdents(stream.fd.as_fd(), data)?;
            if len == 0 {
                w.patch_u32(count_at, 0);
                return Ok(());
            }
            for entry in host::DirentIter(data.get(..len).unwrap_or_default()) {
                stream.at = entry.next;
                let name = entry.name.to_bytes();
                if matches!(name, b"." | b"..") {
                    continue;
                }
                // Gone meanwhile, or not accessible: then without.
                let attr = attrs.then(|| host::statx(stream.fd.as_fd(), entry.name).ok()).flatten();
                DirEntry { name, ino: entry.ino, kind: entry.kind, next: entry.next, attr }.encode(w);
                count = count.saturating_add(1);
            }
        }
        w.patch_u32(count_at, count);
        let over = self.dirs.lock().keep(stream);
        drop(over);
        Ok(())
    }

    /// Forgets where the reading of these directories has come to.
    pub(super) fn forget_streams(&self, keys: impl Iterator<Item = Key>) {
        let mut closed = Vec::new();
        {
            let mut dirs = self.dirs.lock();
            if dirs.0.is_empty() {
                return;
            }
            keys.for_each(|key| closed.extend(dirs.take(key)));
        }
        drop(closed);
    }
}
