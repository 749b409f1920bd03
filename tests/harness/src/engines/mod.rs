//! The container engines that drive a runtime: each an instance of our own, in a private world, ended with the test.
//!
//! The runtime they call is the engine under test (`CHITIN_TEST_ENGINE=runc|crun` proves the flows).

pub mod client;
pub mod containerd;
pub mod cri;
pub mod docker;
pub mod podman;
pub mod pty;
pub mod rootless;
pub mod world;

use std::path::PathBuf;

use crate::engine::Engine;

/// The runtime binary the engines are told to use.
pub fn runtime() -> PathBuf {
    match Engine::under_test() {
        Engine::Chitin => {
            std::env::var_os("CHITIN_ENGINE_BIN").map_or_else(crate::paths::chitin, PathBuf::from)
        }
        other => which(other.name()).unwrap_or_else(|| PathBuf::from(other.name())),
    }
}

/// Where a program lies on PATH. Debian's own directories come first: the tests mean Debian's engines.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = ["/usr/bin", "/usr/sbin"].map(PathBuf::from);
    own.into_iter().chain(std::env::split_paths(&path)).map(|d| d.join(program)).find(|p| p.is_file())
}

/// An image archive made by `tests/rootfs/images`, by its short name.
pub fn image(name: &str) -> Result<PathBuf, String> {
    crate::paths::rootfs(if name == "pause" { "busybox" } else { name });
    let script = crate::paths::repo().join("tests/rootfs/images");
    let out = std::process::Command::new(&script)
        .arg(name)
        .output()
        .map_err(|e| format!("{}: {e}", script.display()))?;
    if !out.status.success() {
        return Err(format!("{} {name}: {}", script.display(), String::from_utf8_lossy(&out.stderr)));
    }
    Ok(crate::paths::cache().join("images").join(format!("{name}.tar")))
}
