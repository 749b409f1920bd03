//! The runtimes under comparison, and how each is called here.
//!
//! crun and runc refuse hybrid cgroups, so they run in a private mount namespace with a plain cgroup2 mount; there the
//! bundle's root also gets a kernel overlay, so that a shared root file system is never written. `chitin` gets the very same
//! bundle and does both itself.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::bundle::Bundle;
use crate::paths;
use crate::run::{self, Outcome, Patience};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Crun,
    Runc,
    Chitin,
}

const PRELUDE: &str = r#"set -e
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 none /sys/fs/cgroup
if [ -n "$LOWER" ]; then mkdir -p "$BUNDLE/upper" "$BUNDLE/work"
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$BUNDLE/upper,workdir=$BUNDLE/work" "$LOWER"; fi
exec "$@""#;

impl Engine {
    /// The engine that sandbox tests use: `CHITIN_TEST_ENGINE=crun|runc` proves the tests themselves.
    pub fn under_test() -> Engine {
        match std::env::var("CHITIN_TEST_ENGINE").as_deref() {
            Ok("crun") => Engine::Crun,
            Ok("runc") => Engine::Runc,
            _ => Engine::Chitin,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Engine::Crun => "crun",
            Engine::Runc => "runc",
            Engine::Chitin => "chitin",
        }
    }

    pub fn available(self) -> bool {
        self == Engine::Chitin || run::have(self.name())
    }

    /// A command line of this engine with its state below `root`, with the bundle's overlay when one is given.
    pub fn command(self, root: &Path, bundle: Option<&Bundle>, args: &[&str]) -> Command {
        if self == Engine::Chitin {
            let mut c = Command::new(paths::chitin());
            // As the others' overlay: a root file system that tests share is never written.
            c.arg("--root").arg(root).env("CHITIN_OVERLAY", "root:memory");
            if let Ok(p) = std::env::var("CHITIN_TEST_PLATFORM") {
                c.arg(format!("--platform={p}"));
            }
            c.args(args);
            return c;
        }
        let mut c = Command::new("unshare");
        c.args(["-m", "--propagation", "private", "sh", "-c", PRELUDE, "sh", self.name()]);
        if self == Engine::Crun {
            c.arg("--cgroup-manager=cgroupfs");
        }
        c.arg("--root").arg(root).args(args);
        c.env("LOWER", bundle.map(|b| b.rootfs.clone()).unwrap_or_default());
        c.env("BUNDLE", bundle.map(|b| b.dir.clone()).unwrap_or_default());
        c
    }

    /// `run` on a bundle, to its end.
    pub fn run(self, bundle: &Bundle, stdin: &[u8], patience: impl Into<Patience>) -> Outcome {
        bundle.write();
        let (id, dir) = (unique_id(), bundle.dir.join(self.name()));
        let root = dir.join("state");
        std::fs::create_dir_all(&root).expect("scratch is writable");
        let b = bundle.dir.to_string_lossy().into_owned();
        let cmd = self.command(&root, Some(bundle), &["run", "--bundle", &b, &id]);
        // The sentry knows what its guests wait for.
        let ask = || match self {
            Engine::Chitin => {
                let c = self.command(&root, None, &["debug", "--stacks", &id]);
                let out = run::quick(c, Duration::from_secs(10));
                format!("{}{}\n", out.text(), out.stderr)
            }
            _ => String::new(),
        };
        let out = run::run_or_ask(cmd, stdin, &dir, patience.into(), &ask);
        if out.code.is_none() {
            // What is left of a run that was cut off is removed through the engine itself.
            let _ =
                run::quick(self.command(&root, None, &["delete", "--force", &id]), Duration::from_secs(20));
        }
        out
    }
}

/// `chitin do` over a root file system.
pub fn chitin_do(rootfs: &Path, args: &[&str], stdin: &[u8], limit: Duration) -> Outcome {
    let dir = paths::scratch("do");
    let mut c = Command::new(paths::chitin());
    c.arg("--root").arg(dir.join("state")).arg("do").arg("--rootfs").arg(rootfs).arg("--").args(args);
    run::run(c, stdin, &dir, limit)
}

/// Whether each exit takes a tenth of a millisecond: guests run in a virtual machine that is nested in another one.
pub fn nested() -> bool {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    std::env::var("CHITIN_TEST_PLATFORM").is_ok_and(|p| p == "kvm")
        && text.lines().any(|l| l.starts_with("flags") && l.contains(" hypervisor"))
}

/// A container id that no other run uses.
pub fn unique_id() -> String {
    static N: AtomicU32 = AtomicU32::new(0);
    format!("t-{}-{}", std::process::id(), N.fetch_add(1, Ordering::Relaxed))
}

/// A state directory of one's own.
pub fn state_root(name: &str) -> PathBuf {
    let d = paths::scratch(name).join("state");
    std::fs::create_dir_all(&d).expect("scratch is writable");
    d
}
