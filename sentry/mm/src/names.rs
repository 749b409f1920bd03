//! Which guest file stands behind which host file, for `/proc/PID/maps` and for futex keys.

use std::collections::HashMap;
use std::sync::Arc;

/// The guest's identity of a mapped file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedFile {
    pub dev: u64,
    pub ino: u64,
    /// The path at the time of the mapping.
    pub path: Arc<[u8]>,
}

/// Past this many different files per process the oldest names are forgotten (their mappings show without a name).
const MAX_NAMES: usize = 65536;

/// Host (dev, ino) → guest file.
#[derive(Clone, Default)]
pub(crate) struct MappedFiles {
    by_host: HashMap<(u64, u64), MappedFile>,
}

impl MappedFiles {
    pub(crate) fn insert(&mut self, host: (u64, u64), file: MappedFile) {
        if self.by_host.len() >= MAX_NAMES {
            self.by_host.clear();
        }
        self.by_host.insert(host, file);
    }

    pub(crate) fn get(&self, host: (u64, u64)) -> Option<&MappedFile> {
        self.by_host.get(&host)
    }
}

impl crate::Mm {
    /// Remembers what guest file a host file is.
    pub fn name_file(&self, host: (u64, u64), file: MappedFile) {
        self.files.lock().insert(host, file);
    }

    /// The guest file behind a host file that was mapped.
    pub fn file_name(&self, host: (u64, u64)) -> Option<MappedFile> {
        self.files.lock().get(host).cloned()
    }
}
