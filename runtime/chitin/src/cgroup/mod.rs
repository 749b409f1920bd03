//! Control groups: the sandbox's host processes are put into the container's cgroup before they run, so everything
//! that the guest uses (its memory and CPU time are those of the stub processes) counts and is limited there.
//!
//! v1 (one directory per mounted controller), v2 and the hybrid of both are handled, by ourselves (*cgroupfs*) or through
//! systemd (`systemd`, for `--systemd-cgroup`). What belongs to a container is noted in its state directory before it is
//! made, in a *journal* of lines, from which [`Cgroups::open`] finds it again: `made PATH` is a directory that is ours to
//! remove when it is empty, `leaf KIND PATH` a cgroup that the container's processes are in, `unit BUS NAME` a unit of
//! systemd's. A leaf is removed with all cgroups below it; parents that were there before, or that others use, stay.
//!
//! Neighbours: `sandbox` creates and adds, `container`'s directory keeps the journal, `cli` pauses, updates and looks.

mod devices;
mod freezer;
pub mod guest;
mod layout;
mod oom;
mod processes;
mod remove;
mod settings;
pub mod stats;
mod v1;
mod v2;

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;

use self::layout::Hierarchy;
pub use self::oom::OomEvents;
use self::settings::Dir;
use crate::util::{Context, Result};

/// A cgroup to be made.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `linux.cgroupsPath`; without one it gets the container's id beside (v2) or below (v1) our own cgroup.
    pub path: Option<&'a Path>,
    pub id: &'a str,
    /// `--systemd-cgroup`.
    pub systemd: bool,
    /// Go on without what we may not do.
    pub rootless: bool,
    pub resources: Option<&'a LinuxResources>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// v1, with its controllers' names.
    V1(Vec<String>),
    V2,
}

/// A directory that processes are put into.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Leaf {
    kind: Kind,
    path: PathBuf,
}

/// The cgroups of one container. Those that were created are removed on drop, unless they are kept.
#[derive(Debug, Default)]
pub struct Cgroups {
    leaves: Vec<Leaf>,
    /// Directories that were made, parents first.
    made: Vec<PathBuf>,
    owned: bool,
}

/// Notes lines in the container's journal.
pub type Journal<'a> = &'a mut dyn FnMut(&str) -> Result<()>;

impl Cgroups {
    /// Makes the container's cgroup in every hierarchy and sets its limits. The journal is told before.
    pub fn create(request: &Request<'_>, journal: Journal<'_>) -> Result<Self> {
        let created = layout::hierarchies().and_then(|found| Self::create_in(&found, request, journal));
        match created {
            Err(e) if request.rootless => {
                crate::log::warn(&format!("no cgroup and no limits, as we are rootless: {e}"));
                Ok(Self::default())
            }
            created => created,
        }
    }

    fn create_in(found: &[Hierarchy], request: &Request<'_>, journal: Journal<'_>) -> Result<Self> {
        let path = match request.path.filter(|p| !p.as_os_str().is_empty()) {
            Some(path) if request.systemd => systemd_path(path)?,
            Some(path) => path.to_owned(),
            None => PathBuf::from(request.id),
        };
        let mut cgroups = Self { leaves: Vec::new(), made: Vec::new(), owned: true };
        let mut tops = Vec::new();
        for hierarchy in found {
            let kind = if hierarchy.is_v2() { Kind::V2 } else { Kind::V1(hierarchy.controllers.clone()) };
            cgroups.leaves.push(Leaf { kind, path: hierarchy.place(&path)? });
            tops.push(hierarchy.mounted_at.as_path());
        }
        cgroups.refuse_used()?;
        journal(&cgroups.notes(&tops))?;
        let mut refused = None;
        let mut made = Vec::new();
        for (leaf, top) in cgroups.leaves.iter().zip(&tops) {
            let step = match &leaf.kind {
                Kind::V2 => v2::enable_controllers,
                Kind::V1(names) if names.iter().any(|n| n == "cpuset") => v1::inherit_cpuset,
                Kind::V1(_) => |_: Dir<'_>| Ok(()),
            };
            match settings::make_directories(top, &leaf.path, &mut cgroups.made, step) {
                Ok(stepped) => {
                    stepped?;
                    made.push(leaf.clone());
                }
                Err(e) => {
                    let refusal =
                        matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem);
                    let path = leaf.path.display();
                    let why = format!(
                        "cannot make the cgroup {path}: {e} (have a subtree delegated and name it in linux.cgroupsPath)"
                    );
                    if !(refusal && request.rootless) {
                        return Err(why);
                    }
                    refused = Some(why);
                }
            }
        }
        // Rootless: those of the hierarchies that let us.
        cgroups.leaves = made;
        if let (true, Some(why)) = (cgroups.leaves.is_empty(), refused) {
            return Err(why);
        }
        if let Some(resources) = request.resources {
            settings::apply(&cgroups.leaves, resources)?;
        }
        Ok(cgroups)
    }

    #[cfg(test)]
    fn of(leaves: Vec<Leaf>) -> Self {
        Self { leaves, made: Vec::new(), owned: false }
    }

    /// The cgroups that a journal tells of.
    pub fn open(journal: &str) -> Result<Self> {
        let mut cgroups = Self::default();
        for line in journal.lines() {
            let wrong = || format!("the list of the container's cgroups is damaged: {line:?}");
            match line.split_once(' ').ok_or_else(wrong)? {
                ("made", path) => cgroups.made.push(path.into()),
                ("leaf", rest) => {
                    let (kind, path) = rest.split_once(' ').ok_or_else(wrong)?;
                    let kind = match kind {
                        "v2" => Kind::V2,
                        names => Kind::V1(names.split(',').map(str::to_owned).collect()),
                    };
                    cgroups.leaves.push(Leaf { kind, path: path.into() });
                }
                _ => return Err(wrong()),
            }
        }
        Ok(cgroups)
    }

    /// Whether there is any: rootless containers may have none.
    pub fn is_empty(&self) -> bool {
        self.leaves.is_empty()
    }

    /// Moves a process in.
    pub fn add(&self, pid: i32) -> Result<()> {
        for leaf in &self.leaves {
            let file = leaf.path.join("cgroup.procs");
            Dir(&leaf.path)
                .write("cgroup.procs", &pid.to_string())
                .context(|| format!("cannot put process {pid} into {}", file.display()))?;
        }
        Ok(())
    }

    /// Sets what `resources` says; what it does not mention stays.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        self.refuse_none("its limits cannot be changed")?;
        settings::apply(&self.leaves, resources)
    }

    /// Hands the duty of removing them over to whoever has the journal.
    pub fn keep(mut self) {
        self.owned = false;
    }

    /// Removes them, once the processes are gone. Returns the cgroups that could not be removed.
    pub fn remove(mut self) -> Vec<PathBuf> {
        self.owned = false;
        self.remove_all()
    }

    fn remove_all(&self) -> Vec<PathBuf> {
        let left = remove::leaves(self.leaves.iter().map(|leaf| leaf.path.as_path()));
        remove::parents(&self.made);
        left
    }

    fn v2_leaf(&self) -> Option<Dir<'_>> {
        self.leaves.iter().find(|leaf| leaf.kind == Kind::V2).map(|leaf| Dir(&leaf.path))
    }

    fn v1_leaf(&self, controller: &str) -> Option<Dir<'_>> {
        let has =
            |leaf: &&Leaf| matches!(&leaf.kind, Kind::V1(names) if names.iter().any(|n| n == controller));
        self.leaves.iter().find(has).map(|leaf| Dir(&leaf.path))
    }

    fn refuse_none(&self, what: &str) -> Result<()> {
        if self.is_empty() {
            return Err(format!("the container has no cgroup, so {what}"));
        }
        Ok(())
    }

    /// Somebody else's cgroup would be killed, frozen and limited with ours; in a frozen one nothing could start.
    fn refuse_used(&self) -> Result<()> {
        let Some(leaf) = self.leaves.iter().find(|leaf| leaf.path.exists()) else { return Ok(()) };
        let inside = self.processes()?;
        if !inside.is_empty() {
            return Err(format!(
                "container's cgroup is not empty: {} process(es) found in {} (choose another linux.cgroupsPath)",
                inside.len(),
                leaf.path.display()
            ));
        }
        if self.is_frozen().unwrap_or(false) {
            return Err(format!(
                "container's cgroup unexpectedly frozen: {} (thaw it or choose another linux.cgroupsPath)",
                leaf.path.display()
            ));
        }
        Ok(())
    }

    /// The journal's lines for what is about to be made.
    fn notes(&self, tops: &[&Path]) -> String {
        let mut notes = String::new();
        for (leaf, top) in self.leaves.iter().zip(tops) {
            let mut missing: Vec<&Path> =
                leaf.path.ancestors().take_while(|path| path != top && !path.exists()).collect();
            missing.reverse();
            for path in missing {
                let _ = writeln!(notes, "made {}", path.display());
            }
            let kind = match &leaf.kind {
                Kind::V2 => "v2".to_owned(),
                Kind::V1(names) => names.join(","),
            };
            let _ = writeln!(notes, "leaf {kind} {}", leaf.path.display());
        }
        notes
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        if self.owned {
            self.remove_all();
        }
    }
}

/// `slice:prefix:name`, as engines write it with `--systemd-cgroup`, as an absolute path.
fn systemd_path(path: &Path) -> Result<PathBuf> {
    let text = path.to_string_lossy();
    let parts: Vec<&str> = text.split(':').collect();
    let [slice, prefix, name] = parts[..] else {
        return Err(format!("linux.cgroupsPath: {text:?} is not slice:prefix:name (--systemd-cgroup)"));
    };
    let slice = if slice.is_empty() { "system.slice" } else { slice };
    Ok(Path::new("/").join(layout::expand_slice(slice)?).join(unit_name(prefix, name)))
}

/// A slice if its name says so, else a scope.
fn unit_name(prefix: &str, name: &str) -> String {
    match (prefix, name.ends_with(".slice")) {
        (_, true) => name.to_owned(),
        ("", _) => format!("{name}.scope"),
        _ => format!("{prefix}-{name}.scope"),
    }
}

#[cfg(test)]
mod tests;
