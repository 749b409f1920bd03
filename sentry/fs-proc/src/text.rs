//! Open files whose content is text made on demand (Linux's seq_file).
//!
//! A snapshot is taken when the file is read from its start, so that one pass over it is consistent; reading from the
//! start again shows the present. Snapshots are bounded over the whole sandbox: where the bound is reached the text is
//! made anew for each read.

use chitin_abi::Errno;
use chitin_abi::poll::*;
use chitin_mm::{Sink, Source};
use chitin_vfs::{Caller, FileOps, MountNs, PollTable, WriteAt, Written};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The most bytes of snapshots kept by open files.
const KEPT_MAX: usize = 32 << 20;
static KEPT: AtomicUsize = AtomicUsize::new(0);
/// What one write may bring (KMALLOC_MAX_SIZE and the like are never needed here).
const WRITE_MAX: usize = 4096;

/// What is behind an open text file.
pub(crate) trait Text: Send + Sync + 'static {
    fn show(&self, opener: &Caller, out: &mut Vec<u8>) -> Result<(), Errno>;
    fn write(&self, _opener: &Caller, _data: &[u8]) -> Result<(), Errno> {
        Err(Errno::EIO)
    }
    /// Whether poll and epoll take it.
    fn pollable(&self) -> bool {
        false
    }
    /// The mounts it shows: poll tells of their changes since the last time it did.
    fn mounts(&self) -> Option<Arc<MountNs>> {
        None
    }
}

/// A kept snapshot, counted.
struct Snapshot(Vec<u8>);

impl Snapshot {
    fn keep(bytes: Vec<u8>) -> Result<Snapshot, Vec<u8>> {
        let len = bytes.capacity();
        if KEPT.fetch_add(len, Ordering::Relaxed).saturating_add(len) > KEPT_MAX {
            KEPT.fetch_sub(len, Ordering::Relaxed);
            return Err(bytes);
        }
        Ok(Snapshot(bytes))
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        KEPT.fetch_sub(self.0.capacity(), Ordering::Relaxed);
    }
}

pub(crate) struct TextFile<T> {
    text: T,
    opener: Caller,
    snapshot: Mutex<Option<Snapshot>>,
    /// With the number of the last change that poll told of.
    mounts: Option<(Arc<MountNs>, AtomicU64)>,
}

impl<T: Text> TextFile<T> {
    pub(crate) fn open(text: T, opener: &Caller) -> Arc<dyn FileOps> {
        let mounts = text.mounts().map(|ns| {
            let changes = AtomicU64::new(ns.changes());
            (ns, changes)
        });
        Arc::new(TextFile { text, opener: opener.clone(), snapshot: Mutex::default(), mounts })
    }

    fn make(&self) -> Result<Vec<u8>, Errno> {
        let mut out = Vec::new();
        self.text.show(&self.opener, &mut out)?;
        out.shrink_to_fit();
        Ok(out)
    }
}

fn copy(bytes: &[u8], pos: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
    let from = usize::try_from(pos).unwrap_or(usize::MAX);
    match bytes.get(from..) {
        Some(rest) if !rest.is_empty() => dst.put(rest),
        _ => Ok(0),
    }
}

impl<T: Text> FileOps for TextFile<T> {
    fn read(&self, pos: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        if dst.room() == 0 {
            return Ok(0);
        }
        if pos != 0
            && let Some(snapshot) = &*self.snapshot.lock()
        {
            return copy(&snapshot.0, pos, dst);
        }
        // Made without the lock: generators take locks of their own.
        let bytes = self.make()?;
        let count = copy(&bytes, pos, dst)?;
        let old = match Snapshot::keep(bytes) {
            Ok(new) => self.snapshot.lock().replace(new),
            Err(_) => self.snapshot.lock().take(),
        };
        drop(old);
        Ok(count)
    }

    fn write(&self, at: WriteAt, src: &mut dyn Source) -> Result<Written, Errno> {
        let count = src.left();
        if count > WRITE_MAX {
            return Err(Errno::EINVAL);
        }
        let mut data = vec![0; count];
        let mut done = 0;
        while let Some(rest) = data.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match src.take(rest)? {
                0 => break,
                taken => done = done.saturating_add(taken),
            }
        }
        data.truncate(done);
        if let Err(errno) = self.text.write(&self.opener, &data) {
            // Or it would count as written.
            src.untake(done);
            return Err(errno);
        }
        let start = if let WriteAt::At(pos) = at { pos } else { 0 };
        Ok(Written { count: done, end: start.saturating_add(done as u64) })
    }

    fn seekable(&self) -> bool {
        true
    }
    fn pollable(&self) -> bool {
        self.text.pollable()
    }
    fn poll(&self, table: Option<&mut PollTable>) -> u32 {
        let Some((ns, told)) = &self.mounts else { return POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM };
        if let Some(table) = table {
            table.add(&ns.changed);
        }
        // mounts_poll()
        let changes = ns.changes();
        let news = if told.swap(changes, Ordering::AcqRel) != changes { POLLERR | POLLPRI } else { 0 };
        POLLIN | POLLRDNORM | news
    }
}
