//! A guest address space: which host processes share it, and where its threads' windows are.
//!
//! Neighbours: `mapping` implements [`chitin_platform::AddressSpace`] for it; `spawn` makes new ones; `reaper` tells it of
//! deaths.
//!
//! Locks: `windows` is a leaf. `clone_lock` is held across awaits: one clone at a time per address space, which is what makes
//! the token that a child presents conclusive.

use crate::arena::{Chunk, Window};
use crate::line::{Counted, Line};
use crate::sandbox::Sandbox;
use crate::sites::Sites;
use crate::stub::{CHUNK_WINDOWS, PRIVATE_FD, PRIVATE_FDS, WIN_BASE};
use chitin_platform::AsyncLock;
use chitin_platform_host::calls::forbidden;
use chitin_platform_host::memory::Memory;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

pub struct Space {
    pub(crate) sb: Arc<Sandbox>,
    pub(crate) line: Arc<Line>,
    /// The program that it was made for, or whose fork it is.
    pub(crate) program: OnceLock<Arc<Counted>>,
    pub(crate) mem: Memory,
    pub(crate) sites: Sites,
    windows: Mutex<Windows>,
    pub(crate) clone_lock: Arc<AsyncLock>,
    private_fds: AtomicU32,
}

#[derive(Default)]
struct Windows {
    chunks: Vec<Option<Mapped>>,
}

struct Mapped {
    chunk: Chunk,
    used: u8,
    /// Whether the stub has it mapped yet.
    mapped: bool,
}

/// A window of a new thread.
pub struct NewWindow {
    pub window: Window,
    pub index: u64,
    /// The mapping that the stub must make first: address and arena offset.
    pub map: Option<(u64, u64)>,
}

impl AsRef<Memory> for Space {
    fn as_ref(&self) -> &Memory {
        &self.mem
    }
}

impl Space {
    /// An address space whose first thread has window `index`, in a chunk of its own.
    pub fn new(sb: &Arc<Sandbox>, line: &Arc<Line>, mut chunk: Chunk, index: u64) -> (Arc<Space>, Window) {
        let at = (index / CHUNK_WINDOWS) as usize;
        let window = chunk.window(index % CHUNK_WINDOWS, sb.window_addr(index));
        let mut chunks: Vec<Option<Mapped>> = (0..at).map(|_| None).collect();
        chunks.push(Some(Mapped { chunk, used: 1 << (index % CHUNK_WINDOWS), mapped: true }));
        let space = Space {
            sb: sb.clone(),
            line: line.clone(),
            program: OnceLock::new(),
            mem: Memory::new(&line.host),
            sites: Sites::default(),
            windows: Mutex::new(Windows { chunks }),
            clone_lock: Arc::default(),
            private_fds: AtomicU32::new(0),
        };
        (Arc::new(space), window)
    }

    pub fn chunk_addr(&self, index: u64) -> u64 {
        WIN_BASE + index / CHUNK_WINDOWS * self.sb.arena.chunk_len()
    }

    pub fn alloc_window(&self) -> Option<NewWindow> {
        let mut w = self.windows.lock();
        let at = match w.chunks.iter().position(|c| c.as_ref().is_some_and(|c| c.used != 0xff)) {
            Some(at) => at,
            None => {
                let chunk = self.sb.arena.alloc()?;
                let new = Some(Mapped { chunk, used: 0, mapped: false });
                let at = w.chunks.iter().position(Option::is_none).unwrap_or(w.chunks.len());
                match w.chunks.get_mut(at) {
                    Some(free) => *free = new,
                    None => w.chunks.push(new),
                }
                at
            }
        };
        let m = w.chunks.get_mut(at)?.as_mut()?;
        let bit = u64::from((!m.used).trailing_zeros());
        let index = at as u64 * CHUNK_WINDOWS + bit;
        if self.sb.window_addr(index + CHUNK_WINDOWS) > crate::stub::STUB_HI {
            return None;
        }
        m.used |= 1 << bit;
        let map = (!m.mapped).then(|| (self.chunk_addr(index), m.chunk.offset()));
        Some(NewWindow { window: m.chunk.window(bit, self.sb.window_addr(index)), index, map })
    }

    pub fn set_mapped(&self, index: u64) {
        if let Some(Some(m)) = self.windows.lock().chunks.get_mut((index / CHUNK_WINDOWS) as usize) {
            m.mapped = true;
        }
    }

    pub fn free_window(&self, index: u64) {
        if let Some(Some(m)) = self.windows.lock().chunks.get_mut((index / CHUNK_WINDOWS) as usize) {
            m.used &= !(1 << (index % CHUNK_WINDOWS));
        }
    }

    /// Address ranges of chunks other than `index`'s, merged to what a forked child must cover.
    pub fn other_chunks(&self, index: u64) -> Vec<(u64, u64)> {
        let own = (index / CHUNK_WINDOWS) as usize;
        let len = self.sb.arena.chunk_len();
        let w = self.windows.lock();
        let n = w.chunks.len();
        let mut out = Vec::new();
        if own > 0 && w.chunks.iter().take(own).any(Option::is_some) {
            out.push((WIN_BASE, own as u64 * len));
        }
        if own + 1 < n {
            out.push((WIN_BASE + (own as u64 + 1) * len, (n - own - 1) as u64 * len));
        }
        out
    }

    /// Gives the windows back; no host thread uses this address space any more.
    pub fn release(&self) {
        let old = std::mem::take(&mut *self.windows.lock());
        drop(old);
    }

    /// Whether something of the platform's is in this range, which the guest is about to map or to change.
    pub fn taken(&self, addr: u64, len: u64) -> bool {
        forbidden(addr, len) || self.sites.need(addr..addr.saturating_add(len))
    }

    /// A descriptor number in the stub that no other operation uses now.
    pub fn take_fd(&self) -> Option<u32> {
        let mut old = self.private_fds.load(Ordering::Relaxed);
        loop {
            let bit = (!old).trailing_zeros();
            if bit >= PRIVATE_FDS {
                return None;
            }
            let new = old | 1 << bit;
            match self.private_fds.compare_exchange_weak(old, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(PRIVATE_FD + bit),
                Err(o) => old = o,
            }
        }
    }

    pub fn put_fd(&self, fd: u32) {
        self.private_fds.fetch_and(!(1 << (fd - PRIVATE_FD)), Ordering::AcqRel);
    }
}
