//! Freezing: v1's freezer hierarchy, or v2's `cgroup.freeze`, which every cgroup but the root has.
//!
//! A frozen sandbox's sentry answers nobody. `pause` is therefore the sentry's own business; this is for killing and for
//! whoever wants everything to stand still, the sentry included.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Cgroups;
use super::settings::Dir;
use crate::util::{Context, Result};

/// How long all tasks may take to stop.
const PATIENCE: Duration = Duration::from_secs(2);

impl Cgroups {
    /// Stops all processes inside; if some do not stop in time, all are thawed again.
    pub fn freeze(&self) -> Result<()> {
        let frozen = match (self.v1_leaf("freezer"), self.v2_leaf()) {
            (Some(dir), _) => freeze_v1(dir, PATIENCE),
            (None, Some(dir)) => freeze_v2(dir, PATIENCE),
            (None, None) => Err(self.no_freezer()),
        };
        if frozen.is_err() {
            // Half frozen is worse than not frozen.
            let _ = self.thaw();
        }
        frozen
    }

    pub fn thaw(&self) -> Result<()> {
        let (dir, file, value) = match (self.v1_leaf("freezer"), self.v2_leaf()) {
            (Some(dir), _) => (dir, "freezer.state", "THAWED"),
            (None, Some(dir)) => (dir, "cgroup.freeze", "0"),
            (None, None) => return Err(self.no_freezer()),
        };
        dir.write(file, value).context(|| format!("cannot thaw {}", dir.0.display()))
    }

    /// Whether it was frozen itself (and not only something above it).
    pub fn is_frozen(&self) -> Result<bool> {
        match (self.v1_leaf("freezer"), self.v2_leaf()) {
            (Some(dir), _) => Ok(dir.read("freezer.state").is_ok_and(|state| state == "FROZEN")
                && dir.read("freezer.self_freezing").is_ok_and(|own| own == "1")),
            (None, Some(dir)) => match dir.read("cgroup.freeze") {
                Ok(text) if text == "1" => Ok(is_frozen_v2(dir)),
                Ok(_) => Ok(false),
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
                Err(e) => Err(e).context(|| format!("cannot read {}/cgroup.freeze", dir.0.display())),
            },
            (None, None) => Ok(false),
        }
    }

    fn no_freezer(&self) -> String {
        if self.is_empty() {
            return "the container has no cgroup, so it cannot be frozen".into();
        }
        "this host has neither the freezer hierarchy nor cgroups v2, so nothing can be frozen: mount one"
            .into()
    }
}

/// While processes appear, v1 may stay in FREEZING; to ask again helps, and so does a pause now and then.
fn freeze_v1(dir: Dir<'_>, patience: Duration) -> Result<()> {
    let failed = || format!("cannot freeze {}", dir.0.display());
    let deadline = Instant::now() + patience;
    for round in 1_u32.. {
        if round % 50 == 0 {
            let _ = dir.write("freezer.state", "THAWED");
            std::thread::sleep(Duration::from_millis(10));
        }
        dir.write("freezer.state", "FROZEN").context(failed)?;
        if round % 25 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        match dir.read("freezer.state").context(failed)?.as_str() {
            "FROZEN" => return Ok(()),
            "FREEZING" => {}
            other => return Err(format!("{}: unexpected state {other:?}", failed())),
        }
        if Instant::now() > deadline {
            break;
        }
    }
    Err(format!("{}: some process did not stop in time (it may wait for a disk): try again", failed()))
}

fn freeze_v2(dir: Dir<'_>, patience: Duration) -> Result<()> {
    let failed = || format!("cannot freeze {}", dir.0.display());
    // Opened before, so that no change is missed: what is read once starts the watch.
    let mut events = File::open(dir.0.join("cgroup.events")).context(failed)?;
    dir.write("cgroup.freeze", "1").context(failed)?;
    let deadline = Instant::now() + patience;
    loop {
        let mut text = String::new();
        events.rewind().and_then(|()| events.read_to_string(&mut text)).context(failed)?;
        if value(&text, "frozen") == Some(1) {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!(
                "{}: some process did not stop in time (it may wait for a disk): try again",
                failed()
            ));
        }
        let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
        let step = left.min(Duration::from_millis(50));
        let _ = poll(&mut fds, PollTimeout::try_from(step).unwrap_or(PollTimeout::ZERO));
    }
}

fn is_frozen_v2(dir: Dir<'_>) -> bool {
    dir.read("cgroup.events").is_ok_and(|text| value(&text, "frozen") == Some(1))
}

/// A line `key value`.
pub fn value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(name: &str, files: &[(&str, &str)]) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("chitin-freezer-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        for (file, text) in files {
            std::fs::write(dir.join(file), text).unwrap();
        }
        dir
    }

    #[test]
    fn v2_waits_for_the_event_and_undoes_in_time() {
        let dir = tree("v2", &[("cgroup.freeze", "0"), ("cgroup.events", "populated 1\nfrozen 0\n")]);
        let leaf = super::super::Leaf { kind: super::super::Kind::V2, path: dir.clone() };
        let cgroups = Cgroups::of(vec![leaf]);
        let e = freeze_v2(Dir(&dir), Duration::from_millis(80)).unwrap_err();
        assert!(e.contains("did not stop in time"), "{e}");
        assert!(cgroups.freeze().is_err());
        assert_eq!(Dir(&dir).read("cgroup.freeze").unwrap(), "0", "undone");
        // Frozen a little later, by somebody who does not notify.
        let later = dir.clone();
        let other = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(60));
            std::fs::write(later.join("cgroup.events"), "populated 1\nfrozen 1\n").unwrap();
        });
        cgroups.freeze().unwrap();
        other.join().unwrap();
        assert_eq!((Dir(&dir).read("cgroup.freeze").unwrap().as_str(), cgroups.is_frozen()), ("1", Ok(true)));
        cgroups.thaw().unwrap();
        assert_eq!(cgroups.is_frozen(), Ok(false));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn v1_reads_back_what_it_wrote() {
        let dir = tree("v1", &[("freezer.state", "THAWED\n"), ("freezer.self_freezing", "1\n")]);
        freeze_v1(Dir(&dir), Duration::from_secs(1)).unwrap();
        let leaf =
            super::super::Leaf { kind: super::super::Kind::V1(vec!["freezer".into()]), path: dir.clone() };
        let cgroups = Cgroups::of(vec![leaf]);
        assert_eq!(cgroups.is_frozen(), Ok(true));
        cgroups.thaw().unwrap();
        assert_eq!(Dir(&dir).read("freezer.state").unwrap(), "THAWED");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn without_a_cgroup() {
        assert!(Cgroups::default().freeze().unwrap_err().contains("no cgroup"));
        assert_eq!(Cgroups::default().is_frozen(), Ok(false));
    }
}
