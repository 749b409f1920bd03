//! Answers of name servers (RFC 1035): which addresses a name has.

use crate::name::normal;
use crate::{be16, be32, byte};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Records looked at, and names in one chain of aliases.
const MAX_RECORDS: usize = 64;
const MAX_ALIASES: usize = 16;
const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
const TYPE_AAAA: u16 = 28;
const TYPE_OPT: u16 = 41;
const CLASS_IN: u16 = 1;
/// Bytes of EDNS options in a question.
const MAX_OPTIONS: usize = 128;
const HEADER: usize = 12;

#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// What was asked for, and what that is an alias of.
    pub names: Vec<String>,
    /// Addresses, each with the seconds that it may be kept.
    pub addresses: Vec<(IpAddr, u32)>,
}

/// A message's addresses, if it is a good answer that has any.
pub fn answer(message: &[u8]) -> Option<Answer> {
    let (flags, code) = (byte(message, 2)?, byte(message, 3)?);
    // An answer to a standard query, whole, without an error.
    if flags & 0b1111_1010 != 0x80 || code & 0x0f != 0 || be16(message, 4)? != 1 {
        return None;
    }
    let (asked, at) = name(message, HEADER)?;
    if be16(message, at.checked_add(2)?)? != CLASS_IN {
        return None;
    }
    let mut at = at.checked_add(4)?;
    let mut found = Answer { names: vec![asked?], addresses: Vec::new() };
    for _ in 0..usize::from(be16(message, 6)?).min(MAX_RECORDS) {
        let (owner, fixed) = name(message, at)?;
        let (kind, class) = (be16(message, fixed)?, be16(message, fixed.checked_add(2)?)?);
        let ttl = be32(message, fixed.checked_add(4)?)?;
        let length = usize::from(be16(message, fixed.checked_add(8)?)?);
        let start = fixed.checked_add(10)?;
        let data = message.get(start..start.checked_add(length)?)?;
        at = start.checked_add(length)?;
        if class != CLASS_IN || !owner.is_some_and(|owner| found.names.contains(&owner)) {
            continue;
        }
        match kind {
            TYPE_A => {
                if let Ok(raw) = <[u8; 4]>::try_from(data) {
                    found.addresses.push((Ipv4Addr::from(raw).into(), ttl));
                }
            }
            TYPE_AAAA => {
                if let Ok(raw) = <[u8; 16]>::try_from(data) {
                    found.addresses.push((Ipv6Addr::from(raw).to_canonical(), ttl));
                }
            }
            TYPE_CNAME => {
                if let (Some(alias), _) = name(message, start)?
                    && found.names.len() < MAX_ALIASES
                {
                    found.names.push(alias);
                }
            }
            _ => {}
        }
    }
    (!found.addresses.is_empty()).then_some(found)
}

/// The name that a plain question is about: one question, nothing behind it but EDNS's record, so that nothing else travels along.
pub fn question(message: &[u8]) -> Option<String> {
    // A standard query; answers and authorities: none.
    if byte(message, 2)? & 0b1111_1000 != 0 || be16(message, 4)? != 1 || be32(message, 6)? != 0 {
        return None;
    }
    let (asked, at) = name(message, HEADER)?;
    let end = at.checked_add(4)?;
    let rest = message.get(end..)?;
    let plain = match be16(message, 10)? {
        0 => rest.is_empty(),
        1 => {
            let length = usize::from(be16(rest, 9)?);
            byte(rest, 0)? == 0
                && be16(rest, 1)? == TYPE_OPT
                && length <= MAX_OPTIONS
                && rest.len() == length.saturating_add(11)
        }
        _ => false,
    };
    asked.filter(|_| plain)
}

/// The name at `at`, if a host can be called so, and where it ends. Pointers lead backwards only, so they come to an end.
fn name(message: &[u8], at: usize) -> Option<(Option<String>, usize)> {
    let mut text = Vec::new();
    let (mut at, mut limit, mut end) = (at, at, None);
    loop {
        let length = byte(message, at)?;
        match length & 0xc0 {
            0 if length == 0 => {
                let end = end.unwrap_or(at.checked_add(1)?);
                return Some((normal(&text), end));
            }
            0 => {
                let start = at.checked_add(1)?;
                at = start.checked_add(usize::from(length))?;
                if !text.is_empty() {
                    text.push(b'.');
                }
                let label = message.get(start..at)?;
                // A dot inside of a label would make another name of it.
                text.extend(label.iter().map(|b| if *b == b'.' { b'/' } else { *b }));
                if text.len() > 255 {
                    return None;
                }
            }
            0xc0 => {
                end = end.or(at.checked_add(2));
                let target = usize::from(be16(message, at)? & 0x3fff);
                if target >= limit {
                    return None;
                }
                (at, limit) = (target, target);
            }
            _ => return None,
        }
    }
}

/// The first message of a TCP stream (RFC 7766) and what follows it; `None` until it is whole.
pub fn framed(stream: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::from(be16(stream, 0)?);
    stream.get(2..)?.split_at_checked(length)
}
