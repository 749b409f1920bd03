//! getdents(2): directory entries in their two layouts (fs/readdir.c).

use crate::args::fd_file;
use crate::{Args, done};
use chitin_abi::Errno;
use chitin_abi::inotify::IN_ACCESS;
use chitin_kernel::{Outcome, Task};
use chitin_vfs::dirfile::DirFile;
use chitin_vfs::{DirEntry, DirSink};
use std::sync::Arc;

/// The most that is gathered in one call; callers go on anyway.
const MAX_BUFFER: usize = 128 << 10;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// struct linux_dirent: the type stands in the last byte.
    Old,
    /// struct linux_dirent64: the type stands before the name.
    New,
}

/// Entries as the guest reads them.
struct Buffer {
    layout: Layout,
    data: Vec<u8>,
    limit: usize,
    /// Where the next call goes on.
    next: Option<u64>,
    /// An entry did not fit.
    full: bool,
}

impl DirSink for Buffer {
    fn entry(&mut self, entry: &DirEntry<'_>) -> bool {
        // ino, offset, length; type; name; NUL.
        let reclen = (8 + 8 + 2 + 1 + entry.name.len() + 1).next_multiple_of(8);
        let length = match u16::try_from(reclen) {
            Ok(length) if reclen <= self.limit - self.data.len() => length,
            _ => {
                self.full = true;
                return false;
            }
        };
        let kind = entry.kind.dirent_type();
        let end = self.data.len() + reclen;
        self.data.extend_from_slice(&entry.ino.to_ne_bytes());
        self.data.extend_from_slice(&entry.next.to_ne_bytes());
        self.data.extend_from_slice(&length.to_ne_bytes());
        if self.layout == Layout::New {
            self.data.push(kind);
        }
        self.data.extend_from_slice(entry.name);
        self.data.resize(end, 0);
        if self.layout == Layout::Old
            && let Some(last) = self.data.last_mut()
        {
            *last = kind;
        }
        self.next = Some(entry.next);
        true
    }
}

fn read(task: &Task, args: Args, layout: Layout) -> Result<u64, Errno> {
    let file = fd_file(task, args.i32(0))?;
    let dir = file.downcast::<DirFile>().ok_or(Errno::ENOTDIR)?;
    let limit = (args.u32(2) as usize).min(MAX_BUFFER);
    let mut buffer = Buffer { layout, data: Vec::new(), limit, next: None, full: false };
    let mut pos = file.position();
    match dir.read_dir(*pos, &mut buffer) {
        // What was read before the failure counts.
        Err(_) if !buffer.data.is_empty() => {}
        Err(error) => return Err(error),
        Ok(()) if buffer.data.is_empty() && buffer.full => return Err(Errno::EINVAL),
        Ok(()) => {}
    }
    task.mm().write_bytes(args.u64(1), &buffer.data)?;
    if let Some(next) = buffer.next {
        *pos = next;
    }
    drop(pos);
    file.inode().state().notify(file.path(), IN_ACCESS);
    Ok(buffer.data.len() as u64)
}

pub(crate) fn getdents(task: &Arc<Task>, args: Args) -> Outcome {
    done(read(task, args, Layout::Old))
}

pub(crate) fn getdents64(task: &Arc<Task>, args: Args) -> Outcome {
    done(read(task, args, Layout::New))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chitin_vfs::FileKind;

    fn fill(layout: Layout, limit: usize, names: &[&[u8]]) -> Buffer {
        let mut buffer = Buffer { layout, data: Vec::new(), limit, next: None, full: false };
        for (at, name) in names.iter().enumerate() {
            let entry = DirEntry { name, ino: 5, kind: FileKind::Directory, next: at as u64 + 1 };
            if !buffer.entry(&entry) {
                break;
            }
        }
        buffer
    }

    #[test]
    fn layouts() {
        let new = fill(Layout::New, 64, &[b"abcd"]).data;
        assert_eq!(new.len(), 24);
        assert_eq!(new[..19], [5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 24, 0, 4]);
        assert_eq!(&new[19..], b"abcd\0");
        let old = fill(Layout::Old, 64, &[b"abcd"]).data;
        assert_eq!(old[16..18], [24, 0]);
        assert_eq!(&old[18..23], b"abcd\0");
        assert_eq!(old[23], 4);
        // The type byte has its own room after the NUL.
        assert_eq!(fill(Layout::Old, 64, &[b"abcde"]).data.len(), 32);
    }

    #[test]
    fn what_does_not_fit_is_left() {
        let buffer = fill(Layout::New, 47, &[b"a", b"b"]);
        assert_eq!((buffer.data.len(), buffer.next, buffer.full), (24, Some(1), true));
        let none = fill(Layout::New, 23, &[b"a"]);
        assert!(none.data.is_empty() && none.full);
    }
}
