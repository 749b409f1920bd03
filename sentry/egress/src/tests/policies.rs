//! What a policy's text means.

use super::support::ip;
use crate::policy::{Asked, Policy, Stage};
use crate::{ICMP, TCP, UDP};
use std::sync::Arc;

fn judge(policy: &str, proto: u8, to: &str, port: u16, names: &[&str], stage: Stage<'_>) -> bool {
    let names: Vec<Arc<str>> = names.iter().map(|name| (*name).into()).collect();
    let asked = Asked { proto, remote: ip(to), port, names: &names, stage };
    Policy::parse(policy).unwrap().judge(&asked).0
}

fn allows(policy: &str, proto: u8, to: &str, port: u16) -> bool {
    judge(policy, proto, to, port, &[], Stage::Opening)
}

#[test]
fn networks_and_ports() {
    let policy = "deny 10.9.0.0/16 # not these\nallow 10.0.0.0/8 tcp:80,443,8000-8080; allow fd00::/8 ::1;allow any udp:53";
    for (proto, to, port, want) in [
        (TCP, "10.1.2.3", 443, true),
        (TCP, "10.1.2.3", 8080, true),
        (TCP, "10.1.2.3", 81, false),
        (UDP, "10.1.2.3", 443, false),
        (TCP, "10.9.2.3", 443, false),
        (TCP, "11.0.0.1", 443, false),
        (UDP, "11.0.0.1", 53, true),
        (TCP, "11.0.0.1", 53, false),
        (ICMP, "fd12::3", 0, true),
        (TCP, "fe80::1", 1, false),
        // An address in another's clothes.
        (UDP, "64:ff9b::a09:203", 53, false),
        (UDP, "2002:a09:203::", 53, false),
    ] {
        assert_eq!(allows(policy, proto, to, port), want, "{proto} {to} {port}");
    }
    assert!(allows("default allow", 132, "1.2.3.4", 0) && !allows("default deny", TCP, "1.2.3.4", 1));
    assert!(allows("allow any icmp", 58, "::2", 0) && allows("allow any proto:47", 47, "1.1.1.1", 0));
    assert!(allows("allow 0.0.0.0/0 :53", UDP, "9.9.9.9", 53) && !allows("allow ::/0", UDP, "9.9.9.9", 53));
}

#[test]
fn metadata() {
    let policy = "block-metadata; default allow; allow any";
    for to in
        ["169.254.169.254", "fd00:ec2::254", "100.100.100.200", "64:ff9b::a9fe:a9fe", "::169.254.169.254"]
    {
        assert!(!allows(policy, TCP, to, 80), "{to}");
    }
    assert!(
        allows(policy, TCP, "169.254.169.253", 80) && allows("default allow", TCP, "169.254.169.254", 80)
    );
}

#[test]
fn domains() {
    let policy = "dns 10.0.0.53; deny bad.example.org; allow *.example.org; allow vpn.org udp:51820";
    let asked = |names: &[&str], stage: Stage<'_>| judge(policy, TCP, "1.2.3.4", 443, names, stage);
    assert!(asked(&["a.example.org"], Stage::Opening) && !asked(&[], Stage::Opening));
    assert!(asked(&["a.example.org"], Stage::Named("a.example.org")));
    assert!(asked(&["other.org", "a.example.org"], Stage::Named("b.example.org")));
    // The address is shared, and this is not for a name that is allowed; or there is none.
    assert!(!asked(&["a.example.org", "evil.org"], Stage::Named("evil.org")));
    assert!(!asked(&["a.example.org"], Stage::Named("")));
    // A name that is allowed, at an address that is not its.
    assert!(
        !asked(&[], Stage::Named("a.example.org")) && !asked(&["evil.org"], Stage::Named("a.example.org"))
    );
    // Denied, and so is what may be meant for it; what is meant for another is not.
    assert!(!asked(&["bad.example.org"], Stage::Opening));
    assert!(asked(&["bad.example.org", "a.example.org"], Stage::Opening));
    assert!(!asked(&["bad.example.org", "a.example.org"], Stage::Plain));
    assert!(!asked(&["bad.example.org", "a.example.org"], Stage::Named("bad.example.org")));
    assert!(asked(&["bad.example.org", "a.example.org"], Stage::Named("a.example.org")));
    // Domains are about TCP unless they say otherwise; servers that are trusted may be asked.
    assert!(!judge(policy, UDP, "1.2.3.4", 443, &["a.example.org"], Stage::Opening));
    assert!(judge(policy, UDP, "1.2.3.4", 51820, &["vpn.org"], Stage::Opening));
    assert!(allows(policy, UDP, "10.0.0.53", 53) && !allows(policy, UDP, "10.0.0.53", 54));
}

#[test]
fn mistakes_are_named() {
    for (text, want) in [
        ("", "no statement"),
        ("# nothing", "no statement"),
        ("allow", "to whom?"),
        ("allow tcp:80", "to whom?"),
        ("alow any", "\"alow\""),
        ("allow 10.0.0.0/33", "0 to 32"),
        ("allow 10.0.0/8", "no address"),
        ("allow 10.0.0.300", "no network"),
        ("allow any tcp:99999", "no good ports"),
        ("allow any tcp:9-1", "no good ports"),
        ("allow any icmp:1", "no ports"),
        ("allow any proto:x", "number"),
        ("default maybe", "default deny"),
        ("default allow; default deny", "keep one"),
        ("rate 10Q", "no number"),
        ("rate 0", "no number"),
        ("rate 10M burst", "rate BYTES"),
        ("allow example.org", "dns ADDRESS"),
        ("dns", "dns ADDRESS"),
        ("dns here", "no address"),
        ("audit", "means nothing"),
        ("block-metadata now", "means nothing"),
    ] {
        let error = Policy::parse(text).unwrap_err();
        assert!(
            error.contains(want) && !error.contains('\n') && error.starts_with("egress policy"),
            "{text}: {error}"
        );
    }
    let error = Policy::parse("default allow;\nallow 1.2.3.4 ; deny x y z/1").unwrap_err();
    assert!(error.contains("statement 3 (deny x y z/1)"), "{error}");
    assert_eq!(
        Policy::parse("default deny; audit /var/log/a b.json").unwrap().audit(),
        Some("/var/log/a b.json")
    );
}
