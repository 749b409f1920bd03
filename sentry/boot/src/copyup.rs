//! `tmpcopyup`: a tmpfs that begins with what is in the directory that it covers.
//!
//! Both ends are file systems of the guest's own, read and written as the kernel itself. Sizes and depths are the container's
//! files', so what does not fit into the tmpfs is an error (ENOSPC), and nesting is bounded.

use chitin_abi::Errno;
use chitin_abi::fcntl::{O_RDONLY, O_WRONLY};
use chitin_mm::SliceSource;
use chitin_vfs::inode::DirEntry;
use chitin_vfs::walk::Caller;
use chitin_vfs::{Attr, Context, DirSink, FileKind, Inode, LinkTarget, NewInode, NewKind, SetAttr, WriteAt};
use std::sync::Arc;

/// Directories nest no deeper than paths are long.
const DEPTH: usize = 1024;
const CHUNK: usize = 64 << 10;

/// Names, as a directory gives them out in one go.
struct Names {
    all: Vec<Vec<u8>>,
    next: u64,
}

impl DirSink for Names {
    fn entry(&mut self, entry: &DirEntry<'_>) -> bool {
        self.all.push(entry.name.to_vec());
        self.next = entry.next;
        true
    }
}

fn names(dir: &Arc<dyn Inode>) -> Result<Vec<Vec<u8>>, Errno> {
    let dir = dir.dir().ok_or(Errno::ENOTDIR)?;
    let mut names = Names { all: Vec::new(), next: 0 };
    loop {
        let before = names.all.len();
        dir.read_dir(names.next, &mut names)?;
        if names.all.len() == before {
            return Ok(names.all);
        }
    }
}

/// Copies what is below `from` to below `to`, and `from`'s own owner and mode.
pub fn copy(ctx: &Context, from: &Arc<dyn Inode>, to: &Arc<dyn Inode>) -> Result<(), Errno> {
    own(to, &from.attr()?)?;
    below(&ctx.caller, from, to, DEPTH)
}

fn own(inode: &Arc<dyn Inode>, attr: &Attr) -> Result<(), Errno> {
    inode.set_attr(&SetAttr { uid: Some(attr.uid), gid: Some(attr.gid), ..SetAttr::default() })?;
    // After the owner, whose change takes set-id bits away.
    inode.set_attr(&SetAttr { perm: Some(attr.perm), ..SetAttr::default() })
}

fn below(caller: &Caller, from: &Arc<dyn Inode>, to: &Arc<dyn Inode>, depth: usize) -> Result<(), Errno> {
    let depth = depth.checked_sub(1).ok_or(Errno::ELOOP)?;
    let source = from.dir().ok_or(Errno::ENOTDIR)?;
    let target = to.dir().ok_or(Errno::ENOTDIR)?;
    for name in names(from)? {
        let old = source.lookup(&name)?;
        let attr = old.attr()?;
        let kind = match old.kind() {
            FileKind::Regular => NewKind::Regular,
            FileKind::Directory => NewKind::Directory,
            FileKind::Symlink => match old.link_target(caller)? {
                LinkTarget::Text(text) => NewKind::Symlink(text),
                LinkTarget::Magic(_) | LinkTarget::File(_) => continue,
            },
            FileKind::Fifo => NewKind::Fifo,
            FileKind::Socket => NewKind::Socket,
            kind @ (FileKind::CharDevice | FileKind::BlockDevice) => {
                NewKind::Device { kind, rdev: attr.rdev }
            }
        };
        let new = NewInode { kind, perm: attr.perm, uid: attr.uid, gid: attr.gid };
        let made = target.create(&name, &new)?;
        match old.kind() {
            FileKind::Regular => {
                content(&old, &made)?;
                own(&made, &attr)?;
            }
            FileKind::Directory => below(caller, &old, &made, depth)?,
            _ => {}
        }
    }
    Ok(())
}

fn content(from: &Arc<dyn Inode>, to: &Arc<dyn Inode>) -> Result<(), Errno> {
    let source = from.clone().open(O_RDONLY)?;
    let target = to.clone().open(O_WRONLY)?;
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    loop {
        let count = source.read(at, &mut buffer.as_mut_slice())?;
        let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else { return Ok(()) };
        let written = target.write(WriteAt::At(at), &mut SliceSource::new(read))?;
        if written.count < count {
            return Err(Errno::ENOSPC);
        }
        at = written.end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chitin_fs_tmpfs::{Storage, TmpFs};
    use chitin_vfs::FileSystem;

    fn tmpfs(options: &str) -> Arc<dyn Inode> {
        TmpFs::new(Storage::Memory, options.as_bytes(), 64 << 20).unwrap().root()
    }

    fn make(dir: &Arc<dyn Inode>, name: &str, kind: NewKind, perm: u32) -> Arc<dyn Inode> {
        dir.dir().unwrap().create(name.as_bytes(), &NewInode { kind, perm, uid: 3, gid: 4 }).unwrap()
    }

    fn caller() -> Caller {
        Caller { tgid: 1, tid: 1, creds: Arc::new(chitin_vfs::Creds::root()) }
    }

    #[test]
    fn everything_is_copied_as_it_is() {
        let from = tmpfs("mode=0750");
        let sub = make(&from, "sub", NewKind::Directory, 0o711);
        let file = make(&sub, "file", NewKind::Regular, 0o4755);
        let text = vec![7; CHUNK + 5];
        let ops = file.clone().open(O_WRONLY).unwrap();
        assert_eq!(ops.write(WriteAt::At(0), &mut SliceSource::new(&text)).unwrap().count, text.len());
        own(&file, &Attr { perm: 0o4755, ..file.attr().unwrap() }).unwrap();
        make(&from, "link", NewKind::Symlink(b"sub/file".to_vec()), 0o777);
        make(&from, "pipe", NewKind::Fifo, 0o600);

        let to = tmpfs("mode=0755");
        own(&to, &from.attr().unwrap()).unwrap();
        below(&caller(), &from, &to, DEPTH).unwrap();
        assert_eq!(to.attr().unwrap().perm, 0o750);
        let find = |dir: &Arc<dyn Inode>, name: &str| dir.dir().unwrap().lookup(name.as_bytes()).unwrap();
        let copied = find(&find(&to, "sub"), "file");
        let attr = copied.attr().unwrap();
        assert_eq!((attr.perm, attr.uid, attr.gid, attr.size), (0o4755, 3, 4, text.len() as u64));
        let mut read = vec![0; text.len()];
        let ops = copied.open(O_RDONLY).unwrap();
        assert_eq!(ops.read(0, &mut read.as_mut_slice()).unwrap(), text.len());
        assert_eq!(read, text);
        assert_eq!(find(&to, "sub").attr().unwrap().perm, 0o711);
        assert!(
            matches!(find(&to, "link").link_target(&caller()), Ok(LinkTarget::Text(t)) if t == b"sub/file")
        );
        assert_eq!(find(&to, "pipe").kind(), FileKind::Fifo);
        // What does not fit is said.
        assert_eq!(below(&caller(), &from, &tmpfs("size=4k"), DEPTH), Err(Errno::ENOSPC));
    }
}
