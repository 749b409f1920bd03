//! A container in a cgroup of a known name, under any of the runtimes, whose cgroup files tests read.
//!
//! runc and crun take no hybrid host: they get a mount namespace that shows v1 alone, or v2 alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::engine::{Engine, state_root, unique_id};
use crate::run::{self, Outcome};
use crate::{paths, skip};

pub const LIMIT: Duration = Duration::from_secs(30);
const TOP: &str = "/sys/fs/cgroup";

/// What a container's runtime shall see of the host's hierarchies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum View {
    Whole,
    V1,
    V2,
}

#[derive(Debug)]
pub struct Container {
    pub engine: Engine,
    pub view: View,
    pub bundle: Bundle,
    pub root: PathBuf,
    pub id: String,
    /// Below each hierarchy's top.
    pub cgroup: String,
}

impl Container {
    pub fn new(engine: Engine, view: View, script: &str, resources: Value) -> Container {
        let id = unique_id();
        let cgroup = format!("chitin-tests-{id}");
        let bundle = Bundle::new("cgroups", &paths::rootfs("busybox"), &["/bin/sh", "-c", script])
            .set("/linux/cgroupsPath", json!(format!("/{cgroup}")))
            .set("/linux/resources", resources)
            .set("/root/readonly", json!(true));
        bundle.write();
        Container { engine, view, bundle, root: state_root("cgroups"), id, cgroup }
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let plain = match self.engine {
            Engine::Chitin => paths::chitin().into_os_string(),
            other => other.name().into(),
        };
        let prelude = match self.view {
            View::Whole => "",
            View::V1 => "umount /sys/fs/cgroup/unified 2>/dev/null;",
            View::V2 => "umount -R /sys/fs/cgroup 2>/dev/null; mount -t cgroup2 none /sys/fs/cgroup;",
        };
        let mut c = Command::new("unshare");
        c.args(["-m", "--propagation", "private", "sh", "-c", &format!("{prelude} exec \"$@\""), "sh"])
            .arg(plain);
        if self.engine == Engine::Crun {
            c.arg("--cgroup-manager=cgroupfs");
        }
        c.arg("--root").arg(&self.root).args(args);
        c
    }

    pub fn call(&self, args: &[&str]) -> Outcome {
        run::quick(self.command(args), LIMIT)
    }

    pub fn call_with(&self, args: &[&str], stdin: &[u8]) -> Outcome {
        run::run(self.command(args), stdin, &paths::scratch("limited"), LIMIT)
    }

    pub fn ok(&self, args: &[&str]) -> Outcome {
        let o = self.call(args);
        assert_eq!(o.code, Some(0), "{} {args:?}: {}", self.engine.name(), o.brief());
        o
    }

    pub fn try_create(&self) -> Outcome {
        let b = self.bundle.dir.to_string_lossy().into_owned();
        self.call(&["create", "--bundle", &b, &self.id])
    }

    pub fn create(&self) {
        let o = self.try_create();
        assert_eq!(o.code, Some(0), "{}: {}", self.engine.name(), o.brief());
    }

    pub fn pid(&self) -> i64 {
        let o = self.ok(&["state", &self.id]);
        let state: Value = serde_json::from_slice(&o.stdout).expect("state is JSON");
        state["pid"].as_i64().expect("state has a pid")
    }

    pub fn directory(&self, controller: &str) -> PathBuf {
        Path::new(TOP).join(controller).join(&self.cgroup)
    }

    /// A file named `controller/file`.
    pub fn read(&self, file: &str) -> String {
        let (controller, file) = file.split_once('/').expect("a controller");
        let path = self.directory(controller).join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|e| format!("{}: {e}", path.display()));
        text.trim_end().to_owned()
    }

    pub fn left(&self) -> Vec<PathBuf> {
        let tops = fs::read_dir(TOP).expect("cgroups are mounted").flatten();
        tops.map(|top| top.path().join(&self.cgroup)).filter(|p| p.exists()).collect()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.call(&["delete", "--force", &self.id]);
    }
}

/// Whether v1's hierarchies are there and ours to write.
pub fn v1_host(test: &str) -> bool {
    let there = ["memory", "cpu", "pids", "freezer", "devices", "cpuset"].iter().all(|c| {
        let probe = Path::new(TOP).join(c).join(format!("chitin-probe-{}-{test}", std::process::id()));
        fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe)).is_ok()
    });
    if !there {
        skip(test, "this host has no writable v1 hierarchies");
    }
    there
}
