//! The state of a connection.

use super::bbr::Bbr;
use super::board::Board;
use super::congestion::Window;
use super::ecn::Ecn;
use super::inbox::Inbox;
use super::options::{Congestion, TcpOptions};
use super::outbox::Outbox;
use super::rate::Delivery;
use super::rtt::Rtt;
use super::seq::{Ranges, Seq};
use crate::env::Nanos;
use crate::link::Hop;
use crate::stack::Stack;
use crate::timer::Key;
use chitin_abi::Errno;
use chitin_abi::inet::*;
use chitin_abi::poll::*;
use std::net::IpAddr;

/// States, with Linux's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Established = 1,
    SynSent = 2,
    SynRecv = 3,
    FinWait1 = 4,
    FinWait2 = 5,
    TimeWait = 6,
    Close = 7,
    CloseWait = 8,
    LastAck = 9,
    Closing = 11,
}

impl State {
    pub fn number(self) -> u32 {
        match self {
            State::Established => TCP_ESTABLISHED,
            State::SynSent => TCP_SYN_SENT,
            State::SynRecv => TCP_SYN_RECV,
            State::FinWait1 => TCP_FIN_WAIT1,
            State::FinWait2 => TCP_FIN_WAIT2,
            State::TimeWait => TCP_TIME_WAIT,
            State::Close => TCP_CLOSE,
            State::CloseWait => TCP_CLOSE_WAIT,
            State::LastAck => TCP_LAST_ACK,
            State::Closing => TCP_CLOSING,
        }
    }
    /// The handshake is done.
    pub fn synchronized(self) -> bool {
        !matches!(self, State::SynSent | State::SynRecv | State::Close)
    }
    /// Data may be under way.
    pub fn sends(self) -> bool {
        self.synchronized() && self != State::TimeWait
    }
}

/// How losses are being dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repair {
    Open,
    /// Until this has been acknowledged.
    Recovery(Seq),
    /// After a timeout.
    Loss(Seq),
}

/// What to return to if nothing was lost: the window, and the clock at the first retransmission.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Undo {
    pub cwnd: u32,
    pub ssthresh: u32,
    pub clock: u32,
}

/// The way to the peer, as long as the configuration stays what it is.
#[derive(Clone)]
pub(crate) struct Path {
    pub hop: Hop,
    pub generation: u64,
    pub mtu: usize,
    pub ttl: u8,
}

/// What the retransmission timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rtx {
    /// A timeout.
    Timeout,
    /// A probe for losses at the end (RFC 8985, 7).
    Tail,
    /// Something may turn out to be lost, if it is not just late.
    Reorder,
    /// A closed window, or something held back too long.
    Persist,
    /// A device had no room.
    Device,
}

/// See the module.
pub(crate) struct Tcb {
    pub state: State,
    pub opts: TcpOptions,
    pub error: Option<Errno>,
    pub soft_error: Option<Errno>,
    /// Nobody holds the socket any more.
    pub orphan: bool,
    pub shut_rd: bool,
    pub path: Option<Path>,
    /// In a batch's list.
    pub touched: bool,
    /// POLL* bits to tell.
    pub events: u32,
    /// A writer waits.
    pub want_write: bool,
    /// Somebody sends data with the connection unlocked, and is to look for more afterwards.
    pub flying: bool,
    pub fly_on: bool,

    // Sending.
    pub iss: Seq,
    pub una: Seq,
    pub nxt: Seq,
    /// Sequence number of the first byte in `out`.
    pub base: Seq,
    pub out: Outbox,
    /// FIN after all of `out`; and whether it has been sent.
    pub fin: bool,
    pub fin_sent: bool,
    pub wnd: usize,
    pub max_wnd: usize,
    pub wl1: Seq,
    pub wl2: Seq,
    pub snd_scale: u8,
    pub peer_mss: usize,
    pub mss: usize,
    pub board: Board,
    pub window: Window,
    pub ecn: Ecn,
    pub bbr: Option<Box<Bbr>>,
    pub delivery: Delivery,
    /// When the next piece may go, where a rate is kept to.
    pub pace_at: Nanos,
    pub repair: Repair,
    pub undo: Option<Undo>,
    pub rtt: Rtt,
    pub backoff: u32,
    /// The window was what limited, until this has been acknowledged.
    pub limited: Option<Seq>,
    pub reordering: bool,
    pub reo_steps: u64,
    pub dsack_round: Seq,
    pub prr_delivered: usize,
    pub prr_out: usize,
    pub recover_from: usize,
    pub dupacks: u32,
    /// The end of the last segment that was not full.
    pub small: Seq,
    pub more: bool,
    /// What a probe at the tail sent again.
    pub tail: Option<Seq>,
    pub urgent_out: Option<Seq>,
    pub last_sent: Nanos,
    /// When the first retransmission of what is missing was due.
    pub stalled: Nanos,
    pub probes: u32,
    pub force: bool,

    // Receiving.
    pub irs: Seq,
    pub rcv: Inbox,
    pub rcv_nxt: Seq,
    /// The right edge of the window that the peer knows of.
    pub rcv_adv: Seq,
    /// What has been acknowledged.
    pub rcv_wup: Seq,
    pub rcv_scale: u8,
    pub rcv_limit: usize,
    pub rcv_mss: usize,
    pub ooo: Ranges,
    /// What is told of `ooo`, the latest first.
    pub sacks: Vec<(Seq, Seq)>,
    pub dsack: Option<(Seq, Seq)>,
    pub fin_rcvd: bool,
    /// Sequence number of the peer's FIN, if it came ahead of data.
    pub fin_at: Option<Seq>,
    pub urgent_in: Option<Seq>,
    pub urgent_read: bool,
    pub ack_now: bool,
    pub ack_wanted: bool,
    pub dup_acks_owed: u32,
    pub quick: u32,
    pub pingpong: bool,
    pub drs_since: Nanos,
    pub drs_copied: usize,
    pub drs_space: usize,
    pub rcv_rtt: Nanos,
    pub last_rcvd: Nanos,
    pub last_challenge: Nanos,

    // Options of the connection.
    pub sack_ok: bool,
    pub ts_ok: bool,
    pub wscale_ok: bool,
    pub ts_recent: u32,
    pub ts_recent_at: Nanos,
    pub ts_offset: u32,

    // Timers.
    pub key: Option<Key>,
    pub rtx: Option<(Nanos, Rtx)>,
    pub delack: Option<Nanos>,
    /// Something waits for its turn.
    pub pace: Option<Nanos>,
    pub keep: Option<Nanos>,
    pub keep_probes: u32,
    /// FIN_WAIT2's end, a linger's.
    pub life: Option<Nanos>,
    pub trim: Option<Nanos>,
    pub stats: Counters,
}

/// For TCP_INFO.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub bytes_sent: u64,
    pub bytes_again: u64,
    pub bytes_acked: u64,
    pub bytes_in: u64,
    pub segs_out: u32,
    pub segs_in: u32,
    pub data_out: u32,
    pub data_in: u32,
    pub again: u32,
    pub ooo: u32,
    pub dsacks: u32,
    pub rtos: u16,
    pub delivered: u32,
    pub last_ack_in: Nanos,
}

/// Where and when something happens.
#[derive(Clone, Copy)]
pub(crate) struct Cx<'a> {
    pub stack: &'a Stack,
    pub tuple: &'a super::Tuple,
    pub now: Nanos,
}

impl Tcb {
    pub fn new(stack: &Stack, opts: TcpOptions, iss: Seq, ts_offset: u32) -> Tcb {
        let now = stack.now();
        let memory = stack.tcp.memory.clone();
        let sysctls = &stack.sysctls;
        let limit = super::first_window(sysctls, &opts);
        let mss = 536;
        let rcv_scale = super::scale_for(if opts.rcvbuf == 0 { sysctls.tcp_rmem_max.size() } else { limit });
        Tcb {
            state: State::Close,
            error: None,
            soft_error: None,
            orphan: false,
            shut_rd: false,
            path: None,
            touched: false,
            events: 0,
            want_write: false,
            flying: false,
            fly_on: false,
            iss,
            una: iss,
            nxt: iss,
            base: iss.plus(1),
            out: Outbox::new(memory.clone()),
            fin: false,
            fin_sent: false,
            wnd: 0,
            max_wnd: 0,
            wl1: Seq(0),
            wl2: iss,
            snd_scale: 0,
            peer_mss: mss,
            mss,
            board: Board::default(),
            window: Window::new(opts.congestion, 536),
            ecn: Ecn::default(),
            bbr: None,
            delivery: Delivery::default(),
            pace_at: 0,
            repair: Repair::Open,
            undo: None,
            rtt: Rtt::default(),
            backoff: 0,
            limited: None,
            reordering: false,
            reo_steps: 1,
            dsack_round: iss,
            prr_delivered: 0,
            prr_out: 0,
            recover_from: 0,
            dupacks: 0,
            small: iss,
            more: false,
            tail: None,
            urgent_out: None,
            last_sent: now,
            stalled: 0,
            probes: 0,
            force: false,
            irs: Seq(0),
            rcv: Inbox::new(memory),
            rcv_nxt: Seq(0),
            rcv_adv: Seq(0),
            rcv_wup: Seq(0),
            rcv_scale,
            rcv_limit: limit,
            rcv_mss: mss,
            ooo: Ranges::default(),
            sacks: Vec::new(),
            dsack: None,
            fin_rcvd: false,
            fin_at: None,
            urgent_in: None,
            urgent_read: false,
            ack_now: false,
            ack_wanted: false,
            dup_acks_owed: 0,
            quick: 16,
            pingpong: opts.no_quickack,
            drs_since: now,
            drs_copied: 0,
            drs_space: limit / 2,
            rcv_rtt: 0,
            last_rcvd: now,
            last_challenge: 0,
            sack_ok: false,
            ts_ok: false,
            wscale_ok: false,
            ts_recent: 0,
            ts_recent_at: 0,
            ts_offset,
            key: None,
            rtx: None,
            delack: None,
            pace: None,
            keep: None,
            keep_probes: 0,
            life: None,
            trim: None,
            stats: Counters::default(),
            opts,
        }
    }

    /// Sees to it that the congestion control is the one that is asked for.
    pub fn set_congestion(&mut self, now: Nanos) {
        self.window.algorithm = self.opts.congestion;
        let wanted = self.opts.congestion == Congestion::Bbr;
        if wanted && self.bbr.is_none() {
            self.bbr = Some(Box::new(Bbr::new(self.window.cwnd, self.rtt.srtt, now)));
        } else if !wanted {
            (self.bbr, self.pace) = (None, None);
        }
    }

    /// The clock of timestamps: milliseconds, from somewhere.
    pub fn clock(&self, now: Nanos) -> u32 {
        super::millis(now).wrapping_add(self.ts_offset)
    }

    /// Sequence number behind everything that is to be sent.
    pub fn write_end(&self) -> Seq {
        self.base.plus(self.out.len() + usize::from(self.fin))
    }
    pub fn unsent(&self) -> usize {
        self.base.plus(self.out.len()).from(self.nxt.max(self.base))
    }

    /// How much may wait in the send buffer.
    pub fn send_limit(&self, stack: &Stack) -> usize {
        match self.opts.sndbuf {
            0 => {
                let times = if self.bbr.is_some() { 3 } else { 2 };
                let want = (self.window.cwnd as usize).saturating_mul(times);
                want.max(65536).min(stack.sysctls.tcp_wmem_max.size().max(65536))
            }
            set => (set as usize / 2).max(2048),
        }
    }

    /// Bytes of room, if there is enough for POLLOUT.
    pub fn writable(&self, stack: &Stack) -> usize {
        let limit = self.send_limit(stack);
        let lowat = match self.opts.notsent_lowat {
            0 => stack.sysctls.tcp_notsent_lowat.size(),
            set => set as usize,
        };
        if self.out.len() > limit / 3 * 2 || self.unsent() >= lowat {
            return 0;
        }
        limit - self.out.len()
    }

    pub fn can_send(&self) -> bool {
        matches!(self.state, State::Established | State::CloseWait) && !self.fin
    }

    /// Ends the connection with an error, or without one.
    pub fn die(&mut self, error: Option<Errno>) {
        self.state = State::Close;
        self.error = self.error.or(error);
        self.board = Board::default();
        self.out.consume(usize::MAX);
        self.out.release();
        if self.orphan {
            self.rcv.release();
        }
        self.ooo.clear();
        self.sacks.clear();
        (self.rtx, self.delack, self.pace, self.keep, self.life, self.trim) = Default::default();
        self.events |= POLLIN | POLLOUT | POLLHUP | POLLRDHUP | if error.is_some() { POLLERR } else { 0 };
    }

    /// The way to the peer; found again when the configuration has changed.
    pub fn find_path(&mut self, cx: &Cx<'_>) -> Option<Path> {
        let config = &cx.stack.config;
        let generation = config.generation();
        if let Some(path) = &self.path {
            if path.generation == generation {
                return Some(path.clone());
            }
        }
        let (local, remote) = cx.tuple;
        let route = config.route(remote.ip(), Some(local.ip()), self.opts.device, self.opts.mark).ok()?;
        let hop = cx.stack.hop(route.link, route.next_hop(), false)?;
        let ttl = cx.stack.ttl(&route, Some(self.opts.ttl).filter(|ttl| *ttl != 0));
        let mtu = cx.stack.path_mtu(&route, IP_PMTUDISC_WANT);
        let path = Path { hop, generation, mtu, ttl };
        self.path = Some(path.clone());
        self.set_mss(mtu, remote.ip());
        Some(path)
    }

    /// What the segment size is for a path.
    pub fn set_mss(&mut self, mtu: usize, remote: IpAddr) {
        let headers = if remote.is_ipv4() { 40 } else { 60 };
        let own = usize::from(self.opts.max_seg);
        let most = mtu.saturating_sub(headers).max(88);
        let most = if own == 0 { most } else { most.min(own) };
        let options = if self.ts_ok { 12 } else { 0 };
        let mss = most.min(self.peer_mss).saturating_sub(options).max(48);
        if mss != self.mss {
            self.mss = mss;
            let fresh = self.stats.data_out == 0;
            let mss = crate::wire::len32(mss);
            if fresh {
                self.window = Window::new(self.window.algorithm, mss);
            } else {
                self.window.set_mss(mss);
            }
        }
    }
}
