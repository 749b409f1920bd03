//! The bytes that a call reads or writes, through the window with its request instead of by a copy of the host's.
//!
//! The thread puts what its call reads into its window before it makes the request, and takes what the call has written from
//! there when it has the answer (`trampoline`). Meanwhile the call finds or leaves these bytes here, whenever it copies them
//! from or to where the guest has them ([`read`], [`write`]).
//!
//! Neighbours: `fast` opens a parcel with a request and hands it over with the answer; `mapping` looks here before it copies;
//! `control` closes one whose call is left waiting, or goes on in another way.
//!
//! Invariants: a parcel belongs to the worker that took the request, for as long as that handles the call; what has been
//! written to it is in the guest's memory before anybody else can go on with the call. What the guest says of it is checked
//! here only against the window: it lies about its own memory.

use crate::space::Space;
use crate::stub::ctl;
use crate::task::Task;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

/// Where it lies in the control page: where the host's calls are listed while a thread makes such, which has no request then.
pub const DATA: usize = ctl::CALLS;
/// Bytes.
pub const MOST: usize = ctl::MAX_CALLS * ctl::CALL_SIZE;
/// Parts of a vector that go by it, at most; each is a `struct iovec` of so many bytes.
pub const PARTS: usize = 8;
const PART: usize = 16;
/// Of a path it has what is in the page of its beginning, and not more than this.
pub const PATH: usize = 256;
/// A `struct stat`, and a `struct statx`.
pub const STAT: usize = 144;
pub const STATX: usize = 256;

/// What is in a call's parcel: a number that the trampoline knows, too. 0: it has none.
pub mod kind {
    /// Read by the call: `rdx` bytes at `rsi`.
    pub const BYTES: u8 = 1;
    /// Read: one `struct epoll_event` at `r10`.
    pub const EVENT: u8 = 2;
    /// Read: a path at `rdi`, or at `rsi`.
    pub const PATH: u8 = 3;
    pub const PATH_AT: u8 = 4;
    /// Read: `rdx` parts, listed at `rsi`.
    pub const VECTOR: u8 = 5;
    /// Read: a path at `rdi`, or at `rsi`; written: a `struct stat` at `rsi`, or at `rdx`, which takes the path's place.
    pub const STAT_PATH: u8 = 6;
    pub const STAT_AT: u8 = 7;
    /// As before, a `struct statx` at `r8`.
    pub const STATX: u8 = 8;
    /// Written: up to `rdx` bytes at `rsi`. All that is written is there.
    pub const BUFFER: u8 = 9;
    /// Written: up to `rdx` events.
    pub const EVENTS: u8 = 10;
    /// Written: a `struct stat`.
    pub const STAT: u8 = 11;
}

/// The kind of a call's parcel.
pub fn kind_of(nr: u16) -> u8 {
    match i64::from(nr) {
        libc::SYS_write | libc::SYS_sendto | libc::SYS_pwrite64 => kind::BYTES,
        libc::SYS_epoll_ctl => kind::EVENT,
        libc::SYS_open | libc::SYS_access => kind::PATH,
        libc::SYS_openat | libc::SYS_faccessat | libc::SYS_faccessat2 => kind::PATH_AT,
        libc::SYS_stat | libc::SYS_lstat => kind::STAT_PATH,
        libc::SYS_newfstatat => kind::STAT_AT,
        libc::SYS_statx => kind::STATX,
        libc::SYS_writev => kind::VECTOR,
        libc::SYS_read | libc::SYS_recvfrom | libc::SYS_pread64 | libc::SYS_getdents64 => kind::BUFFER,
        libc::SYS_epoll_wait => kind::EVENTS,
        libc::SYS_fstat => kind::STAT,
        _ => 0,
    }
}

/// Where what is written is to go.
pub fn target(nr: u16, args: &[u64; 6]) -> u64 {
    match kind_of(nr) {
        kind::STAT_AT => args[2],
        kind::STATX => args[4],
        _ => args[1],
    }
}

struct Parcel {
    task: Arc<Task>,
    /// Where the guest has what the call reads, or wants what it writes.
    input: Range<u64>,
    output: Range<u64>,
    /// The input is text, up to its end or the window's.
    text: bool,
    /// Parts listed at the input's beginning; what is in them follows it.
    parts: usize,
    /// Bytes to be read.
    len: usize,
    /// Bytes written so far.
    written: usize,
}

thread_local! {
    /// That of the call which this worker handles.
    static PARCEL: RefCell<Option<Parcel>> = const { RefCell::new(None) };
    /// Whose the one before was, as it is likely to be the next one's, and counting costs more than all the rest here.
    static LAST: RefCell<Option<Arc<Task>>> = const { RefCell::new(None) };
}

/// This worker takes no more requests for now.
pub fn forget() {
    LAST.take();
}

/// A request has been taken. `wrote`: what its call will write, by experience.
pub fn open(task: &Arc<Task>, nr: u16, args: &[u64; 6], wrote: usize) {
    let len = task.mailbox.parcel_len().min(MOST);
    let kind = kind_of(nr);
    if len == 0 || kind == 0 {
        return;
    }
    let parts = if kind == kind::VECTOR { usize::try_from(args[2]).unwrap_or(usize::MAX) } else { 0 };
    if parts > PARTS || parts * PART > len {
        return;
    }
    if kind < kind::BUFFER {
        task.mailbox.fetch_data(len);
    } else {
        task.mailbox.claim_data(wrote.min(len));
    }
    let at = match kind {
        kind::EVENT => args[3],
        kind::PATH | kind::STAT_PATH => args[0],
        _ => args[1],
    };
    let own = if parts > 0 { parts * PART } else { len };
    let range = |at: u64, len: usize| at..at.saturating_add(len as u64);
    let (input, output) = match kind {
        kind::STAT_PATH | kind::STAT_AT => (range(at, own), range(target(nr, args), STAT)),
        kind::STATX => (range(at, own), range(target(nr, args), STATX)),
        ..kind::BUFFER => (range(at, own), 0..0),
        _ => (0..0, range(at, own)),
    };
    let text = matches!(kind, kind::PATH | kind::PATH_AT | kind::STAT_PATH..=kind::STATX);
    let last = LAST.take().filter(|last| Arc::ptr_eq(last, task));
    let task = last.unwrap_or_else(|| task.clone());
    PARCEL.set(Some(Parcel { task, input, output, text, parts, len, written: 0 }));
}

/// The call of this task is answered, or left: what this worker's parcel has for its guest.
pub fn close(task: &Task) -> Written {
    PARCEL
        .with_borrow_mut(|slot| Written(slot.take_if(|parcel| std::ptr::eq(Arc::as_ptr(&parcel.task), task))))
}

/// What a call has written to its parcel.
#[must_use]
pub struct Written(Option<Parcel>);

impl Written {
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |parcel| parcel.written)
    }

    /// Puts it where the guest wants it.
    pub fn deliver(self) -> Result<(), i32> {
        match &self.0 {
            Some(Parcel { task, output, written, .. }) if *written > 0 => {
                deliver(task, output.start, *written)
            }
            _ => Ok(()),
        }
    }

    /// As [`Written::deliver`]: what the call that would answer `v` answers then.
    pub fn answer(self, v: i64) -> i64 {
        self.deliver().map_or_else(|errno| -i64::from(errno), |()| v)
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        if let Some(parcel) = self.0.take() {
            LAST.set(Some(parcel.task));
        }
    }
}

impl Parcel {
    fn is_of(&self, space: &Space) -> bool {
        std::ptr::eq(Arc::as_ptr(&self.task.proc.space), space)
    }

    /// Where in the window these bytes of the guest's are.
    fn find(&self, range: &Range<u64>) -> Option<usize> {
        if holds(&self.input, range) {
            return Some((range.start - self.input.start) as usize);
        }
        let mut off = self.parts * PART;
        for part in 0..self.parts {
            // The guest may change it at any time; it is looked at once, and is nothing but a place in the window.
            let (base, len) = self.part(part);
            let left = self.len.saturating_sub(off);
            let len = usize::try_from(len).ok().filter(|len| *len <= left)?;
            if holds(&(base..base.saturating_add(len as u64)), range) {
                return Some(off + (range.start - base) as usize);
            }
            off += len;
        }
        None
    }

    /// Address and length of a part.
    fn part(&self, part: usize) -> (u64, u64) {
        let word = |off| {
            let mut word = [0; 8];
            self.task.mailbox.get_data(part * PART + off, &mut word);
            u64::from_le_bytes(word)
        };
        (word(0), word(8))
    }
}

/// Copies the first bytes of a thread's parcel to its memory.
pub fn deliver(task: &Task, at: u64, len: usize) -> Result<(), i32> {
    let mut bytes = vec![0; len.min(MOST)];
    task.mailbox.get_data(0, &mut bytes);
    task.proc.space.mem.write_at(at, &bytes).map_err(|_| libc::EFAULT)
}

fn holds(outer: &Range<u64>, inner: &Range<u64>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

fn meets(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// Whether the guest's bytes were to be had without a copy of the host's.
pub fn read(space: &Space, addr: u64, buf: &mut [u8]) -> bool {
    PARCEL.with_borrow_mut(|slot| {
        let Some(parcel) = slot.as_mut().filter(|parcel| parcel.is_of(space)) else { return false };
        let range = addr..addr.saturating_add(buf.len() as u64);
        if let Some(off) = parcel.find(&range) {
            parcel.task.mailbox.get_data(off, buf);
            return true;
        }
        if meets(&parcel.output, &range) {
            give_up(slot);
        }
        false
    })
}

/// As [`read`] of a string, of which no more need be there than the text: how much was to be had.
pub fn read_text(space: &Space, addr: u64, buf: &mut [u8]) -> Option<usize> {
    PARCEL.with_borrow_mut(|slot| {
        let parcel = slot.as_mut().filter(|parcel| parcel.is_of(space))?;
        let starts = parcel.text && parcel.input.start == addr && !parcel.input.is_empty();
        let text = buf.get_mut(..parcel.len).filter(|_| starts)?;
        parcel.task.mailbox.get_data(0, text);
        Some(text.len())
    })
}

/// As [`read`], of several ranges one after the other.
pub fn read_vectored(space: &Space, ranges: &[(u64, usize)], buf: &mut [u8]) -> bool {
    let mut rest = buf;
    for (addr, len) in ranges {
        let Some((part, left)) = rest.split_at_mut_checked(*len) else { return false };
        if !read(space, *addr, part) {
            return false;
        }
        rest = left;
    }
    true
}

/// Whether the guest will find these bytes without a copy of the host's. What does not follow what is there already is refused.
pub fn write(space: &Space, addr: u64, data: &[u8]) -> bool {
    PARCEL.with_borrow_mut(|slot| {
        let Some(parcel) = slot.as_mut().filter(|parcel| parcel.is_of(space)) else { return false };
        let range = addr..addr.saturating_add(data.len() as u64);
        let next = parcel.output.start.saturating_add(parcel.written as u64);
        if holds(&parcel.output, &range) && addr == next {
            parcel.input = 0..0;
            parcel.task.mailbox.put_data(parcel.written, data);
            parcel.written += data.len();
            return true;
        }
        if meets(&parcel.output, &range) || meets(&parcel.input, &range) || parcel.parts > 0 {
            give_up(slot);
        }
        false
    })
}

/// The call copies in a way that has nothing to do with its parcel.
pub fn leave(space: &Space) {
    PARCEL.with_borrow_mut(|slot| {
        if slot.as_ref().is_some_and(|parcel| parcel.is_of(space)) {
            give_up(slot);
        }
    });
}

/// What cannot be had in order is had without a parcel.
fn give_up(slot: &mut Option<Parcel>) {
    let _taken_away = Written(slot.take()).deliver();
}
