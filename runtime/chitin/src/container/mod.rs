//! Containers on the host: their state directories, their locks, what is known of them.
//!
//! `<root>/<id>/` holds `state.json` (written atomically once the sandbox is ready, so its absence means that a
//! creation is under way or was cut off) and `control.sock`, the sentry's control socket. An exclusive `flock` on
//! the directory itself is held by every command that creates, starts or deletes. Whether a container runs is never
//! stored: it follows from its sentry process, so a sentry that died leaves a stopped container.
//!
//! Neighbours: `sandbox` makes and ends the processes, `cli` has one file per command.

mod directory;
pub mod signal;
mod state;

pub use directory::{Directory, default_root, valid_id};
pub use state::{HostProcess, Shown, State};

use std::fs;
use std::path::Path;

use crate::util::Result;

/// What engines know as the answer for an id that is not there.
pub const NOT_FOUND: &str = "container does not exist";

/// All containers below `root`, by id. Directories without a readable state are left out.
pub fn list(root: &Path) -> Result<Vec<State>> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(format!("cannot list {}: {e}", root.display())),
    };
    let mut states: Vec<State> =
        entries.flatten().filter_map(|entry| State::load(&entry.path()).ok().flatten()).collect();
    states.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(states)
}

/// The ids of all containers below `root` that an extended regular expression matches anywhere.
pub fn matching(root: &Path, expression: &str) -> Result<Vec<String>> {
    let expression = regex::Regex::new(expression).map_err(|e| {
        // The last line says what is wrong, those before show where.
        let text = e.to_string();
        format!("invalid regular expression {expression:?}: {}", text.lines().last().unwrap_or_default())
    })?;
    Ok(list(root)?.into_iter().map(|state| state.id).filter(|id| expression.is_match(id)).collect())
}

/// Removes what commands that were killed have left behind: cut-off creations, and containers of foreground commands
/// whose sentry is gone. Nobody else could: sentry and gofer see the host's state directory (and cgroups) as little as
/// anything else of it. Hence `do`, `run`, `create`, `state` and `list` do it first.
pub fn sweep(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        match State::load(&entry.path()) {
            Ok(None) => {
                let _ = Directory::remove_leftover(&entry.path());
            }
            Ok(Some(state)) if state.ephemeral && !state.is_alive() => {
                // Again, now that we hold the lock.
                if let Ok(directory) = Directory::open(root, &state.id)
                    && let Ok(state) = directory.state()
                    && state.ephemeral
                    && !state.is_alive()
                {
                    let _ = crate::sandbox::clean_up(directory, &state);
                }
            }
            _ => {}
        }
    }
}
