//! What a process's memory holds: cmdline, environ, auxv, mem.

use super::Subject;
use super::stat::memory as mm_of;
use chitin_abi::Errno;
use chitin_mm::{Mm, Sink, Source};
use chitin_vfs::{Caller, FileOps, WriteAt, Written};
use std::ops::Range;
use std::sync::{Arc, Weak};

/// The most that cmdline and environ show; execve takes less (6 MiB).
const STRINGS_MAX: u64 = 8 << 20;
const CHUNK: usize = 64 << 10;

/// Reads a range as far as it can be read.
fn read(mm: &Arc<Mm>, range: Range<u64>, out: &mut Vec<u8>) {
    let len = range.end.saturating_sub(range.start).min(STRINGS_MAX);
    let mut left = usize::try_from(len).unwrap_or(0);
    let mut at = range.start;
    while left > 0 {
        let before = out.len();
        let step = left.min(CHUNK);
        out.resize(before.saturating_add(step), 0);
        let Some(part) = out.get_mut(before..) else { return };
        if let Err(fault) = mm.space().read(at, part) {
            out.truncate(before.saturating_add(fault.done.min(step)));
            return;
        }
        at = at.saturating_add(step as u64);
        left -= step;
    }
}

/// cmdline (get_mm_cmdline()).
pub(super) fn cmdline(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Result<(), Errno> {
    let Some(mm) = mm_of(subject) else { return Ok(()) };
    let layout = mm.layout();
    if layout.arg.start >= layout.arg.end {
        return Ok(());
    }
    let mut last = [0];
    let ends = mm.read_bytes(layout.arg.end - 1, &mut last).is_ok() && last == [0];
    if ends {
        read(&mm, layout.arg, out);
        return Ok(());
    }
    // setproctitle(3) wrote over the arguments and maybe the environment behind them: one string.
    let title_end = if layout.env.start == layout.arg.end { layout.env.end } else { layout.arg.end };
    let end = title_end.min(layout.arg.start.saturating_add(4096)).max(layout.arg.start);
    read(&mm, layout.arg.start..end, out);
    if let Some(nul) = out.iter().position(|&byte| byte == 0) {
        out.truncate(nul.saturating_add(1));
    }
    Ok(())
}

pub(super) fn environ(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Result<(), Errno> {
    let Some(mm) = mm_of(subject) else { return Ok(()) };
    read(&mm, mm.layout().env, out);
    Ok(())
}

pub(super) fn auxv(subject: &Subject, _opener: &Caller, out: &mut Vec<u8>) -> Result<(), Errno> {
    let Some(mm) = mm_of(subject) else { return Ok(()) };
    out.extend_from_slice(&mm.layout().auxv);
    Ok(())
}

/// mem: positions are addresses. As on Linux the memory is that of the moment of the open, also after an execve.
struct MemFile {
    mm: Weak<Mm>,
}

pub(super) fn open(subject: &Subject) -> Result<Arc<dyn FileOps>, Errno> {
    let mm = mm_of(subject).map_or_else(Weak::new, |mm| Arc::downgrade(&mm));
    Ok(Arc::new(MemFile { mm }))
}

impl FileOps for MemFile {
    fn read(&self, pos: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        let Some(mm) = self.mm.upgrade() else { return Ok(0) };
        let mut buffer = vec![0; CHUNK.min(dst.room())];
        let mut total = 0usize;
        loop {
            let step = buffer.len().min(dst.room());
            let Some(part) = buffer.get_mut(..step).filter(|part| !part.is_empty()) else { break };
            let at = pos.checked_add(total as u64).ok_or(Errno::EIO)?;
            let readable = match mm.space().read(at, part) {
                Ok(()) => step,
                Err(fault) => fault.done.min(step),
            };
            if readable == 0 {
                if total == 0 {
                    return Err(Errno::EIO);
                }
                break;
            }
            let taken = match dst.put(part.get(..readable).unwrap_or_default()) {
                Ok(taken) => taken,
                Err(_) if total > 0 => break,
                Err(error) => return Err(error),
            };
            total = total.saturating_add(taken);
            if taken < step {
                break;
            }
        }
        Ok(total)
    }

    fn write(&self, at: WriteAt, src: &mut dyn Source) -> Result<Written, Errno> {
        let start = if let WriteAt::At(pos) = at { pos } else { 0 };
        let Some(mm) = self.mm.upgrade() else { return Ok(Written { count: 0, end: start }) };
        let mut buffer = vec![0; CHUNK.min(src.left())];
        let mut total = 0usize;
        while !buffer.is_empty() {
            let taken = match src.take(&mut buffer) {
                Ok(0) => break,
                Ok(taken) => taken,
                Err(_) if total > 0 => break,
                Err(error) => return Err(error),
            };
            let at = start.checked_add(total as u64).ok_or(Errno::EIO)?;
            let written = match mm.space().write(at, buffer.get(..taken).unwrap_or_default()) {
                Ok(()) => taken,
                Err(fault) => fault.done.min(taken),
            };
            total = total.saturating_add(written);
            if written < taken {
                src.untake(taken - written);
                break;
            }
        }
        if total == 0 && src.left() > 0 {
            return Err(Errno::EIO);
        }
        Ok(Written { count: total, end: start.saturating_add(total as u64) })
    }

    fn seekable(&self) -> bool {
        true
    }
}
