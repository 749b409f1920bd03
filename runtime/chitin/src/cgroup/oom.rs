//! OOM kills in a container's cgroup: how many there were, and a descriptor that tells of the next.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::freezer::value;
use super::{Cgroups, Kind, Leaf};
use crate::util::{Context, Result};

/// A watch on OOM kills.
#[derive(Debug)]
pub struct OomEvents {
    source: Source,
    counter: PathBuf,
    seen: u64,
}

#[derive(Debug)]
enum Source {
    /// v1: the kernel adds one per OOM, before it has killed and counted; also when the cgroup is removed.
    V1(EventFd),
    /// v2: `memory.events`, on which a change is an exceptional condition.
    V2(File),
}

impl Cgroups {
    /// Starts a watch: what happens from now on.
    pub fn oom_events(&self) -> Result<OomEvents> {
        let (leaf, counter) = self.counter().ok_or(
            "the container has no cgroup of the memory controller, so nothing tells of OOM kills: mount or delegate it",
        )?;
        let failed = || format!("cannot watch {}", counter.display());
        let source = match leaf.kind {
            Kind::V2 => {
                let mut file = File::open(&counter).context(failed)?;
                // The first read starts the watch.
                file.read_to_end(&mut Vec::new()).context(failed)?;
                Source::V2(file)
            }
            _ => Source::V1(register(&leaf.path).context(failed)?),
        };
        let seen = count(&counter).unwrap_or(0);
        Ok(OomEvents { source, counter, seen })
    }

    /// The leaf of the memory controller and its file that counts.
    fn counter(&self) -> Option<(&Leaf, PathBuf)> {
        let v1 = |leaf: &&Leaf| matches!(&leaf.kind, Kind::V1(names) if names.iter().any(|n| n == "memory"));
        if let Some(leaf) = self.leaves.iter().find(v1) {
            return Some((leaf, leaf.path.join("memory.oom_control")));
        }
        let leaf = self.leaves.iter().find(|leaf| leaf.kind == Kind::V2)?;
        let file = leaf.path.join("memory.events");
        file.exists().then_some((leaf, file))
    }
}

impl OomEvents {
    /// Becomes exceptional (v2: `POLLPRI`) or readable (v1: `POLLIN`) when [`Self::next`] should be asked.
    pub fn fd(&self) -> (BorrowedFd<'_>, PollFlags) {
        match &self.source {
            Source::V1(event) => (event.as_fd(), PollFlags::POLLIN),
            Source::V2(file) => (file.as_fd(), PollFlags::POLLPRI),
        }
    }

    /// Waits for at most `patience` (or until there is something). The number of OOM kills since the last call; `None`
    /// once the cgroup is gone.
    pub fn next(&mut self, patience: Option<Duration>) -> Result<Option<u64>> {
        let timeout =
            patience.map_or(PollTimeout::NONE, |p| PollTimeout::try_from(p).unwrap_or(PollTimeout::MAX));
        let (fd, flags) = self.fd();
        let ready = match poll(&mut [PollFd::new(fd, flags)], timeout) {
            Ok(ready) => ready > 0,
            Err(nix::Error::EINTR) => false,
            Err(e) => return Err(format!("poll: {e}")),
        };
        let mut signalled = 0;
        match &mut self.source {
            Source::V1(event) if ready => signalled = event.read().unwrap_or(0),
            Source::V2(file) if ready => {
                // Arms the watch again.
                let _ = file.rewind().and_then(|()| file.read_to_end(&mut Vec::new()));
            }
            _ => {}
        }
        if !self.counter.exists() {
            return Ok(None);
        }
        if matches!(self.source, Source::V1(_)) {
            return Ok(Some(signalled));
        }
        let now = count(&self.counter).unwrap_or(self.seen);
        let new = now.saturating_sub(self.seen);
        self.seen = now;
        Ok(Some(new))
    }
}

fn count(file: &Path) -> Option<u64> {
    value(&std::fs::read_to_string(file).ok()?, "oom_kill")
}

/// v1's way: `cgroup.event_control` takes the numbers of an eventfd and of the file to be watched.
fn register(leaf: &Path) -> std::io::Result<EventFd> {
    let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let watched = File::open(leaf.join("memory.oom_control"))?;
    let line = format!("{} {}", event.as_fd().as_raw_fd(), watched.as_raw_fd());
    let mut control = OpenOptions::new().write(true).open(leaf.join("cgroup.event_control"))?;
    control.write_all(line.as_bytes())?;
    Ok(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v2_counts_kills_since_the_last_call() {
        let dir = std::env::temp_dir().join(format!("chitin-oom-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let write =
            |n: u64| std::fs::write(dir.join("memory.events"), format!("oom 9\noom_kill {n}\n")).unwrap();
        write(3);
        let leaf = Leaf { kind: Kind::V2, path: dir.clone() };
        let cgroups = Cgroups::of(vec![leaf]);
        let mut events = cgroups.oom_events().unwrap();
        let soon = Some(Duration::from_millis(1));
        assert_eq!(events.next(soon), Ok(Some(0)));
        write(5);
        assert_eq!(events.next(soon), Ok(Some(2)));
        assert_eq!(events.next(soon), Ok(Some(0)));
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(events.next(soon), Ok(None));
        assert!(Cgroups::default().oom_events().unwrap_err().contains("no cgroup"));
    }
}
