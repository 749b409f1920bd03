//! Removing cgroups, once their processes are gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::container::HostProcess;

/// Processes leave a cgroup a little after they have been waited for: milliseconds to wait.
const PAUSES: [u64; 10] = [0, 1, 2, 5, 10, 20, 50, 100, 200, 400];
/// And on a machine with much to do a good while after. Whoever can still be seen there stays.
const LONG_PAUSES: [u64; 8] = [800; 8];

/// Removes each of these with all cgroups below it. Returns those that could not be removed.
pub fn leaves<'a>(leaves: impl Iterator<Item = &'a Path>) -> Vec<PathBuf> {
    let mut left: Vec<PathBuf> = leaves.map(Path::to_owned).collect();
    for (n, pause) in PAUSES.into_iter().chain(LONG_PAUSES).enumerate() {
        if n >= PAUSES.len() && left.iter().any(|leaf| inhabited(leaf)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(pause));
        left.retain(|leaf| !remove_tree(leaf));
        if left.is_empty() {
            break;
        }
    }
    left
}

/// Whether there are processes in it, or below, that are not just leaving.
fn inhabited(directory: &Path) -> bool {
    let procs = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    let alive = |pid: i32| HostProcess::of(pid).is_ok_and(|process| process.is_alive());
    if procs.lines().filter_map(|pid| pid.parse().ok()).any(alive) {
        return true;
    }
    let below = fs::read_dir(directory).into_iter().flatten().flatten();
    below.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).any(|e| inhabited(&e.path()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lives_in_it() {
        let top = std::env::temp_dir().join(format!("chitin-remove-{}", std::process::id()));
        let below = top.join("below");
        fs::create_dir_all(&below).unwrap();
        assert!(!inhabited(&top));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        let process = HostProcess::of(pid.cast_signed()).unwrap();
        // It stays a zombie until it is waited for.
        while process.is_alive() {
            std::thread::sleep(Duration::from_millis(1));
        }
        fs::write(top.join("cgroup.procs"), format!("{pid}\n")).unwrap();
        assert!(!inhabited(&top));
        fs::write(below.join("cgroup.procs"), format!("{}\n", std::process::id())).unwrap();
        assert!(inhabited(&top));
        child.wait().unwrap();
        fs::remove_dir_all(&below).unwrap();
        assert!(!inhabited(&top), "its number is nobody's");
        fs::remove_dir_all(&top).unwrap();
    }
}
