//! Descriptors 0, 1 and 2 of a process that the runtime starts: the host's own files and pipes, or a terminal; and
//! further ones that the runtime's caller wants it to have.
//!
//! Neighbours: `containers` and `exec` call it after the mounts: a terminal is one of the container's devpts, opened by
//! its name there, so that ttyname(3) finds it. Window sizes: the terminal of the first container is the sentry's
//! controlling one on the host, which sends SIGWINCH; every thread blocks it and one waits for it. For other terminals
//! the runtime passes on what happens ([`chitin_control::Request::Terminal`]).

use crate::boot::take;
use chitin_abi::Errno;
use chitin_abi::fcntl::{O_NOCTTY, O_RDWR};
use chitin_abi::stat::makedev;
use chitin_control::ProcessConfig;
use chitin_fs_dev::DevPts;
use chitin_kernel::hostfile::HostFile;
use chitin_kernel::tty::console::{self, ConsoleTty};
use chitin_kernel::tty::{self, Tty};
use chitin_kernel::{FdTable, Kernel, run};
use chitin_vfs::ops::{OpenHow, Opened};
use chitin_vfs::walk::Walk;
use chitin_vfs::{Context, File, SetAttr};
use nix::sys::signal::{SigSet, Signal};
use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What the descriptor numbers of a message or of the boot configuration stand for.
pub enum Descriptors {
    /// Numbers of this process, each to be taken once.
    Inherited,
    /// Indices of what came with a message.
    Sent(Vec<Option<OwnedFd>>),
}

impl Descriptors {
    pub fn sent(fds: Vec<OwnedFd>) -> Descriptors {
        Descriptors::Sent(fds.into_iter().map(Some).collect())
    }

    pub fn take(&mut self, number: i32, what: &str) -> Result<OwnedFd, String> {
        match self {
            Descriptors::Inherited => take(number, what),
            Descriptors::Sent(fds) => usize::try_from(number)
                .ok()
                .and_then(|index| fds.get_mut(index))
                .and_then(Option::take)
                .ok_or_else(|| format!("descriptor {number} ({what}) did not come with the message")),
        }
    }
}

/// The terminal of a process that has one: the host's behind its standard input.
pub fn console(
    kernel: &Arc<Kernel>,
    ctx: &Context,
    process: &ProcessConfig,
    fds: &mut Descriptors,
) -> Result<Option<Arc<Tty>>, String> {
    if !process.terminal {
        return Ok(None);
    }
    let fd = Arc::new(fds.take(process.stdio[0], "terminal")?);
    let cannot = |why: &dyn std::fmt::Display| format!("process.terminal: cannot use the terminal: {why}");
    let tty = match devpts(ctx) {
        Some(devpts) => {
            devpts.add_console(fd, process.uid, process.gid).map_err(|errno| cannot(&errno.message()))?
        }
        None => ConsoleTty::start(kernel, fd).map_err(|error| cannot(&error))?,
    };
    if let Some(size) = process.console_size {
        ConsoleTty::resize(&tty, winsize(size.rows, size.cols));
    }
    Ok(Some(tty))
}

/// What the container has on /dev/pts.
fn devpts(ctx: &Context) -> Option<Arc<DevPts>> {
    let found = ctx.walk(&ctx.root, b"/dev/pts", Walk::FOLLOW).ok()?;
    let fs: Arc<dyn Any + Send + Sync> = found.mount.fs().clone();
    fs.downcast::<DevPts>().ok()
}

/// The descriptor table of a process.
pub fn open(
    kernel: &Arc<Kernel>,
    ctx: &Context,
    process: &ProcessConfig,
    console: Option<&Arc<Tty>>,
    fds: &mut Descriptors,
) -> Result<Arc<FdTable>, String> {
    let table = FdTable::new();
    let mut taken: Vec<(i32, Arc<File>)> = Vec::new();
    for (number, host) in (0i32..).zip(&process.stdio) {
        let cannot = |errno: Errno| format!("standard stream {number}: {}", errno.message());
        let known = taken.iter().find(|(known, _)| known == host || console.is_some());
        let file = match (known.map(|(_, file)| file.clone()), console) {
            (Some(file), _) => file,
            (None, Some(tty)) => open_console(ctx, tty).map_err(cannot)?,
            (None, None) => {
                let fd = fds.take(*host, "standard stream")?;
                HostFile::open(&kernel.reactor, Arc::new(fd)).map_err(cannot)?
            }
        };
        if process.uid != 0 {
            // As runc does it: whoever runs may open /dev/stdout again.
            let owner = SetAttr { uid: Some(process.uid), ..SetAttr::default() };
            file.inode().set_attr(&owner).map_err(cannot)?;
        }
        taken.push((*host, file.clone()));
        table.set(number, file, false, 3).map_err(cannot)?;
    }
    for (number, host) in (3i32..).zip(&process.extra) {
        let cannot = |errno: Errno| format!("further descriptor {number}: {}", errno.message());
        let fd = fds.take(*host, "further descriptor")?;
        let file = HostFile::open(&kernel.reactor, Arc::new(fd)).map_err(cannot)?;
        table.set(number, file, false, u64::from(number.unsigned_abs()).saturating_add(1)).map_err(cannot)?;
    }
    Ok(table)
}

/// By its name, where it has one; a file without a name otherwise (a /dev of another kind).
fn open_console(ctx: &Context, tty: &Arc<Tty>) -> Result<Arc<File>, Errno> {
    let how = OpenHow { flags: O_RDWR | O_NOCTTY, perm: 0, walk: Walk::FOLLOW };
    let ours = |file: &File| tty::of_file(file).is_some_and(|found| Arc::ptr_eq(&found, tty));
    if tty.is_pty() {
        let name = format!("/dev/{}", tty.name());
        if let Ok(Opened::File(file)) = ctx.open(&ctx.root, name.as_bytes(), &how)
            && ours(&file)
        {
            return Ok(file);
        }
    }
    match ctx.open(&ctx.root, b"/dev/console", &how) {
        Ok(Opened::File(file)) if file.inode().attr()?.rdev == makedev(5, 1) && ours(&file) => Ok(file),
        _ => console::open_file(tty),
    }
}

/// Passes the sizes of the sentry's own terminal on the host on.
pub fn follow_size(console: &Arc<Tty>) -> Result<(), String> {
    let console = Arc::downgrade(console);
    let follow = move || {
        while SigSet::from(Signal::SIGWINCH).wait().is_ok() {
            let Some(console) = console.upgrade() else { return };
            ConsoleTty::refresh(&console);
            run::drain();
        }
    };
    std::thread::Builder::new()
        .name("winsize".into())
        .stack_size(128 << 10)
        .spawn(follow)
        .map(|_| ())
        .map_err(|error| {
            format!("cannot start the window size thread: {error}; raise the limit on processes")
        })
}

/// A terminal's size in characters.
pub fn winsize(rows: u16, cols: u16) -> chitin_abi::termios::Winsize {
    chitin_abi::termios::Winsize { ws_row: rows, ws_col: cols, ..Default::default() }
}
