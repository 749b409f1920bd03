//! What the buffers of a stack's connections take, all together.

use std::sync::atomic::{AtomicUsize, Ordering};

/// What all buffers of a stack take.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub used: AtomicUsize,
    /// Beyond it, buffers do not grow (tcp_mem).
    pub limit: AtomicUsize,
}

impl Memory {
    pub fn tight(&self) -> bool {
        self.lacks(0)
    }
    /// Whether so many bytes more are too many.
    pub fn lacks(&self, more: usize) -> bool {
        self.used.load(Ordering::Relaxed).saturating_add(more) > self.limit.load(Ordering::Relaxed)
    }
}

/// What a connection may have even if memory is tight, so that all make progress.
pub(crate) const ALWAYS: usize = 4096;
