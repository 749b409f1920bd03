//! open(2), openat2(2): finding or making the file, checks, and the open file description.

use crate::creds::{MAY_EXEC, MAY_READ, MAY_WRITE};
use crate::dirfile::DirFile;
use crate::pipe::Pipe;
use crate::walk::{Last, Target, Walk};
use crate::{Context, File, FileKind, FileOps, NewInode, NewKind, Path, SetAttr};
use chitin_abi::Errno;
use chitin_abi::fcntl::*;
use chitin_abi::inotify::{IN_CREATE, IN_MODIFY, IN_OPEN};
use chitin_abi::mount::MS_NOEXEC;
use std::sync::Arc;

/// How to open: flags are O_*, checked for validity by the caller.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenHow {
    pub flags: u32,
    /// For a new file; the umask is applied here.
    pub perm: u32,
    pub walk: Walk,
}

/// An opened file, or a FIFO whose other end must be waited for.
pub enum Opened {
    File(Arc<File>),
    Fifo { pipe: Arc<Pipe>, path: Option<Path>, inode: Arc<dyn crate::Inode>, flags: u32 },
}

/// An O_PATH description: names a file and nothing else.
struct PathOnly;
impl FileOps for PathOnly {}

/// What `flags` ask permission for.
fn access_mask(flags: u32) -> u32 {
    let mask = match flags & O_ACCMODE {
        O_RDONLY => MAY_READ,
        O_WRONLY => MAY_WRITE,
        _ => MAY_READ | MAY_WRITE,
    };
    if flags & O_TRUNC != 0 { mask | MAY_WRITE } else { mask }
}

impl Context {
    /// Opens (and makes, with O_CREAT) the file at `path`.
    pub fn open(&self, start: &Path, path: &[u8], how: &OpenHow) -> Result<Opened, Errno> {
        let flags = how.flags;
        if flags & O_TMPFILE == O_TMPFILE {
            return self.open_unnamed(start, path, how);
        }
        let nofollow = flags & O_NOFOLLOW != 0 || flags & (O_CREAT | O_EXCL) == O_CREAT | O_EXCL;
        let walk = Walk { follow: !nofollow, ..how.walk };
        if flags & O_CREAT == 0 || flags & O_PATH != 0 {
            return match self.walk_target(start, path, walk)? {
                Target::Path(path) => self.open_path(path, flags, false),
                Target::File(file) => self.reopen(&file, flags),
            };
        }
        self.open_or_create(start, path, how, walk)
    }

    /// O_CREAT: walks to the parent and on through symbolic links in the last component by hand.
    fn open_or_create(&self, start: &Path, path: &[u8], how: &OpenHow, walk: Walk) -> Result<Opened, Errno> {
        let mut start = start.clone();
        let mut path = path.to_vec();
        for _ in 0..41 {
            let parent = self.walk_parent(&start, &path, walk)?;
            let name = match &parent.last {
                Last::Name(name) if !parent.slash => name.clone(),
                // "name/" never creates.
                Last::Name(_) => return Err(Errno::EISDIR),
                _ => return Err(if how.flags & O_EXCL != 0 { Errno::EEXIST } else { Errno::EISDIR }),
            };
            self.may(parent.dir.inode(), MAY_EXEC)?;
            let found = match self.child(&parent.dir, &name)? {
                Some(found) => found,
                None => match self.create_for_open(&parent.dir, &name, how)? {
                    Some(opened) => return Ok(opened),
                    // Somebody was faster.
                    None => continue,
                },
            };
            if how.flags & O_EXCL != 0 {
                return Err(Errno::EEXIST);
            }
            if found.inode().kind() == FileKind::Symlink && walk.follow {
                if walk.no_symlinks {
                    return Err(Errno::ELOOP);
                }
                match found.inode().link_target(&self.caller)? {
                    crate::LinkTarget::Text(text) if text.is_empty() => return Err(Errno::ENOENT),
                    crate::LinkTarget::Text(text) => {
                        start = parent.dir;
                        path = text;
                        continue;
                    }
                    crate::LinkTarget::Magic(target) => return self.open_path(target, how.flags, false),
                    crate::LinkTarget::File(file) => return self.reopen(&file, how.flags),
                }
            }
            return self.open_path(found, how.flags, false);
        }
        Err(Errno::ELOOP)
    }

    /// Makes a regular file; `None` if the name exists by now.
    fn create_for_open(&self, dir: &Path, name: &[u8], how: &OpenHow) -> Result<Option<Opened>, Errno> {
        let guard = dir.dentry.lock_dir();
        if dir.dentry.lookup_locked(&[name])?.is_some() {
            return Ok(None);
        }
        self.may_change(dir)?;
        self.may_own(dir)?;
        if dir.dentry.is_dead() {
            return Err(Errno::ENOENT);
        }
        let ops = dir.inode().dir().ok_or(Errno::ENOTDIR)?;
        let (gid, perm) =
            self.creds().new_owner(&dir.inode().attr()?, how.perm & 0o7777 & !self.umask, false);
        let new = NewInode { kind: NewKind::Regular, perm, uid: self.creds().fsuid, gid };
        let inode = ops
            .create(name, &new)
            .map_err(|error| if error == Errno::EPERM { Errno::EACCES } else { error })?;
        let dentry = dir.dentry.adopt(name, inode);
        drop(guard);
        crate::notify::dir_event(dir.inode(), name, IN_CREATE, 0);
        let path = Path { mount: dir.mount.clone(), dentry };
        self.open_path(path, how.flags & !O_TRUNC, true).map(Some)
    }

    /// O_TMPFILE: `path` is the directory.
    fn open_unnamed(&self, start: &Path, path: &[u8], how: &OpenHow) -> Result<Opened, Errno> {
        if how.flags & O_ACCMODE == O_RDONLY {
            return Err(Errno::EINVAL);
        }
        let dir = self.walk(start, path, Walk { follow: true, ..how.walk })?;
        let ops = dir.inode().dir().ok_or(Errno::ENOTDIR)?;
        self.may_change(&dir)?;
        self.may_own(&dir)?;
        let (gid, perm) =
            self.creds().new_owner(&dir.inode().attr()?, how.perm & 0o7777 & !self.umask, false);
        let new = NewInode { kind: NewKind::Regular, perm, uid: self.creds().fsuid, gid };
        let inode = ops.tmpfile(&new)?;
        let name = format!("#{}", inode.ino());
        let dentry = dir.dentry.unnamed(name.as_bytes(), inode);
        self.open_path(Path { mount: dir.mount, dentry }, how.flags & !O_TMPFILE, true)
    }

    /// Opens a file that was found. `created`: permissions need no check.
    pub fn open_path(&self, path: Path, flags: u32, created: bool) -> Result<Opened, Errno> {
        let inode = path.inode().clone();
        let kind = inode.kind();
        if flags & O_DIRECTORY != 0 && kind != FileKind::Directory {
            return Err(if kind == FileKind::Symlink && flags & O_PATH == 0 {
                Errno::ELOOP
            } else {
                Errno::ENOTDIR
            });
        }
        if flags & O_PATH != 0 {
            let flags = flags & (O_PATH | O_DIRECTORY | O_NOFOLLOW);
            return Ok(Opened::File(File::new(Arc::new(PathOnly), inode, Some(path), flags)));
        }
        let mask = access_mask(flags);
        match kind {
            FileKind::Symlink => return Err(Errno::ELOOP),
            FileKind::Directory if mask & MAY_WRITE != 0 || flags & O_CREAT != 0 => {
                return Err(Errno::EISDIR);
            }
            FileKind::CharDevice | FileKind::BlockDevice if !path.mount.has_devices() => {
                return Err(Errno::EACCES);
            }
            FileKind::Regular if mask & MAY_WRITE != 0 => path.mount.writable()?,
            _ => {}
        }
        if !created {
            self.may(&inode, mask)?;
        }
        if flags & O_NOATIME != 0 && !self.creds().owns(&inode.attr()?) {
            return Err(Errno::EPERM);
        }
        let flags = flags & !(O_CREAT | O_EXCL | O_NOCTTY | O_CLOEXEC | O_TMPFILE & !O_DIRECTORY);
        let ops: Arc<dyn FileOps> = match kind {
            FileKind::Regular => return self.open_regular(path, inode, flags).map(Opened::File),
            FileKind::Directory => DirFile::new(inode.clone(), path.clone()),
            FileKind::Fifo => {
                let pipe = inode.state().fifo().clone();
                return Ok(Opened::Fifo { pipe, path: Some(path), inode, flags });
            }
            FileKind::Socket => return Err(Errno::ENXIO),
            FileKind::Symlink => return Err(Errno::ELOOP),
            FileKind::CharDevice | FileKind::BlockDevice => {
                let rdev = inode.attr()?.rdev;
                let driver = self.vfs.devices.get(kind, rdev)?;
                driver.open(rdev, &inode, &path, flags, &self.caller)?
            }
        };
        inode.state().notify(Some(&path), IN_OPEN);
        Ok(Opened::File(File::new(ops, inode, Some(path), flags & !O_TRUNC)))
    }

    fn open_regular(&self, path: Path, inode: Arc<dyn crate::Inode>, flags: u32) -> Result<Arc<File>, Errno> {
        let writes = matches!(flags & O_ACCMODE, O_WRONLY | O_RDWR);
        if writes {
            inode.state().start_write()?;
        }
        let opened = inode.clone().open_as(flags, &self.caller).and_then(|ops| {
            if flags & O_TRUNC != 0 {
                inode.set_attr(&SetAttr { size: Some(0), ..SetAttr::default() })?;
                inode.state().notify(Some(&path), IN_MODIFY);
            }
            Ok(ops)
        });
        let ops = match opened {
            Ok(ops) => ops,
            Err(error) => {
                if writes {
                    inode.state().end_write();
                }
                return Err(error);
            }
        };
        inode.state().notify(Some(&path), IN_OPEN);
        Ok(File::new(ops, inode, Some(path), flags & !O_TRUNC))
    }

    /// Opens what a magic link's path-less file stands for anew: a pipe's end, a memfd.
    fn reopen(&self, file: &Arc<File>, flags: u32) -> Result<Opened, Errno> {
        let inode = file.inode().clone();
        if flags & O_PATH != 0 {
            return Ok(Opened::File(File::new(Arc::new(PathOnly), inode, None, flags)));
        }
        if flags & O_DIRECTORY != 0 {
            return Err(Errno::ENOTDIR);
        }
        self.may(&inode, access_mask(flags))?;
        match inode.kind() {
            // A pipe of the host opens itself.
            FileKind::Fifo => match inode.clone().open(flags) {
                Ok(ops) => Ok(Opened::File(File::new(ops, inode, None, flags & !O_TRUNC))),
                Err(Errno::ENXIO) => {
                    let pipe = inode.state().fifo().clone();
                    Ok(Opened::Fifo { pipe, path: None, inode, flags })
                }
                Err(error) => Err(error),
            },
            _ => {
                let ops = inode.clone().open(flags)?;
                if flags & O_TRUNC != 0 {
                    inode.set_attr(&SetAttr { size: Some(0), ..SetAttr::default() })?;
                }
                Ok(Opened::File(File::new(ops, inode, None, flags & !O_TRUNC)))
            }
        }
    }

    /// Finds a program for execve: a regular file that may be executed, open for reading.
    pub fn open_exec(&self, start: &Path, path: &[u8], walk: Walk) -> Result<Arc<File>, Errno> {
        let found = self.walk(start, path, walk)?;
        self.open_exec_path(found)
    }

    /// As [`Context::open_exec`] for a file that was found already (execveat with AT_EMPTY_PATH).
    pub fn open_exec_path(&self, found: Path) -> Result<Arc<File>, Errno> {
        let inode = found.inode().clone();
        match inode.kind() {
            FileKind::Regular => {}
            FileKind::Symlink => return Err(Errno::ELOOP),
            _ => return Err(Errno::EACCES),
        }
        if found.mount.has(MS_NOEXEC) {
            return Err(Errno::EACCES);
        }
        self.may(&inode, MAY_EXEC)?;
        let ops = inode.clone().open(O_RDONLY)?;
        Ok(File::new(ops, inode, Some(found), O_RDONLY))
    }
}
