//! A Docker daemon of our own: vfs storage, no iptables, its own containerd, in a private world.

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
    /// One without a default network.
    pub fn start(name: &str) -> Result<Docker, String> {
        Docker::start_with(name, "", &["--bridge=none"])
    }

    /// One with the bridge `docker0`.
    pub fn start_bridged(name: &str) -> Result<Docker, String> {
        Docker::start_with(name, "", &[])
    }

    /// A daemon that maps containers' ids to those from 100000 on, for a user that the daemon's world alone knows.
    pub fn start_remapped(name: &str) -> Result<Docker, String> {
        let users = "cp /etc/passwd /etc/group .; echo remap:x:99999:99999::/:/bin/false >>passwd; \
            echo remap:x:99999: >>group; echo remap:100000:65536 >subid
            for f in passwd group; do mount --bind $f /etc/$f; done
            for f in subuid subgid; do touch /etc/$f; mount --bind subid /etc/$f; done";
        Docker::start_with(name, users, &["--bridge=none", "--userns-remap=remap"])
    }

    /// `prepare` is a script for its world.
    fn start_with(name: &str, prepare: &str, flags: &[&str]) -> Result<Docker, String> {
        for program in ["docker", "dockerd", "containerd"] {
            which(program).ok_or(format!("{program} is not installed (tests/rootfs/packages does it)"))?;
        }
        let world = World::start(name, Cgroups::for_engine(Engine::under_test()))?;
        let dir = world.dir.clone();
        let prepare = format!("set -e; cd {}; {prepare}", dir.display());
        let o = world.run(&["sh", "-c", &prepare], LIMIT);
        if o.code != Some(0) {
            return Err(format!("preparing its world: {}", o.brief()));
        }
        let arg = |flag: &str, value: &std::ffi::OsStr| format!("--{flag}={}", value.to_string_lossy());
        let mut c = world.command("dockerd");
        c.arg(arg("data-root", dir.join("root").as_os_str()));
        c.args(["--exec-root=/run/docker", "--pidfile=/run/docker.pid", &format!("--host={SOCKET}")]);
        c.args(["--storage-driver=vfs", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]);
        c.arg(format!("--cgroup-parent=/{}", world.cookie));
        c.args(flags);
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
