//! A little memory that is given back when the host has killed a guest process for want of it.
//!
//! The sentry often brings about the want itself, as it copies to a guest. Then the memory of whoever is killed is not free before that
//! copy comes to its end: it holds on to the address space. And the copy waits for memory. The host would take more
//! victims, until one of them frees a page or two; the largest one left is the container's init as a rule, or the sentry.
//!
//! Neighbours: the platforms' reapers give up the reserve before anything else, until the dead process's memory is free; `boot`
//! has one kept where memory is limited.
//!
//! Lock: `RESERVE`, a leaf.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes: what a copy is likely to need to its end.
const SIZE: usize = 128 << 10;
const PAGE: usize = 4096;

/// Memory that is in use, as far as the host knows.
struct Reserve {
    at: usize,
}

impl Reserve {
    /// `None` if the host gives none.
    fn take() -> Option<Reserve> {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), SIZE, prot, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return None;
        }
        let reserve = Reserve { at: at as usize };
        for off in (0..SIZE).step_by(PAGE) {
            let byte = (reserve.at + off) as *mut u8;
            // SAFETY: a byte of the mapping, which nobody else knows.
            unsafe { byte.write_volatile(1) };
        }
        Some(reserve)
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        // SAFETY: unmaps what `take` mapped; nobody has a pointer into it.
        unsafe { libc::munmap(self.at as *mut _, SIZE) };
    }
}

static RESERVE: Mutex<Option<Reserve>> = Mutex::new(None);
static WANTED: AtomicBool = AtomicBool::new(false);

/// Has a reserve kept from now on.
pub fn keep() {
    WANTED.store(true, Ordering::Relaxed);
    renew();
}

/// The host may have killed a process for want of memory: there is no reserve until the answer is dropped.
pub fn give_up() -> GivenUp {
    drop(RESERVE.lock().take());
    GivenUp
}

#[must_use]
pub struct GivenUp;

impl Drop for GivenUp {
    fn drop(&mut self) {
        renew();
    }
}

fn renew() {
    if WANTED.load(Ordering::Relaxed) {
        let mut reserve = RESERVE.lock();
        if reserve.is_none() {
            *reserve = Reserve::take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_comes_and_goes() {
        renew();
        assert!(RESERVE.lock().is_none(), "nobody wants one");
        keep();
        assert!(RESERVE.lock().is_some());
        let given_up = give_up();
        assert!(RESERVE.lock().is_none());
        drop(given_up);
        assert!(RESERVE.lock().is_some());
    }
}
