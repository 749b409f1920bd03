//! Windows: parts of host files that the VM sees as memory, so that mappings stay coherent with read(2) and write(2).
//!
//! A [`FileMap`] stands for one host file at one access mode and is shared by all mappings of it; its windows come as
//! pages are touched, and are few: of a file up to 64 MiB there is one, of a larger one a window per 64 MiB. Those of files
//! that are still linked are kept for a while after the last mapping: taking a memslot away is dear.
//!
//! Locks: `Files::known` → `FileMap::windows`; neither is held during a fault of the guest's memory.

use crate::host::{self, Stat};
use crate::phys::{PAGE, Phys};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

const SEGMENT: u64 = 64 << 20;
const UNIT: u64 = 2 << 20;
/// Files whose windows are kept although nothing maps them.
const KEPT: usize = 64;

type Id = (u64, u64, bool);

#[derive(Default)]
pub struct Files {
    known: Mutex<HashMap<Id, Weak<FileMap>>>,
    kept: Mutex<VecDeque<Arc<FileMap>>>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    len: u64,
    hva: u64,
    gpa: u64,
    slot: u32,
}

pub struct FileMap {
    phys: Arc<Phys>,
    pub fd: Arc<OwnedFd>,
    pub dev: u64,
    pub ino: u64,
    pub write: bool,
    windows: Mutex<BTreeMap<u64, Window>>,
}

impl Files {
    /// The map of the file behind `fd`; `write`: shared mappings may write to it.
    pub fn map(&self, phys: &Arc<Phys>, fd: Arc<OwnedFd>, write: bool) -> Result<Arc<FileMap>, i32> {
        let Stat { dev, ino, links, .. } = host::stat(fd.as_fd())?;
        let mut known = self.known.lock();
        if let Some(found) = known.get(&(dev, ino, write)).and_then(Weak::upgrade) {
            return Ok(found);
        }
        if known.len() > 1024 {
            known.retain(|_, file| file.strong_count() > 0);
        }
        let file = Arc::new(FileMap { phys: phys.clone(), fd, dev, ino, write, windows: Mutex::default() });
        known.insert((dev, ino, write), Arc::downgrade(&file));
        drop(known);
        if links > 0 && !write {
            let mut kept = self.kept.lock();
            kept.push_back(file.clone());
            let old = if kept.len() > KEPT { kept.pop_front() } else { None };
            drop(kept);
            drop(old);
        }
        Ok(file)
    }
}

impl FileMap {
    /// The length of the file now.
    pub fn size(&self) -> u64 {
        host::stat(self.fd.as_fd()).map_or(0, |st| st.size)
    }

    /// Where the page at `off` of a file of `size` bytes is in the VM.
    pub fn page(&self, off: u64, size: u64) -> Result<u64, i32> {
        let mut windows = self.windows.lock();
        if let Some((start, w)) = windows.range(..=off).next_back() {
            if off - start < w.len {
                return Ok(w.gpa + (off - start));
            }
        }
        let segment = off & !(SEGMENT - 1);
        // What was beyond the end once is in a window of its own.
        let before = windows.range(..=off).next_back().map_or(0, |(start, w)| start + w.len);
        let start = segment.max(before);
        let after = windows.range(off..).next().map_or(u64::MAX, |(start, _)| *start);
        let end = size.max(off + PAGE).checked_next_multiple_of(UNIT).ok_or(libc::ENOMEM)?;
        let end = end.min(segment + SEGMENT).min(after);
        let len = end - start;
        let hva = host::map_file(self.fd.as_fd(), start, len, self.write)?;
        let (gpa, slot) =
            self.phys.show_window(hva, len, !self.write).inspect_err(|_| host::unmap(hva, len))?;
        windows.insert(start, Window { len, hva, gpa, slot });
        Ok(gpa + (off - start))
    }

    /// Our mapping of a page that a page table entry names.
    pub fn hva_of(&self, gpa: u64) -> Option<u64> {
        let windows = self.windows.lock();
        let w = windows.values().find(|w| gpa.checked_sub(w.gpa).is_some_and(|off| off < w.len))?;
        Some(w.hva + (gpa - w.gpa))
    }
}

impl Drop for FileMap {
    fn drop(&mut self) {
        for w in self.windows.get_mut().values() {
            self.phys.hide_window(w.gpa, w.slot, w.len);
            host::unmap(w.hva, w.len);
        }
    }
}
