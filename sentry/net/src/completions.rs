//! MSG_ZEROCOPY (SO_ZEROCOPY): what the error queue says of sends whose data the caller wanted to keep in place.
//!
//! Data are always copied here, as Linux does on a loopback interface, so a send is complete when its call is, and all that is
//! told is that it was copied. Notifications of the same kind are put together, so there is one range of numbers at most.
//!
//! Lock: `state`, a leaf.

use crate::msg::RecvMsg;
use chitin_abi::Errno;
use chitin_abi::inet::{IP_RECVERR, IPV6_RECVERR};
use chitin_abi::socket::{MSG_ERRQUEUE, SOL_IP, SOL_IPV6};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// SO_EE_ORIGIN_ZEROCOPY, SO_EE_CODE_ZEROCOPY_COPIED.
const ORIGIN: u8 = 5;
const COPIED: u8 = 1;
/// Bytes of the address after the error, of either family: nobody is to blame.
const ADDR: usize = 16;
const ADDR6: usize = 28;

#[derive(Default)]
struct State {
    next: u32,
    /// The first and the last one that was not told yet.
    untold: Option<(u32, u32)>,
}

/// Numbers of completed sends.
#[derive(Default)]
pub struct Completions {
    state: Mutex<State>,
    /// Whether there is one that was not told yet; changes under `state`.
    untold: AtomicBool,
}

impl Completions {
    /// One more.
    pub fn add(&self) {
        let mut state = self.state.lock();
        let this = state.next;
        state.next = this.wrapping_add(1);
        let first = state.untold.map_or(this, |(first, _)| first);
        state.untold = Some((first, this));
        self.untold.store(true, Ordering::Release);
    }

    pub fn pending(&self) -> bool {
        self.untold.load(Ordering::Acquire)
    }

    /// recvmsg(2) with MSG_ERRQUEUE.
    pub fn receive(&self, v6: bool, msg: &mut RecvMsg<'_>) -> Result<usize, Errno> {
        let (first, last) = {
            let mut state = self.state.lock();
            self.untold.store(false, Ordering::Release);
            state.untold.take().ok_or(Errno::EAGAIN)?
        };
        // struct sock_extended_err
        let mut raw = vec![0, 0, 0, 0, ORIGIN, 0, COPIED, 0];
        raw.extend(first.to_ne_bytes());
        raw.extend(last.to_ne_bytes());
        raw.resize(raw.len() + if v6 { ADDR6 } else { ADDR }, 0);
        let (level, kind) = if v6 { (SOL_IPV6, IPV6_RECVERR) } else { (SOL_IP, IP_RECVERR) };
        msg.control.other.push((level, kind, raw));
        msg.out_flags |= MSG_ERRQUEUE;
        msg.done = true;
        Ok(0)
    }
}
