//! Control groups: the sandbox's host processes are put into the container's cgroup before they run, so everything
//! that the guest uses (its memory and CPU time are those of the stub processes) counts and is limited there.
//!
//! v1 (one directory per mounted controller), v2 and the hybrid of both are handled, by ourselves (*cgroupfs*) or through
//! systemd (`systemd`, for `--systemd-cgroup`). What belongs to a container is noted in its state directory before it is
//! made, in a *journal* of lines, from which [`Cgroups::open`] finds it again: `made PATH` is a directory that is ours to
//! remove when it is empty, `leaf KIND PATH` a cgroup that the container's processes are in, `unit BUS NAME` a unit of
//! systemd's, `without PATH` takes a leaf back and `none` all. A leaf is removed with all cgroups below it; parents
//! that were there before, or that others use, stay.
//!
//! Neighbours: `sandbox` creates and adds, `container`'s directory keeps the journal, `cli` pauses, updates and looks.

mod devices;
mod entrances;
mod freezer;
pub mod guest;
mod layout;
mod oom;
mod processes;
mod remove;
mod resctrl;
mod settings;
pub mod stats;
mod systemd;
mod v1;
mod v2;

use std::cell::OnceCell;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIntelRdt, LinuxResources};

pub use self::entrances::Entrances;
use self::layout::Hierarchy;
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
    pub lenient: bool,
    /// The systemd that is asked is the user's.
    pub user: bool,
    pub resources: Option<&'a LinuxResources>,
    /// `linux.intelRdt`.
    pub intel_rdt: Option<&'a LinuxIntelRdt>,
}

impl Request<'_> {
    /// Whether a limit is asked for. Rules about devices alone need no cgroup here.
    pub fn limits(&self) -> bool {
        self.resources.is_some_and(|r| {
            r.memory().is_some()
                || r.cpu().is_some()
                || r.pids().is_some()
                || r.block_io().is_some()
                || r.hugepage_limits().is_some()
                || r.unified().is_some()
        })
    }

    /// Says so where something is lost. A warning is also in the container's output, as engines read it.
    fn go_without(&self, why: &str) {
        match self.limits() {
            true => crate::log::warn(&format!("no cgroup and no limits, as we are rootless: {why}")),
            false => crate::log::debug(&format!("no cgroup, as we are rootless: {why}")),
        }
    }
}

/// A line of the journal: what was noted before was not made.
pub const NONE: &str = "none";

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// v1, with its controllers' names.
    V1(Vec<String>),
    V2,
    /// A group of resctrl's.
    Resctrl,
}

/// A directory that processes are put into.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Leaf {
    kind: Kind,
    path: PathBuf,
}

impl Leaf {
    fn add(&self, pid: i32) -> Result<()> {
        let file = if self.kind == Kind::Resctrl { "tasks" } else { "cgroup.procs" };
        let written = Dir(&self.path).write(file, &pid.to_string());
        written.context(|| format!("cannot put process {pid} into {}/{file}", self.path.display()))
    }
}

/// The cgroups of one container. Those that were created are removed on drop, unless they are kept.
#[derive(Debug, Default)]
pub struct Cgroups {
    leaves: Vec<Leaf>,
    /// Directories that were made, parents first.
    made: Vec<PathBuf>,
    /// The unit that they are, if systemd makes them.
    unit: Option<systemd::Unit>,
    owned: bool,
    /// Opened when they are first needed.
    entrances: OnceCell<Option<Entrances>>,
}

/// Notes lines in the container's journal.
pub type Journal<'a> = &'a mut dyn FnMut(&str) -> Result<()>;

impl Cgroups {
    /// Makes the container's cgroup in every hierarchy and sets its limits. The journal is told before.
    pub fn create(request: &Request<'_>, journal: Journal<'_>) -> Result<Self> {
        let found = layout::hierarchies();
        if let (Ok(found), false) = (&found, request.systemd) {
            return Self::create_in(found, request, journal)?.with_group(request, journal);
        }
        let created = found.and_then(|found| {
            if !systemd::is_running() {
                return Err(
                    "systemd not running on this host, cannot use systemd cgroups manager: do without \
                            --systemd-cgroup"
                        .into(),
                );
            }
            Self::plan_unit(&found, request, None, journal)
        });
        let cgroups = match created {
            Err(e) if request.lenient => {
                request.go_without(&e);
                Self::default()
            }
            created => created?,
        };
        cgroups.with_group(request, journal)
    }

    /// With a group of resctrl's, if one is asked for.
    fn with_group(mut self, request: &Request<'_>, journal: Journal<'_>) -> Result<Self> {
        if let Some(rdt) = request.intel_rdt {
            let group = resctrl::group(Path::new(resctrl::MOUNT_POINT), rdt, request.id)?;
            self.owned = true;
            self.add_group(group, rdt, journal)?;
        }
        Ok(self)
    }

    fn create_in(found: &[Hierarchy], request: &Request<'_>, journal: Journal<'_>) -> Result<Self> {
        let path = request.path.filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(request.id));
        let mut cgroups = Self::planned(found, path)?;
        cgroups.refuse_used()?;
        journal(&cgroups.notes(found))?;
        let mut refused = None;
        let mut made = Vec::new();
        for (leaf, hierarchy) in cgroups.leaves.iter().zip(found) {
            let why = match make_leaf(leaf, &hierarchy.mounted_at, &mut cgroups.made) {
                Ok(stepped) => {
                    stepped?;
                    match hierarchy.barrier(&leaf.path).filter(|_| request.lenient) {
                        None => {
                            made.push(leaf.clone());
                            continue;
                        }
                        Some(barrier) => format!(
                            "processes may not be moved from here to {}, as {} is not ours (begin in the delegated \
                             subtree: systemd-run --user --scope)",
                            leaf.path.display(),
                            barrier.display()
                        ),
                    }
                }
                Err(e) => {
                    let refusal =
                        matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem);
                    let why = format!(
                        "cannot make the cgroup {}: {e} (have a subtree delegated and name it in linux.cgroupsPath)",
                        leaf.path.display()
                    );
                    if !(refusal && request.lenient) {
                        return Err(why);
                    }
                    why
                }
            };
            journal(&format!("without {}\n", leaf.path.display()))?;
            refused = Some(why);
        }
        // Lenient: those of the hierarchies that let us.
        cgroups.leaves = made;
        if let (true, Some(why)) = (cgroups.leaves.is_empty(), refused) {
            request.go_without(&why);
            // What was made on the way goes with its drop.
            return Ok(Self::default());
        }
        if let Some(resources) = request.resources {
            settings::apply(&cgroups.leaves, resources)?;
        }
        Ok(cgroups)
    }

    /// With systemd: the unit starts with its first process (see [`Self::add`]).
    fn plan_unit(
        found: &[Hierarchy],
        request: &Request<'_>,
        addresses: Option<Vec<systemd::Address>>,
        journal: Journal<'_>,
    ) -> Result<Self> {
        if request.user && found.iter().any(|h| !h.is_v2()) {
            return Err(
                "cannot use rootless systemd cgroups manager on cgroup v1: do without --systemd-cgroup"
                    .into(),
            );
        }
        let (unit, path) =
            systemd::Unit::planned(request.path, request.id, request.user, addresses, request.resources)?;
        let mut cgroups = Self::planned(found, &path)?;
        cgroups.refuse_used()?;
        let bus = if unit.user { "user" } else { "system" };
        journal(&format!("unit {bus} {}\n{}", unit.name, cgroups.notes(found)))?;
        // In v1's hierarchies that systemd does not care for they will be ours.
        for (leaf, hierarchy) in cgroups.leaves.iter().zip(found) {
            cgroups.made.extend(missing(&leaf.path, &hierarchy.mounted_at).into_iter().map(Path::to_owned));
        }
        cgroups.unit = Some(unit);
        Ok(cgroups)
    }

    fn planned(found: &[Hierarchy], path: &Path) -> Result<Self> {
        let leaf = |hierarchy: &Hierarchy| {
            let kind = if hierarchy.is_v2() { Kind::V2 } else { Kind::V1(hierarchy.controllers.clone()) };
            Ok(Leaf { kind, path: hierarchy.place(path)? })
        };
        let leaves = found.iter().map(leaf).collect::<Result<_>>()?;
        Ok(Self { leaves, made: Vec::new(), unit: None, owned: true, entrances: OnceCell::new() })
    }

    fn add_group(&mut self, group: PathBuf, rdt: &LinuxIntelRdt, journal: Journal<'_>) -> Result<()> {
        if !group.exists() {
            journal(&format!("made {}\n", group.display()))?;
        }
        journal(&format!("leaf resctrl {}\n", group.display()))?;
        if resctrl::set(&group, rdt)? {
            self.made.push(group.clone());
        }
        self.leaves.push(Leaf { kind: Kind::Resctrl, path: group });
        Ok(())
    }

    #[cfg(test)]
    fn of(leaves: Vec<Leaf>) -> Self {
        Self { leaves, made: Vec::new(), unit: None, owned: false, entrances: OnceCell::new() }
    }

    /// The cgroups that a journal tells of.
    pub fn open(journal: &str) -> Result<Self> {
        let mut cgroups = Self::default();
        for line in journal.lines() {
            if line == NONE {
                cgroups = Self::default();
                continue;
            }
            let wrong = || format!("the list of the container's cgroups is damaged: {line:?}");
            match line.split_once(' ').ok_or_else(wrong)? {
                ("made", path) => cgroups.made.push(path.into()),
                ("leaf", rest) => {
                    let (kind, path) = rest.split_once(' ').ok_or_else(wrong)?;
                    let kind = match kind {
                        "v2" => Kind::V2,
                        "resctrl" => Kind::Resctrl,
                        names => Kind::V1(names.split(',').map(str::to_owned).collect()),
                    };
                    cgroups.leaves.push(Leaf { kind, path: path.into() });
                }
                ("without", path) => cgroups.leaves.retain(|leaf| leaf.path != Path::new(path)),
                ("unit", rest) => {
                    let (bus, name) = rest.split_once(' ').ok_or_else(wrong)?;
                    cgroups.unit = Some(systemd::Unit::running(bus == "user", name));
                }
                _ => return Err(wrong()),
            }
        }
        Ok(cgroups)
    }

    /// Whether there is any: rootless containers may have none.
    pub fn is_empty(&self) -> bool {
        self.leaves.iter().all(|leaf| leaf.kind == Kind::Resctrl)
    }

    /// Moves a process in. New ones of ours go by themselves where they can ([`Cgroups::entrances`]).
    pub fn add(&self, pid: i32) -> Result<()> {
        if let Some(unit) = &self.unit {
            if unit.start(pid, self.is_v2())? {
                self.complete_unit(unit)?;
            } else if unit.user {
                return unit.attach(pid);
            }
        }
        self.leaves.iter().try_for_each(|leaf| leaf.add(pid))
    }

    /// What systemd leaves to us of a unit that it has started.
    fn complete_unit(&self, unit: &systemd::Unit) -> Result<()> {
        for leaf in &self.leaves {
            // v2's is there. Of v1's, systemd has made some; the parents of the others are in `made`.
            let top =
                self.made.iter().find(|made| leaf.path.starts_with(made)).and_then(|made| made.parent());
            let top = top.or_else(|| leaf.path.parent()).unwrap_or(&leaf.path);
            if leaf.kind != Kind::Resctrl {
                make_leaf(leaf, top, &mut Vec::new())
                    .map_err(|e| format!("cannot make the cgroup {}: {e}", leaf.path.display()))??;
            }
        }
        unit.resources().map_or(Ok(()), |resources| settings::apply(&self.leaves, resources))
    }

    fn is_v2(&self) -> bool {
        !self.leaves.iter().any(|leaf| matches!(leaf.kind, Kind::V1(_)))
    }

    /// Sets what `resources` says; what it does not mention stays.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        self.refuse_none("its limits cannot be changed")?;
        if let Some(unit) = &self.unit {
            unit.update(resources, self.is_v2())?;
        }
        settings::apply(&self.leaves, resources)
    }

    /// Other shares of the cache and of the memory's bandwidth.
    pub fn update_rdt(&self, rdt: &LinuxIntelRdt) -> Result<()> {
        let group = self.leaves.iter().find(|leaf| leaf.kind == Kind::Resctrl).ok_or(
            "Intel RDT: the container has no group of resctrl's: give it one with linux.intelRdt in config.json",
        )?;
        resctrl::set(&group.path, rdt).map(drop)
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
        if let Some(unit) = self.unit.as_ref().filter(|unit| unit.is_started())
            && let Err(e) = unit.stop()
        {
            crate::log::warn(&e);
        }
        // A group of resctrl's may be shared: it goes with the directories that were made.
        let cgroups = self.leaves.iter().filter(|leaf| leaf.kind != Kind::Resctrl);
        let left = remove::leaves(cgroups.map(|leaf| leaf.path.as_path()));
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
    fn notes(&self, found: &[Hierarchy]) -> String {
        let mut notes = String::new();
        for (leaf, hierarchy) in self.leaves.iter().zip(found) {
            for path in missing(&leaf.path, &hierarchy.mounted_at) {
                let _ = writeln!(notes, "made {}", path.display());
            }
            let kind = match &leaf.kind {
                Kind::V2 => "v2".to_owned(),
                Kind::V1(names) => names.join(","),
                Kind::Resctrl => "resctrl".to_owned(),
            };
            let _ = writeln!(notes, "leaf {kind} {}", leaf.path.display());
        }
        notes
    }
}

/// The directories that are not there from below `top` to `leaf`, parents first.
fn missing<'a>(leaf: &'a Path, top: &Path) -> Vec<&'a Path> {
    let mut missing: Vec<&Path> =
        leaf.ancestors().take_while(|path| *path != top && !path.exists()).collect();
    missing.reverse();
    missing
}

/// Makes a leaf and its missing parents, each as a cgroup must be that processes are to be put into.
fn make_leaf(leaf: &Leaf, top: &Path, made: &mut Vec<PathBuf>) -> std::io::Result<Result<()>> {
    let step = match &leaf.kind {
        Kind::V2 => v2::enable_controllers,
        Kind::V1(names) if names.iter().any(|n| n == "cpuset") => v1::inherit_cpuset,
        _ => |_: Dir<'_>| Ok(()),
    };
    settings::make_directories(top, &leaf.path, made, step)
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        if self.owned {
            self.remove_all();
        }
    }
}

#[cfg(test)]
mod tests;
