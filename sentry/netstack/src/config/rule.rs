//! Rules: which table is asked for which packet.

use super::{Change, Config, MAX_RULES};
use crate::addr::Prefix;
use chitin_abi::Errno;
use chitin_abi::rtnetlink::*;
use std::net::IpAddr;

/// A routing rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub v4: bool,
    pub priority: u32,
    pub src: Option<Prefix>,
    pub dst: Option<Prefix>,
    /// Value and mask.
    pub mark: Option<(u32, u32)>,
    pub iif: Option<String>,
    /// The link by name, and its index when the rule was made.
    pub oif: Option<(String, u32)>,
    pub invert: bool,
    /// FR_ACT_*.
    pub action: u8,
    pub table: u32,
    pub protocol: u8,
}

impl Rule {
    /// Asks a table about everything.
    pub fn table(v4: bool, priority: u32, table: u32) -> Rule {
        Rule {
            v4,
            priority,
            src: None,
            dst: None,
            mark: None,
            iif: None,
            oif: None,
            invert: false,
            action: FR_ACT_TO_TBL,
            table,
            protocol: RTPROT_UNSPEC,
        }
    }

    pub(super) fn standard() -> Vec<Rule> {
        let rule = |v4, priority, table| Rule { protocol: RTPROT_KERNEL, ..Rule::table(v4, priority, table) };
        vec![
            rule(true, 0, RT_TABLE_LOCAL),
            rule(false, 0, RT_TABLE_LOCAL),
            rule(true, 32766, RT_TABLE_MAIN),
            rule(false, 32766, RT_TABLE_MAIN),
            rule(true, 32767, RT_TABLE_DEFAULT),
        ]
    }

    /// `iif`: where it came from; what this host sends comes from `lo`.
    pub(super) fn fits(&self, dst: &IpAddr, src: Option<&IpAddr>, iif: &str, oif: u32, mark: u32) -> bool {
        let fits = self.dst.is_none_or(|p| p.contains(dst))
            && self.src.is_none_or(|p| src.is_some_and(|src| p.contains(src)))
            && self.mark.is_none_or(|(value, mask)| mark & mask == value & mask)
            && self.oif.as_ref().is_none_or(|(_, index)| *index == oif)
            && self.iif.as_ref().is_none_or(|name| name == iif);
        self.v4 == dst.is_ipv4() && fits != self.invert
    }
}

impl Config {
    pub fn rule_add(&self, rule: Rule) -> Result<(), Errno> {
        self.change(|tables, news| {
            if tables.rules.contains(&rule) {
                return Err(Errno::EEXIST);
            }
            if tables.rules.len() >= MAX_RULES {
                return Err(Errno::ENOBUFS);
            }
            let at = tables.rules.partition_point(|r| r.priority <= rule.priority);
            tables.rules.insert(at, rule.clone());
            news.push(Change::Rule(rule, true));
            Ok(())
        })
    }

    /// Deletes the first rule that `fits` says is meant; ENOENT if there is none.
    pub fn rule_del(&self, fits: impl Fn(&Rule) -> bool) -> Result<(), Errno> {
        self.change(|tables, news| {
            let at = tables.rules.iter().position(fits).ok_or(Errno::ENOENT)?;
            news.push(Change::Rule(tables.rules.remove(at), false));
            Ok(())
        })
    }
}
