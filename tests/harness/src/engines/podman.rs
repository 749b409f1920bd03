//! Podman with a root, run root and temporary directory of its own, in a private world; conmon drives the runtime.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::engine::{Engine, unique_id};
use crate::engines::client::Client;
use crate::engines::world::{Cgroups, World};
use crate::engines::{image, runtime, which};

#[derive(Debug)]
pub struct Podman {
    pub world: World,
}

impl Podman {
    pub fn start(name: &str) -> Result<Podman, String> {
        for program in ["podman", "conmon"] {
            which(program).ok_or(format!("{program} is not installed (tests/rootfs/packages does it)"))?;
        }
        let world = World::start(name, Cgroups::for_engine(Engine::under_test()))?;
        let p = Podman { world };
        // No network configuration exists here, and none is looked for.
        std::fs::create_dir_all(p.world.dir.join("net")).map_err(|e| format!("net: {e}"))?;
        let text = "[containers]\nnetns = \"none\"\n[engine]\nevents_logger = \"file\"\n";
        std::fs::write(p.world.dir.join("containers.conf"), text)
            .map_err(|e| format!("containers.conf: {e}"))?;
        let policy = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;
        std::fs::write(p.world.dir.join("policy.json"), policy).map_err(|e| format!("policy.json: {e}"))?;
        let o = p.call(&["load", "-i", &image("busybox")?.to_string_lossy()]);
        if o.code != Some(0) {
            return Err(format!("podman load: {}", o.brief()));
        }
        Ok(p)
    }
}

impl Client for Podman {
    const NAME: &'static str = "podman";
    fn world(&self) -> &World {
        &self.world
    }
    fn command(&self, args: &[&str]) -> Command {
        let dir = &self.world.dir;
        let mut c = self.world.command("podman");
        c.arg("--root").arg(dir.join("root")).args([
            "--runroot",
            "/run/podman-run",
            "--tmpdir",
            "/run/podman-tmp",
        ]);
        c.args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs"]);
        c.arg("--network-config-dir").arg(dir.join("net")).arg("--runtime").arg(runtime()).args(args);
        c.env("CONTAINERS_CONF", dir.join("containers.conf")).env("HOME", dir).env_remove("XDG_RUNTIME_DIR");
        c
    }
}

/// Where CNI's plugins keep what they have given away.
const CNI: &str = "/var/lib/cni";

/// A network of Podman's, whose plugins see a state directory of the world's.
#[derive(Debug)]
pub struct Network<'a> {
    on: &'a Podman,
    pub name: String,
    /// The directory for the world's was made for it.
    made: bool,
}

impl<'a> Network<'a> {
    pub fn new(on: &'a Podman, subnet: &str) -> Result<Self, String> {
        if which("netavark").is_none() && !Path::new("/usr/lib/cni/bridge").exists() {
            return Err(
                "neither netavark nor CNI's plugins are installed (tests/rootfs/packages does it)".into()
            );
        }
        let net = Self { on, name: unique_id(), made: std::fs::create_dir(CNI).is_ok() };
        let o = on.world.run(&["mount", "-t", "tmpfs", "cni", CNI], Duration::from_secs(10));
        if o.code != Some(0) {
            return Err(format!("{CNI}: {}", o.brief()));
        }
        let o = on.call(&["network", "create", "--subnet", subnet, &net.name]);
        if o.code == Some(0) { Ok(net) } else { Err(format!("network create: {}", o.brief())) }
    }
}

impl Drop for Network<'_> {
    fn drop(&mut self) {
        let _ = self.on.call(&["network", "rm", "--force", &self.name]);
        let _ = self.on.world.run(&["umount", CNI], Duration::from_secs(10));
        if self.made {
            let _ = std::fs::remove_dir(CNI);
        }
    }
}
