//! `--strace`: one readable line per call, arguments decoded by the table.

use crate::args::Args;
use crate::table::Entry;
use chitin_abi::fcntl::*;
use chitin_abi::num::{low32, to_usize};
use chitin_kernel::result::{Restart, SysError};
use chitin_kernel::{Outcome, SyscallArgs, Task};
use std::fmt::Write;
use std::sync::Arc;

/// How an argument is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arg {
    Int,
    Hex,
    Size,
    Fd,
    DirFd,
    Ptr,
    /// A NUL-terminated string.
    Str,
    Path,
    /// A buffer the call reads (its length is the next argument) or fills.
    In,
    Out,
    OpenFlags,
    Mode,
    Sig,
}

/// Longest string shown.
const MAX_SHOWN: usize = 64;

/// Where lines go.
#[derive(Clone)]
pub struct Strace {
    write: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Strace {
    pub fn new(write: Arc<dyn Fn(&str) + Send + Sync>) -> Strace {
        Strace { write }
    }

    fn line(&self, task: &Task, text: &str) {
        let name = task.name();
        (self.write)(&format!("[{} {}] {text}", task.tid(), String::from_utf8_lossy(&name)));
    }

    pub(crate) fn unknown(&self, task: &Arc<Task>, call: SyscallArgs) -> Outcome {
        self.line(task, &format!("syscall_{}({:x?}) = -1 ENOSYS", call.nr, call.args));
        Outcome::error(chitin_abi::Errno::ENOSYS)
    }

    /// Runs a call and writes its line; one that waits gets a second line at its end.
    pub(crate) fn around(
        &self,
        task: &Arc<Task>,
        entry: &'static Entry,
        args: Args,
        call: impl FnOnce() -> Outcome,
    ) -> Outcome {
        let text = format!("{}({})", entry.name, show_args(task, entry, args));
        let outcome = call();
        match outcome {
            Outcome::Done(result) => {
                self.line(task, &format!("{text} = {}", show_result(&result, entry, task, args)));
                Outcome::Done(result)
            }
            Outcome::Block(future) => {
                self.line(task, &format!("{text} …"));
                let (task, strace) = (task.clone(), self.clone());
                Outcome::Block(Box::pin(async move {
                    let outcome = future.await;
                    if let Outcome::Done(result) = &outcome {
                        let shown = show_result(result, entry, &task, args);
                        strace.line(&task, &format!("… {} = {shown}", entry.name));
                    }
                    outcome
                }))
            }
            other => {
                self.line(task, &text);
                other
            }
        }
    }
}

/// A call that somebody hangs in: numbers only, since guest memory may be what hangs, and the files behind descriptors.
pub fn describe(task: &Task, call: SyscallArgs) -> String {
    let Some(entry) = crate::table::entries().find(|entry| entry.nr == call.nr) else {
        return format!("syscall_{}({:x?})", call.nr, call.args);
    };
    let mut text = String::new();
    let mut files = String::new();
    for (value, kind) in call.args.iter().zip(entry.args) {
        let number = low32(*value).cast_signed();
        let shown = match kind {
            Arg::Int => value.cast_signed().to_string(),
            Arg::Fd | Arg::DirFd | Arg::Sig => number.to_string(),
            _ => format!("{value:#x}"),
        };
        if *kind == Arg::Fd
            && let Some(name) = task.file_name(number)
        {
            let _ = write!(files, "; {number} is {}", quoted(&name));
        }
        text.push_str(if text.is_empty() { "" } else { ", " });
        text.push_str(&shown);
    }
    format!("{}({text}){files}", entry.name)
}

fn show_args(task: &Task, entry: &Entry, args: Args) -> String {
    let mut text = String::new();
    for (index, kind) in entry.args.iter().enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        show_arg(&mut text, task, *kind, args, index);
    }
    text
}

fn show_arg(text: &mut String, task: &Task, kind: Arg, args: Args, index: usize) {
    let value = args.u64(index);
    // Writing to a String cannot fail.
    let _ = match kind {
        Arg::Int => write!(text, "{}", value.cast_signed()),
        Arg::Hex | Arg::Ptr | Arg::Out if value == 0 => write!(text, "0"),
        Arg::Hex | Arg::Ptr | Arg::Out => write!(text, "{value:#x}"),
        Arg::Size => write!(text, "{value}"),
        Arg::Fd => write!(text, "{}", low32(value).cast_signed()),
        Arg::DirFd if low32(value).cast_signed() == AT_FDCWD => write!(text, "AT_FDCWD"),
        Arg::DirFd => write!(text, "{}", low32(value).cast_signed()),
        Arg::Str | Arg::Path => match task.mm().read_cstr(value, 4096) {
            Ok(Some(bytes)) => write!(text, "{}", quoted(&bytes)),
            _ => write!(text, "{value:#x}"),
        },
        Arg::In => {
            let len = usize::try_from(args.u64(index + 1)).unwrap_or(0).min(MAX_SHOWN + 1);
            match task.mm().read_vec(value, len) {
                Ok(bytes) => write!(text, "{}", quoted(&bytes)),
                Err(_) => write!(text, "{value:#x}"),
            }
        }
        Arg::OpenFlags => write!(text, "{}", open_flags(low32(value))),
        Arg::Mode => write!(text, "{:#o}", low32(value)),
        Arg::Sig => write!(text, "SIG{}", low32(value).cast_signed()),
    };
}

fn quoted(bytes: &[u8]) -> String {
    let shown = bytes.get(..bytes.len().min(MAX_SHOWN)).unwrap_or_default();
    let dots = if bytes.len() > MAX_SHOWN { "…" } else { "" };
    format!("\"{}\"{dots}", shown.escape_ascii())
}

fn open_flags(flags: u32) -> String {
    const NAMES: [(u32, &str); 13] = [
        (O_CREAT, "O_CREAT"),
        (O_EXCL, "O_EXCL"),
        (O_NOCTTY, "O_NOCTTY"),
        (O_TRUNC, "O_TRUNC"),
        (O_APPEND, "O_APPEND"),
        (O_NONBLOCK, "O_NONBLOCK"),
        (O_DIRECT, "O_DIRECT"),
        (O_TMPFILE & !O_DIRECTORY, "O_TMPFILE"),
        (O_DIRECTORY, "O_DIRECTORY"),
        (O_NOFOLLOW, "O_NOFOLLOW"),
        (O_NOATIME, "O_NOATIME"),
        (O_CLOEXEC, "O_CLOEXEC"),
        (O_PATH, "O_PATH"),
    ];
    let mut text = match flags & O_ACCMODE {
        O_RDONLY => "O_RDONLY".to_string(),
        O_WRONLY => "O_WRONLY".to_string(),
        _ => "O_RDWR".to_string(),
    };
    let mut rest = flags & !O_ACCMODE;
    for (bit, name) in NAMES {
        if rest & bit == bit {
            text.push('|');
            text.push_str(name);
            rest &= !bit;
        }
    }
    if rest != 0 {
        let _ = write!(text, "|{rest:#x}");
    }
    text
}

fn show_result(result: &chitin_kernel::SysResult, entry: &Entry, task: &Task, args: Args) -> String {
    match result {
        Ok(value) => {
            let mut text = if *value > 0xffff_ffff { format!("{value:#x}") } else { format!("{value}") };
            // What a read brought.
            if let Some(index) = entry.args.iter().position(|kind| *kind == Arg::Out)
                && *value > 0
                && let Ok(bytes) = task.mm().read_vec(args.u64(index), to_usize(*value).min(MAX_SHOWN + 1))
            {
                let _ = write!(text, " {}", quoted(&bytes));
            }
            text
        }
        Err(SysError::Errno(errno)) => format!("-1 {}", errno.name()),
        Err(SysError::Restart(Restart::Sys)) => "? ERESTARTSYS".into(),
        Err(SysError::Restart(Restart::NoIntr)) => "? ERESTARTNOINTR".into(),
        Err(SysError::Restart(Restart::NoHand)) => "? ERESTARTNOHAND".into(),
        Err(SysError::Restart(Restart::Block(_))) => "? ERESTART_RESTARTBLOCK".into(),
    }
}
