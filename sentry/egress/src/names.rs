//! Which names an address goes by, as name servers have told. Bounded, and forgotten when they said so.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

const SECOND: u64 = 1_000_000_000;
/// Programs keep addresses for longer than a short time to live allows; nothing is believed for ever.
const SHORTEST: u64 = 60;
const LONGEST: u64 = 86_400;

#[derive(Clone, Debug)]
struct Entry {
    name: Arc<str>,
    /// One bit for each policy that believes who told it.
    believers: u8,
    until: u64,
}

/// A bounded table.
#[derive(Debug)]
struct Table {
    addresses: usize,
    names: usize,
    entries: HashMap<IpAddr, Vec<Entry>>,
}

impl Table {
    fn add(&mut self, address: IpAddr, entry: Entry, now: u64) {
        if self.entries.len() >= self.addresses && !self.entries.contains_key(&address) {
            self.make_room(now);
        }
        let names = self.entries.entry(address).or_default();
        names.retain(|old| old.until > now && old.name != entry.name);
        if names.len() >= self.names {
            names.remove(0);
        }
        names.push(entry);
    }

    /// Forgets what is over, or else the eighth that would be over first.
    fn make_room(&mut self, now: u64) {
        let last = |names: &Vec<Entry>| names.iter().map(|entry| entry.until).max().unwrap_or(0);
        self.entries.retain(|_, names| last(names) > now);
        if self.entries.len() < self.addresses {
            return;
        }
        let mut ends: Vec<u64> = self.entries.values().map(last).collect();
        ends.sort_unstable();
        let limit = ends.get(self.addresses / 8).copied().unwrap_or(u64::MAX);
        self.entries.retain(|_, names| last(names) > limit);
    }

    fn get(&self, address: IpAddr, now: u64) -> impl Iterator<Item = &Entry> {
        self.entries.get(&address).into_iter().flatten().filter(move |entry| entry.until > now)
    }
}

#[derive(Debug)]
pub struct Names {
    /// Those that a policy speaks of, and the others, which only the audit log shows.
    wanted: Table,
    others: Table,
}

impl Names {
    pub fn new() -> Names {
        let table = |addresses, names| Table { addresses, names, entries: HashMap::new() };
        Names { wanted: table(2048, 8), others: table(1024, 2) }
    }

    pub fn learn(&mut self, address: IpAddr, name: &str, believers: u8, wanted: bool, ttl: u32, now: u64) {
        let seconds = u64::from(ttl).clamp(SHORTEST, LONGEST);
        let until = now.saturating_add(seconds.saturating_mul(SECOND));
        let entry = Entry { name: name.into(), believers, until };
        let table = if wanted { &mut self.wanted } else { &mut self.others };
        table.add(address, entry, now);
    }

    /// All names of an address, each with who believes it; the latest first.
    pub fn of(&self, address: IpAddr, now: u64) -> Vec<(Arc<str>, u8)> {
        let both = [&self.wanted, &self.others];
        let mut found: Vec<_> = both
            .iter()
            .flat_map(|table| table.get(address, now))
            .map(|e| (e.name.clone(), e.believers))
            .collect();
        found.reverse();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn bounded_and_forgetful() {
        let mut names = Names::new();
        let address = |n: u32| IpAddr::from(Ipv4Addr::from(n));
        names.learn(address(1), "a.org", 1, true, 100, 0);
        names.learn(address(1), "b.org", 3, false, 5, 0);
        assert_eq!(names.of(address(1), 0).len(), 2);
        // No shorter than a minute.
        assert_eq!(names.of(address(1), 59 * SECOND).len(), 2);
        assert_eq!(names.of(address(1), 61 * SECOND), [("a.org".into(), 1)]);
        assert!(names.of(address(1), 101 * SECOND).is_empty());
        for n in 0..100_000u32 {
            names.learn(address(n), "x.org", 1, true, n, 0);
            names.learn(address(7), &format!("n{n}.org"), 1, true, u32::MAX, 0);
        }
        assert!(names.wanted.entries.len() <= 2048 && names.of(address(7), 0).len() <= 8);
        assert!(names.of(address(7), LONGEST * SECOND).is_empty());
    }
}
