//! What connections tell of themselves: TCP_INFO, and the lists of /proc/net/tcp and SOCK_DIAG.

use super::table::Entry;
use super::tcb::{Repair, Rtx};
use super::{TcpConn, millis};
use crate::env::{MICRO, Nanos};
use crate::stack::Stack;
use crate::wire::len32;
use chitin_abi::inet::*;
use std::net::SocketAddr;
use std::sync::Arc;

/// A line of /proc/net/tcp.
#[derive(Clone, Debug)]
pub struct TcpEntry {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// TCP_*.
    pub state: u32,
    pub tx_queue: usize,
    pub rx_queue: usize,
    /// What timer runs (1: retransmission, 2: keepalive, 3: TIME_WAIT, 4: probe), and nanoseconds until then.
    pub timer: (u8, u64),
    pub retransmits: u32,
    /// Nobody holds it.
    pub orphan: bool,
    /// The connection, unless it is a handshake or TIME_WAIT.
    pub conn: Option<Arc<TcpConn>>,
}

fn micros(time: Nanos) -> u32 {
    u32::try_from(time / MICRO).unwrap_or(u32::MAX)
}

impl TcpConn {
    /// TCP_INFO.
    pub fn info(&self) -> TcpInfo {
        let now = self.stack().map_or(0, |stack| stack.now());
        let (_, remote) = (self.local(), self.remote());
        let headers = if remote.is_ipv4() { 40 } else { 60 };
        self.look(|tcb| {
            let mss = tcb.mss.max(1);
            let segments = |bytes: usize| len32(bytes.div_ceil(mss));
            let ago = |then: Nanos| millis(now.saturating_sub(then));
            let mut options = if tcb.ts_ok { TCPI_OPT_TIMESTAMPS } else { 0 };
            options |= if tcb.sack_ok { TCPI_OPT_SACK } else { 0 };
            options |= if tcb.wscale_ok { TCPI_OPT_WSCALE } else { 0 };
            options |= if tcb.ecn.ok { TCPI_OPT_ECN } else { 0 };
            options |= if tcb.ecn.seen { TCPI_OPT_ECN_SEEN } else { 0 };
            let rate = match tcb.rtt.srtt {
                0 => 0,
                srtt => u64::from(tcb.window.cwnd).saturating_mul(crate::env::SECOND) / srtt,
            };
            let infinite = u32::MAX >> 1;
            let ssthresh = if tcb.window.ssthresh == u32::MAX {
                infinite
            } else {
                tcb.window.ssthresh / tcb.window.mss.max(1)
            };
            TcpInfo {
                tcpi_state: u8::try_from(tcb.state.number()).unwrap_or(0),
                tcpi_ca_state: match tcb.repair {
                    Repair::Open if tcb.board.sacked_out > 0 => 1,
                    Repair::Open => 0,
                    Repair::Recovery(_) => 3,
                    Repair::Loss(_) => 4,
                },
                tcpi_retransmits: u8::try_from(tcb.backoff).unwrap_or(u8::MAX),
                tcpi_probes: u8::try_from(tcb.probes.max(tcb.keep_probes)).unwrap_or(u8::MAX),
                tcpi_backoff: u8::try_from(tcb.backoff).unwrap_or(u8::MAX),
                tcpi_options: options,
                tcpi_wscale: tcb.snd_scale | tcb.rcv_scale << 4,
                tcpi_rto: micros(tcb.rtt.backed_off(tcb.backoff)),
                tcpi_ato: 40_000,
                tcpi_snd_mss: len32(mss),
                tcpi_rcv_mss: len32(tcb.rcv_mss),
                tcpi_unacked: segments(tcb.board.outstanding()),
                tcpi_sacked: segments(tcb.board.sacked_out),
                tcpi_lost: segments(tcb.board.lost_out),
                tcpi_retrans: segments(tcb.board.again_out),
                tcpi_last_data_sent: ago(tcb.last_sent),
                tcpi_last_data_recv: ago(tcb.last_rcvd),
                tcpi_last_ack_recv: ago(tcb.stats.last_ack_in),
                tcpi_pmtu: tcb.path.as_ref().map_or(0, |path| len32(path.mtu)),
                tcpi_rcv_ssthresh: len32(tcb.rcv_limit),
                tcpi_rtt: micros(tcb.rtt.srtt),
                tcpi_rttvar: micros(tcb.rtt.var),
                tcpi_snd_ssthresh: ssthresh,
                tcpi_snd_cwnd: tcb.window.cwnd / tcb.window.mss.max(1),
                tcpi_advmss: tcb.path.as_ref().map_or(0, |path| len32(path.mtu.saturating_sub(headers))),
                tcpi_reordering: if tcb.reordering { 4 } else { 3 },
                tcpi_rcv_rtt: micros(tcb.rcv_rtt),
                tcpi_rcv_space: len32(tcb.drs_space),
                tcpi_total_retrans: tcb.stats.again,
                tcpi_pacing_rate: tcb.bbr.as_ref().map_or(rate, |bbr| bbr.pacing),
                tcpi_delivery_rate: tcb.bbr.as_ref().map_or(0, |bbr| bbr.known()),
                tcpi_max_pacing_rate: u64::MAX,
                tcpi_bytes_acked: tcb.stats.bytes_acked,
                tcpi_bytes_received: tcb.stats.bytes_in,
                tcpi_segs_out: tcb.stats.segs_out,
                tcpi_segs_in: tcb.stats.segs_in,
                tcpi_notsent_bytes: len32(tcb.unsent()),
                tcpi_min_rtt: if tcb.rtt.min == Nanos::MAX { u32::MAX } else { micros(tcb.rtt.min) },
                tcpi_data_segs_in: tcb.stats.data_in,
                tcpi_data_segs_out: tcb.stats.data_out,
                tcpi_delivered: tcb.stats.delivered,
                tcpi_delivered_ce: tcb.ecn.marked,
                tcpi_bytes_sent: tcb.stats.bytes_sent + tcb.stats.bytes_again,
                tcpi_bytes_retrans: tcb.stats.bytes_again,
                tcpi_dsack_dups: tcb.stats.dsacks,
                tcpi_rcv_ooopack: tcb.stats.ooo,
                tcpi_snd_wnd: len32(tcb.wnd),
                tcpi_rcv_wnd: len32(tcb.rcv_adv.from(tcb.rcv_nxt)),
                tcpi_total_rto: tcb.stats.rtos,
                ..TcpInfo::default()
            }
        })
    }
}

impl Stack {
    /// All connections on the wire, with handshakes and TIME_WAIT.
    pub fn tcp_list(&self) -> Vec<TcpEntry> {
        let now = self.now();
        let line = |(tuple, entry): (super::Tuple, Entry)| {
            let (local, remote) = tuple;
            let plain = |state, timer| TcpEntry {
                local,
                remote,
                state,
                tx_queue: 0,
                rx_queue: 0,
                timer: (timer, 0),
                retransmits: 0,
                orphan: true,
                conn: None,
            };
            match entry {
                Entry::Request(_) => plain(TCP_SYN_RECV, 1),
                Entry::TimeWait(_) => plain(TCP_TIME_WAIT, 3),
                Entry::Conn(conn) => {
                    let mut shown = conn.look(|tcb| {
                        let left = |at: Nanos| at.saturating_sub(now);
                        let timer = match (tcb.rtx, tcb.keep) {
                            (Some((at, Rtx::Persist)), _) => (4, left(at)),
                            (Some((at, _)), _) => (1, left(at)),
                            (None, Some(at)) => (2, left(at)),
                            _ => (0, 0),
                        };
                        TcpEntry {
                            state: tcb.state.number(),
                            tx_queue: tcb.out.len(),
                            rx_queue: tcb.rcv.len(),
                            timer,
                            retransmits: tcb.backoff,
                            orphan: tcb.orphan,
                            ..plain(0, 0)
                        }
                    });
                    shown.conn = Some(conn);
                    shown
                }
            }
        };
        self.tcp.all().into_iter().map(line).collect()
    }
}
