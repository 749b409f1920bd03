//! Descriptors 0, 1 and 2 of the first process: the host's own files and pipes, or the console.
//!
//! Neighbours: `boot` calls it, the console before the mounts (its driver serves /dev/console), the descriptors after
//! them (a console is opened by that name, so that ttyname(3) finds it). Window sizes: the host's terminal is the
//! sentry's controlling one, so it sends SIGWINCH, which every thread blocks and one waits for.

use crate::boot::take;
use chitin_abi::Errno;
use chitin_abi::fcntl::{O_NOCTTY, O_RDWR};
use chitin_abi::stat::makedev;
use chitin_control::{ContainerConfig, ProcessConfig};
use chitin_kernel::hostfile::HostFile;
use chitin_kernel::tty::Tty;
use chitin_kernel::tty::console::{self, ConsoleTty};
use chitin_kernel::{FdTable, Kernel, run};
use chitin_vfs::ops::{OpenHow, Opened};
use chitin_vfs::walk::Walk;
use chitin_vfs::{Context, File, SetAttr};
use nix::sys::signal::{SigSet, Signal};
use std::sync::Arc;

/// The terminal of a process that has one: the host's behind its standard input.
pub fn console(kernel: &Arc<Kernel>, container: &ContainerConfig) -> Result<Option<Arc<Tty>>, String> {
    let process = &container.process;
    if !process.terminal {
        return Ok(None);
    }
    let fd = take(process.stdio[0], "terminal")?;
    let tty = ConsoleTty::start(kernel, Arc::new(fd))
        .map_err(|error| format!("process.terminal: cannot use the terminal: {error}"))?;
    if let Some(size) = process.console_size {
        tty.set_winsize(winsize(size.rows, size.cols));
    }
    follow_size(&tty)?;
    Ok(Some(tty))
}

/// The descriptor table of the first process.
pub fn open(
    kernel: &Arc<Kernel>,
    ctx: &Context,
    process: &ProcessConfig,
    console: Option<&Arc<Tty>>,
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
                let fd = take(*host, "standard stream")?;
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
    Ok(table)
}

/// /dev/console where it is the console's; a file without a name otherwise (a root of its own kind of /dev).
fn open_console(ctx: &Context, tty: &Arc<Tty>) -> Result<Arc<File>, Errno> {
    let how = OpenHow { flags: O_RDWR | O_NOCTTY, perm: 0, walk: Walk::FOLLOW };
    match ctx.open(&ctx.root, b"/dev/console", &how) {
        Ok(Opened::File(file)) if file.inode().attr()?.rdev == makedev(5, 1) => Ok(file),
        _ => console::open_file(tty),
    }
}

/// Passes the sizes of the host's terminal on.
fn follow_size(console: &Arc<Tty>) -> Result<(), String> {
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
