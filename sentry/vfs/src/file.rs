//! Open file descriptions ([`File`]) and the operations behind them ([`FileOps`]).

pub mod state;

use crate::wait::{Notify, Registration};
use crate::walk::Caller;
use crate::{FileKind, Inode, Path, PollTable};
use chitin_abi::Errno;
use chitin_abi::fcntl::*;
use chitin_abi::poll::{POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM};
use chitin_mm::{Mm, Sink, Source};
use parking_lot::Mutex;
use std::any::Any;
use std::ops::{Deref, DerefMut};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Where a write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteAt {
    At(u64),
    /// O_APPEND: at the end, atomically.
    End,
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    pub count: usize,
    /// The file position after it.
    pub end: u64,
}

/// Pages that can be mapped into a guest.
pub enum Mappable {
    /// A host file whose offsets are the guest file's offsets; the descriptor's access mode is what the guest may do.
    Host(Arc<OwnedFd>),
    /// Zero pages (/dev/zero): an anonymous mapping.
    Anonymous,
}

/// The operations of an open file. One object per open (or shared, where there is no state).
///
/// `read` and `write` never wait: EAGAIN says "not now", and the caller waits on `poll`. A `read` of 0 bytes is the end.
pub trait FileOps: Any + Send + Sync {
    /// Reads at `pos` (ignored by streams).
    fn read(&self, _pos: u64, _dst: &mut dyn Sink) -> Result<usize, Errno> {
        Err(Errno::EINVAL)
    }
    /// Writes (streams ignore `at`). May take less than there is.
    fn write(&self, _at: WriteAt, _src: &mut dyn Source) -> Result<Written, Errno> {
        Err(Errno::EINVAL)
    }
    /// Whether it has positions: otherwise lseek and pread answer ESPIPE.
    fn seekable(&self) -> bool {
        false
    }
    /// The end for SEEK_END (and RWF_APPEND); only for seekable files.
    fn size(&self) -> Result<u64, Errno> {
        Err(Errno::EINVAL)
    }
    /// SEEK_DATA (`data`) or SEEK_HOLE from `pos`: ENXIO past the end. The default knows no holes.
    fn seek_hole(&self, pos: u64, data: bool) -> Result<u64, Errno> {
        let size = self.size()?;
        if pos >= size {
            return Err(Errno::ENXIO);
        }
        Ok(if data { pos } else { size })
    }
    /// What is ready (POLL* bits); first registers in `table` where given.
    fn poll(&self, _table: Option<&mut PollTable>) -> u32 {
        POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM
    }
    /// Whether epoll may watch it (regular files and directories: EPERM).
    fn pollable(&self) -> bool {
        !self.seekable()
    }
    /// Device and object specific requests; `arg` is a value or a user address in `mm`.
    fn ioctl(&self, _caller: &Caller, _cmd: u32, _arg: u64, _mm: &Arc<Mm>) -> Result<i64, Errno> {
        Err(Errno::ENOTTY)
    }
    /// Pages for mmap; `writable`: shared and possibly written, so the descriptor must allow it.
    fn mmap(&self, _writable: bool) -> Result<Mappable, Errno> {
        Err(Errno::ENODEV)
    }
    fn fsync(&self, _data_only: bool) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }
    /// Whether fsync waits for the host's disk.
    fn sync_waits(&self) -> bool {
        false
    }
    /// `mode` as in fallocate(2), already checked for sense.
    fn fallocate(&self, _mode: u32, _offset: u64, _len: u64) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// The position, where it is shared with somebody outside the sandbox: read before each use of the file position.
    fn shared_position(&self) -> Option<u64> {
        None
    }
    /// The file position moved to `pos`; for those that answer [`FileOps::shared_position`].
    fn position_moved(&self, _pos: u64) {}
    /// F_SETFL changed the flags (O_NONBLOCK, FASYNC, O_DIRECT); for objects that behave differently.
    fn flags_changed(&self, _flags: u32) -> Result<(), Errno> {
        Ok(())
    }
    /// close(2) of a descriptor, the description may live on; an error (EIO, EDQUOT) reaches the caller.
    fn flush(&self) -> Result<(), Errno> {
        Ok(())
    }
    /// Bytes that read would answer right now (FIONREAD), for streams.
    fn readable_bytes(&self) -> Result<u64, Errno> {
        Err(Errno::ENOTTY)
    }
    /// Whether O_ASYNC means something: its owner gets SIGIO when the object becomes ready.
    fn signals(&self) -> bool {
        false
    }
    /// F_GET_SEALS; EINVAL for files that cannot be sealed.
    fn seals(&self) -> Result<u32, Errno> {
        Err(Errno::EINVAL)
    }
    /// F_ADD_SEALS, on a description that is open for writing.
    fn add_seals(&self, _seals: u32) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }
}

/// An open file description: what dup'ed and inherited descriptors share.
pub struct File {
    ops: Arc<dyn FileOps>,
    inode: Arc<dyn Inode>,
    path: Option<Path>,
    flags: AtomicU32,
    pos: Mutex<u64>,
    /// For calls that move the position, in one step or several.
    turn: crate::turn::Turn,
    /// Identity for epoll, locks and kcmp.
    id: u64,
    /// There were too many when it was made.
    surplus: bool,
    /// F_SETOWN / F_SETSIG.
    pub owner: Mutex<FileOwner>,
    /// Where whoever tells the owner listens; a leaf.
    listening: Mutex<Vec<Registration>>,
}

/// Who gets SIGIO.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileOwner {
    /// F_OWNER_*: type, and the id in it (0: nobody).
    pub kind: i32,
    pub id: i32,
    pub signal: i32,
    /// The descriptor on which O_ASYNC was set.
    pub fd: i32,
    /// Who chose the owner.
    pub uid: u32,
    pub euid: u32,
}

/// Flags that F_SETFL can change.
pub const SETFL_FLAGS: u32 = O_APPEND | O_NONBLOCK | FASYNC | O_DIRECT | O_NOATIME;

impl File {
    /// `flags` are those of open(2), without creation flags.
    pub fn new(ops: Arc<dyn FileOps>, inode: Arc<dyn Inode>, path: Option<Path>, flags: u32) -> Arc<File> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let flags = flags & !(O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_CLOEXEC);
        Arc::new(File {
            ops,
            inode,
            path,
            flags: AtomicU32::new(flags),
            pos: Mutex::new(0),
            turn: crate::turn::Turn::default(),
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            surplus: !crate::bounds::FILES.force(1),
            owner: Mutex::default(),
            listening: Mutex::default(),
        })
    }

    /// An anonymous file (pipe, eventfd, …) with an inode of its own.
    pub fn anon(ops: Arc<dyn FileOps>, label: &'static str, flags: u32) -> Arc<File> {
        let inode = crate::AnonInode::new(FileKind::Regular, 0o600, 0, 0, label);
        File::new(ops, inode, None, flags)
    }

    pub fn id(&self) -> u64 {
        self.id
    }
    /// Made beyond the number of files the sandbox may have open (fs.file-max): it is not to get a descriptor.
    pub fn is_surplus(&self) -> bool {
        self.surplus
    }
    pub fn ops(&self) -> &Arc<dyn FileOps> {
        &self.ops
    }
    /// The operations as their concrete type.
    pub fn downcast<T: FileOps>(&self) -> Option<&T> {
        (&*self.ops as &dyn Any).downcast_ref::<T>()
    }
    pub fn inode(&self) -> &Arc<dyn Inode> {
        &self.inode
    }
    pub fn path(&self) -> Option<&Path> {
        self.path.as_ref()
    }
    pub fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }
    pub fn nonblocking(&self) -> bool {
        self.flags() & O_NONBLOCK != 0
    }
    pub fn is_path_only(&self) -> bool {
        self.flags() & O_PATH != 0
    }
    pub fn readable(&self) -> bool {
        !self.is_path_only() && matches!(self.flags() & O_ACCMODE, O_RDONLY | O_RDWR)
    }
    pub fn writable(&self) -> bool {
        !self.is_path_only() && matches!(self.flags() & O_ACCMODE, O_WRONLY | O_RDWR)
    }

    /// F_SETFL: changes the flags that can change.
    pub fn set_flags(&self, flags: u32) -> Result<(), Errno> {
        let new = (self.flags() & !SETFL_FLAGS) | (flags & SETFL_FLAGS);
        self.ops.flags_changed(new)?;
        self.flags.store(new, Ordering::Relaxed);
        Ok(())
    }

    /// Has `target` told of every event of the object from now on, instead of whoever was told until now.
    pub fn listen(&self, target: Option<Arc<dyn Notify>>) {
        let new = target.map_or_else(Vec::new, |target| {
            let mut table = PollTable::new(target);
            self.ops.poll(Some(&mut table));
            table.into_registrations()
        });
        // Dropped with nothing locked.
        let _old = std::mem::replace(&mut *self.listening.lock(), new);
    }

    /// The turn at the file position: read(2), write(2) and lseek(2) have it while they last (f_pos_lock).
    pub fn turn(&self) -> &crate::turn::Turn {
        &self.turn
    }

    /// The file position, locked for one step of a call that moves it.
    pub fn position(&self) -> Position<'_> {
        let mut guard = self.pos.lock();
        if let Some(pos) = self.ops.shared_position() {
            *guard = pos;
        }
        Position { before: *guard, guard, ops: &*self.ops }
    }

    /// Reads at the file position and moves it; EAGAIN when not ready.
    pub fn read(&self, dst: &mut dyn Sink) -> Result<usize, Errno> {
        if !self.readable() {
            return Err(Errno::EBADF);
        }
        if !self.ops.seekable() {
            return self.ops.read(0, dst);
        }
        let mut pos = self.position();
        let count = self.ops.read(*pos, dst)?;
        *pos = pos.saturating_add(count as u64);
        Ok(count)
    }

    /// Reads at `pos` and leaves the file position alone; ESPIPE for streams.
    pub fn read_at(&self, pos: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        if !self.readable() {
            return Err(Errno::EBADF);
        }
        if !self.ops.seekable() {
            return Err(Errno::ESPIPE);
        }
        self.ops.read(pos, dst)
    }

    /// Writes at the file position (or the end, with O_APPEND) and moves it.
    pub fn write(&self, src: &mut dyn Source) -> Result<usize, Errno> {
        if !self.writable() {
            return Err(Errno::EBADF);
        }
        if !self.ops.seekable() {
            let count = self.ops.write(WriteAt::End, src)?.count;
            if self.path.is_some() {
                self.written();
            }
            return Ok(count);
        }
        let mut pos = self.position();
        let at = if self.flags() & O_APPEND != 0 { WriteAt::End } else { WriteAt::At(*pos) };
        let written = self.ops.write(at, src)?;
        *pos = written.end;
        drop(pos);
        self.written();
        Ok(written.count)
    }

    /// Writes at `pos` (with O_APPEND still at the end, as Linux does) and leaves the file position alone.
    pub fn write_at(&self, pos: u64, src: &mut dyn Source) -> Result<usize, Errno> {
        if !self.writable() {
            return Err(Errno::EBADF);
        }
        if !self.ops.seekable() {
            return Err(Errno::ESPIPE);
        }
        let at = if self.flags() & O_APPEND != 0 { WriteAt::End } else { WriteAt::At(pos) };
        let written = self.ops.write(at, src)?;
        self.written();
        Ok(written.count)
    }

    /// What a change of content entails: watches are told.
    fn written(&self) {
        self.inode.state().notify(self.path.as_ref(), chitin_abi::inotify::IN_MODIFY);
    }

    /// What readlink of /proc/PID/fd/N shows where there is no path.
    pub fn anon_text(&self) -> Vec<u8> {
        self.inode.anon_text().unwrap_or_else(|| b"anon_inode:[unknown]".to_vec())
    }
}

/// A file position, locked.
pub struct Position<'a> {
    guard: parking_lot::MutexGuard<'a, u64>,
    before: u64,
    ops: &'a dyn FileOps,
}

impl Deref for Position<'_> {
    type Target = u64;
    fn deref(&self) -> &u64 {
        &self.guard
    }
}

impl DerefMut for Position<'_> {
    fn deref_mut(&mut self) -> &mut u64 {
        &mut self.guard
    }
}

impl Drop for Position<'_> {
    fn drop(&mut self) {
        if *self.guard != self.before {
            self.ops.position_moved(*self.guard);
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.inode.state().file_closed(self);
        crate::bounds::FILES.give(1);
    }
}
