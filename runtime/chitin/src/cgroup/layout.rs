//! Which cgroup hierarchies this host has, and where a container's cgroup lies in each.
//!
//! *v2* is one tree at `/sys/fs/cgroup`; *v1* is one tree per controller (or group of controllers), wherever they are
//! mounted; *hybrid* is v1 with a v2 tree beside it, which then has whatever controllers v1 left to it.

use std::fs;
use std::path::{Component, Path, PathBuf};

use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs};

use crate::util::{Context, Result};

pub const MOUNT_POINT: &str = "/sys/fs/cgroup";

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// v1: its controllers, or `name=…` of one without any. Empty for v2.
    pub controllers: Vec<String>,
    pub mounted_at: PathBuf,
    /// The cgroup that this process is in.
    pub own: PathBuf,
}

impl Hierarchy {
    pub fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }

    /// Where `path` (as in `linux.cgroupsPath`) lies: an absolute one below the top, a relative one beside or below our
    /// own cgroup. In v2 that is beside, since ours has processes and could not hand controllers down.
    pub fn place(&self, path: &Path) -> Result<PathBuf> {
        let relative = normal(path)?;
        if path.is_absolute() {
            return Ok(self.mounted_at.join(relative));
        }
        let beside = self.is_v2() && self.own != self.mounted_at;
        let base = if beside { self.own.parent().unwrap_or(&self.own) } else { &self.own };
        Ok(base.join(relative))
    }

    /// v2: the cgroup between ours and `leaf` that keeps our processes from being moved there, if one does. Who moves one
    /// must be able to write to `cgroup.procs` of the nearest cgroup that both are in.
    pub fn barrier(&self, leaf: &Path) -> Option<PathBuf> {
        if !self.is_v2() {
            return None;
        }
        let both = self.own.ancestors().find(|above| leaf.starts_with(above))?;
        let procs = both.join("cgroup.procs");
        nix::unistd::access(&procs, nix::unistd::AccessFlags::W_OK).is_err().then_some(procs)
    }
}

/// The hierarchies of this host, as far as this process sees them.
pub fn hierarchies() -> Result<Vec<Hierarchy>> {
    let read = |path: &str| fs::read_to_string(path).context(|| format!("cannot read {path}"));
    let own = read("/proc/self/cgroup")?;
    let top = Path::new(MOUNT_POINT);
    if file_system(top) == Some(CGROUP2_SUPER_MAGIC) {
        let own = normal_or_top(own_path(&own, &[]).unwrap_or("/"));
        return Ok(vec![Hierarchy { controllers: Vec::new(), mounted_at: top.into(), own: top.join(own) }]);
    }
    let mut found = parse(&read("/proc/self/mountinfo")?, &own);
    // Mounts that others hide are listed as well.
    found.retain(|h| {
        let expected = if h.is_v2() { CGROUP2_SUPER_MAGIC } else { CGROUP_SUPER_MAGIC };
        file_system(&h.mounted_at) == Some(expected)
    });
    if found.is_empty() {
        return Err(format!("no cgroup hierarchy is mounted below {MOUNT_POINT}"));
    }
    Ok(found)
}

/// What `/proc/self/mountinfo` and `/proc/self/cgroup` say.
fn parse(mountinfo: &str, own: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((mount, file_system)) = line.split_once(" - ") else { continue };
        let mut mount = mount.split(' ').skip(3);
        let (Some(root), Some(at)) = (mount.next(), mount.next()) else { continue };
        let mut file_system = file_system.split(' ');
        let controllers: Vec<String> = match file_system.next() {
            Some("cgroup2") => Vec::new(),
            Some("cgroup") => {
                let options = file_system.nth(1).unwrap_or_default();
                let names: Vec<String> =
                    options.split(',').filter(|o| is_controller(o)).map(str::to_owned).collect();
                if names.is_empty() {
                    continue;
                }
                names
            }
            _ => continue,
        };
        // A second mount of the same hierarchy tells nothing new.
        if found.iter().any(|h| h.controllers == controllers) {
            continue;
        }
        let mounted_at = PathBuf::from(unescape(at));
        // The mount may show a part of the hierarchy only (in containers without a cgroup namespace).
        let own = own_path(own, &controllers).unwrap_or("/");
        let own = own.strip_prefix(&unescape(root)).unwrap_or(own);
        let own = mounted_at.join(normal_or_top(own));
        found.push(Hierarchy { controllers, mounted_at, own });
    }
    found
}

fn is_controller(option: &str) -> bool {
    let flags = ["rw", "ro", "xattr", "clone_children", "noprefix", "none", "cpuset_v2_mode", "all"];
    !flags.contains(&option) && !option.ends_with("favordynmods") && !option.starts_with("release_agent=")
}

/// The path of our own cgroup: lines are `number:controllers:path`, where v2 has number 0 and no controllers.
fn own_path<'a>(text: &'a str, controllers: &[String]) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (number, rest) = line.split_once(':')?;
        let (names, path) = rest.split_once(':')?;
        let found = match controllers.first() {
            None => number == "0" && names.is_empty(),
            Some(controller) => names.split(',').any(|name| name == controller),
        };
        found.then_some(path)
    })
}

/// `\040` and the like, as mountinfo writes blanks.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

fn normal_or_top(path: &str) -> PathBuf {
    Path::new(path).components().filter(|c| matches!(c, Component::Normal(_))).collect()
}

/// The path below the hierarchy's top.
fn normal(path: &Path) -> Result<PathBuf> {
    let relative: PathBuf = path.components().filter(|c| matches!(c, Component::Normal(_))).collect();
    if relative.as_os_str().is_empty() {
        return Err("linux.cgroupsPath: the root cgroup cannot be used; name one below it".into());
    }
    if path.to_str().is_none_or(|p| p.chars().any(char::is_control)) {
        return Err(format!("linux.cgroupsPath: {path:?} has characters that a cgroup's name cannot have"));
    }
    Ok(relative)
}

/// `a-b.slice` lies at `a.slice/a-b.slice`.
pub fn expand_slice(slice: &str) -> Result<PathBuf> {
    let wrong = || format!("linux.cgroupsPath: {slice:?} is no slice (like system.slice or a-b.slice)");
    let name = slice.strip_suffix(".slice").filter(|n| !n.contains('/')).ok_or_else(wrong)?;
    if name == "-" {
        return Ok(PathBuf::new());
    }
    let mut path = PathBuf::new();
    let mut prefix = String::new();
    for part in name.split('-') {
        if part.is_empty() {
            return Err(wrong());
        }
        prefix.push_str(part);
        path.push(format!("{prefix}.slice"));
        prefix.push('-');
    }
    Ok(path)
}

fn file_system(path: &Path) -> Option<FsType> {
    statfs(path).ok().map(|s| s.filesystem_type())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /outer /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 31 0:38 / /mnt/with\\040blank rw,relatime - cgroup2 cgroup2 rw
";
    const OWN: &str = "4:memory:/outer/me\n3:cpu,cpuacct:/\n9:name=systemd:/a\n0::/x/y\n";

    #[test]
    fn a_hybrid_host() {
        let found = parse(HYBRID, OWN);
        let short: Vec<_> = found
            .iter()
            .map(|h| (h.controllers.join(","), h.mounted_at.to_str().unwrap(), h.own.to_str().unwrap()))
            .collect();
        let at = "/sys/fs/cgroup";
        let place = |p: &str| format!("{at}/{p}");
        let expected = [
            ("cpu,cpuacct", place("cpu,cpuacct"), place("cpu,cpuacct")),
            ("memory", place("memory"), place("memory/me")),
            ("name=systemd", place("systemd"), place("systemd/a")),
            ("", place("unified"), place("unified/x/y")),
        ];
        assert_eq!(short.len(), expected.len(), "{short:?}");
        for (got, want) in short.iter().zip(&expected) {
            assert_eq!((got.0.as_str(), Path::new(got.1)), (want.0, Path::new(&want.1)));
            assert_eq!(Path::new(got.2), Path::new(&want.2));
        }
    }

    #[test]
    fn absolute_and_relative_paths() {
        let found = parse(HYBRID, OWN);
        let (memory, unified) = (&found[1], &found[3]);
        let place = |h: &Hierarchy, p: &str| h.place(Path::new(p)).map(|p| p.to_str().unwrap().to_owned());
        assert_eq!(place(memory, "/a/./b").unwrap(), "/sys/fs/cgroup/memory/a/b");
        assert_eq!(place(memory, "a").unwrap(), "/sys/fs/cgroup/memory/me/a");
        assert_eq!(place(unified, "a").unwrap(), "/sys/fs/cgroup/unified/x/a");
        for wrong in ["/", ".", "a\nb"] {
            assert!(place(unified, wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn slices() {
        let expand = |s: &str| expand_slice(s).map(|p| p.to_str().unwrap().to_owned());
        assert_eq!(expand("user-1.slice").as_deref(), Ok("user.slice/user-1.slice"));
        assert_eq!(expand("-.slice").as_deref(), Ok(""));
        for wrong in ["x", ".slice", "a--b.slice", "-a.slice", "a/b.slice"] {
            assert!(expand(wrong).is_err(), "{wrong}");
        }
    }
}
