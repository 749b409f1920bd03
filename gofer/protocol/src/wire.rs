//! Bounded primitives of the encoding: integers in little endian and byte strings with their length.
//!
//! [`Writer`] refuses to grow a packet above its limit and latches the failure, so that encoders need
//! to check once, in [`Writer::finish`]. [`Reader`] never panics and never allocates.

/// The packet would be too large, or a string is longer than its field admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

/// The bytes are not a message; says which rule they break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Appends fields to a reused buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    limit: usize,
    overflow: bool,
}

impl<'a> Writer<'a> {
    /// Starts a packet of at most `limit` bytes in `out`, whose old content is dropped.
    pub fn new(out: &'a mut Vec<u8>, limit: usize) -> Self {
        out.clear();
        Writer { out, limit, overflow: false }
    }

    /// Goes on with a packet that already holds something.
    pub fn resume(out: &'a mut Vec<u8>, limit: usize) -> Self {
        Writer { out, limit, overflow: false }
    }

    /// Bytes written so far.
    pub fn position(&self) -> usize {
        self.out.len()
    }

    /// Bytes that still fit.
    pub fn room(&self) -> usize {
        self.limit.saturating_sub(self.out.len())
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        if bytes.len() > self.room() {
            self.overflow = true;
        } else {
            self.out.extend_from_slice(bytes);
        }
    }

    pub fn u8(&mut self, v: u8) {
        self.raw(&[v]);
    }

    pub fn u16(&mut self, v: u16) {
        self.raw(&v.to_le_bytes());
    }

    pub fn u32(&mut self, v: u32) {
        self.raw(&v.to_le_bytes());
    }

    pub fn i32(&mut self, v: i32) {
        self.raw(&v.to_le_bytes());
    }

    pub fn u64(&mut self, v: u64) {
        self.raw(&v.to_le_bytes());
    }

    pub fn i64(&mut self, v: i64) {
        self.raw(&v.to_le_bytes());
    }

    /// A string of at most `max` bytes.
    pub fn bytes(&mut self, bytes: &[u8], max: usize) {
        match u32::try_from(bytes.len()) {
            Ok(len) if bytes.len() <= max => {
                self.u32(len);
                self.raw(bytes);
            }
            _ => self.overflow = true,
        }
    }

    /// Overwrites a `u32` written before at `position`.
    pub fn patch_u32(&mut self, position: usize, v: u32) {
        match position.checked_add(4).and_then(|end| self.out.get_mut(position..end)) {
            Some(field) => field.copy_from_slice(&v.to_le_bytes()),
            None => self.overflow = true,
        }
    }

    /// Drops what was written after `position` and forgets an overflow: for an entry that did not fit.
    pub fn rewind(&mut self, position: usize) {
        self.out.truncate(position);
        self.overflow = false;
    }

    /// Whether everything fitted so far.
    pub fn fits(&self) -> bool {
        !self.overflow
    }

    /// Ends the packet; fails if anything did not fit.
    pub fn finish(self) -> Result<(), Overflow> {
        if self.overflow { Err(Overflow) } else { Ok(()) }
    }
}

/// Takes fields off a packet.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(packet: &'a [u8]) -> Self {
        Reader { rest: packet }
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(Malformed("the packet ends early"))?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(Malformed("the packet ends early"))?;
        self.rest = rest;
        Ok(*head)
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_le_bytes)
    }

    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_le_bytes)
    }

    /// A boolean: 0 or 1, nothing else.
    pub fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("a flag that is neither 0 nor 1")),
        }
    }

    /// A string of at most `max` bytes.
    pub fn bytes(&mut self, max: usize) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        if len > max {
            return Err(Malformed("a string longer than its field admits"));
        }
        self.take(len)
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Ends the message; fails on trailing bytes.
    pub fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed("bytes after the end of the message")) }
    }
}
