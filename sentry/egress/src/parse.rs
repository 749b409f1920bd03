//! A policy's text: statements, each on a line of its own or ended by a semicolon; `#` begins a comment.
//!
//! An error is one line that says which statement, what is wrong, and what to write instead.

use crate::name::Pattern;
use crate::policy::{Action, Policy, Rate, Resolvers, Rule, Service, Target, protocols};
use std::net::IpAddr;

const MAX_TEXT: usize = 256 << 10;
const MAX_RULES: usize = 4096;
const MAX_TARGETS: usize = 16_384;
/// What a rate's burst is unless it is said: a tenth of a second's worth, but a large packet in any case.
const LEAST_BURST: u64 = 64 << 10;

impl Policy {
    pub fn parse(text: &str) -> Result<Policy, String> {
        if text.len() > MAX_TEXT {
            return Err(format!(
                "egress policy: longer than {MAX_TEXT} bytes; join networks into larger ones"
            ));
        }
        let mut policy = Policy {
            rules: Vec::new(),
            default: Action::Deny,
            resolvers: Resolvers::These(Vec::new()),
            strict: false,
            metadata: false,
            rate: None,
            audit: None,
        };
        let mut default = None;
        let mut count = 0usize;
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            for statement in line.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
                count += 1;
                policy.statement(statement, &mut default).map_err(|error| {
                    format!("egress policy, statement {count} ({}): {error}", shortened(statement))
                })?;
            }
        }
        if count == 0 {
            return Err(
                "egress policy: there is no statement; write `default deny`, or `off` for no policy".into()
            );
        }
        policy.default = default.unwrap_or(Action::Deny);
        let targets: usize = policy.rules.iter().map(|rule| rule.targets.len()).sum();
        if policy.rules.len() > MAX_RULES || targets > MAX_TARGETS {
            return Err(format!(
                "egress policy: more than {MAX_RULES} rules or {MAX_TARGETS} targets; join networks into larger ones"
            ));
        }
        let domains = policy.rules.iter().flat_map(|r| &r.targets).any(|t| matches!(t, Target::Domain(_)));
        if domains && policy.resolvers == Resolvers::These(Vec::new()) {
            return Err(
                "egress policy: a domain is known by a name server's answers, and none is trusted; add \
                        `dns ADDRESS` with the container's name server"
                    .into(),
            );
        }
        Ok(policy)
    }

    fn statement(&mut self, text: &str, default: &mut Option<Action>) -> Result<(), String> {
        let mut words = text.split_whitespace();
        let first = words.next().unwrap_or_default();
        let words: Vec<&str> = words.collect();
        match (first, words.as_slice()) {
            ("allow", words) => self.rule(Action::Allow, words, text),
            ("deny", words) => self.rule(Action::Deny, words, text),
            ("default", [word @ ("allow" | "deny")]) => {
                let action = if *word == "allow" { Action::Allow } else { Action::Deny };
                match default.replace(action) {
                    Some(before) if before != action => Err("there is another default; keep one".into()),
                    _ => Ok(()),
                }
            }
            ("default", _) => Err("write `default allow` or `default deny`".into()),
            ("dns", words) => self.dns(words),
            ("block-metadata", []) => {
                self.metadata = true;
                Ok(())
            }
            ("rate", [rate]) => self.rate(rate, None),
            ("rate", [rate, "burst", burst]) => self.rate(rate, Some(burst)),
            ("rate", _) => {
                Err("write `rate BYTES [burst BYTES]` (per second; K, M and G are 1000, …)".into())
            }
            ("audit", [_, ..]) => {
                let path = text.get("audit".len()..).unwrap_or_default().trim();
                self.audit = Some(path.to_owned());
                Ok(())
            }
            _ => Err(format!(
                "{first:?} with these words means nothing; there are allow, deny, default, dns, block-metadata, rate, audit"
            )),
        }
    }

    fn dns(&mut self, words: &[&str]) -> Result<(), String> {
        if words.is_empty() {
            return Err("write `dns ADDRESS… [strict]`, or `dns any` to trust any server".into());
        }
        for word in words {
            if *word == "strict" {
                self.strict = true;
                continue;
            }
            if *word == "any" {
                self.resolvers = Resolvers::Any;
                continue;
            }
            let server: IpAddr =
                word.parse().map_err(|_| format!("{word:?} is no address; write 10.0.0.53 or any"))?;
            match &mut self.resolvers {
                Resolvers::These(servers) if servers.len() < 64 => servers.push(server.to_canonical()),
                Resolvers::These(_) => return Err("more than 64 servers; write any".into()),
                Resolvers::Any => {}
            }
        }
        Ok(())
    }

    fn rate(&mut self, rate: &str, burst: Option<&str>) -> Result<(), String> {
        let bytes = size(rate)?;
        let burst = burst.map(size).transpose()?.unwrap_or((bytes / 10).max(LEAST_BURST));
        self.rate = Some(Rate { bytes, burst });
        Ok(())
    }

    fn rule(&mut self, action: Action, words: &[&str], text: &str) -> Result<(), String> {
        let mut rule = Rule { action, targets: Vec::new(), services: Vec::new(), text: text.into() };
        for word in words {
            match service(word) {
                Some(services) => rule.services.extend(services?),
                None => rule.targets.push(target(word)?),
            }
        }
        if rule.targets.is_empty() {
            return Err("to whom? write a network (10.0.0.0/8), a domain (*.example.org) or any".into());
        }
        self.rules.push(rule);
        Ok(())
    }
}

/// A statement as errors show it: not all of a long one.
fn shortened(statement: &str) -> String {
    let mut shown: String =
        statement.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if shown.len() < statement.len() {
        shown.push('…');
    }
    shown
}

fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no number of bytes; write 500K, 10M or 1G");
    let (digits, unit) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (text.get(..at), 1_000),
        Some((at, 'm' | 'M')) => (text.get(..at), 1_000_000),
        Some((at, 'g' | 'G')) => (text.get(..at), 1_000_000_000),
        _ => (Some(text), 1),
    };
    let number: u64 = digits.unwrap_or_default().parse().map_err(|_| wrong())?;
    number.checked_mul(unit).filter(|bytes| *bytes > 0).ok_or_else(wrong)
}

/// `tcp`, `udp:53`, `tcp:80,443,8000-8080`, `:53` (both), `icmp`, `proto:47`. `None`: it is none of these.
fn service(word: &str) -> Option<Result<Vec<Service>, String>> {
    if word.starts_with("::") {
        return None;
    }
    let (name, ports) = word.split_once(':').map_or((word, None), |(name, ports)| (name, Some(ports)));
    if name == "proto" {
        let number = ports.and_then(|text| text.parse::<u8>().ok());
        let wrong = || format!("{word:?} needs a protocol's number; write proto:47");
        return Some(number.map(|n| vec![Service { protos: [n; 2], ports: None }]).ok_or_else(wrong));
    }
    let protos = protocols(name)?;
    let Some(ports) = ports.filter(|ports| *ports != "*") else {
        return Some(Ok(vec![Service { protos, ports: None }]));
    };
    if name == "icmp" {
        return Some(Err(format!("{word:?}: ICMP has no ports; write icmp")));
    }
    let port = |text: &str| text.parse::<u16>().ok();
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = (port(first)?, port(last)?);
        (range.0 <= range.1).then_some(Service { protos, ports: Some(range) })
    };
    let services: Option<Vec<_>> = ports.split(',').map(range).collect();
    Some(services.ok_or_else(|| format!("{word:?} has no good ports; write tcp:80,443 or udp:6000-6010")))
}

fn target(word: &str) -> Result<Target, String> {
    if word == "any" {
        return Ok(Target::Any);
    }
    if let Some((address, prefix)) = word.split_once('/') {
        let ip: IpAddr =
            address.parse().map_err(|_| format!("{address:?} is no address; write 10.0.0.0/8"))?;
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.parse::<u8>().ok().filter(|prefix| *prefix <= longest);
        let prefix = prefix.ok_or_else(|| format!("the prefix of {word:?} must be 0 to {longest}"))?;
        return Ok(Target::Net(ip, prefix));
    }
    if let Ok(ip) = word.parse::<IpAddr>() {
        let ip = ip.to_canonical();
        return Ok(Target::Net(ip, if ip.is_ipv4() { 32 } else { 128 }));
    }
    let pattern = Pattern::parse(word).ok_or_else(|| {
        format!("{word:?} is no network, domain or protocol; write 10.0.0.0/8, *.example.org, tcp:443 or any")
    })?;
    Ok(Target::Domain(pattern))
}
