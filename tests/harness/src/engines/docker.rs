//! A Docker daemon of our own: vfs storage, no bridge, no iptables, its own containerd, in a private world.

use std::process::Command;
use std::time::Duration;

use crate::engine::Engine;
use crate::engines::client::Client;
use crate::engines::world::{Cgroups, Daemon, World};
use crate::engines::{image, runtime, which};

const LIMIT: Duration = Duration::from_secs(90);
const SOCKET: &str = "unix:///run/docker.sock";

#[derive(Debug)]
pub struct Docker {
    // The daemon ends before its world.
    daemon: Daemon,
    pub world: World,
}

impl Docker {
    pub fn start(name: &str) -> Result<Docker, String> {
        for program in ["docker", "dockerd", "containerd"] {
            which(program).ok_or(format!("{program} is not installed (tests/rootfs/packages does it)"))?;
        }
        let world = World::start(name, Cgroups::for_engine(Engine::under_test()))?;
        let dir = world.dir.clone();
        let arg = |flag: &str, value: &std::ffi::OsStr| format!("--{flag}={}", value.to_string_lossy());
        let mut c = world.command("dockerd");
        c.arg(arg("data-root", dir.join("root").as_os_str()));
        c.args(["--exec-root=/run/docker", "--pidfile=/run/docker.pid", &format!("--host={SOCKET}")]);
        c.args([
            "--storage-driver=vfs",
            "--iptables=false",
            "--ip6tables=false",
            "--bridge=none",
            "--ip-forward=false",
        ]);
        c.arg(format!("--cgroup-parent=/{}", world.cookie));
        // The runtime is named chitin whichever one proves the test.
        c.arg(arg("add-runtime", format!("chitin={}", runtime().display()).as_ref()))
            .arg("--default-runtime=chitin");
        c.arg("--config-file").arg(dir.join("no-such-file.json"));
        std::fs::write(dir.join("no-such-file.json"), "{}").map_err(|e| format!("configuration: {e}"))?;
        let mut daemon = world.daemon("dockerd", c)?;
        daemon.ready(LIMIT, || {
            let o = world
                .run(&["/usr/bin/docker", "-H", SOCKET, "info", "--format", "{{.DefaultRuntime}}"], LIMIT);
            o.code == Some(0) && o.text().trim() == "chitin"
        })?;
        let d = Docker { daemon, world };
        let o = d.call(&["load", "-i", &image("busybox")?.to_string_lossy()]);
        if o.code != Some(0) {
            return Err(format!("docker load: {}", o.brief()));
        }
        Ok(d)
    }
}

impl Client for Docker {
    const NAME: &'static str = "docker";
    fn world(&self) -> &World {
        &self.world
    }
    fn command(&self, args: &[&str]) -> Command {
        let mut c = self.world.command("/usr/bin/docker");
        c.args(["-H", SOCKET]).args(args).env("HOME", &self.world.dir);
        c
    }
    fn log(&self) -> String {
        self.daemon.tail()
    }
}
