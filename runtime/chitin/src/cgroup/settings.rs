//! From `linux.resources` to the files of a cgroup: which controller is where, and how a file is written so that a
//! failure names the field, the file, the cause and the remedy.
//!
//! Each family of fields has a function in `v1` and in `v2`. A limit that cannot be set is an error: it would not hold.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;

use super::{Kind, Leaf, devices, v1, v2};
use crate::log::warn;
use crate::util::Result;

/// A cgroup's directory in the hierarchy that has one controller.
#[derive(Clone, Copy, Debug)]
pub struct Dir<'a>(pub &'a Path);

impl Dir<'_> {
    pub fn has(&self, file: &str) -> bool {
        self.0.join(file).exists()
    }

    pub fn read(&self, file: &str) -> io::Result<String> {
        fs::read_to_string(self.0.join(file)).map(|text| text.trim_end().to_owned())
    }

    /// A single number; v2's `max` and v1's -1 are the largest.
    pub fn number(&self, file: &str) -> Option<u64> {
        match self.read(file).ok()?.as_str() {
            "max" | "-1" => Some(u64::MAX),
            number => number.parse().ok(),
        }
    }

    pub fn write(&self, file: &str, value: &str) -> io::Result<()> {
        // Truncated for the sake of the plain files of tests.
        let mut file = OpenOptions::new().write(true).truncate(true).open(self.0.join(file))?;
        file.write_all(value.as_bytes())
    }

    /// Sets what `linux.resources.FIELD` says.
    pub fn set(&self, field: &str, file: &str, value: impl ToString) -> Result<()> {
        let value = value.to_string();
        self.write(file, &value).map_err(|e| self.failed(field, file, &value, &e))
    }

    /// Sets it if the field is given.
    pub fn set_some(&self, field: &str, file: &str, value: Option<impl ToString>) -> Result<()> {
        value.map_or(Ok(()), |value| self.set(field, file, value))
    }

    pub fn failed(&self, field: &str, file: &str, value: &str, e: &io::Error) -> String {
        let remedy = match e.raw_os_error() {
            Some(libc::ENOENT) => "the kernel or the parent cgroup does not offer it here: remove the field",
            Some(libc::EBUSY) => "more than that is in use: choose a larger value",
            Some(libc::EINVAL | libc::ERANGE) => "the kernel takes no such value here: correct it",
            Some(libc::EACCES | libc::EPERM) => {
                "this cgroup is not delegated to us, or the parent forbids it"
            }
            Some(libc::ENODEV | libc::ENXIO) => "there is no such device: correct its number or remove it",
            Some(libc::EROFS) => "the cgroup file system is mounted read-only: remount it",
            _ => "remove the field if it is not needed",
        };
        let path = self.0.join(file);
        format!("linux.resources.{field}: cannot write {value:?} to {}: {e} ({remedy})", path.display())
    }
}

/// Where a controller is.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    V1(Dir<'a>),
    V2(Dir<'a>),
    Nowhere,
}

/// Where the controller with these names (of v1 and of v2) is. In the hybrid layout v1 has precedence.
pub fn place<'a>(leaves: &'a [Leaf], v1_name: &str, v2_has_it: bool) -> Place<'a> {
    let is_v1 = |leaf: &&Leaf| matches!(&leaf.kind, Kind::V1(names) if names.iter().any(|n| n == v1_name));
    if let Some(leaf) = leaves.iter().find(is_v1) {
        return Place::V1(Dir(&leaf.path));
    }
    match leaves.iter().find(|leaf| leaf.kind == Kind::V2) {
        Some(leaf) if v2_has_it => Place::V2(Dir(&leaf.path)),
        _ => Place::Nowhere,
    }
}

fn nowhere(field: &str, controller: &str) -> String {
    format!(
        "linux.resources.{field}: this container has no cgroup of the controller {controller}: mount its hierarchy (or \
         get it delegated), or remove the field"
    )
}

/// Sets everything that `resources` says; what it does not mention stays.
pub fn apply(leaves: &[Leaf], resources: &LinuxResources) -> Result<()> {
    let hybrid_or_v1 = leaves.iter().any(|leaf| matches!(leaf.kind, Kind::V1(_)));
    if hybrid_or_v1 && resources.unified().as_ref().is_some_and(|u| !u.is_empty()) {
        return Err("linux.resources.unified: this host has cgroups v1; remove it".into());
    }
    if let Some(memory) = resources.memory() {
        for (field, given) in [
            #[allow(deprecated)]
            ("kernel", memory.kernel().is_some_and(|n| n != 0)),
            ("kernelTCP", memory.kernel_tcp().is_some_and(|n| n != 0)),
        ] {
            if given {
                warn(&format!(
                    "linux.resources.memory.{field}: ignored, as Linux has given it up: use memory.limit"
                ));
            }
        }
        match place(leaves, "memory", true) {
            Place::V1(dir) => v1::memory(dir, memory)?,
            Place::V2(dir) => v2::memory(dir, memory)?,
            Place::Nowhere if v2::memory_is_set(memory) => return Err(nowhere("memory", "memory")),
            Place::Nowhere => {}
        }
    }
    if let Some(cpu) = resources.cpu() {
        match place(leaves, "cpu", true) {
            Place::V1(dir) => v1::cpu(dir, cpu)?,
            Place::V2(dir) => v2::cpu(dir, cpu)?,
            Place::Nowhere if v2::cpu_is_set(cpu) => return Err(nowhere("cpu", "cpu")),
            Place::Nowhere => {}
        }
        // The files have the same names.
        let given = |list: &Option<String>| list.clone().filter(|list| !list.is_empty());
        let (cpus, mems) = (given(cpu.cpus()), given(cpu.mems()));
        match place(leaves, "cpuset", true) {
            Place::V1(dir) | Place::V2(dir) => {
                dir.set_some("cpu.cpus", "cpuset.cpus", cpus)?;
                dir.set_some("cpu.mems", "cpuset.mems", mems)?;
            }
            Place::Nowhere if cpus.is_some() || mems.is_some() => return Err(nowhere("cpu.cpus", "cpuset")),
            Place::Nowhere => {}
        }
    }
    if let Some(limit) = resources.pids().as_ref().and_then(|p| v2::maximum(p.limit())) {
        match place(leaves, "pids", true) {
            Place::V1(dir) | Place::V2(dir) => dir.set("pids.limit", "pids.max", limit)?,
            Place::Nowhere => return Err(nowhere("pids.limit", "pids")),
        }
    }
    if let Some(io) = resources.block_io() {
        match place(leaves, "blkio", true) {
            Place::V1(dir) => v1::blkio(dir, io)?,
            Place::V2(dir) => v2::io(dir, io)?,
            Place::Nowhere if v2::io_is_set(io) => return Err(nowhere("blockIO", "blkio")),
            Place::Nowhere => {}
        }
    }
    huge_pages(leaves, resources)?;
    if let Some(network) = resources.network() {
        if let Some(id) = network.class_id().filter(|id| *id != 0) {
            match place(leaves, "net_cls", false) {
                Place::V1(dir) => dir.set("network.classID", "net_cls.classid", id)?,
                _ => no_such_controller(leaves, "network.classID", "net_cls")?,
            }
        }
        for (index, priority) in network.priorities().iter().flatten().enumerate() {
            let field = format!("network.priorities[{index}]");
            match place(leaves, "net_prio", false) {
                Place::V1(dir) => {
                    let value = format!("{} {}", priority.name(), priority.priority());
                    dir.set(&field, "net_prio.ifpriomap", value)?;
                }
                _ => no_such_controller(leaves, &field, "net_prio")?,
            }
        }
    }
    for (device, limit) in resources.rdma().iter().flatten() {
        let field = format!("rdma[{device:?}]");
        let handles = limit.hca_handles().map_or(String::new(), |n| format!(" hca_handle={n}"));
        let objects = limit.hca_objects().map_or(String::new(), |n| format!(" hca_object={n}"));
        if handles.is_empty() && objects.is_empty() {
            continue;
        }
        match place(leaves, "rdma", true) {
            Place::V1(dir) | Place::V2(dir) => {
                dir.set(&field, "rdma.max", format!("{device}{handles}{objects}"))?;
            }
            Place::Nowhere => return Err(nowhere(&field, "rdma")),
        }
    }
    // v2 has no files for devices but BPF programs, for which there is no use: see `devices`.
    if let Place::V1(dir) = place(leaves, "devices", false) {
        devices::set(dir, resources.devices().as_deref().unwrap_or_default())?;
    }
    if let Some(leaf) = leaves.iter().find(|leaf| leaf.kind == Kind::V2) {
        v2::unified(Dir(&leaf.path), resources.unified().iter().flatten())?;
    }
    Ok(())
}

/// On v2 nothing takes the network's fields, and runc ignores them; on v1 the hierarchy could be mounted.
fn no_such_controller(leaves: &[Leaf], field: &str, controller: &str) -> Result<()> {
    if leaves.iter().any(|leaf| matches!(leaf.kind, Kind::V1(_))) {
        return Err(nowhere(field, controller));
    }
    warn(&format!("linux.resources.{field}: ignored, as cgroups v2 have no {controller}"));
    Ok(())
}

/// The guest takes nothing from the host's pools, so a limit holds even where there is no controller.
fn huge_pages(leaves: &[Leaf], resources: &LinuxResources) -> Result<()> {
    for (index, limit) in resources.hugepage_limits().iter().flatten().enumerate() {
        let field = format!("hugepageLimits[{index}]");
        let size = limit.page_size();
        if size.is_empty() || size.contains(['/', '.']) {
            return Err(format!("linux.resources.{field}: pageSize {size:?} is none (like 2MB or 1GB)"));
        }
        let (dir, suffix) = match place(leaves, "hugetlb", true) {
            Place::V1(dir) => (dir, "limit_in_bytes"),
            Place::V2(dir) => (dir, "max"),
            Place::Nowhere => continue,
        };
        let value =
            if limit.limit() == -1 && suffix == "max" { "max".into() } else { limit.limit().to_string() };
        let [file, reserved] = [format!("hugetlb.{size}.{suffix}"), format!("hugetlb.{size}.rsvd.{suffix}")];
        match dir.write(&file, &value) {
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            done => done.map_err(|e| dir.failed(&field, &file, &value, &e))?,
        }
        // Linux 5.7 and later limit what is reserved as well.
        if dir.has(&reserved) {
            dir.set(&field, &reserved, &value)?;
        }
    }
    Ok(())
}

/// Makes every missing directory from `top` down to `leaf`. `step` sees each one, made or found.
pub fn make_directories(
    top: &Path,
    leaf: &Path,
    made: &mut Vec<PathBuf>,
    step: fn(Dir<'_>) -> Result<()>,
) -> io::Result<Result<()>> {
    // Another container's removal may take a parent away that it had made, just before we make the child.
    'again: for round in 0.. {
        let mut directory = top.to_owned();
        let below = leaf.strip_prefix(top).map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
        for component in below.components() {
            directory.push(component);
            match fs::create_dir(&directory) {
                Ok(()) => made.push(directory.clone()),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) if e.kind() == ErrorKind::NotFound && round < 20 => continue 'again,
                Err(e) => return Err(e),
            }
            if let Err(e) = step(Dir(&directory)) {
                if !directory.exists() && round < 20 {
                    continue 'again;
                }
                return Ok(Err(e));
            }
        }
        break;
    }
    Ok(Ok(()))
}
