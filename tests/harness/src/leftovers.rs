//! What a container leaves behind: processes (found by a cookie in their environment or arguments), mounts, cgroups, state.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Pids whose environment or command line holds the cookie.
pub fn processes(cookie: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for e in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = e.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let has = |f: &str| {
            let text = std::fs::read(e.path().join(f)).unwrap_or_default();
            text.windows(cookie.len()).any(|w| w == cookie.as_bytes())
        };
        if pid != std::process::id().cast_signed() && (has("environ") || has("cmdline")) {
            found.push(pid);
        }
    }
    found
}

/// Pids whose command line names a role among its first words and holds the id, or whose parent's does.
pub fn processes_with(roles: &[&str], id: &str) -> Vec<i32> {
    let line = |pid: i32| {
        let b = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        b.split(|c| *c == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect::<Vec<_>>()
    };
    let role = |l: &[String]| {
        l.iter().take(4).any(|a| roles.iter().any(|r| a == r || a.ends_with(&format!("-{r}"))))
    };
    let all = all_processes().into_iter().map(|(p, _)| p);
    all.filter(|p| {
        let l = line(*p);
        role(&l) && l.iter().any(|a| names(a, id))
    })
    .collect()
}

/// All descendants of a process: stubs and roles change their arguments and environment, not their parents.
pub fn descendants(root: i32) -> Vec<i32> {
    let mut parents = Vec::new();
    for e in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = e.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let stat = std::fs::read_to_string(e.path().join("stat")).unwrap_or_default();
        let ppid = stat.rsplit_once(')').and_then(|(_, r)| r.split_whitespace().nth(1)?.parse::<i32>().ok());
        parents.push((pid, ppid.unwrap_or(0)));
    }
    let mut all = BTreeSet::from([root]);
    loop {
        let more: Vec<i32> =
            parents.iter().filter(|(p, pp)| all.contains(pp) && !all.contains(p)).map(|(p, _)| *p).collect();
        if more.is_empty() {
            break;
        }
        all.extend(more);
    }
    all.remove(&root);
    all.into_iter().collect()
}

/// Every process there is with its start time, which tells a new process with an old number apart.
pub fn all_processes() -> BTreeSet<(i32, u64)> {
    let mut out = BTreeSet::new();
    for e in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = e.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let stat = std::fs::read_to_string(e.path().join("stat")).unwrap_or_default();
        let start = stat.rsplit_once(')').and_then(|(_, r)| r.split_whitespace().nth(19)?.parse().ok());
        out.insert((pid, start.unwrap_or(0)));
    }
    out
}

/// The mount table of this process, and every cgroup directory.
pub fn mounts() -> BTreeSet<String> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Whether a name has a container's id in it, and not that of another one which begins with it (t-1-8 and t-1-88).
fn names(name: &str, id: &str) -> bool {
    name.match_indices(id).any(|(at, _)| !name[at + id.len()..].starts_with(|c: char| c.is_ascii_digit()))
}

pub fn cgroups(id: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, id: &str, out: &mut Vec<PathBuf>) {
        for e in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if !e.file_type().is_ok_and(|t| t.is_dir()) {
                continue;
            }
            if names(&e.file_name().to_string_lossy(), id) {
                out.push(e.path());
            }
            walk(&e.path(), id, out);
        }
    }
    let mut out = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), id, &mut out);
    out
}

/// Tries until nothing is wrong or the time is up; gives the last complaint.
pub fn settle(limit: Duration, mut check: impl FnMut() -> Result<(), String>) -> Result<(), String> {
    let end = Instant::now() + limit;
    loop {
        match check() {
            Err(e) if Instant::now() >= end => return Err(e),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
            ok => return ok,
        }
    }
}

/// Nothing of container `id` is left: no process that carries the cookie, no mount, no cgroup, no state.
pub fn nothing_left(cookie: &str, id: &str, state: &Path, before: &BTreeSet<String>) -> Result<(), String> {
    let p = processes(cookie);
    if !p.is_empty() {
        return Err(format!("processes left: {p:?}"));
    }
    let m: Vec<String> =
        mounts().difference(before).filter(|l| names(l, id) || l.contains(cookie)).cloned().collect();
    if !m.is_empty() {
        return Err(format!("mounts left: {m:?}"));
    }
    let c = cgroups(id);
    if !c.is_empty() {
        return Err(format!("cgroups left: {c:?}"));
    }
    if state.join(id).exists() {
        return Err(format!("state left: {}", state.join(id).display()));
    }
    Ok(())
}
