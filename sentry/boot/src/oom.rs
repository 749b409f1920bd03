//! Whom the host kills when memory runs out: guest processes before the sentry.
//!
//! A process inherits its score at fork, so the sentry takes the guests' higher score while it starts the zygote, from
//! which all of them descend, and its own one again afterwards. Lowering it back needs no privilege.
//!
//! Neighbour: `boot`, which has to ask before the host's /proc is out of reach.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};

/// How much more willingly guests are killed: as if each used a tenth of the memory more.
const DISTANCE: i32 = 100;
const MAX: i32 = 1000;

/// The sentry's own score.
pub struct Score {
    file: File,
    own: i32,
}

impl Score {
    /// Takes the guests' score. A host that does not let us is no reason to stop, since the order is only a preference.
    pub fn raise() -> Option<Score> {
        match Score::try_raise() {
            Ok(score) => Some(score),
            Err(error) => {
                tracing::warn!(%error, "cannot set oom_score_adj: the host may kill the sentry before guests");
                None
            }
        }
    }

    fn try_raise() -> io::Result<Score> {
        let mut file = OpenOptions::new().read(true).write(true).open("/proc/self/oom_score_adj")?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let own: i32 = text.trim().parse().map_err(io::Error::other)?;
        let mut score = Score { file, own };
        score.set(own.saturating_add(DISTANCE).min(MAX))?;
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
        let score = Score::raise().unwrap();
        let child = std::process::Command::new("cat").arg("/proc/self/oom_score_adj").output().unwrap();
        score.lower();
        assert_eq!(read(), before);
        let child: i32 = String::from_utf8(child.stdout).unwrap().trim().parse().unwrap();
        assert_eq!(child, (before + DISTANCE).min(MAX));
    }
}
