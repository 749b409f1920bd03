//! Domain names and the patterns that policies have.

/// The longest name, as text.
const LONGEST: usize = 253;

/// A name as it is compared: in lower case, without the final dot. `None` for what no host is called.
pub fn normal(text: &[u8]) -> Option<String> {
    let text = text.strip_suffix(b".").unwrap_or(text);
    let legal = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let label = |label: &[u8]| (1..=63).contains(&label.len()) && label.iter().all(legal);
    if text.is_empty() || text.len() > LONGEST || !text.split(|b| *b == b'.').all(label) {
        return None;
    }
    String::from_utf8(text.to_ascii_lowercase()).ok()
}

/// `example.org`, or `*.example.org` for every name below it (and not itself).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    name: String,
    below: bool,
}

impl Pattern {
    pub fn parse(text: &str) -> Option<Pattern> {
        let (text, below) = text.strip_prefix("*.").map_or((text, false), |rest| (rest, true));
        // What looks like an address is a mistyped one.
        let last = text.rsplit('.').find(|label| !label.is_empty())?;
        if last.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some(Pattern { name: normal(text.as_bytes())?, below })
    }

    /// `name` is in its normal form.
    pub fn matches(&self, name: &str) -> bool {
        if !self.below {
            return name == self.name;
        }
        name.strip_suffix(&self.name)
            .and_then(|rest| rest.strip_suffix('.'))
            .is_some_and(|rest| !rest.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(normal(b"WWW.Example.org.").as_deref(), Some("www.example.org"));
        assert_eq!(normal(b"a_b-c").as_deref(), Some("a_b-c"));
        for wrong in
            [&b""[..], b".", b"a..b", b".a", b"a b", b"a/b", b"\xff", b"a\0b", &[b'a'; 64], &[b'.'; 300]]
        {
            assert_eq!(normal(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn patterns() {
        let p = |text| Pattern::parse(text).unwrap();
        assert!(p("Example.org").matches("example.org") && !p("example.org").matches("a.example.org"));
        let below = p("*.example.org");
        assert!(below.matches("a.example.org") && below.matches("a.b.example.org"));
        for other in ["example.org", "badexample.org", ".example.org", "example.org.evil", ""] {
            assert!(!below.matches(other), "{other}");
        }
        for wrong in ["", "*", "*.", "a.*.b", "**.a", "10.0.0.300", "1.2", "a b"] {
            assert_eq!(Pattern::parse(wrong), None, "{wrong}");
        }
    }
}
