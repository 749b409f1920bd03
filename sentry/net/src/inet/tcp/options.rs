//! Options of IPPROTO_TCP (tcp(7)).

use super::{Phase, TcpSock};
use crate::options::OptValue;
use chitin_abi::Errno;
use chitin_abi::capability::CAP_NET_ADMIN;
use chitin_abi::inet::*;
use chitin_abi::num::low8;
use chitin_netstack::Congestion;
use chitin_vfs::walk::Caller;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use zerocopy::IntoBytes;

/// What the maximum segment size comes to on `lo`: its MTU as far as a packet can use it, less headers and timestamps.
const LO_MSS: u32 = 65_483;
const LO_MSS6: u32 = 65_464;
/// TCP_MSS_DEFAULT
const DEFAULT_MSS: u32 = 536;
/// TCP_RTO_MAX and TCP_TIMEOUT_INIT in seconds.
const RTO_MAX: u32 = 120;

/// Values of a socket's options.
#[derive(Clone)]
pub struct TcpOptions {
    pub nodelay: bool,
    pub cork: bool,
    pub quickack: bool,
    pub max_segment: u32,
    pub keep_idle: i32,
    pub keep_interval: i32,
    pub keep_count: i32,
    pub syn_count: i32,
    pub linger2: i32,
    /// In retransmissions of a SYN+ACK.
    pub defer_accept: u8,
    pub window_clamp: i32,
    pub congestion: Congestion,
    pub user_timeout: i32,
    fastopen: i32,
    fastopen_connect: bool,
    fastopen_no_cookie: bool,
    timestamp: i32,
    pub notsent_lowat: i32,
    save_syn: i32,
    thin_linear: bool,
    tx_delay: i32,
}

impl Default for TcpOptions {
    fn default() -> TcpOptions {
        TcpOptions {
            nodelay: false,
            cork: false,
            quickack: true,
            max_segment: 0,
            keep_idle: 7200,
            keep_interval: 75,
            keep_count: 9,
            syn_count: 6,
            linger2: 60,
            defer_accept: 0,
            window_clamp: 0,
            congestion: Congestion::default(),
            user_timeout: 0,
            fastopen: 0,
            fastopen_connect: false,
            fastopen_no_cookie: false,
            timestamp: 0,
            notsent_lowat: 0,
            save_syn: 0,
            thin_linear: false,
            tx_delay: 0,
        }
    }
}

impl TcpOptions {
    /// What a new socket has.
    pub fn with(congestion: Congestion) -> TcpOptions {
        TcpOptions { congestion, ..TcpOptions::default() }
    }

    pub fn defer_seconds(&self) -> i32 {
        seconds(self.defer_accept)
    }
}

/// secs_to_retrans()
fn retransmissions(seconds: i32) -> u8 {
    let Ok(seconds) = u32::try_from(seconds) else { return 0 };
    let (mut count, mut timeout, mut period) = (0u8, 1u32, 1u32);
    if seconds > 0 {
        count = 1;
        while seconds > period && count < 255 {
            count += 1;
            timeout = (timeout << 1).min(RTO_MAX);
            period = period.saturating_add(timeout);
        }
    }
    count
}

/// retrans_to_secs()
fn seconds(retransmissions: u8) -> i32 {
    let (mut period, mut timeout) = (0u32, 1u32);
    for turn in 0..retransmissions {
        if turn > 0 {
            timeout = (timeout << 1).min(RTO_MAX);
        }
        period = period.saturating_add(timeout);
    }
    period.cast_signed()
}

fn in_range(value: i32, high: i32) -> Result<i32, Errno> {
    if (1..=high).contains(&value) { Ok(value) } else { Err(Errno::EINVAL) }
}

impl TcpSock {
    pub(super) fn set_tcp(&self, name: u32, value: &[u8], caller: &Caller) -> Result<(), Errno> {
        match name {
            TCP_CONGESTION => {
                let wanted: Vec<u8> = value.iter().copied().take(15).take_while(|&b| b != 0).collect();
                if value.is_empty() {
                    return Err(Errno::EINVAL);
                }
                let found = std::str::from_utf8(&wanted).ok().and_then(Congestion::named);
                self.options.lock().congestion = found.ok_or(Errno::ENOENT)?;
                return Ok(());
            }
            TCP_ULP => return Err(if value.is_empty() { Errno::EINVAL } else { Errno::ENOENT }),
            _ => {}
        }
        let number = value.first_chunk().map(|raw| i32::from_ne_bytes(*raw)).ok_or(Errno::EINVAL)?;
        let on = number != 0;
        let (closed, listens) = {
            let core = self.core.lock();
            (matches!(core.phase, Phase::Close), matches!(core.phase, Phase::Listen(_)))
        };
        let mut options = self.options.lock();
        match name {
            TCP_NODELAY => options.nodelay = on,
            TCP_CORK => options.cork = on,
            TCP_QUICKACK => options.quickack = on,
            TCP_MAXSEG => {
                if on && !(88..=32_767).contains(&number) {
                    return Err(Errno::EINVAL);
                }
                options.max_segment = number.cast_unsigned();
            }
            TCP_KEEPIDLE => options.keep_idle = in_range(number, 32_767)?,
            TCP_KEEPINTVL => options.keep_interval = in_range(number, 32_767)?,
            TCP_KEEPCNT => options.keep_count = in_range(number, 127)?,
            TCP_SYNCNT => options.syn_count = in_range(number, 127)?,
            TCP_LINGER2 => options.linger2 = number.clamp(-1, 120),
            TCP_DEFER_ACCEPT => options.defer_accept = retransmissions(number),
            TCP_WINDOW_CLAMP => {
                if !on && !closed {
                    return Err(Errno::EINVAL);
                }
                options.window_clamp = if on { number.max(1152) } else { 0 };
            }
            TCP_USER_TIMEOUT if number < 0 => return Err(Errno::EINVAL),
            TCP_USER_TIMEOUT => {
                options.user_timeout = number;
                self.user_timeout.store(number.cast_unsigned(), Ordering::Relaxed);
            }
            TCP_FASTOPEN => {
                if number < 0 || !(closed || listens) {
                    return Err(Errno::EINVAL);
                }
                let most = self.common.ns.stack.sysctls.somaxconn.u32();
                options.fastopen = number.min(i32::try_from(most).unwrap_or(i32::MAX));
            }
            TCP_FASTOPEN_CONNECT if !(0..=1).contains(&number) => return Err(Errno::EINVAL),
            TCP_FASTOPEN_CONNECT if !self.common.fast_open() => return Err(Errno::EOPNOTSUPP),
            // It would matter once there is a cookie.
            TCP_FASTOPEN_CONNECT if closed => options.fastopen_connect = on,
            TCP_FASTOPEN_CONNECT => return Err(Errno::EINVAL),
            TCP_FASTOPEN_NO_COOKIE => {
                if !(0..=1).contains(&number) || !(closed || listens) {
                    return Err(Errno::EINVAL);
                }
                options.fastopen_no_cookie = on;
            }
            TCP_TIMESTAMP => options.timestamp = number,
            TCP_NOTSENT_LOWAT => options.notsent_lowat = number,
            TCP_SAVE_SYN => {
                if !(0..=2).contains(&number) {
                    return Err(Errno::EINVAL);
                }
                options.save_syn = number;
            }
            TCP_INQ => {
                if !(0..=1).contains(&number) {
                    return Err(Errno::EINVAL);
                }
                self.tells_inq.store(on, Ordering::Relaxed);
            }
            TCP_THIN_LINEAR_TIMEOUTS | TCP_THIN_DUPACK => {
                if !(0..=1).contains(&number) {
                    return Err(Errno::EINVAL);
                }
                if name == TCP_THIN_LINEAR_TIMEOUTS {
                    options.thin_linear = on;
                }
            }
            TCP_TX_DELAY => options.tx_delay = number,
            TCP_REPAIR if !self.common.ns.allows(&caller.creds, CAP_NET_ADMIN) => return Err(Errno::EPERM),
            TCP_REPAIR_QUEUE | TCP_QUEUE_SEQ | TCP_REPAIR_OPTIONS => return Err(Errno::EPERM),
            _ => return Err(Errno::ENOPROTOOPT),
        }
        drop(options);
        self.reconfigure();
        Ok(())
    }

    /// The segment size towards the peer.
    fn segment(&self) -> u32 {
        let conn = self.wire();
        if let Some(conn) = conn {
            return conn.info().tcpi_snd_mss;
        }
        let (remote, side) = {
            let core = self.core.lock();
            let side = match core.phase {
                Phase::Linked(_, side) => Some(side),
                _ => None,
            };
            (core.remote, side)
        };
        let asked = self.options.lock().max_segment;
        let full = match (remote.map(|remote| remote.ip), side) {
            // Half of the window that the other side has offered (tcp_bound_to_half_wnd()).
            (Some(_), Some(1)) => 32_768,
            (Some(IpAddr::V4(_)), Some(_)) => LO_MSS / 2,
            (Some(IpAddr::V6(_)), Some(_)) => LO_MSS6 / 2,
            _ => DEFAULT_MSS,
        };
        match asked {
            0 => full,
            _ if side.is_some() => full.min(asked),
            _ => asked,
        }
    }

    pub(super) fn get_tcp(&self, name: u32, room: usize) -> Result<OptValue, Errno> {
        let segment = self.segment();
        let options = self.options.lock().clone();
        let number = match name {
            TCP_NODELAY => options.nodelay.into(),
            TCP_CORK => options.cork.into(),
            TCP_QUICKACK => options.quickack.into(),
            TCP_MAXSEG => segment.cast_signed(),
            TCP_KEEPIDLE => options.keep_idle,
            TCP_KEEPINTVL => options.keep_interval,
            TCP_KEEPCNT => options.keep_count,
            TCP_SYNCNT => options.syn_count,
            TCP_LINGER2 if options.linger2 == 0 => 60,
            TCP_LINGER2 => options.linger2,
            TCP_DEFER_ACCEPT => options.defer_seconds(),
            TCP_WINDOW_CLAMP => options.window_clamp,
            TCP_USER_TIMEOUT => options.user_timeout,
            TCP_FASTOPEN => options.fastopen,
            TCP_FASTOPEN_CONNECT => options.fastopen_connect.into(),
            TCP_FASTOPEN_NO_COOKIE => options.fastopen_no_cookie.into(),
            TCP_TIMESTAMP => options.timestamp,
            TCP_NOTSENT_LOWAT => options.notsent_lowat,
            TCP_SAVE_SYN => options.save_syn,
            TCP_INQ => self.tells_inq.load(Ordering::Relaxed).into(),
            TCP_THIN_LINEAR_TIMEOUTS => options.thin_linear.into(),
            TCP_THIN_DUPACK | TCP_REPAIR | TCP_IS_MPTCP => 0,
            TCP_TX_DELAY => options.tx_delay,
            TCP_CONGESTION => {
                let mut raw = [0u8; 16];
                for (to, from) in raw.iter_mut().zip(options.congestion.name().bytes()) {
                    *to = from;
                }
                return Ok(OptValue::Value(raw.into_iter().take(room).collect()));
            }
            TCP_ULP | TCP_SAVED_SYN | TCP_CC_INFO => return Ok(OptValue::Value(Vec::new())),
            TCP_INFO => {
                let info = self.info(segment);
                return Ok(OptValue::Value(info.as_bytes().iter().copied().take(room).collect()));
            }
            _ => return Err(Errno::ENOPROTOOPT),
        };
        Ok(OptValue::Value(number.to_ne_bytes().into_iter().take(room).collect()))
    }

    fn info(&self, segment: u32) -> TcpInfo {
        if let Some(conn) = self.wire() {
            return conn.info();
        }
        let view = self.view();
        let mut info = TcpInfo { tcpi_state: low8(view.state), ..TcpInfo::default() };
        if view.state == TCP_LISTEN {
            if let Phase::Listen(listener) = &self.core.lock().phase {
                let (pending, backlog) = listener.queued();
                info.tcpi_unacked = u32::try_from(pending).unwrap_or(u32::MAX);
                info.tcpi_sacked = u32::try_from(backlog).unwrap_or(u32::MAX);
            }
            return info;
        }
        let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        info.tcpi_snd_mss = segment;
        info.tcpi_rto = 204_000;
        info.tcpi_ato = 40_000;
        info.tcpi_rcv_mss = DEFAULT_MSS;
        info.tcpi_snd_ssthresh = 0x7fff_ffff;
        info.tcpi_snd_cwnd = 10;
        info.tcpi_reordering = 3;
        info.tcpi_pmtu = 65_536;
        info.tcpi_advmss = LO_MSS;
        info.tcpi_min_rtt = u32::MAX;
        info.tcpi_pacing_rate = u64::MAX;
        info.tcpi_max_pacing_rate = u64::MAX;
        info.tcpi_notsent_bytes = clamp(view.unsent);
        if let Some((link, side)) = self.link() {
            let [received, sent, in_segments, out_segments] = link.counts(side);
            info.tcpi_options = TCPI_OPT_TIMESTAMPS | TCPI_OPT_SACK | TCPI_OPT_WSCALE;
            info.tcpi_options |= if link.ecn { TCPI_OPT_ECN } else { 0 };
            info.tcpi_options |= if link.ecn && in_segments > 0 { TCPI_OPT_ECN_SEEN } else { 0 };
            info.tcpi_wscale = 7 | 7 << 4;
            info.tcpi_rtt = 20;
            info.tcpi_rttvar = 10;
            info.tcpi_min_rtt = 10;
            info.tcpi_bytes_received = received;
            info.tcpi_bytes_acked = sent.saturating_add(1);
            info.tcpi_bytes_sent = sent;
            info.tcpi_data_segs_in = clamp(usize::try_from(in_segments).unwrap_or(usize::MAX));
            info.tcpi_data_segs_out = clamp(usize::try_from(out_segments).unwrap_or(usize::MAX));
            info.tcpi_segs_in = info.tcpi_data_segs_in.saturating_add(2);
            info.tcpi_segs_out = info.tcpi_data_segs_out.saturating_add(2);
            info.tcpi_rcv_space = 65_483;
            info.tcpi_snd_wnd = clamp(view.free);
            info.tcpi_rcv_wnd = 65_536;
        }
        info
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_retransmissions() {
        assert_eq!([-1, 0, 1, 2, 3, 4, 7, 8, 100].map(retransmissions), [0, 0, 1, 2, 2, 3, 3, 4, 7]);
        assert_eq!([0, 1, 2, 3, 4, 8].map(seconds), [0, 1, 3, 7, 15, 247]);
    }
}
