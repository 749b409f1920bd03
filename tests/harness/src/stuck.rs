//! What the processes of a run that does not end wait for: told before they are killed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// As many threads are told at most.
const MOST: usize = 200;

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn numbers(dir: impl AsRef<Path>) -> Vec<u32> {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
    names.filter_map(|e| e.file_name().to_string_lossy().parse().ok()).collect()
}

/// State and parent from a `stat` file.
fn stat(text: &str) -> Option<(char, u32)> {
    let mut rest = text.rsplit_once(')')?.1.split_ascii_whitespace();
    Some((rest.next()?.chars().next()?, rest.next()?.parse().ok()?))
}

/// `root` and all its descendants.
fn family(root: u32) -> BTreeSet<u32> {
    let parents: BTreeMap<u32, u32> = numbers("/proc")
        .into_iter()
        .filter_map(|pid| Some((pid, stat(&read(format!("/proc/{pid}/stat")))?.1)))
        .collect();
    let mut all = BTreeSet::from([root]);
    loop {
        let more: Vec<u32> = parents
            .iter()
            .filter(|(pid, up)| all.contains(up) && !all.contains(pid))
            .map(|(p, _)| *p)
            .collect();
        if more.is_empty() {
            return all;
        }
        all.extend(more);
    }
}

/// One line per thread of `root` and its descendants: who it is, its state, and where in the kernel it waits.
pub fn report(root: u32) -> String {
    let mut lines = Vec::new();
    for pid in family(root) {
        for tid in numbers(format!("/proc/{pid}/task")) {
            let at = format!("/proc/{pid}/task/{tid}");
            let state = stat(&read(format!("{at}/stat"))).map_or('?', |(state, _)| state);
            let call = read(format!("{at}/syscall"));
            let call = call.split(' ').next().unwrap_or_default();
            let (name, place) = (read(format!("{at}/comm")), read(format!("{at}/wchan")));
            lines.push(format!("stuck: {pid}/{tid} {name}: {state}, call {call}, waits in {place}"));
        }
    }
    let more = lines.len().saturating_sub(MOST);
    lines.truncate(MOST);
    if more > 0 {
        lines.push(format!("stuck: and {more} more"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    #[test]
    fn tells_who_waits_for_what() {
        let mut child = Command::new("sh").args(["-c", "sleep 100; true"]).spawn().unwrap();
        let found = (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            super::report(child.id()).lines().any(|l| l.contains(" sleep: S"))
        });
        let text = super::report(child.id());
        for pid in super::family(child.id()) {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid.cast_signed()),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
        let _ = child.wait();
        assert!(found, "{text}");
    }
}
