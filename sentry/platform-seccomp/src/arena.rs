//! The arena: one memfd that holds every thread's window, mapped whole by the sentry and in chunks by the stubs.
//!
//! Neighbours: `space` hands windows out to threads, `frame` reads signal frames through them.
//!
//! Invariants: a window is written by a hostile guest at any time, so it is only touched with volatile word copies at
//! checked offsets, and what is read from it is data, never a promise. A chunk goes back to the free list only when the
//! host has confirmed that no thread of its address space is left.

use crate::parcel;
use crate::stub::{CHUNK_WINDOWS, ctl};
use crate::sys;
use crate::trampoline::{LOOKS, MOST_LOOKS, answer_to, ctl as mail, how, how_of, number_of};
use parking_lot::Mutex;
use std::arch::x86_64::_MM_HINT_T0;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Chunks a sandbox can have: as many address spaces.
const MAX_CHUNKS: u64 = 1 << 16;

pub struct Arena {
    fd: OwnedFd,
    base: usize,
    window: u64,
    free: Mutex<Free>,
}

struct Free {
    list: Vec<u32>,
    next: u32,
}

impl Arena {
    pub fn new() -> Result<Arc<Arena>, i32> {
        // AT_MINSIGSTKSZ: the signal frame with the whole XSAVE area. The handler itself needs almost nothing.
        let frame = match sys::auxval(51) {
            0 => 12 << 10,
            n => n.min(1 << 20),
        };
        let window = (ctl::PAGE as u64 + frame + 1024).next_power_of_two().max(16 << 10);
        let len = MAX_CHUNKS * CHUNK_WINDOWS * window;
        let fd = sys::memfd(c"chitin-windows", false)?;
        sys::truncate(fd.as_fd(), len)?;
        // SAFETY: a new shared mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(sys::errno());
        }
        let free = Mutex::new(Free { list: Vec::new(), next: 0 });
        Ok(Arc::new(Arena { fd, base: base as usize, window, free }))
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub fn window_size(&self) -> u64 {
        self.window
    }

    pub fn chunk_len(&self) -> u64 {
        self.window * CHUNK_WINDOWS
    }

    pub fn alloc(self: &Arc<Self>) -> Option<Chunk> {
        let mut f = self.free.lock();
        let index = match f.list.pop() {
            Some(i) => i,
            None if u64::from(f.next) < MAX_CHUNKS => {
                f.next += 1;
                f.next - 1
            }
            None => return None,
        };
        Some(Chunk { arena: self.clone(), index, dirty: 0 })
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let len = (MAX_CHUNKS * self.chunk_len()) as usize;
        // SAFETY: unmaps what `new` mapped; chunks and windows hold the arena alive.
        unsafe { libc::munmap(self.base as *mut _, len) };
    }
}

/// Eight windows that one address space maps together. Wiped when it is dropped.
pub struct Chunk {
    arena: Arc<Arena>,
    index: u32,
    dirty: u8,
}

impl Chunk {
    /// Offset in the arena's file.
    pub fn offset(&self) -> u64 {
        u64::from(self.index) * self.arena.chunk_len()
    }

    /// The `i`th window of the chunk, which the stub sees at `vaddr`.
    pub fn window(&mut self, i: u64, vaddr: u64) -> Window {
        debug_assert!(i < CHUNK_WINDOWS);
        self.dirty |= 1 << i;
        let size = self.arena.window;
        let at = self.arena.base + (self.offset() + i * size) as usize;
        Window { at, size: size as usize, vaddr, _arena: self.arena.clone() }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if self.dirty.count_ones() > 1 {
            let _ = sys::punch_hole(self.arena.fd(), self.offset(), self.arena.chunk_len());
        } else if self.dirty != 0 {
            let w = self.window(u64::from(self.dirty.trailing_zeros()), 0);
            w.wipe();
        }
        self.arena.free.lock().list.push(self.index);
    }
}

/// A thread's window: the control page, then the alternate signal stack.
pub struct Window {
    at: usize,
    size: usize,
    /// Where the stub sees it.
    pub vaddr: u64,
    _arena: Arc<Arena>,
}

impl Window {
    pub fn size(&self) -> usize {
        self.size
    }

    fn word(&self, off: usize) -> *mut u64 {
        // A guest cannot choose an offset that fails: `frame` checks what it reads from a window.
        assert!(off.is_multiple_of(8) && off <= self.size.saturating_sub(8));
        (self.at + off) as *mut u64
    }

    pub fn get(&self, off: usize) -> u64 {
        // SAFETY: `word` checks that the aligned word lies in the mapped window.
        unsafe { self.word(off).read_volatile() }
    }

    pub fn put(&self, off: usize, v: u64) {
        // SAFETY: as in `get`.
        unsafe { self.word(off).write_volatile(v) }
    }

    /// The part of the control page by which calls come that make no notification.
    pub fn mailbox(&self) -> Mailbox {
        Mailbox { at: self.at, arena: self._arena.clone() }
    }

    /// Appends `len` bytes from `off`, a multiple of eight.
    pub fn copy_out(&self, off: usize, len: usize, out: &mut Vec<u8>) {
        let end = out.len() + len;
        out.reserve(len + 8);
        for o in (off..off + len).step_by(8) {
            out.extend_from_slice(&self.get(o).to_le_bytes());
        }
        out.truncate(end);
    }

    /// Writes whole words at `off`, a multiple of eight; a shorter tail is padded with zeroes.
    pub fn copy_in(&self, off: usize, data: &[u8]) {
        for (i, c) in data.chunks(8).enumerate() {
            let mut w = [0u8; 8];
            for (to, from) in w.iter_mut().zip(c) {
                *to = *from;
            }
            self.put(off + i * 8, u64::from_le_bytes(w));
        }
    }

    /// Copies everything from `off` up to the top from another window.
    pub fn copy_from(&self, from: &Window, off: usize) {
        for o in (off..self.size).step_by(8) {
            self.put(o, from.get(o));
        }
    }

    /// Removes what a thread left behind.
    pub fn wipe(&self) {
        for o in (0..self.size).step_by(8) {
            if self.get(o) != 0 {
                self.put(o, 0);
            }
        }
    }
}

/// Copies bytes that a guest may change meanwhile, or look at.
///
/// # Safety
///
/// `len` bytes at `to` must be writable, and at `from` readable.
unsafe fn copy_shared(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: as above. To the compiler the instruction is a call that it knows nothing of, so bytes that change are no race.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rdi") to => _,
            inout("rsi") from => _,
            options(nostack, preserves_flags)
        );
    }
}

/// Requests of a thread ([`crate::trampoline`]). It may outlive its window's thread, and see the next one's requests.
pub struct Mailbox {
    at: usize,
    #[allow(dead_code, reason = "keeps the mapping")]
    arena: Arc<Arena>,
}

/// Bytes of a cache line; and how much is taken from the other CPU's cache ahead of its use, as much as is under way at once.
const LINE: usize = 64;
const AHEAD: usize = 16 * LINE;

impl Mailbox {
    fn word(&self, off: usize) -> &AtomicU64 {
        debug_assert!(off.is_multiple_of(8) && off < ctl::PAGE);
        // SAFETY: an aligned word of the mapped control page, which all that share it change as a whole.
        unsafe { AtomicU64::from_ptr((self.at + off) as *mut u64) }
    }

    /// The last request: its site and number.
    pub fn request(&self) -> u64 {
        self.word(mail::REQUEST).load(Ordering::Acquire)
    }

    fn answer(&self) -> u64 {
        self.word(mail::ANSWER).load(Ordering::Acquire)
    }

    /// The last request, if it stands.
    pub fn standing(&self) -> Option<u64> {
        let request = self.request();
        (number_of(request) != number_of(self.answer())).then_some(request)
    }

    /// How it went with the last request, if it does not stand.
    pub fn how(&self) -> Option<u64> {
        let answer = self.answer();
        (number_of(answer) == number_of(self.request())).then(|| how_of(answer))
    }

    /// Says how it went with a request, unless it does not stand any more.
    pub fn settle(&self, request: u64, how: u64) -> bool {
        let before = self.answer();
        let after = answer_to(request, how);
        number_of(before) != number_of(request)
            && self
                .word(mail::ANSWER)
                .compare_exchange(before, after, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    pub fn args(&self) -> [u64; 6] {
        std::array::from_fn(|i| self.word(mail::ARGS + i * 8).load(Ordering::Relaxed))
    }

    /// `rdi`, `rsi` and `rdx` of a thread that packs.
    pub fn saved(&self) -> [u64; 3] {
        std::array::from_fn(|i| self.word(mail::SAVED + i * 8).load(Ordering::Relaxed))
    }

    /// How much the thread has put into its parcel, or has room for.
    pub fn parcel_len(&self) -> usize {
        self.word(mail::PARCEL).load(Ordering::Relaxed) as u32 as usize
    }

    /// What the thread has to take from its parcel when it has the answer.
    pub fn written(&self) -> usize {
        self.word(mail::WRITTEN).load(Ordering::Relaxed) as u32 as usize
    }

    pub fn set_written(&self, len: usize) {
        self.word(mail::WRITTEN).store(len as u64, Ordering::Relaxed);
    }

    /// Says that the request is answered, and wakes the thread if it sleeps; unless the request has been taken back.
    pub fn answered(&self, request: u64) -> bool {
        if self.settle(request, how::ANSWERED) {
            return true;
        }
        let (asleep, awake) = (answer_to(request, how::SLEEP), answer_to(request, how::ANSWERED));
        let word = self.word(mail::ANSWER);
        let slept = word.compare_exchange(asleep, awake, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if slept {
            sys::futex_wake(word);
        }
        slept
    }

    /// The parcel's first `len` bytes will be read soon.
    pub fn fetch_data(&self, len: usize) {
        for off in (0..len.min(AHEAD)).step_by(LINE) {
            let at = (self.at + parcel::DATA + off) as *const i8;
            // SAFETY: the instruction has no effect but on time.
            unsafe { std::arch::x86_64::_mm_prefetch::<_MM_HINT_T0>(at) }
        }
    }

    /// The parcel's first `len` bytes will be written soon.
    pub fn claim_data(&self, len: usize) {
        for off in (0..len.min(AHEAD)).step_by(LINE) {
            let at = self.at + parcel::DATA + off;
            // SAFETY: as in `fetch_data`; a CPU that does not know it does nothing.
            unsafe { std::arch::asm!("prefetchw [{at}]", at = in(reg) at, options(nostack, preserves_flags)) }
        }
    }

    /// Copies from the parcel; what is not in it is not there.
    pub fn get_data(&self, off: usize, buf: &mut [u8]) {
        let len = buf.len().min(parcel::MOST.saturating_sub(off));
        // SAFETY: the parcel lies in the mapped control page, and `len` bytes from `off` in the parcel.
        unsafe { copy_shared(buf.as_mut_ptr(), (self.at + parcel::DATA + off) as *const u8, len) }
    }

    /// Copies to the parcel at `off`, as far as there is room.
    pub fn put_data(&self, off: usize, data: &[u8]) {
        let len = data.len().min(parcel::MOST.saturating_sub(off));
        // SAFETY: as in `get_data`.
        unsafe { copy_shared((self.at + parcel::DATA + off) as *mut u8, data.as_ptr(), len) }
    }

    pub fn result(&self) -> u64 {
        self.word(mail::RESULT).load(Ordering::Relaxed)
    }

    pub fn set_result(&self, v: u64) {
        self.word(mail::RESULT).store(v, Ordering::Relaxed);
    }

    /// Says that somebody polls, or nobody any more.
    pub fn set_on(&self, on: bool) {
        self.word(mail::ON).store(if on { LOOKS } else { 0 }, Ordering::SeqCst);
    }

    /// The thread looked for an answer in vain, and is to look longer as long as somebody polls.
    pub fn look_longer(&self) {
        let word = self.word(mail::ON);
        let looks = word.load(Ordering::Relaxed);
        if (1..MOST_LOOKS).contains(&looks) {
            let longer = (looks * 2).min(MOST_LOOKS);
            let _off = word.compare_exchange(looks, longer, Ordering::SeqCst, Ordering::Relaxed);
        }
    }

    pub fn is_on(&self) -> bool {
        self.word(mail::ON).load(Ordering::Relaxed) != 0
    }

    /// For a new thread.
    pub fn clear(&self) {
        self.word(mail::ON).store(0, Ordering::Relaxed);
        self.word(mail::REQUEST).store(0, Ordering::Relaxed);
        self.word(mail::ANSWER).store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_looks_longer_as_long_as_somebody_polls() {
        let arena = Arena::new().unwrap();
        let mut chunk = arena.alloc().unwrap();
        let mailbox = chunk.window(0, 0).mailbox();
        let looks = || mailbox.word(mail::ON).load(Ordering::Relaxed);
        mailbox.look_longer();
        assert!(!mailbox.is_on());
        mailbox.set_on(true);
        assert_eq!(looks(), LOOKS);
        (0..9).for_each(|_| mailbox.look_longer());
        assert_eq!(looks(), MOST_LOOKS);
        // What a guest makes of it is its own affair.
        mailbox.word(mail::ON).store(u64::MAX, Ordering::Relaxed);
        mailbox.look_longer();
        mailbox.set_on(false);
        assert_eq!(looks(), 0);
    }
}
