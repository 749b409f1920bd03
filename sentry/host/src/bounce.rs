//! A per-thread buffer between host files and guest memory: one for all file systems of the sentry.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

/// Bytes moved at once.
pub const BOUNCE: usize = 256 << 10;

thread_local! {
    static SPARE: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// The thread's buffer, or a new one where it is in use (a file copied to a file).
pub struct Bounce(Box<[u8]>);

impl Bounce {
    pub fn take() -> Bounce {
        Bounce(SPARE.take().unwrap_or_else(|| vec![0; BOUNCE].into_boxed_slice()))
    }
}

impl Deref for Bounce {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Bounce {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        // At the end of a thread the slot may be gone already: then the buffer just goes too.
        let buffer = std::mem::take(&mut self.0);
        let _ = SPARE.try_with(|spare| spare.set(Some(buffer)));
    }
}
