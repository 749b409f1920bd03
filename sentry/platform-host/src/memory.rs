//! The memory of a guest address space that lives in host processes: who shares it, and what it holds besides the guest's.
//!
//! Neighbours: `copy` and `maps` implement what can be done with it; a platform's address space has one.
//!
//! Lock: `readers` is held while memory is copied, so that a process is not reaped (and its pid not reused) meanwhile.

use crate::layout::STUB_BASE;
use crate::sys;
use parking_lot::{Mutex, RwLock};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

/// What all address spaces of a platform have in common.
pub struct Host {
    /// A procfs of the sentry's PID namespace.
    pub proc_dir: Arc<OwnedFd>,
    /// vDSO and vvar, which every address space keeps: where the zygote has them.
    pub vdso: OnceLock<Option<Range<u64>>>,
    pub vvar: OnceLock<Vec<Range<u64>>>,
    /// Stripes for compare-exchange on guest words.
    pub(crate) words: Arc<[Mutex<()>; 64]>,
}

impl Host {
    pub fn new(proc_dir: OwnedFd) -> Arc<Host> {
        Arc::new(Host {
            proc_dir: Arc::new(proc_dir),
            vdso: OnceLock::new(),
            vvar: OnceLock::new(),
            words: Arc::new(std::array::from_fn(|_| Mutex::new(()))),
        })
    }

    /// The same for the address spaces of a further zygote, which has its vDSO elsewhere.
    pub fn sibling(&self) -> Arc<Host> {
        Arc::new(Host {
            proc_dir: self.proc_dir.clone(),
            vdso: OnceLock::new(),
            vvar: OnceLock::new(),
            words: self.words.clone(),
        })
    }

    /// Where the vDSO image is.
    pub fn vdso_start(&self) -> Option<u64> {
        self.vdso.get()?.as_ref().map(|r| r.start)
    }
}

/// Whether we may read another process's memory, on which everything rests: told by the zygote, before there are guests.
pub fn reachable(pid: i32) -> Result<(), String> {
    let at = libc::iovec { iov_base: STUB_BASE as *mut libc::c_void, iov_len: 1 };
    sys::vm_read(pid, &mut [0], &[at]).map(drop).map_err(|errno| {
        let e = std::io::Error::from_raw_os_error(errno);
        format!(
            "reading a guest's memory: {e}; the sysctl kernel.yama.ptrace_scope must be 0 or 1, and the seccomp profile of an \
             outer container must allow process_vm_readv and process_vm_writev (docker: --security-opt seccomp=unconfined)"
        )
    })
}

pub struct Memory {
    pub(crate) host: Arc<Host>,
    /// Live host processes that share this mm; none is reaped while the lock is held.
    pub(crate) readers: RwLock<Vec<i32>>,
    /// The random gap below the mmap base, invisible to the guest.
    pub gap: OnceLock<Range<u64>>,
    /// A page of the platform's outside of its own range.
    pub page: Mutex<Option<Range<u64>>>,
}

impl Memory {
    pub fn new(host: &Arc<Host>) -> Memory {
        Memory {
            host: host.clone(),
            readers: RwLock::new(Vec::new()),
            gap: OnceLock::new(),
            page: Mutex::default(),
        }
    }

    pub fn add_reader(&self, pid: i32) {
        self.readers.write().push(pid);
    }

    /// Called with the process dead but not reaped; returns whether others still share the mm.
    pub fn remove_reader(&self, pid: i32) -> bool {
        let mut r = self.readers.write();
        r.retain(|p| *p != pid);
        !r.is_empty()
    }

    /// Whether several host processes share it.
    pub fn is_shared(&self) -> bool {
        self.readers.read().len() > 1
    }

    pub(crate) fn is_own(&self, range: &Range<u64>) -> bool {
        self.page.lock().as_ref() == Some(range)
    }

    /// A copy of the memory that a fork makes has the same gap and page.
    pub fn inherit(&self, from: &Memory) {
        *self.page.lock() = from.page.lock().clone();
        if let Some(g) = from.gap.get() {
            let _once = self.gap.set(g.clone());
        }
    }
}
