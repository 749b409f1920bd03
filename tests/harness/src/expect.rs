//! Known gaps: `../expect/*.toml`, lists of `[[gap]]` with `test`, `engine` and `reason`. A listed test that passes is a
//! failure, so that the lists only shrink. Only this much of TOML is read: tables `[[gap]]`, string values, comments.

use std::collections::BTreeMap;

#[derive(Debug, Default, Clone)]
pub struct Gaps(BTreeMap<String, String>);

impl Gaps {
    pub fn parse(text: &str, engine: &str) -> Result<Gaps, String> {
        let mut all: Vec<BTreeMap<String, String>> = Vec::new();
        for (n, raw) in text.lines().enumerate() {
            let line = raw.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if line == "[[gap]]" {
                all.push(BTreeMap::new());
                continue;
            }
            let bad = || format!("line {}: want [[gap]] or key = \"text\", got {line:?}", n + 1);
            let (k, v) = line.split_once('=').ok_or_else(bad)?;
            let v = v.trim().strip_prefix('"').and_then(|v| v.strip_suffix('"')).ok_or_else(bad)?;
            all.last_mut().ok_or_else(bad)?.insert(k.trim().to_owned(), v.to_owned());
        }
        let mut gaps = BTreeMap::new();
        for g in all {
            let field =
                |k: &str| g.get(k).filter(|v| !v.is_empty()).ok_or(format!("a gap without {k}: {g:?}"));
            let (test, reason) = (field("test")?, field("reason")?);
            if field("engine")? == engine && gaps.insert(test.clone(), reason.clone()).is_some() {
                return Err(format!("{test} is listed twice"));
            }
        }
        Ok(Gaps(gaps))
    }

    /// The gaps of one engine in one file, and those of the platform under test in the file beside it that has the
    /// platform's name (`guest.ptrace.toml`); a missing file is an empty list.
    pub fn load(file: &str, engine: &str) -> Gaps {
        let read = |file: &str| {
            let path = crate::paths::repo().join("tests/expect").join(file);
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            Gaps::parse(&text, engine).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        };
        let mut gaps = read(file);
        if let Ok(platform) = std::env::var("CHITIN_TEST_PLATFORM") {
            gaps.0.extend(read(&file.replace(".toml", &format!(".{platform}.toml"))).0);
        }
        gaps
    }

    pub fn reason(&self, test: &str) -> Option<&str> {
        self.0.get(test).map(String::as_str)
    }

    /// Takes a result; gives a complaint, or nothing when all is as expected.
    pub fn judge(&self, test: &str, result: Result<(), String>) -> Option<String> {
        match (self.reason(test), result) {
            (None, Err(e)) => Some(format!("{test}: {e}")),
            (Some(r), Ok(())) => {
                Some(format!("{test}: passes, but is listed as a gap ({r}); take it off tests/expect"))
            }
            _ => None,
        }
    }
}

/// Runs a test that may be listed as a gap of the engine under test.
pub fn judged(file: &str, test: &str, body: impl FnOnce()) {
    let engine = crate::engine::Engine::under_test();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).map_err(|e| {
        let text = e.downcast_ref::<String>().map(String::as_str);
        text.or(e.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
    });
    if let Some(complaint) = Gaps::load(file, engine.name()).judge(test, result) {
        panic!("{complaint}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_and_unlisted() {
        let text = "# c\n[[gap]]\ntest = \"a.b\"\nengine = \"chitin\"\nreason = \"not yet\"\n";
        let g = Gaps::parse(text, "chitin").unwrap();
        assert!(g.judge("a.b", Err("x".into())).is_none());
        assert!(g.judge("a.b", Ok(())).is_some());
        assert!(g.judge("a.c", Err("x".into())).is_some());
        assert!(g.judge("a.c", Ok(())).is_none());
        assert!(Gaps::parse(text, "crun").unwrap().judge("a.b", Ok(())).is_none());
    }

    #[test]
    fn malformed_is_refused() {
        assert!(Gaps::parse("test = \"x\"", "e").is_err());
        assert!(Gaps::parse("[[gap]]\ntest = x", "e").is_err());
        assert!(Gaps::parse("[[gap]]\ntest = \"x\"\nengine = \"e\"", "e").is_err());
    }
}
