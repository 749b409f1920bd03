//! `--systemd-cgroup`: the container's cgroup is a transient unit of systemd's, a *scope* below a slice.
//!
//! A scope is started around its first process, so it begins with the first [`super::Cgroups::add`]; until then it is only a
//! name. The unit is delegated to us: its files are written, and it is frozen and read, as without systemd. Only its start, its end
//! and the limits that systemd would reset on a reload go over D-Bus (`bus`, `wire`), of which we speak the few words
//! needed: a library for all of it would bring an executor, and start-up time, along.

mod bus;
mod properties;
mod wire;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use oci_spec::runtime::LinuxResources;

pub use self::bus::Address;
use self::bus::{Bus, Failure};
use self::wire::{Body, Value};
use super::layout::expand_slice;
use crate::util::Result;

/// A unit, and how to reach the systemd that has it.
#[derive(Debug)]
pub struct Unit {
    pub user: bool,
    pub name: String,
    slice: String,
    id: String,
    addresses: Vec<Address>,
    /// What the scope is started with.
    resources: Option<LinuxResources>,
    started: AtomicBool,
}

impl Unit {
    /// The unit that `slice:prefix:name` names, and its cgroup as an absolute path.
    pub fn planned(
        path: Option<&Path>,
        id: &str,
        user: bool,
        addresses: Option<Vec<Address>>,
        resources: Option<&LinuxResources>,
    ) -> Result<(Self, PathBuf)> {
        let text = path.map(|p| p.to_string_lossy()).unwrap_or_default();
        let text = if text.is_empty() { format!(":chitin:{id}").into() } else { text };
        let parts: Vec<&str> = text.split(':').collect();
        let [slice, prefix, name] = parts[..] else {
            return Err(format!("linux.cgroupsPath: {text:?} is not slice:prefix:name (--systemd-cgroup)"));
        };
        let default = if user { "user.slice" } else { "system.slice" };
        let slice = if slice.is_empty() { default } else { slice };
        let unit = Self {
            user,
            name: unit_name(prefix, name)?,
            slice: slice.to_owned(),
            id: id.to_owned(),
            addresses: addresses.unwrap_or_else(|| bus::addresses(user)),
            resources: resources.cloned(),
            started: AtomicBool::new(false),
        };
        let mut path = PathBuf::from("/");
        if user {
            // Everything of the user's systemd lies below its own cgroup.
            let own = unit.connect()?.property("ControlGroup");
            let own = own.map_err(|e| format!("cannot ask the user's systemd for its cgroup: {e}"))?;
            path.push(own.trim_start_matches('/'));
        }
        path.push(expand_slice(slice)?);
        path.push(&unit.name);
        Ok((unit, path))
    }

    /// A unit that runs already.
    pub fn running(user: bool, name: &str) -> Self {
        Self {
            user,
            name: name.to_owned(),
            slice: String::new(),
            id: String::new(),
            addresses: bus::addresses(user),
            resources: None,
            started: AtomicBool::new(true),
        }
    }

    pub fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    pub fn resources(&self) -> Option<&LinuxResources> {
        self.resources.as_ref()
    }

    fn connect(&self) -> Result<Bus> {
        Bus::connect(&self.addresses)
    }

    fn is_slice(&self) -> bool {
        self.name.ends_with(".slice")
    }

    /// Starts the unit around `pid` if it does not run yet. Whether it did that.
    pub fn start(&self, pid: i32, is_v2: bool) -> Result<bool> {
        if self.started.load(Ordering::Acquire) {
            return Ok(false);
        }
        let failed = |e: &dyn std::fmt::Display| format!("unable to start unit {:?}: {e}", self.name);
        let mut bus = self.connect()?;
        let description = format!("chitin container {}", self.id);
        let mut all = vec![("Description", Value::Text(description))];
        if self.is_slice() {
            all.push(("Wants", Value::Texts(vec![self.slice.clone()])));
        } else {
            all.push(("Slice", Value::Text(self.slice.clone())));
            all.push(("Delegate", Value::Bool(true)));
            all.push(("PIDs", Value::U32s(vec![pid.cast_unsigned()])));
        }
        let io = if is_v2 { "IOAccounting" } else { "BlockIOAccounting" };
        for accounting in ["MemoryAccounting", "CPUAccounting", io, "TasksAccounting"] {
            all.push((accounting, Value::Bool(true)));
        }
        all.push(("DefaultDependencies", Value::Bool(false)));
        if let Some(resources) = &self.resources {
            all.extend(properties::of(resources, is_v2, &mut || version(&mut bus))?);
        }
        let body = Body::default().text(&self.name).text("replace").properties(&all).no_further_units();
        let mut result = bus.job("StartTransientUnit", &body);
        if matches!(&result, Err(Failure::Answered(name, _)) if name.ends_with(".UnitExists")) {
            if self.is_slice() {
                self.started.store(true, Ordering::Release);
                return Ok(true);
            }
            // Perhaps one that has failed and was left over.
            let _ = bus.call("ResetFailedUnit", &Body::default().text(&self.name));
            result = bus.job("StartTransientUnit", &body);
        }
        match result {
            Ok(done) if done == "done" => {
                self.started.store(true, Ordering::Release);
                Ok(true)
            }
            Ok(other) => {
                let _ = bus.call("ResetFailedUnit", &Body::default().text(&self.name));
                Err(failed(&format!("the job ended as {other:?}; see journalctl -u {}", self.name)))
            }
            Err(e) => Err(failed(&e)),
        }
    }

    /// Has systemd move a process in, which a user may not do himself when it comes from elsewhere.
    pub fn attach(&self, pid: i32) -> Result<()> {
        let body = Body::default().text(&self.name).text("").u32s(&[pid.cast_unsigned()]);
        let attached = self.connect()?.call("AttachProcessesToUnit", &body);
        attached.map(drop).map_err(|e| format!("cannot put process {pid} into unit {:?}: {e}", self.name))
    }

    /// Tells systemd of changed limits.
    pub fn update(&self, resources: &LinuxResources, is_v2: bool) -> Result<()> {
        let mut bus = self.connect()?;
        let all = properties::of(resources, is_v2, &mut || version(&mut bus))?;
        if all.is_empty() {
            return Ok(());
        }
        let body = Body::default().text(&self.name).boolean(true).properties(&all);
        let set = bus.call("SetUnitProperties", &body);
        set.map(drop).map_err(|e| format!("unable to set unit properties of {:?}: {e}", self.name))
    }

    /// Ends the unit; if it has gone by itself, as scopes do with their last process, all is well.
    pub fn stop(&self) -> Result<()> {
        let mut bus = self.connect()?;
        let stopped = bus.job("StopUnit", &Body::default().text(&self.name).text("replace"));
        // A failed one stays until it is forgotten.
        let _ = bus.call("ResetFailedUnit", &Body::default().text(&self.name));
        match stopped {
            Ok(_) => Ok(()),
            Err(Failure::Answered(name, _)) if name.ends_with(".NoSuchUnit") => Ok(()),
            Err(e) => Err(format!("cannot stop unit {:?}: {e} (systemctl stop {})", self.name, self.name)),
        }
    }
}

/// Whether the host was booted with systemd, as `sd_booted(3)` finds out.
pub fn is_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// A slice if its name says so, else a scope.
fn unit_name(prefix: &str, name: &str) -> Result<String> {
    let unit = match (prefix, name.ends_with(".slice")) {
        (_, true) => name.to_owned(),
        ("", _) => format!("{name}.scope"),
        _ => format!("{prefix}-{name}.scope"),
    };
    let legal = |b: u8| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b);
    if name.is_empty() || unit.len() > 255 || !unit.bytes().all(legal) {
        return Err(format!("linux.cgroupsPath: {unit:?} cannot be the name of a systemd unit"));
    }
    Ok(unit)
}

/// The number at the start of something like `v245.4-1.fc32` or `252.38-1~deb12u1`.
fn version(bus: &mut Bus) -> Result<u32> {
    let text = bus.property("Version").map_err(|e| format!("cannot ask systemd for its version: {e}"))?;
    let digits: String = text.trim_start_matches('v').chars().take_while(char::is_ascii_digit).collect();
    digits.parse().map_err(|_| format!("systemd's version {text:?} is none"))
}

#[cfg(test)]
mod tests;
