//! Open directories: getdents(2), lseek(2) and fsync(2) on them.

use crate::{DirEntry, DirSink, FileKind, FileOps, Inode, Path};
use chitin_abi::Errno;
use std::sync::Arc;

/// An open directory. Positions: 0 ".", 1 "..", then the file system's cookies plus 2.
pub struct DirFile {
    inode: Arc<dyn Inode>,
    path: Path,
}

impl DirFile {
    pub fn new(inode: Arc<dyn Inode>, path: Path) -> Arc<DirFile> {
        Arc::new(DirFile { inode, path })
    }

    /// Emits entries from position `pos` on; each entry's `next` is a position.
    pub fn read_dir(&self, pos: u64, sink: &mut dyn DirSink) -> Result<(), Errno> {
        let dir = self.inode.dir().ok_or(Errno::ENOTDIR)?;
        if self.path.dentry.is_dead() {
            return Err(Errno::ENOENT);
        }
        if pos == 0 {
            let dot = DirEntry { name: b".", ino: self.inode.ino(), kind: FileKind::Directory, next: 1 };
            if !sink.entry(&dot) {
                return Ok(());
            }
        }
        if pos <= 1 {
            let parent = self.path.parent_ino();
            let dots = DirEntry { name: b"..", ino: parent, kind: FileKind::Directory, next: 2 };
            if !sink.entry(&dots) {
                return Ok(());
            }
        }
        dir.read_dir(pos.saturating_sub(2), &mut Shifted(sink))
    }
}

/// Makes positions of cookies.
struct Shifted<'a>(&'a mut dyn DirSink);

impl DirSink for Shifted<'_> {
    fn entry(&mut self, entry: &DirEntry<'_>) -> bool {
        let next = entry.next.saturating_add(2).min(i64::MAX as u64);
        self.0.entry(&DirEntry { next, ..*entry })
    }
}

impl FileOps for DirFile {
    fn read(&self, _pos: u64, _dst: &mut dyn chitin_mm::Sink) -> Result<usize, Errno> {
        Err(Errno::EISDIR)
    }
    fn seekable(&self) -> bool {
        true
    }
    fn size(&self) -> Result<u64, Errno> {
        Ok(i64::MAX as u64)
    }
    fn fsync(&self, _data_only: bool) -> Result<(), Errno> {
        Ok(())
    }
}
