//! Control groups: the sandbox's host processes are put into the container's cgroup before they run, so everything
//! that the guest uses (its memory and CPU time are those of the stub processes) counts and is limited there.
//!
//! Both hierarchies are handled: v1 (one directory per mounted controller, also in the hybrid layout) and v2. All
//! directories made are recorded in the container's state and removed with it, children of ours first; directories
//! that were there before, or that others use, stay.
//!
//! Neighbours: `sandbox` creates and adds, `container`'s state keeps the list.

mod v1;
mod v2;

use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs};
use oci_spec::runtime::LinuxResources;

use crate::util::{Context, Result};

const MOUNT_POINT: &str = "/sys/fs/cgroup";

/// The cgroups of one container. Unless kept, they are removed on drop.
#[derive(Debug, Default)]
pub struct Cgroups {
    /// Directories that processes are put into.
    leaves: Vec<PathBuf>,
    /// Directories that were made, parents first.
    made: Vec<PathBuf>,
}

impl Cgroups {
    /// Makes the cgroup `path` (as in `linux.cgroupsPath`) in every hierarchy and sets its limits.
    /// `journal` is told of every directory before it is made.
    pub fn create(
        path: &Path,
        systemd: bool,
        resources: Option<&LinuxResources>,
        journal: &mut dyn FnMut(&Path) -> Result<()>,
    ) -> Result<Self> {
        let relative = relative(path, systemd)?;
        let mut cgroups = Self::default();
        match file_system(Path::new(MOUNT_POINT)) {
            Some(CGROUP2_SUPER_MAGIC) => {
                let leaf = Path::new(MOUNT_POINT).join(&relative);
                cgroups.make(Path::new(MOUNT_POINT), &relative, v2::enable_controllers, journal)?;
                if let Some(resources) = resources {
                    v2::limit(&leaf, resources)?;
                }
                cgroups.leaves.push(leaf);
            }
            _ => {
                let controllers = v1::controllers(Path::new(MOUNT_POINT))?;
                if controllers.is_empty() {
                    return Err(format!("no cgroup hierarchy is mounted below {MOUNT_POINT}"));
                }
                if resources.and_then(|r| r.unified().as_ref()).is_some_and(|u| !u.is_empty()) {
                    return Err(
                        "config.json: linux.resources.unified: this host has cgroups v1; remove it".into()
                    );
                }
                for (name, mounted_at) in controllers {
                    let leaf = mounted_at.join(&relative);
                    let prepare: fn(&Path) -> Result<()> = match name.as_str() {
                        "cpuset" => v1::inherit_cpuset,
                        _ => |_| Ok(()),
                    };
                    cgroups.make(&mounted_at, &relative, prepare, journal)?;
                    if let Some(resources) = resources {
                        v1::limit(&name, &leaf, resources)?;
                    }
                    cgroups.leaves.push(leaf);
                }
            }
        }
        Ok(cgroups)
    }

    /// Moves a process in.
    pub fn add(&self, pid: i32) -> Result<()> {
        self.leaves.iter().try_for_each(|leaf| write(&leaf.join("cgroup.procs"), &pid.to_string()))
    }

    /// Hands the duty of removing them over to whoever stores this list.
    pub fn keep(mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.made)
    }

    #[cfg(test)]
    fn made(&self) -> &[PathBuf] {
        &self.made
    }

    /// Makes every missing directory from `top` down to `top/relative`; `prepare` is run on each new one (v1) or on
    /// the parent of each component (v2) through the closure's own choice.
    fn make(
        &mut self,
        top: &Path,
        relative: &Path,
        prepare: fn(&Path) -> Result<()>,
        journal: &mut dyn FnMut(&Path) -> Result<()>,
    ) -> Result<()> {
        let mut directory = top.to_owned();
        for component in relative.components() {
            directory.push(component);
            if !directory.exists() {
                journal(&directory)?;
            }
            match fs::create_dir(&directory) {
                Ok(()) => self.made.push(directory.clone()),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(format!("cannot make the cgroup {}: {e}", directory.display())),
            }
            prepare(&directory)?;
        }
        Ok(())
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        remove(&self.made);
    }
}

/// Removes directories that were made for a container, once its processes are gone. Parents that others have begun
/// to use stay. Returns the leaves that could not be removed.
pub fn remove(made: &[PathBuf]) -> Vec<PathBuf> {
    let mut left = Vec::new();
    for directory in made.iter().rev() {
        let is_leaf = !made.iter().any(|other| other != directory && other.starts_with(directory));
        // Processes leave a cgroup a little after they have been waited for.
        for pause in [0, 1, 2, 5, 10, 20, 50, 100, 200, 400] {
            std::thread::sleep(Duration::from_millis(pause));
            match fs::remove_dir(directory) {
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) && is_leaf => {}
                _ => break,
            }
        }
        if is_leaf && directory.exists() {
            left.push(directory.clone());
        }
    }
    left
}

/// The path below the hierarchy's top. With `systemd` it is `slice:prefix:name`, as engines write it then.
fn relative(path: &Path, systemd: bool) -> Result<PathBuf> {
    let text = path.to_string_lossy();
    if systemd {
        let parts: Vec<&str> = text.split(':').collect();
        let [slice, prefix, name] = parts[..] else {
            return Err(format!(
                "config.json: linux.cgroupsPath: {text:?} is not slice:prefix:name (--systemd-cgroup)"
            ));
        };
        let slice = if slice.is_empty() { "system.slice" } else { slice };
        let unit = match (prefix, name.ends_with(".slice")) {
            (_, true) => name.to_owned(),
            ("", _) => format!("{name}.scope"),
            _ => format!("{prefix}-{name}.scope"),
        };
        return Ok(expand_slice(slice)?.join(unit));
    }
    let relative: PathBuf = path.components().filter(|c| matches!(c, Component::Normal(_))).collect();
    if relative.as_os_str().is_empty() {
        return Err("config.json: linux.cgroupsPath: the root cgroup cannot be used".into());
    }
    Ok(relative)
}

/// `a-b.slice` lies at `a.slice/a-b.slice`.
fn expand_slice(slice: &str) -> Result<PathBuf> {
    let wrong = || format!("config.json: linux.cgroupsPath: {slice:?} is no slice");
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

fn is_v1(path: &Path) -> bool {
    file_system(path) == Some(CGROUP_SUPER_MAGIC)
}

fn is_v2(path: &Path) -> bool {
    file_system(path) == Some(CGROUP2_SUPER_MAGIC)
}

fn write(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value).context(|| format!("cannot write {value:?} to {}", path.display()))
}

/// Sets a limit whose file the kernel may lack; then nothing limits, which is worth a warning.
fn write_if_there(path: &Path, value: &str) -> Result<()> {
    if !path.exists() {
        crate::log::warn(&format!("{} is not there: the limit {value} is not applied", path.display()));
        return Ok(());
    }
    write(path, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let plain = |p: &str| relative(Path::new(p), false);
        assert_eq!(plain("/a/b"), Ok("a/b".into()));
        assert_eq!(plain("a/./b"), Ok("a/b".into()));
        assert!(plain("/").is_err());
        let systemd = |p: &str| relative(Path::new(p), true);
        assert_eq!(systemd("user-1.slice:cri:abc"), Ok("user.slice/user-1.slice/cri-abc.scope".into()));
        assert_eq!(systemd(":docker:abc"), Ok("system.slice/docker-abc.scope".into()));
        assert_eq!(systemd("-.slice:x:abc"), Ok("x-abc.scope".into()));
        for wrong in ["/a/b", "a:b", "a--b.slice:x:y", "x:y:z", "a/b.slice:x:y"] {
            assert!(systemd(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_what_was_made_is_removed() {
        let top = std::env::temp_dir().join(format!("chitin-cgroup-{}", std::process::id()));
        fs::create_dir_all(top.join("old")).unwrap();
        let mut cgroups = Cgroups::default();
        let mut told = Vec::new();
        let mut journal = |d: &Path| {
            assert!(!d.exists());
            told.push(d.to_owned());
            Ok(())
        };
        cgroups.make(&top, Path::new("old/new/leaf"), |_| Ok(()), &mut journal).unwrap();
        assert_eq!(told, cgroups.made());
        assert_eq!(cgroups.made(), [top.join("old/new"), top.join("old/new/leaf")]);
        fs::create_dir(top.join("old/new/other")).unwrap();
        drop(cgroups);
        assert!(top.join("old/new/other").exists(), "somebody else's");
        assert!(!top.join("old/new/leaf").exists());
        fs::remove_dir_all(&top).unwrap();
    }
}
