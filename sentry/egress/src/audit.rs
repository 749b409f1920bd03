//! Lines of the audit log: a JSON object each.

use crate::flow::{Flow, Key};
use crate::{ICMP, ICMP6, TCP, UDP};
use std::fmt::Write;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Allowed, and begun.
    Open,
    /// Not allowed.
    Deny,
    /// Cut off: for what was said first, or by another policy.
    Reset,
    /// The end of what was allowed.
    Close,
}

impl Event {
    fn name(self) -> &'static str {
        match self {
            Event::Open => "open",
            Event::Deny => "deny",
            Event::Reset => "reset",
            Event::Close => "close",
        }
    }
}

fn proto(number: u8) -> String {
    match number {
        TCP => "tcp".into(),
        UDP => "udp".into(),
        ICMP | ICMP6 => "icmp".into(),
        other => format!("proto:{other}"),
    }
}

/// A string as JSON has it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if u32::from(c) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Nanoseconds since the epoch as RFC 3339 has them.
pub fn time(ns: u64) -> String {
    let (seconds, ms) = (ns / 1_000_000_000, ns / 1_000_000 % 1000);
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's civil_from_days, for days that are not negative.
    let z = days + 719_468;
    let (era, day) = (z / 146_097, z % 146_097);
    let of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * of_era + of_era / 4 - of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = of_era + era * 400 + next;
    let (h, m, s) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{date:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z")
}

pub fn line(wall: u64, event: Event, key: &Key, flow: &Flow) -> String {
    let mut line = head(wall, event, &flow.rule);
    let _ = write!(line, ",\"proto\":\"{}\"", proto(key.proto));
    let ports = matches!(key.proto, TCP | UDP);
    if !key.local.ip().is_unspecified() {
        let _ = write!(line, ",\"local\":\"{}\"", key.local.ip());
        if ports {
            let _ = write!(line, ",\"local_port\":{}", key.local.port());
        }
    }
    let _ = write!(line, ",\"remote\":\"{}\"", key.remote.ip());
    if ports {
        let _ = write!(line, ",\"port\":{}", key.remote.port());
    }
    if let Some(domain) = flow.domain() {
        let _ = write!(line, ",\"domain\":{}", quoted(&domain));
    }
    if matches!(event, Event::Close | Event::Reset) {
        let _ = write!(line, ",\"sent\":{},\"received\":{}", flow.sent, flow.received);
    }
    line.push_str("}\n");
    line
}

fn head(wall: u64, event: Event, rule: &str) -> String {
    let verdict = if matches!(event, Event::Open | Event::Close) { "allow" } else { "deny" };
    format!(
        "{{\"time\":\"{}\",\"event\":\"{}\",\"verdict\":\"{verdict}\",\"rule\":{}",
        time(wall),
        event.name(),
        quoted(rule)
    )
}

/// A packet that is no connection's.
pub fn odd(wall: u64, what: &'static str) -> String {
    head(wall, Event::Deny, what) + ",\"proto\":\"other\"}\n"
}

/// How many lines there was no room for.
pub fn lost(wall: u64, count: u64) -> String {
    format!("{{\"time\":\"{}\",\"event\":\"lost\",\"count\":{count}}}\n", time(wall))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_strings() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(951_782_400_123_456_789), "2000-02-29T00:00:00.123Z");
        assert_eq!(time(1_767_225_599_999_000_000), "2025-12-31T23:59:59.999Z");
        assert_eq!(quoted("a\"b\\\n"), "\"a\\\"b\\\\\\u000a\"");
    }
}
