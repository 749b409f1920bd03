//! What the host's kernel asks for, by the VFS's operations.

use super::View;
use super::wire::{self, Args, Header};
use chitin_abi::Errno;
use chitin_abi::fcntl::*;
use chitin_abi::num::to_usize;
use chitin_abi::time::Timespec;
use chitin_kernel::wait::block_on;
use chitin_mm::{SliceSource, VecSink};
use chitin_vfs::dirfile::DirFile;
use chitin_vfs::ops::{OpenHow, Opened, Times};
use chitin_vfs::walk::{Target, Walk};
use chitin_vfs::{Attr, Context, DirEntry, DirSink, File, FileKind, LinkTarget, NewKind, Path, SetTime};
use std::sync::Arc;

/// The most that a reply carries.
const MAX_READ: usize = 64 << 10;

/// A reply's body; none for what is not replied to.
type Outcome = Result<Option<Vec<u8>>, Errno>;

impl View {
    pub fn run(&self, ctx: &Context, header: &Header, mut args: Args<'_>) -> Outcome {
        let node = || self.nodes.lock().path(header.node);
        let done = |()| Some(Vec::new());
        match header.opcode {
            wire::FORGET => self.forget(header.node, args.u64()?),
            wire::BATCH_FORGET => {
                let count = args.u32()?;
                args.skip(4)?;
                for _ in 0..count {
                    self.forget(args.u64()?, args.u64()?)?;
                }
                Ok(None)
            }
            // Nothing takes so long here that it could be interrupted.
            wire::INTERRUPT => Ok(None),
            wire::LOOKUP => {
                let path = ctx.walk(&node()?, args.name()?, Walk::NOFOLLOW)?;
                self.entry(&path).map(Some)
            }
            wire::GETATTR => self.attr(&node()?).map(Some),
            wire::SETATTR => self.set_attr(ctx, &node()?, args).map(Some),
            wire::READLINK => read_link(ctx, &node()?).map(Some),
            wire::SYMLINK => {
                let (name, target) = (args.name()?, args.text()?.to_vec());
                self.make(ctx, &node()?, name, NewKind::Symlink(target), 0o777)
            }
            wire::MKDIR => {
                let mode = args.u32()?;
                args.skip(4)?;
                self.make(ctx, &node()?, args.name()?, NewKind::Directory, mode)
            }
            wire::MKNOD => {
                let (mode, rdev) = (args.u32()?, args.u32()?);
                args.skip(8)?;
                let kind = match FileKind::from_mode(mode) {
                    Some(FileKind::Regular) => NewKind::Regular,
                    Some(FileKind::Fifo) => NewKind::Fifo,
                    Some(FileKind::Socket) => NewKind::Socket,
                    Some(kind @ (FileKind::CharDevice | FileKind::BlockDevice)) => {
                        NewKind::Device { kind, rdev: rdev.into() }
                    }
                    _ => return Err(Errno::EINVAL),
                };
                self.make(ctx, &node()?, args.name()?, kind, mode & 0o7777)
            }
            wire::LINK => {
                let old = self.nodes.lock().path(args.u64()?)?;
                let (dir, name) = (node()?, args.name()?);
                ctx.link(&Target::Path(old), &dir, name)?;
                self.entry(&ctx.walk(&dir, name, Walk::NOFOLLOW)?).map(Some)
            }
            wire::UNLINK => ctx.unlink(&node()?, args.name()?).map(done),
            wire::RMDIR => ctx.rmdir(&node()?, args.name()?).map(done),
            wire::RENAME | wire::RENAME2 => {
                let to = args.u64()?;
                let flags = if header.opcode == wire::RENAME2 { (args.u32()?, args.u32()?).0 } else { 0 };
                let to = self.nodes.lock().path(to)?;
                ctx.rename(&node()?, args.name()?, &to, args.name()?, flags).map(done)
            }
            wire::OPEN | wire::OPENDIR => {
                let directory = header.opcode == wire::OPENDIR;
                let flags =
                    if directory { O_DIRECTORY } else { args.u32()? & (O_ACCMODE | O_TRUNC | O_APPEND) };
                let file = opened(ctx.open_path(node()?, flags, false)?)?;
                self.handle(file, directory).map(Some)
            }
            wire::CREATE => self.create(ctx, &node()?, args).map(Some),
            wire::READ => self.read(args).map(Some),
            wire::READDIR => self.read_dir(args).map(Some),
            wire::WRITE => self.write(args).map(Some),
            wire::RELEASE | wire::RELEASEDIR => {
                let closed = self.nodes.lock().close(args.u64()?);
                drop(closed);
                Ok(Some(Vec::new()))
            }
            wire::FSYNC | wire::FSYNCDIR => {
                let file = self.nodes.lock().file(args.u64()?)?;
                file.ops().fsync(args.u32()? & 1 != 0).map(done)
            }
            wire::STATFS => {
                let statfs = node()?.mount.fs().statfs()?;
                Ok(Some(wire::statfs_out(&statfs)))
            }
            wire::GETXATTR => {
                let size = args.u32()?;
                args.skip(4)?;
                let value = ctx.getxattr(&Target::Path(node()?), args.text()?)?;
                sized(value, size)
            }
            wire::LISTXATTR => {
                let size = args.u32()?;
                let mut list = Vec::new();
                for name in ctx.listxattr(&Target::Path(node()?))? {
                    list.extend(name);
                    list.push(0);
                }
                sized(list, size)
            }
            wire::SETXATTR => {
                let (size, flags, name) = (args.u32()?, args.u32()?, args.text()?);
                let value = args.bytes(to_usize(size.into()))?;
                ctx.setxattr(&Target::Path(node()?), name, value, flags).map(done)
            }
            wire::REMOVEXATTR => ctx.removexattr(&Target::Path(node()?), args.text()?).map(done),
            _ => Err(Errno::ENOSYS),
        }
    }

    fn forget(&self, node: u64, count: u64) -> Outcome {
        let forgotten = self.nodes.lock().forget(node, count);
        drop(forgotten);
        Ok(None)
    }

    fn owner(&self, attr: &Attr) -> (u32, u32) {
        (self.ids.uid_outside(attr.uid), self.ids.gid_outside(attr.gid))
    }

    fn attr(&self, path: &Path) -> Result<Vec<u8>, Errno> {
        let attr = path.inode().attr()?;
        Ok(wire::attr_out(&attr, self.owner(&attr)))
    }

    /// A file that the host's kernel gets a number for.
    fn entry(&self, path: &Path) -> Result<Vec<u8>, Errno> {
        let attr = path.inode().attr()?;
        let number = self.nodes.lock().count(path)?;
        Ok(wire::entry_out(number, &attr, self.owner(&attr)))
    }

    fn handle(&self, file: Arc<File>, directory: bool) -> Result<Vec<u8>, Errno> {
        let number = self.nodes.lock().open(file)?;
        Ok(wire::open_out(number, directory))
    }

    fn make(&self, ctx: &Context, dir: &Path, name: &[u8], kind: NewKind, mode: u32) -> Outcome {
        let path = ctx.make(dir, name, kind, mode)?;
        self.entry(&path).map(Some)
    }

    fn create(&self, ctx: &Context, dir: &Path, mut args: Args<'_>) -> Result<Vec<u8>, Errno> {
        let (flags, mode) = (args.u32()?, args.u32()?);
        args.skip(8)?;
        let flags = flags & (O_ACCMODE | O_TRUNC | O_APPEND | O_EXCL) | O_CREAT;
        let how = OpenHow { flags, perm: mode & 0o7777, walk: Walk::NOFOLLOW };
        let file = opened(ctx.open(dir, args.name()?, &how)?)?;
        let path = file.path().cloned().ok_or(Errno::EIO)?;
        let mut out = self.entry(&path)?;
        out.extend(self.handle(file, false)?);
        Ok(out)
    }

    fn set_attr(&self, ctx: &Context, path: &Path, mut args: Args<'_>) -> Result<Vec<u8>, Errno> {
        let valid = args.u32()?;
        args.skip(12)?;
        let size = args.u64()?;
        args.skip(8)?;
        let (atime, mtime, _) = (args.u64()?, args.u64()?, args.u64()?);
        let (atime_ns, mtime_ns, _) = (args.u32()?, args.u32()?, args.u32()?);
        let mode = args.u32()?;
        args.skip(4)?;
        let (uid, gid) = (args.u32()?, args.u32()?);
        let asked = |bit: u32| valid & bit != 0;
        let target = Target::Path(path.clone());
        let id = |bit, known: Option<u32>| match asked(bit) {
            true => known.ok_or(Errno::EOVERFLOW).map(Some),
            false => Ok(None),
        };
        let uid = id(wire::SET_UID, self.ids.uid_inside(uid))?;
        let gid = id(wire::SET_GID, self.ids.gid_inside(gid))?;
        if uid.is_some() || gid.is_some() {
            ctx.chown(&target, uid, gid)?;
        }
        if asked(wire::SET_MODE) {
            ctx.chmod(&target, mode & 0o7777)?;
        }
        if asked(wire::SET_SIZE) {
            let _turn = block_on(chitin_vfs::turn::content(path.inode()));
            ctx.truncate(path, size)?;
        }
        let time = |bit, now, seconds: u64, nanos: u32| match (asked(bit), asked(now)) {
            (false, _) => None,
            (true, true) => Some(SetTime::Now),
            (true, false) => {
                Some(SetTime::At(Timespec { tv_sec: seconds.cast_signed(), tv_nsec: nanos.into() }))
            }
        };
        let atime = time(wire::SET_ATIME, wire::SET_ATIME_NOW, atime, atime_ns);
        let mtime = time(wire::SET_MTIME, wire::SET_MTIME_NOW, mtime, mtime_ns);
        ctx.set_times(&target, Times { atime, mtime })?;
        self.attr(path)
    }

    fn read(&self, mut args: Args<'_>) -> Result<Vec<u8>, Errno> {
        let (handle, offset, size) = (args.u64()?, args.u64()?, args.u32()?);
        let file = self.nodes.lock().file(handle)?;
        let mut sink = VecSink { data: Vec::new(), limit: to_usize(size.into()).min(MAX_READ) };
        file.read_at(offset, &mut sink)?;
        Ok(sink.data)
    }

    fn write(&self, mut args: Args<'_>) -> Result<Vec<u8>, Errno> {
        let (handle, offset, size) = (args.u64()?, args.u64()?, args.u32()?);
        args.skip(20)?;
        let data = args.bytes(to_usize(size.into()))?;
        let file = self.nodes.lock().file(handle)?;
        let _turn = block_on(chitin_vfs::turn::content(file.inode()));
        let count = file.write_at(offset, &mut SliceSource::new(data))?;
        Ok(wire::count_out(count))
    }

    fn read_dir(&self, mut args: Args<'_>) -> Result<Vec<u8>, Errno> {
        let (handle, offset, size) = (args.u64()?, args.u64()?, args.u32()?);
        let file = self.nodes.lock().file(handle)?;
        let dir = file.downcast::<DirFile>().ok_or(Errno::ENOTDIR)?;
        let mut list = List { out: Vec::new(), room: to_usize(size.into()).min(MAX_READ) };
        dir.read_dir(offset, &mut list)?;
        Ok(list.out)
    }
}

/// A file; the host's kernel opens FIFOs itself.
fn opened(opened: Opened) -> Result<Arc<File>, Errno> {
    match opened {
        Opened::File(file) if file.is_surplus() => Err(Errno::ENFILE),
        Opened::File(file) => Ok(file),
        Opened::Fifo { .. } => Err(Errno::ENXIO),
    }
}

fn read_link(ctx: &Context, path: &Path) -> Result<Vec<u8>, Errno> {
    path.inode().permission(&ctx.caller, 0)?;
    match path.inode().link_text(&ctx.caller) {
        // A magic link without a text of its own.
        Err(Errno::EINVAL) => match path.inode().link_target(&ctx.caller)? {
            LinkTarget::Text(text) => Ok(text),
            LinkTarget::Magic(to) => Ok(ctx.text(&to)),
            LinkTarget::File(file) => Ok(file.anon_text()),
        },
        text => text,
    }
}

/// A value, or its size for those who ask for that first.
fn sized(value: Vec<u8>, size: u32) -> Outcome {
    match to_usize(size.into()) {
        0 => Ok(Some(wire::count_out(value.len()))),
        size if value.len() > size => Err(Errno::ERANGE),
        _ => Ok(Some(value)),
    }
}

struct List {
    out: Vec<u8>,
    room: usize,
}

impl DirSink for List {
    fn entry(&mut self, entry: &DirEntry<'_>) -> bool {
        wire::dirent(&mut self.out, self.room, (entry.ino, entry.next, entry.kind.dirent_type()), entry.name)
    }
}
