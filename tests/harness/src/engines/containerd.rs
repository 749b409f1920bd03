//! A containerd of our own, with `ctr`, and the CRI plugin with a runtime handler for the runtime under test.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use crate::engine::Engine;
use crate::engines::world::{Cgroups, Daemon, World};
use crate::engines::{runtime, which};
use crate::run::{self, Outcome};

const LIMIT: Duration = Duration::from_secs(60);
pub const BUSYBOX: &str = "localhost/busybox:latest";
pub const BOOKWORM: &str = "localhost/bookworm:latest";
pub const PAUSE: &str = "localhost/pause:latest";

#[derive(Debug)]
pub struct Containerd {
    pub world: World,
    pub socket: PathBuf,
    daemon: Mutex<Option<Daemon>>,
}

/// Everything below the world's scratch and `/run`, which is its own.
fn config(world: &World) -> String {
    let (dir, bin) = (world.dir.display(), runtime());
    let handler = |name: &str, bin: &str| {
        format!(
            r#"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{name}]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{name}.options]
        BinaryName = "{bin}"
"#
        )
    };
    format!(
        r#"version = 2
root = "{dir}/root"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{dir}/cni"
    conf_dir = "{dir}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "chitin"
{}"#,
        // The handler is named chitin whichever runtime proves the test.
        handler("chitin", &bin.to_string_lossy()),
    )
}

impl Containerd {
    /// A running daemon, or why there is none here.
    pub fn start(name: &str) -> Result<Containerd, String> {
        if which("containerd").is_none() || which("ctr").is_none() {
            return Err("containerd is not installed (tests/rootfs/packages does it)".into());
        }
        let world = World::start(name, Cgroups::for_engine(Engine::under_test()))?;
        std::fs::write(world.dir.join("config.toml"), config(&world))
            .map_err(|e| format!("config.toml: {e}"))?;
        std::fs::create_dir_all(world.dir.join("cni")).map_err(|e| format!("cni: {e}"))?;
        let socket = PathBuf::from("/run/containerd/containerd.sock");
        let c = Containerd { world, socket, daemon: Mutex::new(None) };
        c.up()?;
        Ok(c)
    }

    fn up(&self) -> Result<(), String> {
        let mut command = self.world.command("containerd");
        command.arg("--config").arg(self.world.dir.join("config.toml"));
        let mut d = self.world.daemon("containerd", command)?;
        d.ready(LIMIT, || self.ctr_in("default", &["version"]).code == Some(0))?;
        *self.daemon.lock().map_err(|_| "a test failed with the daemon's lock held")? = Some(d);
        Ok(())
    }

    /// Stops the daemon, leaving containers and shims, and starts it again.
    pub fn restart(&self) -> Result<(), String> {
        let old = self.daemon.lock().map_err(|_| "a test failed with the daemon's lock held")?.take();
        old.ok_or("no daemon")?.stop(LIMIT)?;
        self.up()
    }

    pub fn log(&self) -> String {
        self.daemon.lock().ok().and_then(|d| d.as_ref().map(Daemon::tail)).unwrap_or_default()
    }

    /// Imports a locally made image into a containerd namespace.
    pub fn import(&self, namespace: &str, image: &str) -> Result<(), String> {
        let archive = super::image(image)?;
        let o = self.ctr_in(namespace, &["images", "import", &archive.to_string_lossy()]);
        if o.code == Some(0) { Ok(()) } else { Err(format!("import of {image}: {}", o.brief())) }
    }

    /// The namespace of the `ctr` tests; it is also the parent of their cgroups.
    pub fn namespace(&self) -> &str {
        &self.world.cookie
    }

    pub fn ctr_command(&self, args: &[&str]) -> Command {
        let mut c = self.world.command("ctr");
        c.arg("--address").arg(&self.socket).args(["-n", self.namespace()]).args(args);
        c
    }

    fn ctr_in(&self, namespace: &str, args: &[&str]) -> Outcome {
        let mut c = self.world.command("ctr");
        c.arg("--address").arg(&self.socket).args(["-n", namespace]).args(args);
        run::quick(c, LIMIT)
    }

    pub fn ctr(&self, args: &[&str]) -> Outcome {
        run::quick(self.ctr_command(args), LIMIT)
    }

    pub fn ctr_ok(&self, args: &[&str]) -> Outcome {
        let o = self.ctr(args);
        assert_eq!(o.code, Some(0), "ctr {args:?}: {}\ncontainerd: {}", o.brief(), self.log());
        o
    }

    /// `ctr run` with the runtime under test.
    pub fn run_command(&self, flags: &[&str], image: &str, id: &str, args: &[&str]) -> Command {
        let bin = runtime().to_string_lossy().into_owned();
        let mut all = vec!["run", "--runtime", "io.containerd.runc.v2", "--runc-binary", &bin];
        all.extend(flags);
        all.extend([image, id]);
        all.extend(args);
        self.ctr_command(&all)
    }

    pub fn ctr_run(&self, flags: &[&str], image: &str, id: &str, args: &[&str]) -> Outcome {
        run::quick(self.run_command(flags, image, id, args), LIMIT)
    }

    /// Status of a task as `ctr tasks ls` prints it, if there is one.
    pub fn status(&self, id: &str) -> Option<String> {
        let o = self.ctr(&["tasks", "ls"]);
        let text = o.text();
        let line = text.lines().find(|l| l.split_whitespace().next() == Some(id))?;
        line.split_whitespace().nth(2).map(str::to_owned)
    }
}
