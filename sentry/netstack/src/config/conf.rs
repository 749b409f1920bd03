//! net.ipv4.conf.NAME and net.ipv6.conf.NAME: what each link has for itself, and `all` and `default`.

use super::{Change, Config, Tables};
use crate::sysctl::Sysctl;
use chitin_abi::Errno;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

macro_rules! conf {
    ($($name:ident = $value:expr, $family:literal, $file:literal, $min:expr, $max:expr;)*) => {
        /// The settings of one link, or of `all` or `default`.
        #[derive(Debug)]
        pub struct Conf {
            $(pub $name: Sysctl,)*
            /// Which were set for this link itself, by their place in the list.
            own: AtomicU32,
            /// Whether IPv6 is off as far as addresses and routes go.
            was_off: AtomicBool,
        }

        impl Default for Conf {
            fn default() -> Conf {
                Conf { $($name: Sysctl::new($value),)* own: AtomicU32::new(0), was_off: AtomicBool::new(false) }
            }
        }

        impl Conf {
            /// The same values for somebody else.
            pub fn copy(&self) -> Conf {
                let was_off = AtomicBool::new(self.disable6.on());
                Conf { $($name: Sysctl::new(self.$name.get()),)* own: AtomicU32::new(0), was_off }
            }

            /// Family, name, setting, least and largest value.
            pub fn list(&self) -> impl Iterator<Item = (&'static str, &'static str, &Sysctl, i64, i64)> {
                [$(($family, $file, &self.$name, $min, $max),)*].into_iter()
            }
        }
    };
}

// What can be one thing only is what this stack does: redirects and router advertisements are not listened to.
conf! {
    forwarding = 0, "ipv4", "forwarding", 0, 1;
    route_localnet = 0, "ipv4", "route_localnet", 0, 1;
    rp_filter = 0, "ipv4", "rp_filter", 0, 2;
    accept_local = 0, "ipv4", "accept_local", 0, 0;
    accept_redirects = 0, "ipv4", "accept_redirects", 0, 0;
    accept_source_route = 0, "ipv4", "accept_source_route", 0, 0;
    arp_ignore = 0, "ipv4", "arp_ignore", 0, 0;
    log_martians = 0, "ipv4", "log_martians", 0, 0;
    promote_secondaries = 1, "ipv4", "promote_secondaries", 1, 1;
    proxy_arp = 0, "ipv4", "proxy_arp", 0, 1;
    send_redirects = 1, "ipv4", "send_redirects", 0, 1;
    disable6 = 0, "ipv6", "disable_ipv6", 0, 1;
    forwarding6 = 0, "ipv6", "forwarding", 0, 1;
    hop_limit = 64, "ipv6", "hop_limit", 1, 255;
    accept_ra = 0, "ipv6", "accept_ra", 0, 0;
    accept_redirects6 = 0, "ipv6", "accept_redirects", 0, 0;
    accept_source_route6 = 0, "ipv6", "accept_source_route", 0, 0;
    autoconf = 0, "ipv6", "autoconf", 0, 0;
    dad_transmits = 0, "ipv6", "dad_transmits", 0, 0;
    proxy_ndp = 0, "ipv6", "proxy_ndp", 0, 1;
    use_tempaddr = 0, "ipv6", "use_tempaddr", 0, 0;
}

impl Conf {
    fn set(&self, at: usize, value: i64) {
        if let Some((_, _, setting, ..)) = self.list().nth(at) {
            setting.set(value);
        }
    }
    /// What another namespace begins with: IPv4's values, IPv6's defaults.
    pub(super) fn copy4(&self) -> Conf {
        let new = Conf::default();
        let both = self.list().zip(new.list()).filter(|(old, _)| old.0 == "ipv4");
        both.for_each(|((_, _, old, ..), (_, _, new, ..))| new.set(old.get()));
        new
    }
    fn is_own(&self, at: usize) -> bool {
        self.own.load(Ordering::Relaxed) & 1 << (at & 31) != 0
    }
}

impl Tables {
    /// Has a link's addresses follow its disable_ipv6 (dev_disable_change()).
    fn switch_v6(&mut self, index: u32, news: &mut Vec<Change>) {
        let Some(conf) = self.links.get(&index).map(|link| link.conf.clone()) else { return };
        let off = conf.disable6.on();
        match conf.was_off.swap(off, Ordering::Relaxed) {
            was if was == off => {}
            _ if off => self.v6_gone(index, news),
            _ => self.v6_began(index, news),
        }
    }
}

impl Config {
    /// The settings of a link, of `all` or of `default`.
    pub fn conf(&self, name: &str) -> Option<Arc<Conf>> {
        match name {
            "all" => Some(self.all.clone()),
            "default" => Some(self.default.clone()),
            _ => {
                self.tables.read().links.values().find(|link| link.name == name).map(|link| link.conf.clone())
            }
        }
    }

    /// The hop limit of what leaves by a link.
    pub fn hop_limit(&self, link: u32) -> u8 {
        let tables = self.tables.read();
        tables.links.get(&link).map_or(&self.all, |link| &link.conf).hop_limit.byte()
    }

    /// Sets one, and what follows from it: switches that `all` throws for everybody (inet_forward_change(),
    /// addrconf_disable_change()), IPv4 defaults for links that were not asked (devinet_copy_dflt_conf()).
    pub fn set_conf(&self, family: &str, name: &str, file: &str, value: i64) -> Result<(), Errno> {
        let conf = self.conf(name).ok_or(Errno::ENOENT)?;
        let at = conf.list().position(|entry| entry.0 == family && entry.1 == file).ok_or(Errno::ENOENT)?;
        conf.set(at, value);
        let disables = file == "disable_ipv6";
        let switch = file == "forwarding" || disables;
        let links = || self.links().into_iter().map(|link| link.conf);
        match name {
            "all" if switch => {
                self.default.set(at, value);
                links().for_each(|conf| conf.set(at, value));
            }
            "all" => {}
            "default" if family == "ipv4" && !switch => {
                links().filter(|conf| !conf.is_own(at)).for_each(|conf| conf.set(at, value));
            }
            "default" => {}
            _ => drop(conf.own.fetch_or(1 << (at & 31), Ordering::Relaxed)),
        }
        if disables {
            self.change(|tables, news| {
                let all: Vec<u32> = tables.links.keys().copied().collect();
                all.into_iter().for_each(|index| tables.switch_v6(index, news));
                Ok::<_, Errno>(())
            })?;
        }
        Ok(())
    }
}
