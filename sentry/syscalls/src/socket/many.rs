//! The messages of sendmmsg(2) and recvmmsg(2), and what goes back to the guest beside data. Each copy from or to a guest is a
//! host call, so heads and buffers are read several at a time, and what is written is written together.

use super::send::{check_header, read_header};
use chitin_abi::Errno;
use chitin_abi::num::to_usize;
use chitin_abi::socket::{MMsgHdr, MsgHdr};
use chitin_abi::uio::Iovec;
use chitin_mm::{Mm, Sink, Source, UserIo};
use std::sync::Arc;
use zerocopy::{FromZeros, IntoBytes};

/// Heads read at a time.
const AHEAD: u64 = 32;
/// Bytes of received messages that are written together.
const BATCH_BYTES: usize = 64 << 10;

/// The messages at an address, as far as they have been looked at.
pub(super) struct Messages {
    at: u64,
    count: u64,
    first: u64,
    /// Heads from `first` on, with the buffer of those that have just one.
    known: Vec<(MsgHdr, Option<Iovec>)>,
}

impl Messages {
    pub fn new(at: u64, count: u32) -> Messages {
        Messages { at, count: u64::from(count), first: 0, known: Vec::new() }
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// The address of a message.
    pub fn address(&self, n: u64) -> u64 {
        self.at.wrapping_add(n.wrapping_mul(size_of::<MMsgHdr>() as u64))
    }

    /// The head of a message, checked, and its buffers.
    pub fn get(&mut self, mm: &Arc<Mm>, n: u64) -> Result<(MsgHdr, UserIo), Errno> {
        let known =
            |messages: &Messages| messages.known.get(to_usize(n.checked_sub(messages.first)?)).copied();
        if known(self).is_none() {
            self.look(mm, n);
        }
        match known(self) {
            Some((head, Some(buffer))) if i64::try_from(buffer.iov_len).is_ok() => {
                Ok((check_header(head)?, UserIo::single(mm, buffer.iov_base, buffer.iov_len)))
            }
            Some((head, _)) => {
                let head = check_header(head)?;
                Ok((head, UserIo::vectored(mm, head.msg_iov, head.msg_iovlen)?))
            }
            // Not all of those ahead can be read.
            None => {
                let head = read_header(mm, self.address(n))?;
                Ok((head, UserIo::vectored(mm, head.msg_iov, head.msg_iovlen)?))
            }
        }
    }

    /// Address and length of the one buffer that a message has, once it was looked at.
    pub fn single(&self, n: u64) -> Option<Iovec> {
        self.known.get(to_usize(n.checked_sub(self.first)?))?.1
    }

    fn look(&mut self, mm: &Arc<Mm>, n: u64) {
        (self.first, self.known) = (n, Vec::new());
        let some = to_usize(self.count.saturating_sub(n).min(AHEAD));
        let Ok(heads) = mm.read_array::<MMsgHdr>(self.address(n), some) else { return };
        let single = |head: &MMsgHdr| head.msg_hdr.msg_iovlen == 1;
        let at = |head: &MMsgHdr| (head.msg_hdr.msg_iov, size_of::<Iovec>());
        let mut buffers = vec![Iovec::new_zeroed(); heads.iter().filter(|head| single(head)).count()];
        let mut source = UserIo::scattered(mm, heads.iter().filter(|head| single(head)).map(at).collect());
        let bytes = buffers.as_mut_bytes();
        let want = bytes.len();
        // One that cannot be read is an error of its own message.
        let whole = source.take(bytes) == Ok(want);
        let mut buffers = buffers.into_iter();
        self.known = heads
            .iter()
            .map(|head| (head.msg_hdr, if single(head) { buffers.next().filter(|_| whole) } else { None }))
            .collect();
    }
}

/// What is to be written to a guest, together.
#[derive(Default)]
pub(super) struct Writes {
    ranges: Vec<(u64, usize)>,
    data: Vec<u8>,
}

impl Writes {
    pub fn add(&mut self, at: u64, data: &[u8]) {
        if !data.is_empty() {
            self.ranges.push((at, data.len()));
            self.data.extend_from_slice(data);
        }
    }

    /// Writes all of it; answers how many bytes could be written.
    pub fn flush(&mut self, mm: &Arc<Mm>) -> usize {
        let mut sink = UserIo::scattered(mm, std::mem::take(&mut self.ranges));
        let data = std::mem::take(&mut self.data);
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            match sink.put(rest) {
                Ok(count) if count > 0 => done += count,
                _ => break,
            }
        }
        done
    }

    pub fn all(mut self, mm: &Arc<Mm>) -> Result<(), Errno> {
        let want = self.data.len();
        if self.flush(mm) == want { Ok(()) } else { Err(Errno::EFAULT) }
    }
}

/// Messages that were received and are to be written to a guest together.
#[derive(Default)]
pub(super) struct Batch {
    pub writes: Writes,
    /// Where each one ends in what is to be written.
    ends: Vec<usize>,
    /// Those that have been written.
    pub done: u64,
}

impl Batch {
    /// What was added last is one more message.
    pub fn end(&mut self) {
        self.ends.push(self.writes.data.len());
    }

    pub fn is_full(&self) -> bool {
        // The first one is written at once: who gave memory that cannot be written loses one message.
        self.done == 0 || self.ends.len() >= to_usize(AHEAD) || self.writes.data.len() >= BATCH_BYTES
    }

    /// Writes all of them, or as many as can be: EFAULT.
    pub fn flush(&mut self, mm: &Arc<Mm>) -> Result<(), Errno> {
        let ends = std::mem::take(&mut self.ends);
        let written = self.writes.flush(mm);
        let whole = ends.iter().take_while(|end| **end <= written).count();
        self.done = self.done.saturating_add(whole as u64);
        if whole == ends.len() { Ok(()) } else { Err(Errno::EFAULT) }
    }
}
