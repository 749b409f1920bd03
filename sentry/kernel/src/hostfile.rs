//! Standard input, output and error inherited from the host: pipes, sockets, files, terminals, /dev/null.
//!
//! Neighbours: `boot` opens one for each descriptor of a process; the reactor watches it. Others outside the sandbox may
//! share the open file description, so its flags are never changed, nothing is read ahead, and the offset of a regular
//! file stays the host's own ([`FileOps::shared_position`]). A guest that reopens it (/dev/stdout) gets the same host
//! descriptor, for a regular file with a position of its own.
//!
//! Owner, mode and times that the guest sets are kept here and do not reach the host.
//!
//! Lock: `HostInode::changes`, a leaf.

use crate::reactor::{HostFdWatch, Reactor};
use chitin_abi::Errno;
use chitin_abi::fcntl::{O_ACCMODE, O_APPEND, O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY};
use chitin_abi::ioctl::{TCGETS, TCGETS2, TIOCGWINSZ};
use chitin_abi::poll::*;
use chitin_abi::stat::{S_IFCHR, S_IFMT, S_IFREG, makedev};
use chitin_abi::time::Timespec;
use chitin_host::{filestore, hostfile, stdio};
use chitin_mm::{Mm, Sink, Source};
use chitin_vfs::walk::Caller;
use chitin_vfs::{
    Attr, File, FileKind, FileOps, Inode, InodeState, Mappable, PollTable, SetAttr, SetTime, WriteAt, Written,
};
use parking_lot::Mutex;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Bytes moved at once.
const BOUNCE: usize = 64 << 10;

/// The host's error as the guest's.
fn guest_errno(error: io::Error) -> Errno {
    match error.raw_os_error().and_then(Errno::from_raw) {
        // Limits of the sentry, not of the guest.
        Some(Errno::EMFILE) => Errno::ENFILE,
        Some(errno) => errno,
        None => Errno::EIO,
    }
}

/// The host file as an inode of no file system.
pub struct HostInode {
    fd: Arc<OwnedFd>,
    kind: FileKind,
    /// The description's access mode (O_RDONLY, O_WRONLY or O_RDWR).
    access: u32,
    terminal: bool,
    ino: u64,
    rdev: u64,
    /// `None` for what epoll does not take: always ready.
    watch: Option<Arc<HostFdWatch>>,
    changes: Mutex<SetAttr>,
    state: InodeState,
}

/// An open host file.
pub struct HostFile {
    inode: Arc<HostInode>,
    /// The position is the host description's own.
    shares_position: bool,
}

impl HostFile {
    /// Wraps a descriptor that the runtime passed on. The file's owner is root until `set_attr` says otherwise.
    pub fn open(reactor: &Arc<Reactor>, fd: Arc<OwnedFd>) -> Result<Arc<File>, Errno> {
        let attr = hostfile::attr(fd.as_fd()).map_err(guest_errno)?;
        let kind = FileKind::from_mode(attr.mode).ok_or(Errno::EINVAL)?;
        let flags = stdio::flags(fd.as_fd()).map_err(guest_errno)?;
        let watch = match reactor.watch(fd.clone()) {
            Ok(watch) => Some(watch),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
            Err(error) => return Err(guest_errno(error)),
        };
        let inode = Arc::new(HostInode {
            kind,
            access: flags & O_ACCMODE,
            terminal: attr.mode & S_IFMT == S_IFCHR && stdio::termios(fd.as_fd()).is_ok(),
            ino: filestore::stat(fd.as_fd()).map_err(guest_errno)?.ino,
            rdev: stdio::rdev(fd.as_fd()).map_err(guest_errno)?,
            watch,
            changes: Mutex::default(),
            state: InodeState::default(),
            fd,
        });
        // A socket is open both ways; what a pipe's end or a file allows the host says.
        let access = if kind == FileKind::Socket { O_RDWR } else { flags & O_ACCMODE };
        let ops = Arc::new(HostFile { inode: inode.clone(), shares_position: true });
        Ok(File::new(ops, inode, None, access | (flags & (O_APPEND | O_NONBLOCK))))
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.inode.fd.as_fd()
    }

    fn has_positions(&self) -> bool {
        matches!(self.inode.kind, FileKind::Regular | FileKind::BlockDevice)
    }
}

impl HostInode {
    fn is_regular(&self) -> bool {
        self.kind == FileKind::Regular
    }
}

impl Inode for HostInode {
    fn ino(&self) -> u64 {
        self.ino
    }
    fn kind(&self) -> FileKind {
        self.kind
    }

    fn attr(&self) -> Result<Attr, Errno> {
        let host = hostfile::attr(self.fd.as_fd()).map_err(guest_errno)?;
        let changes = *self.changes.lock();
        let time = |(tv_sec, nsec): (i64, u32)| Timespec { tv_sec, tv_nsec: i64::from(nsec) };
        let or = |change: Option<SetTime>, host| match change {
            Some(SetTime::At(time)) => time,
            _ => host,
        };
        // Sizes of pipes and devices mean nothing.
        let regular = host.mode & S_IFMT == S_IFREG;
        Ok(Attr {
            nlink: host.nlink,
            uid: changes.uid.unwrap_or(0),
            gid: changes.gid.unwrap_or(0),
            rdev: self.rdev,
            size: if regular { host.size } else { 0 },
            blocks: if regular { host.blocks } else { 0 },
            atime: or(changes.atime, time(host.atime)),
            mtime: or(changes.mtime, time(host.mtime)),
            ctime: time(host.ctime),
            ..Attr::plain(makedev(0, 14), self.ino, self.kind, changes.perm.unwrap_or(host.mode & 0o7777))
        })
    }

    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        if let Some(size) = change.size {
            // open(2) with O_TRUNC ignores it for what has no size.
            if self.is_regular() {
                filestore::truncate(self.fd.as_fd(), size).map_err(guest_errno)?;
            }
        }
        let now = || {
            let ns = chitin_host::clock::now_ns(chitin_abi::time::CLOCK_REALTIME);
            SetTime::At(Timespec {
                tv_sec: i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX),
                tv_nsec: i64::try_from(ns % 1_000_000_000).unwrap_or(0),
            })
        };
        let resolve = |time: Option<SetTime>| match time {
            Some(SetTime::Now) => Some(now()),
            other => other,
        };
        let mut changes = self.changes.lock();
        changes.perm = change.perm.or(changes.perm);
        changes.uid = change.uid.or(changes.uid);
        changes.gid = change.gid.or(changes.gid);
        changes.atime = resolve(change.atime).or(changes.atime);
        changes.mtime = resolve(change.mtime).or(changes.mtime);
        Ok(())
    }

    fn state(&self) -> &InodeState {
        &self.state
    }

    fn open(self: Arc<Self>, flags: u32) -> Result<Arc<dyn FileOps>, Errno> {
        match self.kind {
            // As for every socket found by its name.
            FileKind::Socket => return Err(Errno::ENXIO),
            FileKind::Directory | FileKind::Symlink => return Err(Errno::EACCES),
            _ => {}
        }
        // The host descriptor's access mode cannot be widened.
        let allowed = match (self.access, flags & O_ACCMODE) {
            (O_RDWR, _) => true,
            (O_RDONLY, wanted) => wanted == O_RDONLY,
            (_, wanted) => wanted == O_WRONLY,
        };
        if !allowed {
            return Err(Errno::EACCES);
        }
        Ok(Arc::new(HostFile { inode: self, shares_position: false }))
    }

    fn anon_text(&self) -> Option<Vec<u8>> {
        let text = match self.kind {
            FileKind::Fifo => format!("pipe:[{}]", self.ino),
            FileKind::Socket => format!("socket:[{}]", self.ino),
            FileKind::CharDevice if self.rdev == makedev(1, 3) => "/dev/null".into(),
            _ if self.terminal => "/dev/tty".into(),
            _ => "anon_inode:[host]".into(),
        };
        Some(text.into_bytes())
    }
}

impl FileOps for HostFile {
    fn read(&self, pos: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        if self.inode.kind == FileKind::Directory {
            return Err(Errno::EISDIR);
        }
        let mut buf = vec![0; dst.room().min(BOUNCE)];
        if !self.has_positions() {
            // What is taken from a stream cannot be given back: an address that turns out bad loses it, as on Linux.
            let count = stdio::read_nowait(self.fd(), &mut buf).map_err(guest_errno)?;
            return dst.put(buf.get(..count).unwrap_or_default());
        }
        let mut done = 0;
        while dst.room() > 0 {
            let at = pos.saturating_add(done as u64);
            let want = buf.len().min(dst.room());
            let part = buf.get_mut(..want).unwrap_or_default();
            let result = filestore::pread(self.fd(), part, at).map_err(guest_errno);
            let moved = result.and_then(|count| dst.put(part.get(..count).unwrap_or_default()));
            match moved {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write(&self, at: WriteAt, src: &mut dyn Source) -> Result<Written, Errno> {
        let mut buf = vec![0; src.left().min(BOUNCE)];
        let taken = src.take(&mut buf)?;
        let data = buf.get(..taken).unwrap_or_default();
        let written = match at {
            _ if !self.has_positions() => {
                stdio::write_nowait(self.fd(), data).map(|count| Written { count, end: 0 })
            }
            WriteAt::At(pos) => filestore::pwrite(self.fd(), data, pos)
                .map(|count| Written { count, end: pos.saturating_add(count as u64) }),
            WriteAt::End => hostfile::append(self.fd(), data).map(|(count, end)| Written { count, end }),
        };
        let count = written.as_ref().map_or(0, |written| written.count);
        src.untake(taken.saturating_sub(count));
        written.map_err(guest_errno)
    }

    fn seekable(&self) -> bool {
        self.has_positions()
    }
    fn size(&self) -> Result<u64, Errno> {
        Ok(hostfile::attr(self.fd()).map_err(guest_errno)?.size)
    }
    fn seek_hole(&self, pos: u64, data: bool) -> Result<u64, Errno> {
        let keep = self.shared_position();
        let found = filestore::seek_hole(self.fd(), pos, data).map_err(guest_errno);
        if let Some(keep) = keep {
            self.position_moved(keep);
        }
        found?.ok_or(Errno::ENXIO)
    }

    fn shared_position(&self) -> Option<u64> {
        if !self.shares_position || !self.has_positions() {
            return None;
        }
        stdio::offset(self.fd()).ok()
    }
    fn position_moved(&self, pos: u64) {
        if self.shares_position {
            // Fails only for positions that lseek(2) has refused already.
            let _ = stdio::set_offset(self.fd(), pos);
        }
    }

    fn poll(&self, table: Option<&mut PollTable>) -> u32 {
        let all = POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM | POLLPRI | POLLRDHUP;
        match &self.inode.watch {
            Some(watch) => {
                if let Some(table) = table {
                    table.add(&watch.queue);
                }
                watch.current(all)
            }
            None => POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM,
        }
    }
    fn pollable(&self) -> bool {
        self.inode.watch.is_some()
    }

    fn ioctl(&self, _caller: &Caller, cmd: u32, arg: u64, mm: &Arc<Mm>) -> Result<i64, Errno> {
        if !self.inode.terminal {
            return Err(Errno::ENOTTY);
        }
        match cmd {
            TCGETS | TCGETS2 => {
                let settings = stdio::termios(self.fd()).map_err(guest_errno)?;
                let len =
                    if cmd == TCGETS { size_of::<chitin_abi::termios::Termios>() } else { settings.len() };
                mm.write_bytes(arg, settings.get(..len).unwrap_or_default())?;
            }
            TIOCGWINSZ => {
                let [rows, cols, x, y] = stdio::winsize(self.fd()).map_err(guest_errno)?;
                let size =
                    chitin_abi::termios::Winsize { ws_row: rows, ws_col: cols, ws_xpixel: x, ws_ypixel: y };
                mm.write(arg, &size)?;
            }
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }

    fn mmap(&self, _writable: bool) -> Result<Mappable, Errno> {
        if self.inode.is_regular() { Ok(Mappable::Host(self.inode.fd.clone())) } else { Err(Errno::ENODEV) }
    }
    fn fsync(&self, data_only: bool) -> Result<(), Errno> {
        if !self.has_positions() {
            return Err(Errno::EINVAL);
        }
        hostfile::sync(self.fd(), data_only).map_err(guest_errno)
    }
    fn fallocate(&self, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
        match self.inode.kind {
            FileKind::Fifo => Err(Errno::ESPIPE),
            FileKind::Regular => hostfile::fallocate(self.fd(), mode, offset, len).map_err(guest_errno),
            _ => Err(Errno::ENODEV),
        }
    }
    fn readable_bytes(&self) -> Result<u64, Errno> {
        stdio::readable_bytes(self.fd()).map_err(guest_errno)
    }
}

#[cfg(test)]
#[path = "hostfile/tests.rs"]
mod tests;
