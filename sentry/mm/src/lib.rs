//! Guest memory: the address space of a process as the kernel uses it.
//!
//! [`Mm`] wraps the platform's [`AddressSpace`] with what Linux keeps beside the mappings themselves: the program
//! break, the layout that `execve` chose, names of mapped files. The mappings themselves live in the platform (on
//! host-side platforms the host's mm is the truth), so there is no second list to keep in step.
//!
//! Neighbours: `platform` below; `vfs` and `kernel` above. User memory is only ever reached through inert addresses
//! ([`UserPtr`], [`UserIo`]) and fallible copies; nothing here hands out a reference into the guest.
//!
//! Locks: `Mm::growing`, held across awaits, makes brk(2) one at a time; `Mm::state` (leaf), `Mm::files` (leaf), neither
//! of which is held across a platform call that may wait.

// Guest data must neither panic the sentry nor be cut silently; tests may.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::unimplemented,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

mod copy;
mod io;
mod map;
mod names;
mod pages;
mod ptr;

pub use copy::Glance;
pub use io::{MAX_RW_COUNT, Sink, SliceSource, Source, UserIo, VecSink};
pub use map::{Layout, MmapRequest, host_errno};
pub use names::MappedFile;
pub use pages::PageReader;
pub use ptr::UserPtr;

/// A mapping as the platform lists it ([`Mm::space`]).
pub use chitin_platform::{HostVma, HostVmaKind};

use chitin_platform::{AddressSpace, AsyncLock};
use parking_lot::Mutex;
use std::sync::Arc;

/// Lowest address a guest may map (`vm.mmap_min_addr`).
pub const MMAP_MIN_ADDR: u64 = 0x10000;

/// The memory of one process, or of several that share it (CLONE_VM).
pub struct Mm {
    space: Arc<dyn AddressSpace>,
    state: Mutex<map::State>,
    growing: Arc<AsyncLock>,
    files: Mutex<names::MappedFiles>,
}

impl Mm {
    /// Wraps a fresh space, as `execve` makes it.
    pub fn new(space: Arc<dyn AddressSpace>) -> Arc<Mm> {
        Arc::new(Mm { space, state: Mutex::default(), growing: Arc::default(), files: Mutex::default() })
    }

    /// Wraps a space that the platform copied from this one (fork).
    pub fn forked(&self, space: Arc<dyn AddressSpace>) -> Arc<Mm> {
        let state = self.state.lock().clone();
        let files = self.files.lock().clone();
        Arc::new(Mm { space, state: Mutex::new(state), growing: Arc::default(), files: Mutex::new(files) })
    }

    pub fn space(&self) -> &Arc<dyn AddressSpace> {
        &self.space
    }
}
