//! What a policy says, and how it judges.
//!
//! Rules are tried in order, and the first that fits counts; `default` is for the rest. A domain fits by what trusted name
//! servers have told of an address. For TCP that is not enough, since an address may serve many names: so the beginning of
//! each connection is looked at ([`Stage`]), and what names a server there is judged once more by that name.

use crate::bucket::Bucket;
use crate::name::Pattern;
use crate::{DNS, ICMP, ICMP6, TCP, UDP};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// The text for no policy at all.
pub const OFF: &str = "off";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Allow,
    Deny,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Any,
    Net(IpAddr, u8),
    Domain(Pattern),
}

/// A protocol, and ports of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Several protocols where there are two of a kind.
    pub protos: [u8; 2],
    pub ports: Option<(u16, u16)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub action: Action,
    pub targets: Vec<Target>,
    /// None: everything; for domains TCP.
    pub services: Vec<Service>,
    pub text: Arc<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub bytes: u64,
    pub burst: u64,
}

/// Whose answers about names count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolvers {
    These(Vec<IpAddr>),
    Any,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub(crate) rules: Vec<Rule>,
    pub(crate) default: Action,
    pub(crate) resolvers: Resolvers,
    /// They may be asked for names that are allowed, and nothing else.
    pub(crate) strict: bool,
    pub(crate) metadata: bool,
    pub(crate) rate: Option<Rate>,
    pub(crate) audit: Option<String>,
}

/// What is known of what a TCP connection says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage<'a> {
    /// It has not begun, or is no TCP.
    Opening,
    /// No TLS.
    Plain,
    /// TLS to this name; empty: to nobody that it names.
    Named(&'a str),
}

/// A connection to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub proto: u8,
    pub remote: IpAddr,
    pub port: u16,
    /// Names of the remote address that this policy believes in.
    pub names: &'a [Arc<str>],
    pub stage: Stage<'a>,
}

/// Where clouds tell whoever asks their machine's credentials: Amazon (also ECS and EKS), Google, Azure, Alibaba, Oracle.
const METADATA: [IpAddr; 10] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)),
];

/// The IPv4 address that a translator would make of an IPv6 one (mapped, compatible, 6to4, NAT64).
fn inner_v4(ip: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(v6) = ip else { return None };
    let raw = v6.octets();
    let at = match raw {
        [0x20, 0x02, ..] => 2,
        [0, 0x64, 0xff, 0x9b, ..] => 12,
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 | 0xff, 0 | 0xff, ..] => 12,
        _ => return None,
    };
    raw.get(at..)?.first_chunk::<4>().map(|raw| Ipv4Addr::from(*raw).into())
}

fn within(ip: IpAddr, net: IpAddr, prefix: u8) -> bool {
    let (a, b, width) = match (ip, net) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(u32::from(a)), u128::from(u32::from(b)), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a), u128::from(b), 128u32),
        _ => return false,
    };
    let rest = width.saturating_sub(prefix.into());
    a.checked_shr(rest).unwrap_or(0) == b.checked_shr(rest).unwrap_or(0)
}

impl Service {
    fn fits(&self, asked: &Asked<'_>) -> bool {
        let ports = self.ports.is_none_or(|(first, last)| (first..=last).contains(&asked.port));
        self.protos.contains(&asked.proto) && ports
    }
}

impl Rule {
    fn fits(&self, asked: &Asked<'_>) -> bool {
        if !self.services.is_empty() && !self.services.iter().any(|service| service.fits(asked)) {
            return false;
        }
        self.targets.iter().any(|target| match target {
            Target::Any => true,
            Target::Net(net, prefix) => {
                let hidden = || inner_v4(asked.remote).is_some_and(|v4| within(v4, *net, *prefix));
                within(asked.remote, *net, *prefix) || self.action == Action::Deny && hidden()
            }
            Target::Domain(_) if self.services.is_empty() && asked.proto != TCP => false,
            Target::Domain(pattern) => self.domain_fits(pattern, asked),
        })
    }

    fn domain_fits(&self, pattern: &Pattern, asked: &Asked<'_>) -> bool {
        let mut names = asked.names.iter();
        let told = || asked.names.iter().any(|name| pattern.matches(name));
        match (self.action, asked.stage) {
            // The address must be the name's: else the guest could say any name to anybody.
            (Action::Allow, Stage::Named(name)) => pattern.matches(name) && told(),
            (Action::Allow, _) => told(),
            (Action::Deny, Stage::Named(name)) => pattern.matches(name),
            // It may still turn out to be meant for another name of the address.
            (Action::Deny, Stage::Opening) if asked.proto == TCP => {
                !asked.names.is_empty() && names.all(|name| pattern.matches(name))
            }
            (Action::Deny, _) => told(),
        }
    }
}

impl Policy {
    /// Whether it allows something, and by which of its rules.
    pub(crate) fn judge(&self, asked: &Asked<'_>) -> (bool, Arc<str>) {
        let is_metadata = |ip: IpAddr| METADATA.contains(&ip);
        if self.metadata && (is_metadata(asked.remote) || inner_v4(asked.remote).is_some_and(is_metadata)) {
            return (false, "block-metadata".into());
        }
        // Streams of questions are not looked into, so they are no way round.
        let questions = asked.proto == UDP || asked.proto == TCP && !self.strict;
        if questions && asked.port == DNS && self.believes(asked.remote) {
            return (true, "dns".into());
        }
        match self.rules.iter().find(|rule| rule.fits(asked)) {
            Some(rule) => (rule.action == Action::Allow, rule.text.clone()),
            None if self.default == Action::Allow => (true, "default allow".into()),
            None => (false, "default deny".into()),
        }
    }

    pub(crate) fn believes(&self, server: IpAddr) -> bool {
        match &self.resolvers {
            Resolvers::Any => true,
            Resolvers::These(servers) => servers.contains(&server),
        }
    }

    /// Whether a trusted name server may be asked this, by UDP.
    pub(crate) fn may_ask(&self, server: IpAddr, name: Option<&str>) -> bool {
        let allowed = |name: &str| {
            let rules = self.rules.iter().filter(|rule| rule.action == Action::Allow);
            let mut targets = rules.flat_map(|rule| &rule.targets);
            targets.any(|target| matches!(target, Target::Domain(pattern) if pattern.matches(name)))
        };
        !self.strict || !self.believes(server) || name.is_some_and(allowed)
    }

    /// Whether a rule speaks of a name.
    pub(crate) fn speaks_of(&self, name: &str) -> bool {
        let targets = self.rules.iter().flat_map(|rule| &rule.targets);
        targets.into_iter().any(|target| matches!(target, Target::Domain(pattern) if pattern.matches(name)))
    }

    pub(crate) fn bucket(&self, now: u64) -> Option<Bucket> {
        self.rate.map(|rate| Bucket::new(rate.bytes, rate.burst, now))
    }

    /// The file that the audit log goes to.
    pub fn audit(&self) -> Option<&str> {
        self.audit.as_deref()
    }
}

/// The protocols of a word.
pub(crate) fn protocols(word: &str) -> Option<[u8; 2]> {
    match word {
        "tcp" => Some([TCP; 2]),
        "udp" => Some([UDP; 2]),
        "icmp" => Some([ICMP, ICMP6]),
        "" => Some([TCP, UDP]),
        _ => None,
    }
}
