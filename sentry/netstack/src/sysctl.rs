//! net.ipv4.*, net.ipv6.* and net.core.* as far as this crate obeys them: plain numbers with Linux's defaults.

use crate::tcp::Congestion;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

/// One setting.
#[derive(Debug)]
pub struct Sysctl(AtomicI64);

impl Sysctl {
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }
    pub fn on(&self) -> bool {
        self.get() != 0
    }
    /// As a size; negative ones are zero.
    pub fn size(&self) -> usize {
        usize::try_from(self.get()).unwrap_or(0)
    }
    pub fn u32(&self) -> u32 {
        u32::try_from(self.get().max(0)).unwrap_or(u32::MAX)
    }
    pub fn byte(&self) -> u8 {
        u8::try_from(self.get().max(0)).unwrap_or(u8::MAX)
    }
}

macro_rules! sysctls {
    ($($name:ident = $value:expr, $path:literal, $min:expr, $max:expr;)*) => {
        /// The settings of one namespace.
        #[derive(Debug)]
        pub struct Sysctls {
            $(pub $name: Sysctl,)*
            /// What new connections get: tcp_congestion_control, which is a name and not in the list.
            pub congestion: Mutex<Congestion>,
        }

        impl Default for Sysctls {
            fn default() -> Sysctls {
                Sysctls { $($name: Sysctl(AtomicI64::new($value)),)* congestion: Mutex::default() }
            }
        }

        impl Sysctls {
            /// Path below /proc/sys, the settings there (several for vectors), least and largest value.
            pub fn list(&self) -> Vec<(&'static str, &Sysctl, i64, i64)> {
                vec![$(($path, &self.$name, $min, $max),)*]
            }
        }
    };
}

const INT: i64 = 0x7fff_ffff;

// Vectors (tcp_rmem, ip_local_port_range, ping_group_range) have one line per number, in order.
sysctls! {
    ip_forward = 0, "net/ipv4/ip_forward", 0, 1;
    ip_default_ttl = 64, "net/ipv4/ip_default_ttl", 1, 255;
    ip_no_pmtu_disc = 0, "net/ipv4/ip_no_pmtu_disc", 0, 3;
    ip_nonlocal_bind = 0, "net/ipv4/ip_nonlocal_bind", 0, 1;
    port_min = 32768, "net/ipv4/ip_local_port_range", 1, 65535;
    port_max = 60999, "net/ipv4/ip_local_port_range", 1, 65535;
    ip_unprivileged_port_start = 1024, "net/ipv4/ip_unprivileged_port_start", 0, 65535;
    ping_group_min = 1, "net/ipv4/ping_group_range", 0, INT;
    ping_group_max = 0, "net/ipv4/ping_group_range", 0, INT;
    ipfrag_high_thresh = 4 << 20, "net/ipv4/ipfrag_high_thresh", 0, INT;
    ipfrag_time = 30, "net/ipv4/ipfrag_time", 0, INT;
    icmp_echo_ignore_all = 0, "net/ipv4/icmp_echo_ignore_all", 0, 1;
    icmp_echo_ignore_broadcasts = 1, "net/ipv4/icmp_echo_ignore_broadcasts", 0, 1;
    icmp_ratelimit = 1000, "net/ipv4/icmp_ratelimit", 0, INT;
    icmp_msgs_per_sec = 1000, "net/ipv4/icmp_msgs_per_sec", 0, INT;
    icmp_msgs_burst = 50, "net/ipv4/icmp_msgs_burst", 0, INT;
    igmp_max_memberships = 20, "net/ipv4/igmp_max_memberships", 0, INT;
    tcp_syn_retries = 6, "net/ipv4/tcp_syn_retries", 1, 127;
    tcp_synack_retries = 5, "net/ipv4/tcp_synack_retries", 0, 255;
    tcp_retries1 = 3, "net/ipv4/tcp_retries1", 0, 255;
    tcp_retries2 = 15, "net/ipv4/tcp_retries2", 0, 255;
    tcp_orphan_retries = 0, "net/ipv4/tcp_orphan_retries", 0, 255;
    tcp_syncookies = 1, "net/ipv4/tcp_syncookies", 0, 2;
    tcp_max_syn_backlog = 1024, "net/ipv4/tcp_max_syn_backlog", 0, INT;
    tcp_max_tw_buckets = 65536, "net/ipv4/tcp_max_tw_buckets", 0, INT;
    tcp_max_orphans = 65536, "net/ipv4/tcp_max_orphans", 0, INT;
    tcp_tw_reuse = 2, "net/ipv4/tcp_tw_reuse", 0, 2;
    tcp_fin_timeout = 60, "net/ipv4/tcp_fin_timeout", 0, INT;
    tcp_keepalive_time = 7200, "net/ipv4/tcp_keepalive_time", 1, 32767;
    tcp_keepalive_intvl = 75, "net/ipv4/tcp_keepalive_intvl", 1, 32767;
    tcp_keepalive_probes = 9, "net/ipv4/tcp_keepalive_probes", 1, 127;
    tcp_window_scaling = 1, "net/ipv4/tcp_window_scaling", 0, 1;
    tcp_timestamps = 1, "net/ipv4/tcp_timestamps", 0, 2;
    tcp_sack = 1, "net/ipv4/tcp_sack", 0, 1;
    tcp_dsack = 1, "net/ipv4/tcp_dsack", 0, 1;
    tcp_ecn = 2, "net/ipv4/tcp_ecn", 0, 2;
    tcp_slow_start_after_idle = 1, "net/ipv4/tcp_slow_start_after_idle", 0, 1;
    tcp_abort_on_overflow = 0, "net/ipv4/tcp_abort_on_overflow", 0, 1;
    tcp_rfc1337 = 0, "net/ipv4/tcp_rfc1337", 0, 1;
    tcp_moderate_rcvbuf = 1, "net/ipv4/tcp_moderate_rcvbuf", 0, 1;
    tcp_fastopen = 1, "net/ipv4/tcp_fastopen", 0, INT;
    tcp_challenge_ack_limit = INT, "net/ipv4/tcp_challenge_ack_limit", 0, INT;
    tcp_invalid_ratelimit = 500, "net/ipv4/tcp_invalid_ratelimit", 0, INT;
    tcp_notsent_lowat = 0xffff_ffff, "net/ipv4/tcp_notsent_lowat", 0, 0xffff_ffff;
    tcp_rmem_min = 4096, "net/ipv4/tcp_rmem", 1, INT;
    tcp_rmem_default = 131_072, "net/ipv4/tcp_rmem", 1, INT;
    tcp_rmem_max = 6 << 20, "net/ipv4/tcp_rmem", 1, INT;
    tcp_wmem_min = 4096, "net/ipv4/tcp_wmem", 1, INT;
    tcp_wmem_default = 16384, "net/ipv4/tcp_wmem", 1, INT;
    tcp_wmem_max = 4 << 20, "net/ipv4/tcp_wmem", 1, INT;
    rmem_default = 212_992, "net/core/rmem_default", 2304, INT;
    rmem_max = 212_992, "net/core/rmem_max", 2304, INT;
    wmem_default = 212_992, "net/core/wmem_default", 4608, INT;
    wmem_max = 212_992, "net/core/wmem_max", 4608, INT;
    optmem_max = 131_072, "net/core/optmem_max", 0, INT;
    somaxconn = 4096, "net/core/somaxconn", 0, INT;
    ip6_forwarding = 0, "net/ipv6/conf/all/forwarding", 0, 1;
    ip6_hop_limit = 64, "net/ipv6/conf/default/hop_limit", 1, 255;
    ip6_disable = 0, "net/ipv6/conf/all/disable_ipv6", 0, 1;
    bindv6only = 0, "net/ipv6/bindv6only", 0, 1;
    ip6frag_high_thresh = 4 << 20, "net/ipv6/ip6frag_high_thresh", 0, INT;
    ip6frag_time = 60, "net/ipv6/ip6frag_time", 0, INT;
    icmp6_ratelimit = 1000, "net/ipv6/icmp/ratelimit", 0, INT;
}
