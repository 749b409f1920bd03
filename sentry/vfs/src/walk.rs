//! Path walking (path_resolution(7), openat2(2)'s RESOLVE_* flags).

use crate::creds::MAY_EXEC;
use crate::device::DeviceTable;
use crate::{Creds, Dentry, File, FileKind, LinkTarget, MountNs, Path};
use chitin_abi::Errno;
use chitin_abi::capability::{CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH};
use chitin_abi::limits::NAME_MAX;
use chitin_abi::mount::MS_NOSYMFOLLOW;
use parking_lot::Mutex;
use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;

/// Symbolic links followed in one walk (MAXSYMLINKS).
const MAX_LINKS: u32 = 40;

/// What belongs to no mount: drivers, and the lock that orders renames between directories.
#[derive(Default)]
pub struct Vfs {
    pub devices: DeviceTable,
    pub(crate) rename_lock: Mutex<()>,
}

/// Who asks, as far as a file system may care.
#[derive(Clone)]
pub struct Caller {
    pub tgid: i32,
    pub tid: i32,
    pub creds: Arc<Creds>,
}

/// Where a process stands (`fs_struct`): its tree, the directories that paths begin at, and its umask.
#[derive(Clone)]
pub struct Place {
    pub vfs: Arc<Vfs>,
    pub ns: Arc<MountNs>,
    pub root: Path,
    pub cwd: Path,
    pub umask: u32,
}

impl Place {
    /// In the root directory of a tree.
    pub fn top(vfs: Arc<Vfs>, ns: Arc<MountNs>, umask: u32) -> Place {
        let root = ns.root();
        Place { vfs, ns, cwd: root.clone(), root, umask }
    }
}

/// Everything a path operation depends on; made by the kernel from a task, per call, and so of few pieces to be counted.
#[derive(Clone)]
pub struct Context {
    pub place: Arc<Place>,
    pub caller: Caller,
}

impl Context {
    pub fn new(place: Place, caller: Caller) -> Context {
        Context { place: Arc::new(place), caller }
    }
}

impl Deref for Context {
    type Target = Place;
    fn deref(&self) -> &Place {
        &self.place
    }
}

/// How to walk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// Follow a symbolic link in the last component.
    pub follow: bool,
    pub no_symlinks: bool,
    pub no_magiclinks: bool,
    pub no_xdev: bool,
    pub beneath: bool,
    pub in_root: bool,
}

impl Walk {
    pub const FOLLOW: Walk = Walk {
        follow: true,
        no_symlinks: false,
        no_magiclinks: false,
        no_xdev: false,
        beneath: false,
        in_root: false,
    };
    pub const NOFOLLOW: Walk = Walk { follow: false, ..Walk::FOLLOW };

    pub fn following(follow: bool) -> Walk {
        Walk { follow, ..Walk::FOLLOW }
    }
}

/// What a walk found.
#[derive(Clone)]
pub enum Target {
    Path(Path),
    /// A magic link's open file that has no path.
    File(Arc<File>),
}

impl Target {
    pub fn inode(&self) -> &Arc<dyn crate::Inode> {
        match self {
            Target::Path(path) => path.inode(),
            Target::File(file) => file.inode(),
        }
    }
}

/// The last component of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Last {
    Name(Vec<u8>),
    Dot,
    DotDot,
    /// The path was "/" or led there.
    Root,
}

/// A directory and a name in it that may not exist.
pub struct ParentOf {
    pub dir: Path,
    pub last: Last,
    /// The path ended in '/': only a directory will do.
    pub slash: bool,
}

impl Context {
    pub fn creds(&self) -> &Arc<Creds> {
        &self.caller.creds
    }

    /// Walks to an existing file. `start` is the directory for relative paths.
    pub fn walk(&self, start: &Path, path: &[u8], how: Walk) -> Result<Path, Errno> {
        match self.walk_target(start, path, how)? {
            Target::Path(path) => Ok(path),
            Target::File(_) => Err(Errno::ENXIO),
        }
    }

    /// As [`Context::walk`], also through magic links to files without a path.
    pub fn walk_target(&self, start: &Path, path: &[u8], how: Walk) -> Result<Target, Errno> {
        let mut walker = Walker::new(self, start, path, how)?;
        walker.run(false)?;
        Ok(match walker.file {
            Some(file) => Target::File(file),
            None => Target::Path(walker.at),
        })
    }

    /// Walks to the directory that holds (or would hold) the last component.
    pub fn walk_parent(&self, start: &Path, path: &[u8], how: Walk) -> Result<ParentOf, Errno> {
        let mut walker = Walker::new(self, start, path, how)?;
        walker.run(true)?;
        walker.require_dir()?;
        let last = walker.last.unwrap_or(Last::Root);
        Ok(ParentOf { dir: walker.at, last, slash: walker.slash })
    }

    /// The child of a directory, through symbolic links where asked (`None`: no such name).
    pub fn child(&self, dir: &Path, name: &[u8]) -> Result<Option<Path>, Errno> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let found = dir.dentry.lookup(&[name])?;
        let found = found.map(|dentry| dentry.seen_by(&self.caller));
        Ok(found.map(|dentry| self.ns.follow(Path { mount: dir.mount.clone(), dentry })))
    }

    /// The text of a path as this caller sees it.
    pub fn text(&self, path: &Path) -> Vec<u8> {
        self.ns.text(&self.root, path).0
    }
}

struct Walker<'a> {
    ctx: &'a Context,
    how: Walk,
    start: &'a Path,
    at: Path,
    /// What is left to walk, and where in it we are.
    rest: Cow<'a, [u8]>,
    pos: usize,
    links: u32,
    last: Option<Last>,
    slash: bool,
    file: Option<Arc<File>>,
}

impl<'a> Walker<'a> {
    fn new(ctx: &'a Context, start: &'a Path, path: &'a [u8], how: Walk) -> Result<Walker<'a>, Errno> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        let absolute = path.first() == Some(&b'/');
        if absolute && how.beneath {
            return Err(Errno::EXDEV);
        }
        let at = if absolute && !how.in_root { ctx.root.clone() } else { start.clone() };
        Ok(Walker {
            ctx,
            how,
            start,
            at,
            rest: Cow::Borrowed(path),
            pos: 0,
            links: 0,
            last: None,
            slash: false,
            file: None,
        })
    }

    /// The directory that ".." does not leave and absolute links lead to.
    fn root(&self) -> &Path {
        if self.how.in_root { self.start } else { &self.ctx.root }
    }

    /// The next component as a range of `rest`.
    fn next_name(&mut self) -> Option<(usize, usize)> {
        let ahead = self.rest.get(self.pos..).unwrap_or_default();
        let slashes = ahead.iter().position(|&b| b != b'/').unwrap_or(ahead.len());
        let name = ahead.get(slashes..).unwrap_or_default();
        let length = name.iter().position(|&b| b == b'/').unwrap_or(name.len());
        let begin = self.pos + slashes;
        self.pos = begin + length;
        (self.pos > begin).then_some((begin, self.pos))
    }

    fn at_end(&self) -> bool {
        self.rest.get(self.pos..).is_none_or(|rest| rest.iter().all(|&b| b == b'/'))
    }

    fn require_dir(&self) -> Result<(), Errno> {
        if self.file.is_some() || self.at.inode().kind() != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        Ok(())
    }

    /// Search permission on the current directory.
    fn may_search(&self) -> Result<(), Errno> {
        let inode = self.at.inode();
        inode.permission(&self.ctx.caller, MAY_EXEC)?;
        let creds = self.ctx.creds();
        if creds.capable(CAP_DAC_OVERRIDE) || creds.capable(CAP_DAC_READ_SEARCH) {
            return Ok(());
        }
        creds.check(&inode.attr()?, MAY_EXEC)
    }

    fn run(&mut self, stop_at_parent: bool) -> Result<(), Errno> {
        loop {
            let Some((begin, end)) = self.next_name() else {
                // Only slashes: the walk ends where it is.
                if self.slash {
                    self.require_dir()?;
                }
                return Ok(());
            };
            let is_last = self.at_end();
            let trailing = is_last && end < self.rest.len();
            if is_last {
                self.slash |= trailing;
            }
            let name = self.rest.get(begin..end).unwrap_or_default();
            if name.len() > NAME_MAX {
                return Err(Errno::ENAMETOOLONG);
            }
            self.require_dir()?;
            if is_last && stop_at_parent {
                self.last = Some(match name {
                    b"." => Last::Dot,
                    b".." => Last::DotDot,
                    _ => Last::Name(name.to_vec()),
                });
                return Ok(());
            }
            self.may_search()?;
            match name {
                b"." => {}
                b".." => self.up()?,
                _ => self.down(begin, end, is_last)?,
            }
            if is_last && self.at_end() {
                if self.slash {
                    self.require_dir()?;
                }
                return Ok(());
            }
        }
    }

    fn up(&mut self) -> Result<(), Errno> {
        if self.at.is(self.root()) {
            return if self.how.beneath { Err(Errno::EXDEV) } else { Ok(()) };
        }
        if self.how.beneath && self.at.is(self.start) {
            return Err(Errno::EXDEV);
        }
        let parent = self.at.parent();
        self.step_to(parent)
    }

    fn step_to(&mut self, path: Path) -> Result<(), Errno> {
        let path = self.ctx.ns.follow(path);
        if self.how.no_xdev && !Arc::ptr_eq(&path.mount, &self.at.mount) {
            return Err(Errno::EXDEV);
        }
        self.at = path;
        Ok(())
    }

    fn down(&mut self, begin: usize, end: usize, is_last: bool) -> Result<(), Errno> {
        let dentry = self.lookup(begin, end)?.ok_or(Errno::ENOENT)?.seen_by(&self.ctx.caller);
        let inode = dentry.inode();
        if inode.kind() != FileKind::Symlink || (is_last && !self.how.follow && !self.slash) {
            if !dentry.is_mountpoint() {
                self.at.dentry = dentry;
                return Ok(());
            }
            let mount = self.at.mount.clone();
            return self.step_to(Path { mount, dentry });
        }
        if self.how.no_symlinks || self.at.mount.has(MS_NOSYMFOLLOW) {
            return Err(Errno::ELOOP);
        }
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::ELOOP);
        }
        match inode.link_target(&self.ctx.caller)? {
            LinkTarget::Text(text) => self.follow_text(&text),
            LinkTarget::Magic(_) | LinkTarget::File(_) if self.how.no_magiclinks => Err(Errno::ELOOP),
            LinkTarget::Magic(_) | LinkTarget::File(_) if self.how.beneath || self.how.in_root => {
                Err(Errno::EXDEV)
            }
            LinkTarget::Magic(path) => {
                if self.how.no_xdev && !Arc::ptr_eq(&path.mount, &self.at.mount) {
                    return Err(Errno::EXDEV);
                }
                self.at = path;
                Ok(())
            }
            LinkTarget::File(file) => {
                if !is_last {
                    return Err(Errno::ENOTDIR);
                }
                self.file = Some(file);
                Ok(())
            }
        }
    }

    /// Looks up one component, and lets the file system look ahead over those after it.
    fn lookup(&self, begin: usize, end: usize) -> Result<Option<Arc<Dentry>>, Errno> {
        let name = self.rest.get(begin..end).unwrap_or_default();
        if let Some(known) = self.at.dentry.known(name) {
            return Ok(known);
        }
        let ahead = self.rest.get(end..).unwrap_or_default();
        if ahead.iter().all(|&b| b == b'/') {
            return self.at.dentry.lookup(&[name]);
        }
        let mut names: Vec<&[u8]> = vec![name];
        for part in ahead.split(|&b| b == b'/').filter(|part| !part.is_empty()) {
            if part == b"." || part == b".." || part.len() > NAME_MAX || names.len() >= 32 {
                break;
            }
            names.push(part);
        }
        self.at.dentry.lookup(&names)
    }

    /// Goes on with a link's text before what is left.
    fn follow_text(&mut self, text: &[u8]) -> Result<(), Errno> {
        if text.is_empty() {
            return Err(Errno::ENOENT);
        }
        if text.first() == Some(&b'/') {
            if self.how.beneath {
                return Err(Errno::EXDEV);
            }
            let root = self.root().clone();
            if self.how.no_xdev && !Arc::ptr_eq(&root.mount, &self.at.mount) {
                return Err(Errno::EXDEV);
            }
            self.at = root;
        }
        let rest = self.rest.get(self.pos..).unwrap_or_default();
        if text.len() + rest.len() > 2 * chitin_abi::limits::PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let mut joined = Vec::with_capacity(text.len() + rest.len());
        joined.extend_from_slice(text);
        joined.extend_from_slice(rest);
        self.rest = Cow::Owned(joined);
        self.pos = 0;
        Ok(())
    }
}
