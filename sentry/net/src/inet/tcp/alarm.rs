//! What takes too long on the direct path, where no packet is lost (but to a filter, see `sift`): a connect(2) that
//! finds the backlog full, a connection that is deferred until data comes (TCP_DEFER_ACCEPT), and data that does not
//! fit into the other side's window (TCP_USER_TIMEOUT).
//!
//! A socket has one entry among the stack's timers at most, which goes with it.
//!
//! Locks: `TcpSock::core` → `TcpSock::alarm` → the stack's timers.

use super::{Phase, TcpSock};
use chitin_abi::Errno;
use chitin_netstack::Alarm;
use chitin_netstack::env::{MILLI, SECOND};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

/// net.ipv4.tcp_syn_linear_timeouts: SYNs that are sent again after a second each, before the intervals grow.
const LINEAR: u32 = 4;
/// TCP_RTO_MAX
const LONGEST: u64 = 120 * SECOND;

/// How long a SYN without an answer is sent again.
fn patience(retries: u32) -> u64 {
    let (mut total, mut interval) = (0u64, SECOND);
    for timeout in 1..=retries.saturating_add(LINEAR).saturating_add(1) {
        total = total.saturating_add(interval);
        if timeout > LINEAR {
            interval = interval.saturating_mul(2).min(LONGEST);
        }
    }
    total
}

impl TcpSock {
    fn now(&self) -> u64 {
        self.common.ns.stack.now()
    }
    fn user_limit(&self) -> u64 {
        u64::from(self.user_timeout.load(Ordering::Relaxed)).saturating_mul(MILLI)
    }

    /// When a connection that begins now is given up. TCP_USER_TIMEOUT is looked at when a SYN is sent again.
    pub(super) fn connects_until(&self) -> u64 {
        let whole = patience(self.options.lock().syn_count.cast_unsigned());
        let limit = match self.user_limit() {
            0 => whole,
            limit => whole.min(limit.max(SECOND)),
        };
        self.now().saturating_add(limit)
    }

    /// A new connection that is accepted after so many seconds, should no data come.
    pub(super) fn is_deferred(&self, seconds: i32) {
        let at = self.now().saturating_add(u64::try_from(seconds).unwrap_or(0).saturating_mul(SECOND));
        self.core.lock().give_up = Some(at);
        self.wake_at(at);
    }

    /// Sees to it that what takes too long ends in time.
    pub(super) fn mind_the_time(&self) {
        self.look(self.now());
    }

    fn look(&self, now: u64) {
        let (link, give_up, call) = {
            let mut core = self.core.lock();
            let call = core.call_again.take_if(|at| *at <= now).map(|_| (core.local, core.remote));
            match &core.phase {
                Phase::SynSent(_) => (None, core.give_up, call),
                Phase::Linked(link, side) => (Some((link.clone(), *side)), core.give_up, None),
                Phase::Close | Phase::Listen(_) | Phase::Wire(_) => return,
            }
        };
        match (&link, give_up) {
            (_, Some(at)) if at > now => self.wake_at(at),
            (None, Some(_)) => return self.refused(Errno::ETIMEDOUT),
            (Some((link, 1)), Some(_)) => {
                self.core.lock().give_up = None;
                link.accept_silent();
            }
            _ => {}
        }
        if let (Some((local, Some(remote))), Some(me)) = (call, self.me.upgrade()) {
            me.meet(local, remote);
        }
        let limit = self.user_limit();
        if let Some((link, side)) = link
            && limit != 0
            && let Some(at) = link.give_up_stuck(side, limit, now)
        {
            self.wake_at(at);
        }
    }

    /// [`Alarm::ring`] comes at `at`, or earlier.
    pub(super) fn wake_at(&self, at: u64) {
        let stack = &self.common.ns.stack;
        let mut alarm = self.alarm.lock();
        match *alarm {
            Some((known, _)) if known <= at => return,
            Some(key) => stack.call_off(key),
            None => {}
        }
        let me: Weak<TcpSock> = self.me.clone();
        *alarm = Some(stack.call_at(at, me));
    }
}

impl Alarm for TcpSock {
    fn ring(self: Arc<Self>, now: u64) {
        {
            let mut alarm = self.alarm.lock();
            // One that was called off may come all the same.
            *alarm = alarm.take().filter(|(at, _)| *at > now);
        }
        self.look(now);
    }
}

impl Drop for TcpSock {
    fn drop(&mut self) {
        if let Some(key) = self.alarm.get_mut().take() {
            self.common.ns.stack.call_off(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syn_is_sent_for_two_minutes() {
        // Linux 6.5 and later: 1, 2, 3, 4, 5, 7, 11, 19, 35, 67, 131 seconds.
        assert_eq!(patience(6), 131 * SECOND);
        assert_eq!(patience(1), 7 * SECOND);
    }
}
