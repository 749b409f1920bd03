//! Filters of the host's streams (SO_ATTACH_FILTER), which the sentry runs as it does those of datagrams ([`super::sieve`]): what
//! has come is shown to them when somebody looks, as a segment with the headers that it may have had. What a filter does not
//! keep stays in the host's socket and is shown again later, as TCP sends again what was lost. A listener's filter is shown the SYN
//! of whoever is about to be accepted. Whoever sent it does not learn of this: the host's stack has answered already.
//!
//! Not shown are the answer to a call, acknowledgements alone, resets, and urgent data that is received out of band.
//!
//! Locks: `HostSocket::sifted` is held over the host's calls, none of which waits.

use super::{Alarm, HostSocket, errno, options};
use crate::SockAddr;
use crate::inet::addr::Endpoint;
use crate::inet::tcp::sift::{ACK, FIN, LONGEST, PSH, SHORTEST, SYN, admitted};
use chitin_abi::Errno;
use chitin_abi::ioctl::SIOCINQ;
use chitin_abi::poll::*;
use chitin_abi::socket::MSG_PEEK;
use chitin_host::bounce::Bounce;
use chitin_host::socket as host;
use chitin_netstack::env::SECOND;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Callers that a listener's filter is shown before they are accepted; the others wait in the host's socket.
const MAX_CALLERS: usize = 64;
/// How often a SYN goes again (net.ipv4.tcp_syn_retries, and those that go after a second each).
const MAX_TRIES: u32 = 10;

const INPUT: u32 = POLLIN | POLLRDNORM;
const END: u32 = POLLRDHUP | POLLHUP;

/// What of a stream has got through its filter.
#[derive(Default)]
pub struct Sifted {
    /// Bytes at the head of the host's queue, those that have been received before them, and the end.
    passed: usize,
    received: u64,
    ended: bool,
    /// An error that came instead of data.
    failed: Option<Errno>,
    /// When what did not get through is shown again, and how long that was to wait.
    late: Option<(u64, u64)>,
    /// Callers, those that got through first.
    admitted: VecDeque<OwnedFd>,
    waiting: VecDeque<Caller>,
    alarm: Option<Box<dyn Alarm>>,
}

struct Caller {
    fd: OwnedFd,
    tries: u32,
    at: u64,
}

impl Sifted {
    /// The most that may be received now.
    pub(super) fn most(&self) -> usize {
        if self.passed == 0 { usize::MAX } else { self.passed }
    }

    pub(super) fn took(&mut self, count: usize) {
        self.passed = self.passed.saturating_sub(count);
        self.received = self.received.saturating_add(count as u64);
    }

    fn nothing(&self) -> bool {
        self.passed == 0 && !self.ended && self.failed.is_none()
    }
}

fn endpoint(raw: io::Result<Vec<u8>>) -> Option<Endpoint> {
    SockAddr::parse(&raw.ok()?).inet().map(|at| Endpoint::new(at.ip(), at.port()))
}

/// Own name and peer's.
fn ends(fd: BorrowedFd<'_>) -> Option<(Endpoint, Endpoint)> {
    Some((endpoint(host::name(fd))?, endpoint(host::peer_name(fd))?))
}

impl HostSocket {
    fn ready(&self) -> u32 {
        chitin_host::epoll::ready(self.fd(), options::POLLED)
    }

    /// Wakes who waits for input, in so many nanoseconds.
    fn look_again(&self, turn: &mut Sifted, after: u64) {
        let alarm = turn.alarm.get_or_insert_with(|| {
            let bell = self.queue.clone();
            self.watcher.alarm(Box::new(move || bell.wake(INPUT | END)))
        });
        alarm.arm(after.max(1));
    }

    /// A filter was attached or detached. What has been received by the host's socket before there was one has got through.
    pub(super) fn segments_filter_changed(&self) {
        let turn = &mut *self.sifted.lock();
        if !self.common.filters() {
            (turn.passed, turn.late) = (0, None);
            turn.admitted.extend(turn.waiting.drain(..).map(|caller| caller.fd));
            self.queue.wake(INPUT | END);
        } else if turn.late.is_none() && turn.passed == 0 {
            turn.passed = self.host_queued().unwrap_or(0);
        }
    }

    fn host_queued(&self) -> Result<usize, Errno> {
        host::number(self.fd(), SIOCINQ).map(|count| usize::try_from(count).unwrap_or(0)).map_err(errno)
    }

    /// Shows the filter what has come, as far as it gets through.
    fn show_segments(&self, turn: &mut Sifted, ready: u32) {
        let now = self.common.ns.stack.now();
        if ready & POLLERR != 0 || turn.ended || turn.failed.is_some() {
            return;
        }
        if let Some((at, _)) = turn.late.filter(|(at, _)| now < *at) {
            return self.look_again(turn, at.saturating_sub(now));
        }
        let Some((own, peer)) = ends(self.fd()) else { return };
        let mut bounce = Bounce::take();
        let got = match host::receive(self.fd(), &mut bounce, MSG_PEEK.cast_signed()) {
            Ok(got) => bounce.get(..got.count).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => return turn.failed = Some(errno(error)),
        };
        let before = turn.passed;
        let mut lost = false;
        while let Some(data) = got.get(turn.passed..).filter(|data| !data.is_empty() && !lost) {
            let data = data.get(..MAX_SEGMENT).unwrap_or(data);
            let seq = turn.received.saturating_add(turn.passed as u64).saturating_add(1);
            let kept = admitted(&self.common, 0, (&peer, &own), ACK | PSH, (seq, 1), data);
            let kept = kept.unwrap_or(0).min(data.len());
            lost = kept < data.len();
            turn.passed = turn.passed.saturating_add(kept);
        }
        if !lost && ready & END != 0 && self.host_queued().is_ok_and(|queued| queued == turn.passed) {
            let seq = turn.received.saturating_add(turn.passed as u64).saturating_add(1);
            turn.ended = admitted(&self.common, 0, (&peer, &own), ACK | FIN, (seq, 1), &[]).is_some();
            lost = !turn.ended;
        }
        turn.late = match turn.late {
            _ if !lost => None,
            Some((_, wait)) if turn.passed == before => {
                let wait = wait.saturating_mul(2).min(LONGEST);
                Some((now.saturating_add(wait), wait))
            }
            _ => Some((now.saturating_add(SHORTEST), SHORTEST)),
        };
        if let Some((_, wait)) = turn.late {
            self.look_again(turn, wait);
        }
    }

    /// What of this readiness the guest is told.
    pub(super) fn sifted_readiness(&self, ready: u32) -> u32 {
        let turn = &mut *self.sifted.lock();
        if self.is_listening() {
            self.show_callers(turn);
            return if turn.admitted.is_empty() { ready & !INPUT } else { ready | INPUT };
        }
        if !self.common.filters() || ready & (INPUT | END) == 0 {
            return ready;
        }
        self.show_segments(turn, ready);
        if ready & POLLERR != 0 || turn.failed.is_some() {
            return ready;
        }
        let hidden = if turn.nothing() { INPUT } else { 0 };
        ready & !(hidden | if turn.ended { 0 } else { END })
    }

    /// Whether there is something to be received; how much says [`Sifted::most`].
    pub(super) fn let_through(&self, turn: &mut Sifted) -> Result<(), Errno> {
        let ready = self.ready();
        self.show_segments(turn, ready);
        if let Some(error) = turn.failed.take() {
            return Err(error);
        }
        // Who is not connected, or was told of an error, learns it from the host.
        let refused = turn.nothing() && ready & POLLERR == 0 && host::peer_name(self.fd()).is_ok();
        if refused { Err(Errno::EAGAIN) } else { Ok(()) }
    }

    /// Bytes that wait to be received.
    pub(super) fn sifted_queued(&self) -> Result<usize, Errno> {
        let queued = self.host_queued()?;
        if !self.common.filters() || self.is_listening() {
            return Ok(queued);
        }
        let turn = &mut *self.sifted.lock();
        self.show_segments(turn, self.ready());
        Ok(queued.min(turn.passed))
    }

    /// Nothing more is received, whatever the filter says.
    pub(super) fn sifted_shutdown(&self) {
        self.sifted.lock().ended = true;
    }

    /// Shows a listener's filter the SYNs of those that call.
    fn show_callers(&self, turn: &mut Sifted) {
        let now = self.common.ns.stack.now();
        let admits = |fd: &OwnedFd| {
            let Some((own, peer)) = ends(fd.as_fd()) else { return true };
            admitted(&self.common, 0, (&peer, &own), SYN, (0, 0), &[]).is_some()
        };
        for mut caller in std::mem::take(&mut turn.waiting) {
            if caller.at <= now {
                if admits(&caller.fd) {
                    turn.admitted.push_back(caller.fd);
                    continue;
                }
                caller.tries = caller.tries.saturating_add(1);
                if caller.tries > MAX_TRIES {
                    continue;
                }
                caller.at = now.saturating_add(wait_of(caller.tries));
            }
            turn.waiting.push_back(caller);
        }
        while turn.waiting.len().saturating_add(turn.admitted.len()) < MAX_CALLERS {
            let Ok(fd) = host::accept(self.fd()) else { break };
            if admits(&fd) {
                turn.admitted.push_back(fd);
            } else {
                turn.waiting.push_back(Caller { fd, tries: 0, at: now.saturating_add(wait_of(0)) });
            }
        }
        if let Some(at) = turn.waiting.iter().map(|caller| caller.at).min() {
            self.look_again(turn, at.saturating_sub(now));
        }
    }

    /// The next connection that got through.
    pub(super) fn accept_sifted(&self) -> Result<OwnedFd, Errno> {
        let turn = &mut *self.sifted.lock();
        if self.is_listening() {
            self.show_callers(turn);
        }
        match turn.admitted.pop_front() {
            Some(fd) => Ok(fd),
            None if self.is_listening() => Err(Errno::EAGAIN),
            None => host::accept(self.fd()).map_err(errno),
        }
    }
}

/// The most data of one segment: with its headers it is no longer than a packet.
const MAX_SEGMENT: usize = 65_000;

/// After so many tries.
fn wait_of(tries: u32) -> u64 {
    (SECOND << tries.saturating_sub(4).min(7)).min(LONGEST)
}
