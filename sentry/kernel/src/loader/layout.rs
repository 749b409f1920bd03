//! Where program, interpreter, heap and stack go in a fresh address space.
//!
//! Ranges are chosen here, with Linux's amounts of randomness, rather than left to the host, so that all of a program can
//! be mapped in one go.

use super::elf::{Elf, page_down, page_up};
use chitin_abi::Errno;
use chitin_abi::limits::{MMAP_MIN_ADDR, PAGE_SIZE};
use std::ops::Range;

/// Two thirds of the address space (ELF_ET_DYN_BASE).
const PIE_BASE: u64 = 0x5555_5555_4000;
/// Pages of randomness: mmap_rnd_bits for programs, STACK_RND_MASK for stacks.
const IMAGE_RANDOM_PAGES: u64 = 1 << 28;
const STACK_RANDOM_PAGES: u64 = 1 << 22;
const BRK_RANDOM_PAGES: u64 = 1 << 18;
/// What lies between the top of user space and the highest interpreter: the largest stack and its randomness.
const INTERPRETER_GAP: u64 = 20 << 30;
/// Kept free around a stack (stack_guard_gap).
const GUARD: u64 = 1 << 20;
/// Places tried when the chosen one is taken.
const ATTEMPTS: u64 = 64;
const ATTEMPT_STEP: u64 = 1 << 30;

/// Stacks are never larger, whatever RLIMIT_STACK says: they are mapped as a whole.
const STACK_MAX: u64 = 1 << 30;
/// For an unlimited RLIMIT_STACK.
const STACK_UNLIMITED: u64 = 256 << 20;
/// Room for the program beside its arguments.
const STACK_ROOM: u64 = 256 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    /// Added to every address in the file.
    pub(super) main: u64,
    pub(super) interpreter: u64,
    pub(super) stack: Range<u64>,
    pub(super) brk: u64,
}

/// The address space before anything is placed.
pub(super) struct Room {
    pub(super) user: Range<u64>,
    /// The platform's own range, the vDSO, and what has been placed.
    pub(super) taken: Vec<Range<u64>>,
}

impl Room {
    fn is_free(&self, range: &Range<u64>) -> bool {
        range.start >= self.user.start.max(MMAP_MIN_ADDR)
            && range.end <= self.user.end
            && self.taken.iter().all(|taken| range.end <= taken.start || taken.end <= range.start)
    }

    /// Tries start addresses, each for a range of `len` bytes.
    fn take(&mut self, len: u64, start: impl Fn(u64) -> Option<u64>) -> Result<u64, Errno> {
        for attempt in 0..ATTEMPTS {
            let Some(start) = start(attempt) else { continue };
            let Some(end) = start.checked_add(len) else { continue };
            if self.is_free(&(start..end)) {
                self.taken.push(start..end);
                return Ok(start);
            }
        }
        Err(Errno::ENOMEM)
    }
}

/// How much stack to map: RLIMIT_STACK, and enough for what `content` bytes of arguments leave.
pub(super) fn stack_size(limit: u64, content: u64) -> u64 {
    let wanted = if limit == u64::MAX { STACK_UNLIMITED } else { limit };
    let least = content.saturating_add(STACK_ROOM);
    page_up(wanted.clamp(least.min(STACK_MAX), STACK_MAX))
}

/// Chooses places; `random` answers random numbers, or always 0 with ADDR_NO_RANDOMIZE.
pub(super) fn place(
    main: &Elf,
    interpreter: Option<&Elf>,
    mut room: Room,
    stack: u64,
    random: &mut dyn FnMut() -> u64,
) -> Result<Placement, Errno> {
    let mut pages = |count: u64| (random() % count) * PAGE_SIZE;
    let user_end = room.user.end;

    let shift = pages(STACK_RANDOM_PAGES);
    let len = stack.checked_add(2 * GUARD).ok_or(Errno::ENOMEM)?;
    let stack_start = room.take(len, |attempt| {
        user_end.checked_sub(shift)?.checked_sub(attempt.checked_mul(ATTEMPT_STEP / 8)?)?.checked_sub(len)
    })?;
    let stack = stack_start + GUARD..stack_start + GUARD + stack;

    let shift = pages(IMAGE_RANDOM_PAGES);
    let bias = if main.relocatable {
        let start = room.take(main.span(), |attempt| {
            let base = PIE_BASE.checked_add(shift)?.checked_add(attempt.checked_mul(ATTEMPT_STEP)?)?;
            aligned_start(base, main)
        })?;
        start.wrapping_sub(main.low)
    } else {
        fixed(main, &mut room)?
    };

    let shift = pages(IMAGE_RANDOM_PAGES);
    let interpreter = match interpreter {
        Some(elf) if elf.relocatable => {
            let start = room.take(elf.span(), |attempt| {
                let top = user_end.checked_sub(INTERPRETER_GAP)?.checked_sub(shift)?;
                let base = top.checked_sub(elf.span())?.checked_sub(attempt.checked_mul(ATTEMPT_STEP)?)?;
                aligned_start(base, elf)
            })?;
            start.wrapping_sub(elf.low)
        }
        Some(elf) => fixed(elf, &mut room)?,
        None => 0,
    };

    let lowest = main.high.wrapping_add(bias);
    let brk = lowest.saturating_add(pages(BRK_RANDOM_PAGES));
    let brk = if room.is_free(&(lowest..brk.saturating_add(GUARD))) { brk } else { lowest };
    Ok(Placement { main: bias, interpreter, stack, brk })
}

/// The start of the file's range whose bias is a multiple of its alignment.
fn aligned_start(base: u64, elf: &Elf) -> Option<u64> {
    (base & !(elf.alignment - 1)).checked_add(page_down(elf.low % elf.alignment))
}

fn fixed(elf: &Elf, room: &mut Room) -> Result<u64, Errno> {
    if elf.low < MMAP_MIN_ADDR {
        return Err(Errno::EPERM);
    }
    room.take(elf.span(), |_| Some(elf.low)).map(|_| 0)
}
