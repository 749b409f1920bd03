//! Faults: what the host knows about one is only in the signal frame.
//!
//! PTRACE_GETSIGINFO lacks the trap number and the error code. So where they cannot be told from the signal, the host is
//! made to push its signal frame, to a slot of the stub's scratch area, and the thread stops at the handler's first
//! instruction; the two words are read, and the thread gets its registers and FPU state back. The scratch area is the
//! guest's memory: what another thread writes there meanwhile is a lie to its own process.

use crate::stub::{FRAME_SIZE, FRAMES, HANDLER, SCRATCH};
use crate::sys;
use crate::task::{Phase, St, Task};
use crate::xstate;
use chitin_platform::EventKind;

/// A fault whose frame is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    signal: i32,
    code: i32,
    addr: u64,
    slot: u32,
}

/// Offsets in a `struct ucontext`.
const ERR: u64 = 192;
const TRAPNO: u64 = 200;
const REDZONE: u64 = 128;
const SI_KERNEL: i32 = 0x80;

impl Task {
    pub(crate) fn fault_stop(&self, st: &mut St, signal: i32) -> bool {
        let fault =
            matches!(signal, libc::SIGSEGV | libc::SIGBUS | libc::SIGFPE | libc::SIGILL | libc::SIGTRAP);
        match st.phase {
            Phase::Fault(pending) => return self.frame_pushed(st, pending, signal),
            Phase::Running | Phase::Native if fault => {}
            Phase::Calls(_) if fault => return self.corrupt("a fault in the stub"),
            _ => return self.again(st),
        }
        let Ok(info) = sys::siginfo(self.tid) else { return false };
        if info.code <= 0 {
            return self.again(st); // sent by somebody
        }
        let Ok(regs) = sys::get_regs(self.tid) else { return false };
        st.regs = regs;
        st.fp = None;
        st.plain = false;
        self.fetch(st);
        if matches!(signal, libc::SIGSEGV | libc::SIGBUS) {
            if let Some(slot) = self.proc.space.take_slot() {
                let mut there = regs;
                there.rsp = SCRATCH + (u64::from(slot) + 1) * FRAME_SIZE - 64 + REDZONE;
                let pending = Pending { signal, code: info.code, addr: info.addr, slot };
                st.phase = Phase::Fault(pending);
                if sys::set_regs(self.tid, &there).is_err() {
                    return false;
                }
                return self.go(sys::SINGLESTEP, signal);
            }
        }
        let trap = self.trap(st, signal, info.code);
        self.report(st, signal, info.code, info.addr, trap, 0)
    }

    /// The stop behind the frame; a second fault if there was no room for it.
    fn frame_pushed(&self, st: &mut St, p: Pending, signal: i32) -> bool {
        self.proc.space.put_slot(p.slot);
        let mut words = [0u8; 16];
        let found = sys::get_regs(self.tid).is_ok_and(|r| {
            let at = r.rdx.wrapping_add(ERR);
            let slot = SCRATCH + u64::from(p.slot) * FRAME_SIZE;
            let iov = libc::iovec { iov_base: at as *mut _, iov_len: words.len() };
            signal == libc::SIGTRAP
                && r.rip == HANDLER
                && (slot..slot + FRAME_SIZE - 512).contains(&at)
                && sys::vm_read(self.proc.pid, &mut words, &[iov]) == Ok(words.len())
        });
        // The handler's entry has reset the thread's FPU state.
        st.fp_dirty = st.fp.is_some();
        let (trap, error) = if found {
            let word =
                |i: usize| words.get(i..i + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
            (word((TRAPNO - ERR) as usize), word(0))
        } else {
            (self.trap(st, p.signal, p.code), 0)
        };
        self.report(st, p.signal, p.code, p.addr, trap, error)
    }

    fn report(&self, st: &mut St, signal: i32, code: i32, addr: u64, trap_no: u64, error_code: u64) -> bool {
        self.event(st, EventKind::Fault { signal, code, addr, trap_no, error_code });
        false
    }

    /// The trap number that a signal and its code stand for.
    fn trap(&self, st: &St, signal: i32, code: i32) -> u64 {
        const ALIGNED: i32 = 1; // BUS_ADRALN
        const INTEGER: i32 = 2; // up to FPE_INTOVF
        match signal {
            libc::SIGSEGV if code == SI_KERNEL => 13,
            libc::SIGBUS if code == SI_KERNEL => 12,
            libc::SIGBUS if code == ALIGNED => 17,
            libc::SIGILL => 6,
            libc::SIGTRAP => {
                if code == SI_KERNEL {
                    3
                } else {
                    1
                }
            }
            libc::SIGFPE if code <= INTEGER => 0,
            libc::SIGFPE => {
                if st.fp.as_deref().is_some_and(xstate::simd_exception) {
                    19
                } else {
                    16
                }
            }
            _ => 14,
        }
    }

    /// The thread died with a slot.
    pub(crate) fn release_fault(&self, st: &St) {
        if let Phase::Fault(p) = st.phase {
            self.proc.space.put_slot(p.slot);
        }
    }
}

const _: () = assert!(FRAMES <= 32, "slots are bits of a word");
