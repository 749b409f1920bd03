//! What /proc/sys/net has: numbers with Linux's defaults, most of which somebody here or in the sockets layer obeys.
//!
//! Each namespace has its own. A few belong to the machine: the first namespace's, which others see and cannot change, or
//! do not see. [`Stack::tunable`] finds them by their path, with those of the links (`conf`) among them.

use crate::Stack;
use crate::config::Conf;
use crate::tcp::Congestion;
use chitin_abi::Errno;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// One setting; clones are the same one.
#[derive(Clone, Debug)]
pub struct Sysctl(Arc<AtomicI64>);

impl Sysctl {
    pub(crate) fn new(value: i64) -> Sysctl {
        Sysctl(Arc::new(AtomicI64::new(value)))
    }
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
            /// What new connections get, if it was chosen: tcp_congestion_control, which is a name and not in the list.
            pub congestion: Mutex<Option<Congestion>>,
            /// ip_local_reserved_ports: first and last of each range, in order.
            reserved: Mutex<Arc<[(u16, u16)]>>,
            /// Those of the first namespace, to which the machine's settings belong.
            first: bool,
        }

        impl Default for Sysctls {
            fn default() -> Sysctls {
                Sysctls { $($name: Sysctl::new($value),)* congestion: Mutex::default(), reserved: Mutex::default(), first: true }
            }
        }

        impl Sysctls {
            /// Path below /proc/sys/net, the settings there (several for vectors), least and largest value.
            fn list(&self) -> Vec<(&'static str, &Sysctl, i64, i64)> {
                vec![$(($path, &self.$name, $min, $max),)*]
            }
        }
    };
}

const INT: i64 = 0x7fff_ffff;

// Vectors (tcp_rmem, ip_local_port_range, ping_group_range) have one line per number, in order.
sysctls! {
    ip_default_ttl = 64, "ipv4/ip_default_ttl", 1, 255;
    ip_no_pmtu_disc = 0, "ipv4/ip_no_pmtu_disc", 0, 3;
    ip_nonlocal_bind = 0, "ipv4/ip_nonlocal_bind", 0, 1;
    port_min = 32768, "ipv4/ip_local_port_range", 1, 65535;
    port_max = 60999, "ipv4/ip_local_port_range", 1, 65535;
    ip_unprivileged_port_start = 1024, "ipv4/ip_unprivileged_port_start", 0, 65535;
    ping_group_min = 1, "ipv4/ping_group_range", 0, INT;
    ping_group_max = 0, "ipv4/ping_group_range", 0, INT;
    ipfrag_high_thresh = 4 << 20, "ipv4/ipfrag_high_thresh", 0, INT;
    ipfrag_time = 30, "ipv4/ipfrag_time", 0, INT;
    icmp_echo_ignore_all = 0, "ipv4/icmp_echo_ignore_all", 0, 1;
    icmp_echo_ignore_broadcasts = 1, "ipv4/icmp_echo_ignore_broadcasts", 0, 1;
    icmp_ratelimit = 1000, "ipv4/icmp_ratelimit", 0, INT;
    icmp_msgs_per_sec = 1000, "ipv4/icmp_msgs_per_sec", 0, INT;
    icmp_msgs_burst = 50, "ipv4/icmp_msgs_burst", 0, INT;
    igmp_max_memberships = 20, "ipv4/igmp_max_memberships", 0, INT;
    tcp_syn_retries = 6, "ipv4/tcp_syn_retries", 1, 127;
    tcp_synack_retries = 5, "ipv4/tcp_synack_retries", 0, 255;
    tcp_retries1 = 3, "ipv4/tcp_retries1", 0, 255;
    tcp_retries2 = 15, "ipv4/tcp_retries2", 0, 255;
    tcp_orphan_retries = 0, "ipv4/tcp_orphan_retries", 0, 255;
    tcp_syncookies = 1, "ipv4/tcp_syncookies", 0, 2;
    tcp_max_syn_backlog = 1024, "ipv4/tcp_max_syn_backlog", 0, INT;
    tcp_max_tw_buckets = 65536, "ipv4/tcp_max_tw_buckets", 0, INT;
    tcp_max_orphans = 65536, "ipv4/tcp_max_orphans", 0, INT;
    tcp_tw_reuse = 2, "ipv4/tcp_tw_reuse", 0, 2;
    tcp_fin_timeout = 60, "ipv4/tcp_fin_timeout", 0, INT;
    tcp_keepalive_time = 7200, "ipv4/tcp_keepalive_time", 1, 32767;
    tcp_keepalive_intvl = 75, "ipv4/tcp_keepalive_intvl", 1, 32767;
    tcp_keepalive_probes = 9, "ipv4/tcp_keepalive_probes", 1, 127;
    tcp_window_scaling = 1, "ipv4/tcp_window_scaling", 0, 1;
    tcp_timestamps = 1, "ipv4/tcp_timestamps", 0, 2;
    tcp_sack = 1, "ipv4/tcp_sack", 0, 1;
    tcp_dsack = 1, "ipv4/tcp_dsack", 0, 1;
    tcp_ecn = 2, "ipv4/tcp_ecn", 0, 2;
    tcp_slow_start_after_idle = 1, "ipv4/tcp_slow_start_after_idle", 0, 1;
    tcp_abort_on_overflow = 0, "ipv4/tcp_abort_on_overflow", 0, 1;
    tcp_rfc1337 = 0, "ipv4/tcp_rfc1337", 0, 1;
    tcp_moderate_rcvbuf = 1, "ipv4/tcp_moderate_rcvbuf", 0, 1;
    tcp_fastopen = 1, "ipv4/tcp_fastopen", 0, INT;
    tcp_challenge_ack_limit = INT, "ipv4/tcp_challenge_ack_limit", 0, INT;
    tcp_invalid_ratelimit = 500, "ipv4/tcp_invalid_ratelimit", 0, INT;
    tcp_notsent_lowat = 0xffff_ffff, "ipv4/tcp_notsent_lowat", 0, 0xffff_ffff;
    tcp_rmem_min = 4096, "ipv4/tcp_rmem", 1, INT;
    tcp_rmem_default = 131_072, "ipv4/tcp_rmem", 1, INT;
    tcp_rmem_max = 6 << 20, "ipv4/tcp_rmem", 1, INT;
    tcp_wmem_min = 4096, "ipv4/tcp_wmem", 1, INT;
    tcp_wmem_default = 16384, "ipv4/tcp_wmem", 1, INT;
    tcp_wmem_max = 4 << 20, "ipv4/tcp_wmem", 1, INT;
    rmem_default = 212_992, "core/rmem_default", 2304, INT;
    rmem_max = 212_992, "core/rmem_max", 2304, INT;
    wmem_default = 212_992, "core/wmem_default", 4608, INT;
    wmem_max = 212_992, "core/wmem_max", 4608, INT;
    netdev_max_backlog = 1000, "core/netdev_max_backlog", 0, INT;
    optmem_max = 131_072, "core/optmem_max", 0, INT;
    somaxconn = 4096, "core/somaxconn", 0, INT;
    bindv6only = 0, "ipv6/bindv6only", 0, 1;
    ip6_nonlocal_bind = 0, "ipv6/ip_nonlocal_bind", 0, 1;
    ip6frag_high_thresh = 4 << 20, "ipv6/ip6frag_high_thresh", 0, INT;
    ip6frag_time = 60, "ipv6/ip6frag_time", 0, INT;
    icmp6_ratelimit = 1000, "ipv6/icmp/ratelimit", 0, INT;
    max_dgram_qlen = 10, "unix/max_dgram_qlen", 0, INT;
}

/// The machine's settings that other namespaces see (net_core_table).
const SEEN: [&str; 4] = ["core/rmem_default", "core/rmem_max", "core/wmem_default", "core/wmem_max"];
/// Those they do not.
const UNSEEN: [&str; 2] = ["core/netdev_max_backlog", "ipv4/tcp_max_orphans"];

/// A file below /proc/sys/net: its numbers, and between what each of them may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunable {
    pub values: Vec<i64>,
    pub min: i64,
    pub max: i64,
    /// The namespace's own.
    pub writable: bool,
}

impl Sysctls {
    /// Those of a further namespace: the machine's are the first one's, a few begin as the first one's are now
    /// (tcp_sk_init()), and all others as ever.
    pub fn further(&self) -> Sysctls {
        let copy = |from: &Sysctl| Sysctl::new(from.get());
        Sysctls {
            netdev_max_backlog: self.netdev_max_backlog.clone(),
            tcp_max_orphans: self.tcp_max_orphans.clone(),
            rmem_default: self.rmem_default.clone(),
            rmem_max: self.rmem_max.clone(),
            wmem_default: self.wmem_default.clone(),
            wmem_max: self.wmem_max.clone(),
            tcp_rmem_min: copy(&self.tcp_rmem_min),
            tcp_rmem_default: copy(&self.tcp_rmem_default),
            tcp_rmem_max: copy(&self.tcp_rmem_max),
            tcp_wmem_min: copy(&self.tcp_wmem_min),
            tcp_wmem_default: copy(&self.tcp_wmem_default),
            tcp_wmem_max: copy(&self.tcp_wmem_max),
            congestion: Mutex::new(*self.congestion.lock()),
            first: false,
            ..Sysctls::default()
        }
    }

    pub fn congestion(&self) -> Congestion {
        self.congestion.lock().unwrap_or_default()
    }

    /// Ports that are nobody's but who names them.
    pub fn reserved(&self) -> Arc<[(u16, u16)]> {
        self.reserved.lock().clone()
    }

    fn shows(&self, path: &str) -> bool {
        self.first || !UNSEEN.contains(&path)
    }
}

/// Files with names: which there are, and the chosen one.
const CONGESTION: &str = "ipv4/tcp_congestion_control";
const CONGESTIONS: [&str; 2] =
    ["ipv4/tcp_allowed_congestion_control", "ipv4/tcp_available_congestion_control"];

/// Ports that are not given to who names none: "8080,9148-9200".
const RESERVED: &str = "ipv4/ip_local_reserved_ports";

/// Ranges of ports in order, none of which touch (proc_do_large_bitmap()).
fn ranges(words: &str) -> Result<Arc<[(u16, u16)]>, Errno> {
    let port = |text: &str| text.parse::<u16>().map_err(|_| Errno::EINVAL);
    let mut all = Vec::new();
    for word in words.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            return Err(Errno::EINVAL);
        }
        all.push((first, last));
    }
    all.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (first, last) in all {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    Ok(merged.into())
}

fn shown(ranges: &[(u16, u16)]) -> String {
    let word = |(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(word).collect::<Vec<_>>().join(",")
}

/// "ipv4/conf/eth0/rp_filter" as family, name and file.
fn conf_path(path: &str) -> Option<(&str, &str, &str)> {
    let (family, rest) = path.split_once("/conf/")?;
    let (name, file) = rest.split_once('/')?;
    Some((family, name, file))
}

impl Stack {
    /// What is in a directory below /proc/sys/net (""): names, `true` for directories.
    pub fn tunables_in(&self, dir: &str) -> BTreeMap<String, bool> {
        let mut names = BTreeMap::new();
        let mut add = |path: &str| {
            let below = match dir {
                "" => Some(path),
                _ => path.strip_prefix(dir).and_then(|rest| rest.strip_prefix('/')),
            };
            let Some(below) = below else { return };
            let (name, is_dir) = below.split_once('/').map_or((below, false), |(name, _)| (name, true));
            *names.entry(name.to_owned()).or_default() |= is_dir;
        };
        for (path, ..) in self.sysctls.list() {
            if self.sysctls.shows(path) {
                add(path);
            }
        }
        ["ipv4/ip_forward", CONGESTION, RESERVED].into_iter().chain(CONGESTIONS).for_each(&mut add);
        // Only who asks below it needs them all.
        let files = Conf::default();
        for family in ["ipv4", "ipv6"] {
            let within = dir.strip_prefix(family).and_then(|dir| dir.strip_prefix("/conf"));
            let names = match within.map(|rest| rest.strip_prefix('/').unwrap_or_default()) {
                Some("") => {
                    let links = self.config.links().into_iter().map(|link| link.name);
                    links.chain(["all".to_owned(), "default".to_owned()]).collect()
                }
                Some(name) if self.config.conf(name).is_some() => vec![name.to_owned()],
                _ => vec!["all".to_owned()],
            };
            for name in names {
                files
                    .list()
                    .filter(|entry| entry.0 == family)
                    .for_each(|entry| add(&format!("{family}/conf/{name}/{}", entry.1)));
            }
        }
        names
    }

    /// A file below /proc/sys/net.
    pub fn tunable(&self, path: &str) -> Option<Tunable> {
        if path == "ipv4/ip_forward" {
            return self.tunable("ipv4/conf/all/forwarding");
        }
        if let Some((family, name, file)) = conf_path(path) {
            let conf = self.config.conf(name)?;
            let (.., value, min, max) = conf.list().find(|entry| entry.0 == family && entry.1 == file)?;
            return Some(Tunable { values: vec![value.get()], min, max, writable: true });
        }
        if !self.sysctls.shows(path) {
            return None;
        }
        let mut found: Option<Tunable> = None;
        let writable = self.sysctls.first || !SEEN.contains(&path);
        for (_, value, min, max) in self.sysctls.list().into_iter().filter(|entry| entry.0 == path) {
            found
                .get_or_insert_with(|| Tunable { values: Vec::new(), min, max, writable })
                .values
                .push(value.get());
        }
        found
    }

    /// Sets the first so many numbers of a file.
    pub fn tune(&self, path: &str, values: &[i64]) -> Result<(), Errno> {
        let known = self.tunable(path).ok_or(Errno::ENOENT)?;
        if !known.writable {
            return Err(Errno::EACCES);
        }
        if values.iter().any(|value| !(known.min..=known.max).contains(value)) {
            return Err(Errno::EINVAL);
        }
        if path == "ipv4/ip_forward" {
            return self.tune("ipv4/conf/all/forwarding", values);
        }
        if let Some((family, name, file)) = conf_path(path) {
            return values.first().map_or(Ok(()), |value| self.config.set_conf(family, name, file, *value));
        }
        let list = self.sysctls.list();
        let own = list.iter().filter(|entry| entry.0 == path);
        own.zip(values).for_each(|((_, setting, ..), value)| setting.set(*value));
        Ok(())
    }

    /// The words in a file that has some instead of numbers, and whether they can be set.
    pub fn words(&self, path: &str) -> Option<(String, bool)> {
        match path {
            CONGESTION => Some((self.sysctls.congestion().name().to_owned(), true)),
            RESERVED => Some((shown(&self.sysctls.reserved()), true)),
            _ if CONGESTIONS.contains(&path) => {
                Some((Congestion::ALL.map(|(_, name)| name).join(" "), false))
            }
            _ => None,
        }
    }

    pub fn set_words(&self, path: &str, words: &str) -> Result<(), Errno> {
        match self.words(path) {
            None => Err(Errno::ENOENT),
            Some((_, false)) => Err(Errno::EACCES),
            Some(_) if path == RESERVED => {
                *self.sysctls.reserved.lock() = ranges(words)?;
                Ok(())
            }
            Some(_) => {
                *self.sysctls.congestion.lock() = Some(Congestion::named(words).ok_or(Errno::ENOENT)?);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Faults, World};

    fn files(stack: &super::Stack, dir: &str, out: &mut Vec<String>) {
        for (name, is_dir) in stack.tunables_in(dir) {
            let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            if is_dir { files(stack, &path, out) } else { out.push(path) }
        }
    }

    #[test]
    fn what_is_listed_is_found() {
        let stack = World::new(1, Faults::default()).a;
        let mut all = Vec::new();
        files(&stack, "", &mut all);
        for path in
            ["core/somaxconn", "ipv4/ip_forward", "ipv4/conf/eth0/rp_filter", "ipv6/conf/lo/hop_limit"]
        {
            assert!(all.iter().any(|known| known == path), "{path} in {all:?}");
        }
        for path in all {
            match stack.tunable(&path) {
                Some(known) => stack.tune(&path, &known.values).unwrap(),
                None => assert!(stack.words(&path).is_some(), "{path}"),
            }
            assert!(stack.tunables_in(&path).is_empty(), "{path}");
        }
        assert!(stack.tunables_in("ipv4/conf/eth1").is_empty());
        assert!(stack.tunables_in("ipv4/con").is_empty());
    }

    #[test]
    fn ranges_of_ports() {
        let merged = |words| super::ranges(words).map(|ranges| super::shown(&ranges));
        assert_eq!(merged("9000-9010,8080, 9011,9005-9020"), Ok("8080,9000-9020".to_owned()));
        assert_eq!(merged(""), Ok(String::new()));
        assert_eq!(merged("0-65535"), Ok("0-65535".to_owned()));
        assert!(["a", "65536", "9-8", "1-2-3"].iter().all(|words| merged(words).is_err()));
    }

    #[test]
    fn the_machine_s_are_shared() {
        let first = World::new(1, Faults::default()).a;
        first.tune("core/rmem_max", &[300_000]).unwrap();
        first.tune("ipv4/conf/default/rp_filter", &[2]).unwrap();
        first.tune("ipv4/tcp_rmem", &[4096, 5000]).unwrap();
        first.tune("core/somaxconn", &[5]).unwrap();
        let other = super::Stack::further(first.env().clone(), &first);
        first.tune("core/rmem_max", &[400_000]).unwrap();
        assert_eq!(other.sysctls.rmem_max.get(), 400_000);
        assert!(other.tune("core/rmem_max", &[1]).is_err());
        assert_eq!(other.tunable("ipv4/conf/lo/rp_filter").unwrap().values, [2]);
        assert_eq!(other.tunable("ipv4/tcp_rmem").unwrap().values, [4096, 5000, 6 << 20]);
        assert_eq!(other.tunable("core/somaxconn").unwrap().values, [4096]);
        assert!(other.tunable("ipv4/tcp_max_orphans").is_none());
    }
}
