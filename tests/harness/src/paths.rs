//! Where the repository, the cache, the binaries and the built inputs are. Inputs are built once per process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

pub fn repo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("harness lies in tests/harness")
        .to_path_buf()
}

/// The ignored folder that holds root file systems, compiled guests and scratch space.
pub fn cache() -> PathBuf {
    std::env::var_os("CHITIN_TEST_CACHE").map(PathBuf::from).unwrap_or_else(|| repo().join(".cache"))
}

/// The binary under test: `CHITIN_BIN`, or the release build.
pub fn chitin() -> PathBuf {
    if let Some(p) = std::env::var_os("CHITIN_BIN") {
        return PathBuf::from(p);
    }
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from).unwrap_or_else(|| repo().join("target"));
    let found = ["x86_64-unknown-linux-gnu/release", "release"]
        .iter()
        .map(|d| target.join(d).join("chitin"))
        .find(|p| p.exists());
    found.unwrap_or_else(|| {
        panic!("no chitin in {}: run `cargo build --release -p chitin` or set CHITIN_BIN", target.display())
    })
}

/// A fresh scratch directory; the caller's `Drop` is not relied on, stale ones go when the next run starts.
pub fn scratch(name: &str) -> PathBuf {
    static N: AtomicU32 = AtomicU32::new(0);
    let d = cache().join("run").join(format!(
        "{}-{}-{name}",
        std::process::id(),
        N.fetch_add(1, Ordering::Relaxed)
    ));
    std::fs::create_dir_all(&d).unwrap_or_else(|e| panic!("{}: {e}", d.display()));
    d
}

fn build(script: &str, done: &OnceLock<Result<(), String>>) {
    let r = done.get_or_init(|| {
        let path = repo().join("tests").join(script);
        let out = Command::new(&path).output().map_err(|e| format!("{}: {e}", path.display()))?;
        if out.status.success() {
            return Ok(());
        }
        Err(format!("{} failed: {}", path.display(), String::from_utf8_lossy(&out.stderr)))
    });
    if let Err(e) = r {
        panic!("{e}");
    }
}

/// The compiled guest programs.
pub fn guests() -> PathBuf {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    build("guest/build", &DONE);
    cache().join("guest")
}

/// A root file system built by `tests/rootfs/build`: `busybox`, `bookworm`, `network` or `java`.
pub fn rootfs(name: &str) -> PathBuf {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    build("rootfs/build", &DONE);
    cache().join("rootfs").join(name)
}
