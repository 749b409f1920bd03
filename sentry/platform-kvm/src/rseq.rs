//! Restartable sequences (rseq(2), kernel/rseq.c).
//!
//! Neighbours: `task` keeps a thread's registration under its lock; `machine` has [`Rseq::leave`] put the thread that was
//! caught in a critical section to its abort handler before anybody else sees its registers, and [`Rseq::enter`] write which
//! processor it is about to run on; `native` makes the call.
//!
//! Invariants: whoever gets from one end of a critical section to the other was on one processor all the time, and nothing
//! came between, not even a page fault. Both methods copy from and to the guest, so they are called with no task locked.

use crate::space::{Space, USER};

const UNREGISTER: u64 = 1;
/// The structure as it first was, and how far it is filled in.
const ORIGINAL: u64 = 32;
const FILLED: u64 = 28;
const ALIGN: u64 = 32;
const UNINITIALIZED: u32 = u32::MAX;

// Offsets in `struct rseq`.
const CRITICAL: u64 = 8;
const FLAGS: u64 = 16;
const NODE_ID: u64 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rseq {
    area: u64,
    len: u64,
    signature: u32,
    /// The processor that the area tells.
    cpu: Option<u32>,
}

/// What Linux answers with SIGSEGV.
#[derive(Debug, PartialEq, Eq)]
pub struct Bad;

fn read<const N: usize>(space: &Space, at: u64) -> Result<[u8; N], Bad> {
    let mut bytes = [0; N];
    space.read_at(at, &mut bytes).map_err(|_| Bad)?;
    Ok(bytes)
}

fn write_ids(space: &Space, area: u64, len: u64, start: u32, cpu: u32, mm_cid: u32) -> Result<(), Bad> {
    let put = |at: u64, a: u32, b: u32| {
        let [a, b] = [a.to_le_bytes(), b.to_le_bytes()];
        space.write_at(area.wrapping_add(at), &[a, b].concat()).map_err(|_| Bad)
    };
    put(0, start, cpu)?;
    // There is one node.
    if len >= FILLED { put(NODE_ID, 0, mm_cid) } else { Ok(()) }
}

impl Rseq {
    /// rseq(2): what is registered afterwards, or Linux's errno.
    pub fn call(now: Option<Rseq>, space: &Space, args: [u64; 4]) -> Result<Option<Rseq>, i32> {
        let [area, len, flags, signature] = args;
        let (len, flags, signature) = (u64::from(len as u32), u64::from(flags as u32), signature as u32);
        let same = |r: &Rseq| (r.area, r.len) == (area, len);
        if flags == UNREGISTER {
            let r = now.filter(same).ok_or(libc::EINVAL)?;
            if r.signature != signature {
                return Err(libc::EPERM);
            }
            write_ids(space, area, len, 0, UNINITIALIZED, 0).map_err(|Bad| libc::EFAULT)?;
            return Ok(None);
        }
        if flags != 0 {
            return Err(libc::EINVAL);
        }
        if let Some(r) = now {
            return Err(match (same(&r), r.signature == signature) {
                (false, _) => libc::EINVAL,
                (true, false) => libc::EPERM,
                (true, true) => libc::EBUSY,
            });
        }
        if len < ORIGINAL || area % ALIGN != 0 {
            return Err(libc::EINVAL);
        }
        if area.checked_add(len).is_none_or(|end| end > USER.end) {
            return Err(libc::EFAULT);
        }
        Ok(Some(Rseq { area, len, signature, cpu: None }))
    }

    /// The thread has been taken from its processor at `ip`: where it goes on.
    pub fn leave(&self, space: &Space, ip: u64) -> Result<u64, Bad> {
        let at = u64::from_le_bytes(read(space, self.area.wrapping_add(CRITICAL))?);
        if at == 0 {
            return Ok(ip);
        }
        let head: [u8; 32] = read(space, at)?;
        let word = |i: usize| head.as_chunks::<8>().0.get(i).copied().map_or(0, u64::from_le_bytes);
        // Version and flags.
        let (kind, start, len, abort) = (word(0), word(1), word(2), word(3));
        let inside = |ip: u64| ip.wrapping_sub(start) < len;
        let user = |at: u64| at < USER.end;
        if kind as u32 != 0 || !user(start) || !user(abort) {
            return Err(Bad);
        }
        if start.checked_add(len).is_none_or(|end| !user(end)) || inside(abort) {
            return Err(Bad);
        }
        let signature = abort.checked_sub(4).ok_or(Bad)?;
        if u32::from_le_bytes(read(space, signature)?) != self.signature {
            return Err(Bad);
        }
        let clear = || space.write_at(self.area.wrapping_add(CRITICAL), &[0; 8]).map_err(|_| Bad);
        if !inside(ip) {
            clear()?;
            return Ok(ip);
        }
        // Linux obeys no flags any more, and takes them for a fault.
        if kind != 0 || read(space, self.area.wrapping_add(FLAGS))? != [0; 4] {
            return Err(Bad);
        }
        clear()?;
        Ok(abort)
    }

    /// The thread is about to run on a processor.
    pub fn enter(&mut self, space: &Space, cpu: u32) -> Result<(), Bad> {
        if self.cpu != Some(cpu) {
            write_ids(space, self.area, self.len, cpu, cpu, cpu)?;
            self.cpu = Some(cpu);
        }
        Ok(())
    }

    /// What a forked child begins with.
    pub fn inherited(self) -> Rseq {
        Rseq { cpu: None, ..self }
    }
}
