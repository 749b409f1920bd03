//! Removing cgroups, once their processes are gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Processes leave a cgroup a little after they have been waited for.
const PAUSES: [u64; 10] = [0, 1, 2, 5, 10, 20, 50, 100, 200, 400];

/// Removes each of these with all cgroups below it. Returns those that could not be removed.
pub fn leaves<'a>(leaves: impl Iterator<Item = &'a Path>) -> Vec<PathBuf> {
    let mut left: Vec<PathBuf> = leaves.map(Path::to_owned).collect();
    for pause in PAUSES {
        std::thread::sleep(Duration::from_millis(pause));
        left.retain(|leaf| !remove_tree(leaf));
        if left.is_empty() {
            break;
        }
    }
    left
}

/// Whether it is gone.
fn remove_tree(directory: &Path) -> bool {
    // Nearly always there is nothing below.
    if fs::remove_dir(directory).is_ok() {
        return true;
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(directory);
    !directory.exists()
}

/// Removes what was made on the way to the leaves; what others have begun to use stays.
pub fn parents(made: &[PathBuf]) {
    for directory in made.iter().rev() {
        let _ = fs::remove_dir(directory);
    }
}
