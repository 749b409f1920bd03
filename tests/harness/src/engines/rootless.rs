//! Podman as an unprivileged user, in a private world whose /etc knows that user and may grant it subordinate ids.
//!
//! Podman makes the user namespace and has conmon call the runtime as root inside it: what a rootless runtime meets most.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::engine::{Engine, unique_id};
use crate::engines::client::Client;
use crate::engines::world::{Cgroups, World};
use crate::engines::{image, runtime, which};

pub const USER: &str = "1000";

#[derive(Debug)]
pub struct RootlessPodman {
    // The world ends before its files go.
    world: World,
    home: Home,
}

#[derive(Debug)]
struct Home(PathBuf);

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Homes of test processes that are gone: one that all tests of a process share is never dropped.
fn remove_stale() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix("chitin-podman-t-").and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !std::path::Path::new("/proc").join(pid).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Who the user is, as root of the world. FUSE is for everybody, as udev leaves it.
const PREPARE: &str = "set -e; cd \"$1\"; mkdir -p etc .config/containers run
    printf 'root:x:0:0::/root:/bin/sh\\nsub:x:1000:1000::%s:/bin/sh\\n' \"$1\" >etc/passwd
    printf 'root:x:0:\\nsub:x:1000:\\n' >etc/group
    printf \"$2\" >etc/subid
    for f in passwd group; do mount --bind etc/$f /etc/$f; done
    for f in subuid subgid; do touch /etc/$f; mount --bind etc/subid /etc/$f; done
    mkdir -p /run/user/1000 /run/dev; chown 1000:1000 /run/user/1000; chmod 700 /run/user/1000
    if [ -e /dev/fuse ]; then mknod -m 666 /run/dev/fuse c 10 229; mount --bind /run/dev/fuse /dev/fuse; fi
    chown -R 1000:1000 .";

impl RootlessPodman {
    /// `subordinate` are lines of /etc/subuid and /etc/subgid, with `\n` at their ends.
    pub fn start(name: &str, subordinate: &str) -> Result<RootlessPodman, String> {
        for program in ["podman", "conmon", "newuidmap", "newgidmap"] {
            which(program).ok_or(format!("{program} is not installed (tests/rootfs/packages does it)"))?;
        }
        let world = World::start(name, Cgroups::for_engine(Engine::under_test()))?;
        remove_stale();
        // Where the user may go, unlike the tests' own scratch.
        let home = Home(std::env::temp_dir().join(format!("chitin-podman-{}", unique_id())));
        let io = |e: std::io::Error| format!("{}: {e}", home.0.display());
        std::fs::create_dir_all(&home.0).map_err(io)?;
        let at = |name: &str| home.0.join(name);
        std::fs::copy(runtime(), at("runtime")).map_err(io)?;
        std::fs::copy(image("busybox")?, at("busybox.tar")).map_err(io)?;
        let text = "[containers]\nnetns = \"none\"\n[engine]\nevents_logger = \"file\"\n";
        std::fs::write(at("containers.conf"), text).map_err(io)?;
        std::fs::create_dir_all(at(".config/containers")).map_err(io)?;
        let policy = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;
        std::fs::write(at(".config/containers/policy.json"), policy).map_err(io)?;
        let p = RootlessPodman { world, home };
        let path = p.home.0.to_string_lossy();
        let o = p.world.run(&["sh", "-c", PREPARE, "sh", &path, subordinate], Duration::from_secs(20));
        if o.code != Some(0) {
            return Err(format!("a user of its own: {}", o.brief()));
        }
        let o = p.call(&["load", "-i", &p.file("busybox.tar")]);
        if o.code != Some(0) {
            return Err(format!("podman load: {}", o.brief()));
        }
        Ok(p)
    }

    /// A file of the user's.
    pub fn file(&self, name: &str) -> String {
        self.home.0.join(name).to_string_lossy().into_owned()
    }
}

impl Client for RootlessPodman {
    const NAME: &'static str = "podman";
    fn world(&self) -> &World {
        &self.world
    }
    fn command(&self, args: &[&str]) -> Command {
        let mut c = self.world.command("setpriv");
        let ids = [format!("--reuid={USER}"), format!("--regid={USER}")];
        c.args(ids).args(["--clear-groups", "--inh-caps=-all", "env", "-i", "-C"]).arg(&self.home.0);
        c.arg("PATH=/usr/bin:/usr/sbin:/bin:/sbin").arg(format!("HOME={}", self.home.0.display()));
        c.arg("XDG_RUNTIME_DIR=/run/user/1000").arg("TERM=xterm");
        c.arg(format!("CONTAINERS_CONF={}", self.file("containers.conf"))).arg("podman");
        c.args(["--cgroup-manager=cgroupfs", "--storage-driver=vfs", "--runtime"]).arg(self.file("runtime"));
        c.args(args);
        c
    }
}
