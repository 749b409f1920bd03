//! The content of a regular file: pages in the heap while it is small, a host file once it is large or mapped.
//!
//! Used by tmpfs and by the overlay. Guest offsets are host offsets, so a mapping is a mapping of the host file, which
//! from then on is the only store. The size is kept here; nobody but this module changes the host file's.
//!
//! Locks: `writers` (a whole write, truncation or fallocate), then `store` (one step of it). Neither is held while
//! guest memory is read or written, except `writers` while a write fetches its bytes.

use crate::host_store::{HostStore, guest_errno, heap_pages};
use crate::space::Space;
use chitin_abi::Errno;
use chitin_abi::fcntl::*;
use chitin_abi::limits::PAGE_SIZE;
use chitin_abi::num::to_usize;
use chitin_host::bounce::Bounce;
use chitin_host::filestore;
use chitin_mm::{Sink, SliceSource, Source};
use chitin_vfs::{Mappable, WriteAt, Written};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

const PAGE: usize = to_usize(PAGE_SIZE);
/// Bytes that fallocate works on at a time: a millisecond or two.
const PIECE: u64 = 4 << 20;
/// The largest file (MAX_LFS_FILESIZE).
pub const MAX_SIZE: u64 = i64::MAX as u64;
/// Seals that the host enforces on mappings.
const HOST_SEALS: u32 = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE;

type Page = [u8; PAGE];

pub struct FileData {
    space: Arc<Space>,
    writers: Mutex<()>,
    store: RwLock<Store>,
}

struct Store {
    size: u64,
    /// Pages charged to `space`.
    charged: u64,
    seals: u32,
    body: Body,
}

enum Body {
    Heap(BTreeMap<u64, Box<Page>>),
    /// `sparse`: may have holes, or blocks past the end, so that `charged` has to be asked for.
    Host {
        file: HostStore,
        sparse: bool,
    },
}

/// A page number and the offset in it.
fn split(pos: u64) -> (u64, usize) {
    (pos / PAGE_SIZE, (pos % PAGE_SIZE) as usize)
}

impl FileData {
    /// An empty file. `seals` as fcntl(F_GET_SEALS) shows them: F_SEAL_SEAL for any but memfds.
    pub fn new(space: Arc<Space>, seals: u32) -> FileData {
        let store = Store { size: 0, charged: 0, seals, body: Body::Heap(BTreeMap::new()) };
        FileData { space, writers: Mutex::default(), store: RwLock::new(store) }
    }

    pub fn size(&self) -> u64 {
        self.store.read().size
    }

    /// In units of 512 bytes.
    pub fn blocks(&self) -> u64 {
        let unit = PAGE_SIZE / 512;
        {
            let store = self.store.read();
            if !matches!(store.body, Body::Host { sparse: true, .. }) {
                return store.charged.saturating_mul(unit);
            }
        }
        let mut store = self.store.write();
        // Should the host not tell, the last known number is as good as any.
        let _ = store.resync(&self.space);
        store.charged.saturating_mul(unit)
    }

    /// Reads up to the end of the file.
    pub fn read(&self, mut pos: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        if dst.room() == 0 || pos >= self.size() {
            return Ok(0);
        }
        let mut bounce = Bounce::take();
        let mut done = 0usize;
        loop {
            let want = dst.room().min(bounce.len());
            let Some(buf) = bounce.get_mut(..want) else { break };
            let result = self.read_step(pos, buf).and_then(|count| match buf.get(..count) {
                Some(data) if count > 0 => Ok((count, dst.put(data)?)),
                _ => Ok((0, 0)),
            });
            let (count, taken) = match result {
                Ok(step) => step,
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            };
            done += taken;
            pos = pos.saturating_add(taken as u64);
            if taken == 0 || taken < count {
                break;
            }
        }
        Ok(done)
    }

    /// Fills `buf` as far as the file goes.
    pub fn read_step(&self, pos: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        let store = self.store.read();
        let count = to_usize(store.size.saturating_sub(pos).min(buf.len() as u64));
        let Some(buf) = buf.get_mut(..count) else { return Ok(0) };
        match &store.body {
            Body::Heap(pages) => {
                let (mut index, mut offset) = split(pos);
                let mut rest = buf;
                while !rest.is_empty() {
                    let len = rest.len().min(PAGE - offset);
                    let (part, tail) = rest.split_at_mut(len);
                    match pages.get(&index).and_then(|page| page.get(offset..offset + len)) {
                        Some(bytes) => part.copy_from_slice(bytes),
                        None => part.fill(0),
                    }
                    rest = tail;
                    offset = 0;
                    index += 1;
                }
                Ok(count)
            }
            Body::Host { file, .. } => {
                let mut done = 0;
                while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
                    match filestore::pread(file.fd(), rest, pos + done as u64) {
                        Ok(0) => break,
                        Ok(n) => done += n,
                        Err(e) if done == 0 => return Err(guest_errno(e)),
                        Err(_) => break,
                    }
                }
                Ok(done)
            }
        }
    }

    /// Writes; the whole is atomic against other writes and truncations.
    pub fn write(&self, at: WriteAt, src: &mut dyn Source) -> Result<Written, Errno> {
        let _writer = self.writers.lock();
        let (size, seals) = {
            let store = self.store.read();
            (store.size, store.seals)
        };
        let start = match at {
            WriteAt::At(pos) => pos,
            WriteAt::End => size,
        };
        let want = src.left() as u64;
        if want == 0 {
            return Ok(Written { count: 0, end: start });
        }
        if start >= MAX_SIZE {
            return Err(Errno::EFBIG);
        }
        if seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE) != 0 {
            return Err(Errno::EPERM);
        }
        let mut end = start.saturating_add(want).min(MAX_SIZE);
        if seals & F_SEAL_GROW != 0 && end > size {
            // Linux writes page by page and refuses the page that would grow the file.
            end = size / PAGE_SIZE * PAGE_SIZE;
            if end <= start {
                return Err(Errno::EPERM);
            }
        }
        self.prepare(start, end);

        let mut bounce = Bounce::take();
        let mut pos = start;
        let mut failure = None;
        while pos < end {
            let chunk = to_usize((end - pos).min(bounce.len() as u64));
            let Some(buf) = bounce.get_mut(..chunk) else { break };
            let taken = match src.take(buf) {
                Ok(0) => break,
                Ok(taken) => taken,
                Err(e) => {
                    failure = Some(e);
                    break;
                }
            };
            let data = buf.get(..taken).unwrap_or_default();
            let (count, error) = self.store.write().write(&self.space, pos, data);
            pos = pos.saturating_add(count as u64);
            if count < taken {
                src.untake(taken - count);
                failure = error;
                break;
            }
            if taken < chunk {
                break;
            }
        }
        match failure {
            Some(e) if pos == start => Err(e),
            _ => Ok(Written { count: to_usize(pos - start), end: pos }),
        }
    }

    /// Gives the file a host file if what is about to be written makes it a large one.
    fn prepare(&self, start: u64, end: u64) {
        let new = end.div_ceil(PAGE_SIZE) - start / PAGE_SIZE;
        let large = |store: &Store| match &store.body {
            Body::Heap(pages) => (pages.len() as u64).saturating_add(new) > heap_pages(),
            Body::Host { .. } => false,
        };
        if !large(&self.store.read()) {
            return;
        }
        let mut store = self.store.write();
        // A rewrite of what exists is no growth.
        let Store { body: Body::Heap(pages), .. } = &*store else { return };
        let present = pages.range(start / PAGE_SIZE..end.div_ceil(PAGE_SIZE)).count() as u64;
        if (pages.len() as u64).saturating_add(new).saturating_sub(present) > heap_pages() {
            // Where the host has no descriptor left, the heap goes on.
            let _ = store.make_host(&self.space);
        }
    }

    /// Sets the size; what is cut off is gone, what is added reads as zeroes.
    pub fn truncate(&self, size: u64) -> Result<(), Errno> {
        if size > MAX_SIZE {
            return Err(Errno::EFBIG);
        }
        let _writer = self.writers.lock();
        let mut store = self.store.write();
        if (size < store.size && store.seals & F_SEAL_SHRINK != 0)
            || (size > store.size && store.seals & F_SEAL_GROW != 0)
        {
            return Err(Errno::EPERM);
        }
        store.truncate(&self.space, size)
    }

    /// fallocate(2) with FALLOC_FL_KEEP_SIZE, PUNCH_HOLE and ZERO_RANGE; EOPNOTSUPP for other modes. Piece by piece, so
    /// that others, who look at the file meanwhile, wait for one piece only; the caller keeps writers off.
    pub fn fallocate(&self, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
        let end = offset.checked_add(len).filter(|end| *end <= MAX_SIZE).ok_or(Errno::EFBIG)?;
        let keep = mode & FALLOC_FL_KEEP_SIZE != 0;
        let op = mode & !FALLOC_FL_KEEP_SIZE;
        if !matches!(op, 0 | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) {
            return Err(Errno::EOPNOTSUPP);
        }
        let permitted = |store: &Store| {
            let sealed = op != 0 && store.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE) != 0;
            let grows = op != FALLOC_FL_PUNCH_HOLE && !keep && end > store.size;
            if sealed || grows && store.seals & F_SEAL_GROW != 0 { Err(Errno::EPERM) } else { Ok(()) }
        };
        if op != FALLOC_FL_PUNCH_HOLE {
            let store = self.store.read();
            permitted(&store)?;
            store.has_room(&self.space, offset, end)?;
        }
        let mut pos = offset;
        while pos < end {
            let to = pos.saturating_add(PIECE).min(end);
            let _writer = self.writers.lock();
            let mut store = self.store.write();
            permitted(&store)?;
            if op != 0 {
                store.zero(&self.space, pos, to)?;
            }
            if op != FALLOC_FL_PUNCH_HOLE {
                store.allocate(&self.space, pos, to)?;
            }
            if op != FALLOC_FL_PUNCH_HOLE && !keep && to == end && end > store.size {
                store.truncate(&self.space, end)?;
            }
            pos = to;
        }
        Ok(())
    }

    /// SEEK_DATA or SEEK_HOLE.
    pub fn seek_hole(&self, pos: u64, data: bool) -> Result<u64, Errno> {
        let store = self.store.read();
        let size = store.size;
        if pos >= size {
            return Err(Errno::ENXIO);
        }
        match &store.body {
            Body::Heap(pages) => {
                let (mut index, _) = split(pos);
                if data {
                    let (found, _) = pages.range(index..).next().ok_or(Errno::ENXIO)?;
                    let found = pos.max(found.saturating_mul(PAGE_SIZE));
                    return if found < size { Ok(found) } else { Err(Errno::ENXIO) };
                }
                for (page, _) in pages.range(index..) {
                    if *page != index {
                        break;
                    }
                    index += 1;
                }
                Ok(pos.max(index.saturating_mul(PAGE_SIZE)).min(size))
            }
            Body::Host { file, .. } => {
                filestore::seek_hole(file.fd(), pos, data).map_err(guest_errno)?.ok_or(Errno::ENXIO)
            }
        }
    }

    /// The host file, which the file then is for good. Not `writable`: the descriptor cannot write.
    pub fn mmap(&self, writable: bool) -> Result<Mappable, Errno> {
        if !matches!(self.store.read().body, Body::Host { .. }) {
            self.store.write().make_host(&self.space)?;
        }
        match &self.store.read().body {
            Body::Host { file, .. } if writable => Ok(Mappable::Host(file.shared_fd())),
            Body::Host { file, .. } => Ok(Mappable::Host(file.read_only_fd()?)),
            Body::Heap(_) => Err(Errno::EIO),
        }
    }

    /// F_GET_SEALS.
    pub fn seals(&self) -> u32 {
        self.store.read().seals
    }

    /// F_ADD_SEALS: EPERM when sealed against it, EBUSY when F_SEAL_WRITE meets a writable shared mapping.
    pub fn add_seals(&self, seals: u32) -> Result<(), Errno> {
        let _writer = self.writers.lock();
        let mut store = self.store.write();
        if store.seals & F_SEAL_SEAL != 0 {
            return Err(Errno::EPERM);
        }
        if let Body::Host { file, .. } = &store.body {
            // The host knows the mappings.
            if seals & HOST_SEALS != 0 {
                filestore::add_seals(file.fd(), seals & HOST_SEALS).map_err(guest_errno)?;
            }
        }
        store.seals |= seals;
        Ok(())
    }

    /// Fills an empty file with the first `len` bytes of a host file, holes included.
    pub fn import(&self, from: BorrowedFd<'_>, len: u64) -> Result<(), Errno> {
        let size = filestore::stat(from).map_err(guest_errno)?.size.min(len).min(MAX_SIZE);
        self.truncate(size)?;
        if size.div_ceil(PAGE_SIZE) > heap_pages() {
            let _ = self.store.write().make_host(&self.space);
        }
        let mut bounce = Bounce::take();
        let mut pos = 0;
        while pos < size {
            // A host file system without holes answers EINVAL: all of it is data.
            let data = filestore::seek_hole(from, pos, true).unwrap_or(Some(pos)).unwrap_or(size);
            if data >= size {
                break;
            }
            let hole = filestore::seek_hole(from, data, false).ok().flatten().unwrap_or(size).min(size);
            pos = self.import_blocks(from, data, hole)?;
            while pos < hole {
                let chunk = to_usize((hole - pos).min(bounce.len() as u64));
                let Some(buf) = bounce.get_mut(..chunk) else { return Err(Errno::EIO) };
                let count = filestore::pread(from, buf, pos).map_err(guest_errno)?;
                if count == 0 {
                    return Ok(());
                }
                let mut source = SliceSource::new(buf.get(..count).unwrap_or_default());
                let written = self.write(WriteAt::At(pos), &mut source)?;
                if written.count < count {
                    return Err(Errno::ENOSPC);
                }
                pos = written.end;
            }
        }
        Ok(())
    }

    /// Copies inside the host kernel where the content lives in a directory, as far as that goes; answers how far.
    fn import_blocks(&self, from: BorrowedFd<'_>, start: u64, end: u64) -> Result<u64, Errno> {
        let mut store = self.store.write();
        if !matches!(self.space.storage(), crate::Storage::Dir(_)) {
            return Ok(start);
        }
        let mut pos = start;
        if let Body::Host { file, .. } = &store.body {
            let pages = (end - start).div_ceil(PAGE_SIZE);
            if !self.space.charge(pages) {
                return Err(Errno::ENOSPC);
            }
            self.space.uncharge(pages);
            while pos < end {
                let chunk = (end - pos).min(1 << 30) as usize;
                match filestore::copy_range(from, pos, file.fd(), pos, chunk) {
                    Ok(count) if count > 0 => pos += count as u64,
                    _ => break,
                }
            }
            store.resync(&self.space)?;
        }
        Ok(pos)
    }
}

impl Drop for FileData {
    fn drop(&mut self) {
        self.space.uncharge(self.store.get_mut().charged);
    }
}

impl Store {
    /// Asks the host how much a sparse file takes.
    fn resync(&mut self, space: &Space) -> Result<(), Errno> {
        if let Body::Host { file, .. } = &self.body {
            let pages = file.pages()?;
            space.recharge(self.charged, pages);
            self.charged = pages;
        }
        Ok(())
    }

    fn make_host(&mut self, space: &Space) -> Result<(), Errno> {
        let Body::Heap(pages) = &self.body else { return Ok(()) };
        let file = HostStore::create(space.storage()).map_err(guest_errno)?;
        filestore::truncate(file.fd(), self.size).map_err(guest_errno)?;
        let mut past_end = false;
        for (index, page) in pages {
            let pos = index.saturating_mul(PAGE_SIZE);
            // Pages past the end are what fallocate(KEEP_SIZE) left.
            let len = self.size.saturating_sub(pos).min(PAGE_SIZE) as usize;
            if len == 0 {
                past_end = true;
                filestore::allocate(file.fd(), pos, PAGE_SIZE).map_err(guest_errno)?;
                continue;
            }
            let mut data = page.get(..len).unwrap_or_default();
            let mut at = pos;
            while !data.is_empty() {
                let count = filestore::pwrite(file.fd(), data, at).map_err(guest_errno)?;
                if count == 0 {
                    return Err(Errno::EIO);
                }
                at += count as u64;
                data = data.get(count..).unwrap_or_default();
            }
        }
        if self.seals & HOST_SEALS != 0 {
            filestore::add_seals(file.fd(), self.seals & HOST_SEALS).map_err(guest_errno)?;
        }
        let sparse = past_end || pages.len() as u64 != self.size.div_ceil(PAGE_SIZE);
        self.body = Body::Host { file, sparse };
        Ok(())
    }

    /// Writes at `pos`, where the end is not beyond MAX_SIZE: how many bytes went in, and why not all.
    fn write(&mut self, space: &Space, pos: u64, data: &[u8]) -> (usize, Option<Errno>) {
        let (done, error) = match &mut self.body {
            Body::Heap(pages) => write_heap(pages, &mut self.charged, space, pos, data),
            Body::Host { .. } => self.write_host(space, pos, data),
        };
        if done > 0 {
            self.size = self.size.max(pos + done as u64);
        }
        (done, error)
    }

    fn write_host(&mut self, space: &Space, start: u64, data: &[u8]) -> (usize, Option<Errno>) {
        let mut done = 0usize;
        let mut limit = data.len();
        while done < data.len() {
            let pos = start + done as u64;
            let part = data.get(done..limit).unwrap_or_default();
            match self.write_part(space, pos, part) {
                Ok(Some(count)) if count > 0 => {
                    done += count;
                    limit = data.len();
                    // The next part starts beyond what is in the file.
                    self.size = self.size.max(start + done as u64);
                }
                Ok(Some(_)) => return (done, Some(Errno::EIO)),
                // No room for all of it: as far as this page goes, then.
                Ok(None) => {
                    let page_end = done + to_usize(PAGE_SIZE - pos % PAGE_SIZE);
                    if limit <= page_end {
                        return (done, Some(Errno::ENOSPC));
                    }
                    limit = page_end;
                }
                Err(e) => return (done, Some(e)),
            }
        }
        (done, None)
    }

    /// One write to the host file; `None`: not enough pages left.
    fn write_part(&mut self, space: &Space, pos: u64, data: &[u8]) -> Result<Option<usize>, Errno> {
        let end = pos + data.len() as u64;
        let (first, last) = (pos / PAGE_SIZE, end.div_ceil(PAGE_SIZE));
        let eof = self.size.div_ceil(PAGE_SIZE);
        let Body::Host { file, sparse } = &mut self.body else { return Err(Errno::EIO) };
        if first > eof {
            *sparse = true;
        }
        let mut new = last.saturating_sub(first.max(eof));
        if *sparse && space.max_pages().is_some() {
            new = new.saturating_add(file.holes(first, last.min(eof))?);
        }
        if !space.charge(new) {
            return Ok(None);
        }
        let result = filestore::pwrite(file.fd(), data, pos);
        let sparse = *sparse;
        self.charged = self.charged.saturating_add(new);
        match result {
            Ok(count) => {
                if sparse || count < data.len() {
                    self.resync(space)?;
                }
                Ok(Some(count))
            }
            Err(e) => {
                self.resync(space)?;
                Err(guest_errno(e))
            }
        }
    }

    fn truncate(&mut self, space: &Space, size: u64) -> Result<(), Errno> {
        match &mut self.body {
            Body::Heap(pages) => {
                if size < self.size {
                    let gone = pages.split_off(&size.div_ceil(PAGE_SIZE)).len() as u64;
                    self.charged = self.charged.saturating_sub(gone);
                    space.uncharge(gone);
                    let (index, offset) = split(size);
                    if let Some(tail) = pages.get_mut(&index).and_then(|page| page.get_mut(offset..)) {
                        tail.fill(0);
                    }
                }
            }
            Body::Host { file, sparse } => {
                filestore::truncate(file.fd(), size).map_err(guest_errno)?;
                if size.div_ceil(PAGE_SIZE) > self.size.div_ceil(PAGE_SIZE) {
                    *sparse = true;
                }
                if size == 0 {
                    *sparse = false;
                }
                self.resync(space)?;
            }
        }
        self.size = size;
        Ok(())
    }

    /// Zeroes a range, giving back whole pages; the size stays.
    fn zero(&mut self, space: &Space, start: u64, end: u64) -> Result<(), Errno> {
        if start >= end {
            return Ok(());
        }
        match &mut self.body {
            Body::Heap(pages) => {
                let (first, head) = split(start);
                let (last, tail) = split(end);
                let whole_start = start.div_ceil(PAGE_SIZE);
                if head != 0 {
                    let to = if first == last { tail } else { PAGE };
                    if let Some(part) = pages.get_mut(&first).and_then(|page| page.get_mut(head..to)) {
                        part.fill(0);
                    }
                }
                if (last > first || head == 0)
                    && let Some(part) = pages.get_mut(&last).and_then(|page| page.get_mut(..tail))
                {
                    part.fill(0);
                }
                if whole_start < last {
                    let gone: Vec<u64> = pages.range(whole_start..last).map(|(index, _)| *index).collect();
                    for index in &gone {
                        pages.remove(index);
                    }
                    self.charged = self.charged.saturating_sub(gone.len() as u64);
                    space.uncharge(gone.len() as u64);
                }
                Ok(())
            }
            Body::Host { file, sparse } => {
                *sparse = true;
                let result = filestore::punch_hole(file.fd(), start, end - start).map_err(guest_errno);
                self.resync(space)?;
                result
            }
        }
    }

    /// Pages of `[first, last)` without blocks, as far as is known; never too few.
    fn missing(&self, first: u64, last: u64) -> Result<u64, Errno> {
        match &self.body {
            Body::Heap(pages) => {
                let present = pages.range(first..last).count() as u64;
                Ok(last.saturating_sub(first).saturating_sub(present))
            }
            Body::Host { file, sparse } => {
                let eof = self.size.div_ceil(PAGE_SIZE);
                let new = last.saturating_sub(first.max(eof));
                let holes = if *sparse { file.holes(first, last.min(eof))? } else { 0 };
                Ok(new.saturating_add(holes))
            }
        }
    }

    /// ENOSPC if there is no room for what a range is missing, which is then not begun.
    fn has_room(&self, space: &Space, start: u64, end: u64) -> Result<(), Errno> {
        let missing = self.missing(start / PAGE_SIZE, end.div_ceil(PAGE_SIZE))?;
        if !space.charge(missing) {
            return Err(Errno::ENOSPC);
        }
        space.uncharge(missing);
        Ok(())
    }

    /// Gives every page of a range blocks.
    fn allocate(&mut self, space: &Space, start: u64, end: u64) -> Result<(), Errno> {
        let (first, last) = (start / PAGE_SIZE, end.div_ceil(PAGE_SIZE));
        if let Body::Heap(pages) = &self.body
            && (pages.len() as u64).saturating_add(last.saturating_sub(first)) > heap_pages().min(1 << 16)
        {
            self.make_host(space)?;
        }
        let new = self.missing(first, last)?;
        if !space.charge(new) {
            return Err(Errno::ENOSPC);
        }
        match &mut self.body {
            Body::Heap(pages) => {
                self.charged = self.charged.saturating_add(new);
                for index in first..last {
                    pages.entry(index).or_insert_with(|| Box::new([0; PAGE]));
                }
                Ok(())
            }
            Body::Host { file, sparse } => {
                *sparse = true;
                let result = filestore::allocate(file.fd(), start, end - start).map_err(guest_errno);
                self.charged = self.charged.saturating_add(new);
                self.resync(space)?;
                result
            }
        }
    }
}

fn write_heap(
    pages: &mut BTreeMap<u64, Box<Page>>,
    charged: &mut u64,
    space: &Space,
    pos: u64,
    data: &[u8],
) -> (usize, Option<Errno>) {
    let (mut index, mut offset) = split(pos);
    let mut rest = data;
    while !rest.is_empty() {
        let len = rest.len().min(PAGE - offset);
        let (part, tail) = rest.split_at(len);
        let page = match pages.entry(index) {
            std::collections::btree_map::Entry::Occupied(page) => page.into_mut(),
            std::collections::btree_map::Entry::Vacant(slot) => {
                if !space.charge(1) {
                    return (data.len() - rest.len(), Some(Errno::ENOSPC));
                }
                *charged += 1;
                slot.insert(Box::new([0; PAGE]))
            }
        };
        if let Some(to) = page.get_mut(offset..offset + len) {
            to.copy_from_slice(part);
        }
        rest = tail;
        offset = 0;
        index += 1;
    }
    (data.len(), None)
}
