//! What can be set at a connection.

use crate::sysctl::Sysctls;

/// Congestion control (TCP_CONGESTION).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Congestion {
    #[default]
    Cubic,
    Reno,
    Bbr,
}

impl Congestion {
    pub(crate) const ALL: [(Congestion, &'static str); 3] =
        [(Congestion::Reno, "reno"), (Congestion::Cubic, "cubic"), (Congestion::Bbr, "bbr")];

    pub fn name(self) -> &'static str {
        Congestion::ALL.iter().find(|known| known.0 == self).map_or("cubic", |known| known.1)
    }
    pub fn named(name: &str) -> Option<Congestion> {
        Congestion::ALL.iter().find(|known| known.1 == name).map(|known| known.0)
    }
}

/// Settings of a connection or of a listener's connections to be. 0 stands for the sysctl's value where one exists.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TcpOptions {
    pub nodelay: bool,
    pub cork: bool,
    /// Off until the next delayed ACK would have been due.
    pub no_quickack: bool,
    pub keepalive: bool,
    /// Seconds.
    pub keep_idle: u32,
    pub keep_intvl: u32,
    pub keep_cnt: u32,
    /// Milliseconds.
    pub user_timeout: u32,
    pub syn_count: u32,
    /// Seconds in FIN_WAIT2 once nobody holds the socket: TCP_LINGER2; negative: none.
    pub linger2: i32,
    /// Seconds that an accept may be put off for data.
    pub defer_accept: u32,
    pub window_clamp: u32,
    /// TCP_MAXSEG.
    pub max_seg: u16,
    pub congestion: Congestion,
    /// Bytes; 0: by the sysctls, and growing with the connection.
    pub sndbuf: u32,
    pub rcvbuf: u32,
    pub notsent_lowat: u32,
    pub oob_inline: bool,
    pub tos: u8,
    /// 0: the default.
    pub ttl: u8,
    pub mark: u32,
    /// SO_BINDTODEVICE; 0: none.
    pub device: u32,
    /// IP_PMTUDISC_*.
    pub pmtudisc: u32,
    /// SO_ATTACH_FILTER: `TcpEvents::admit` decides about each segment.
    pub filtered: bool,
}

impl TcpOptions {
    fn or(value: u32, sysctl: u32) -> u32 {
        if value == 0 { sysctl } else { value }
    }
    pub fn idle(&self, sysctls: &Sysctls) -> u32 {
        TcpOptions::or(self.keep_idle, sysctls.tcp_keepalive_time.u32())
    }
    pub fn interval(&self, sysctls: &Sysctls) -> u32 {
        TcpOptions::or(self.keep_intvl, sysctls.tcp_keepalive_intvl.u32())
    }
    pub fn probes(&self, sysctls: &Sysctls) -> u32 {
        TcpOptions::or(self.keep_cnt, sysctls.tcp_keepalive_probes.u32())
    }
}
