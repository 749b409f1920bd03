//! Reads of neighbouring values in guest memory, one copy per page: the strings that `execve` takes.
//!
//! Within a page, as protections are, so that no fault is met that reading value by value would not have met. What has
//! been read stays as it was then, whatever other threads write.

use crate::Mm;
use crate::copy::{Pieces, read_cstr};
use chitin_abi::Errno;
use chitin_abi::num::to_usize;

pub(crate) const PAGE: u64 = 4096;

pub struct PageReader<'a> {
    mm: &'a Mm,
    /// The page that `data` holds, when it holds one.
    start: u64,
    data: Vec<u8>,
}

impl<'a> PageReader<'a> {
    pub fn new(mm: &'a Mm) -> PageReader<'a> {
        PageReader { mm, start: 0, data: Vec::new() }
    }

    /// The bytes from `addr` to the end of its page.
    fn rest(&mut self, addr: u64) -> Result<&[u8], Errno> {
        let start = addr - addr % PAGE;
        if self.data.is_empty() || self.start != start {
            self.data.clear();
            let mut page = vec![0; to_usize(PAGE)];
            self.mm.read_bytes(start, &mut page)?;
            self.start = start;
            self.data = page;
        }
        self.data.get(to_usize(addr % PAGE)..).ok_or(Errno::EFAULT)
    }

    /// A pointer-sized value.
    pub fn word(&mut self, addr: u64) -> Result<u64, Errno> {
        match self.rest(addr)?.first_chunk() {
            Some(bytes) => Ok(u64::from_ne_bytes(*bytes)),
            None => self.mm.read(addr),
        }
    }

    /// As [`Mm::read_cstr`].
    pub fn cstr(&mut self, addr: u64, max: usize) -> Result<Option<Vec<u8>>, Errno> {
        read_cstr(self, addr, max)
    }
}

impl Pieces for PageReader<'_> {
    fn piece(&mut self, addr: u64) -> Result<&[u8], Errno> {
        self.rest(addr)
    }
}
