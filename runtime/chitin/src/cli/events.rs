//! `chitin events`: what a container uses, and that it ran out of memory; one JSON object per line, as runc has them.

use std::time::{Duration, Instant};

use chitin_control::Status;
use clap::Args;
use serde::Serialize;

use super::print;
use crate::cgroup::Cgroups;
use crate::cgroup::stats::Stats;
use crate::container::Directory;
use crate::sandbox::Options;
use crate::util::{Context, Result};

#[derive(Debug, Args)]
pub struct Events {
    /// Time between two statistics (like 5s, 1m30s or 100ms)
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    interval: Duration,
    /// Show the statistics once
    #[arg(long)]
    stats: bool,
    /// The container's name
    id: String,
}

#[derive(Debug, Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    typ: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Stats>,
}

impl Events {
    pub fn run(self, options: &Options) -> Result<()> {
        if self.interval.is_zero() {
            return Err("duration interval must be greater than 0".into());
        }
        let directory = Directory::find(&options.root, &self.id)?;
        let state = directory.state()?;
        if state.status() == Status::Stopped {
            return Err(format!("container with id {} is not running", self.id));
        }
        let cgroups = directory.cgroups()?;
        if self.stats {
            return self.show("stats", Some(cgroups.stats()?));
        }
        let mut watch = cgroups.oom_events()?;
        let mut next = Instant::now() + self.interval;
        loop {
            let patience = next.saturating_duration_since(Instant::now());
            match watch.next(Some(patience))? {
                // The cgroup is gone, and the container with it.
                None => return Ok(()),
                Some(kills) => {
                    for _ in 0..kills {
                        self.show("oom", None)?;
                    }
                }
            }
            if Instant::now() >= next {
                if !state.is_alive() {
                    return Ok(());
                }
                next += self.interval;
                self.tick(&cgroups)?;
            }
        }
    }

    /// As with runc, statistics that cannot be had are not the end.
    fn tick(&self, cgroups: &Cgroups) -> Result<()> {
        match cgroups.stats() {
            Ok(stats) => self.show("stats", Some(stats)),
            Err(e) => {
                crate::log::error(&e);
                Ok(())
            }
        }
    }

    fn show(&self, typ: &'static str, data: Option<Stats>) -> Result<()> {
        let event = Event { typ, id: &self.id, data };
        let text = serde_json::to_string(&event).context(|| "cannot encode the event".into())?;
        print(&format!("{text}\n"))
    }
}

/// Go's durations: numbers with units, one after the other.
pub fn duration(text: &str) -> Result<Duration> {
    let wrong = || format!("{text:?} is no duration like 5s, 1m30s or 100ms");
    let mut rest = text;
    let mut total = Duration::ZERO;
    if text == "0" {
        return Ok(total);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest.get(..digits).unwrap_or_default().parse().map_err(|_| wrong())?;
        rest = rest.get(digits..).unwrap_or_default();
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let seconds = match rest.get(..end).unwrap_or_default() {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        rest = rest.get(end..).unwrap_or_default();
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
        total = total.checked_add(part).ok_or_else(wrong)?;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1.5h"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for wrong in ["", "5", "s", "5x", "-1s", "1e9s", "99999999999999999999h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn events_are_as_runc_writes_them() {
        let event = Event { typ: "oom", id: "c", data: None };
        assert_eq!(serde_json::to_string(&event).unwrap(), r#"{"type":"oom","id":"c"}"#);
    }
}
