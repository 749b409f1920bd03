//! Whom the host kills when memory runs out: guest processes before the sentry.
//!
//! A process inherits its score at fork, so the sentry takes the guests' higher score while it starts the zygote, from
//! which all of them descend, and its own one again afterwards. Lowering it back needs no privilege.
//!
//! Neighbour: `boot`, which has to ask before the host's /proc is out of reach.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};

/// How much more willingly guests are killed, in thousandths of the memory that there is: as if each used a tenth of it more.
const DISTANCE: u64 = 100;
/// Or at least so many bytes more, which the sentry has of its own at first: in a small cgroup it would be the largest one
/// otherwise, once the guest process is dead that had filled it. That leaves its memory later where the sentry was just copying to it:
/// the host waits with that, kills one more, and with the sentry all of them.
const OWN: u64 = 24 << 20;
const MAX: i32 = 1000;

/// The distance where memory is limited to so many bytes.
fn distance(limit: Option<u64>) -> i32 {
    let enough = limit.map_or(0, |limit| OWN.saturating_mul(1000) / limit.max(1));
    i32::try_from(enough.max(DISTANCE)).unwrap_or(MAX).min(MAX)
}

/// The sentry's own score.
pub struct Score {
    file: File,
    own: i32,
}

impl Score {
    /// Takes the guests' score, where memory is limited to so many bytes. A host that does not let us is no reason to stop, since the
    /// order is only a preference.
    pub fn raise(limit: Option<u64>) -> Option<Score> {
        match Score::try_raise(distance(limit)) {
            Ok(score) => Some(score),
            Err(error) => {
                tracing::warn!(%error, "cannot set oom_score_adj: the host may kill the sentry before guests");
                None
            }
        }
    }

    fn try_raise(distance: i32) -> io::Result<Score> {
        let mut file = OpenOptions::new().read(true).write(true).open("/proc/self/oom_score_adj")?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let own: i32 = text.trim().parse().map_err(io::Error::other)?;
        let mut score = Score { file, own };
        score.set(own.saturating_add(distance).min(MAX))?;
        Ok(score)
    }

    fn set(&mut self, value: i32) -> io::Result<()> {
        self.file.rewind()?;
        self.file.write_all(value.to_string().as_bytes())
    }

    /// Takes the own one again.
    pub fn lower(mut self) {
        if let Err(error) = self.set(self.own) {
            tracing::warn!(%error, "cannot set oom_score_adj back: the host may kill the sentry before guests");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_inherit_the_higher_one() {
        let read =
            || std::fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse::<i32>().unwrap();
        let before = read();
        let score = Score::raise(None).unwrap();
        let child = std::process::Command::new("cat").arg("/proc/self/oom_score_adj").output().unwrap();
        score.lower();
        assert_eq!(read(), before);
        let child: i32 = String::from_utf8(child.stdout).unwrap().trim().parse().unwrap();
        assert_eq!(child, (before + distance(None)).min(MAX));
    }

    #[test]
    fn the_sentry_is_not_the_largest_in_a_small_cgroup() {
        assert_eq!(distance(None), 100);
        assert_eq!(distance(Some(8 << 30)), 100);
        assert_eq!(distance(Some(64 << 20)), 375);
        assert_eq!(
            [distance(Some(16 << 20)), distance(Some(0)), distance(Some(u64::MAX))],
            [1000, 1000, 100]
        );
    }
}
