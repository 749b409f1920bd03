//! Reading the guest programs' output.

use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    Pass,
    Skip(String),
    Fail(String),
}

/// Every listed check's result; one without a line failed with `why_missing`.
pub fn read(output: &str, listed: &[String], why_missing: &str) -> BTreeMap<String, Check> {
    let mut seen: BTreeMap<String, Check> = BTreeMap::new();
    for line in output.lines() {
        if let Some(rest) = line.strip_prefix("not ok ") {
            let (n, why) = rest.split_once(": ").unwrap_or((rest, "no reason given"));
            let c = Check::Fail(why.to_owned());
            // The first complaint is the cause; a later pass of the same name does not undo it.
            match seen.get(n) {
                Some(Check::Fail(_)) => {}
                _ => drop(seen.insert(n.to_owned(), c)),
            }
        } else if let Some(rest) = line.strip_prefix("ok ") {
            let (n, c) = match rest.split_once(" # SKIP ") {
                Some((n, why)) => (n, Check::Skip(why.to_owned())),
                None => (rest, Check::Pass),
            };
            seen.entry(n.to_owned()).or_insert(c);
        }
    }
    listed
        .iter()
        .map(|n| (n.clone(), seen.remove(n).unwrap_or_else(|| Check::Fail(why_missing.to_owned()))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_repeated() {
        let l: Vec<String> = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
        let r = read("ok a\nnot ok b: x\nnot ok b: y\nok b\nok c # SKIP why\n", &l, "gone");
        assert_eq!(r["a"], Check::Pass);
        assert_eq!(r["b"], Check::Fail("x".into()));
        assert_eq!(r["c"], Check::Skip("why".into()));
        assert_eq!(r["d"], Check::Fail("gone".into()));
    }
}
