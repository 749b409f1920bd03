//! The platform `kvm`: its device, which the runtime opens, and what it needs of the host after the filter is on.

use crate::boot::take;
use crate::filter::{Rules, all, is};
use crate::platforms::Chosen;
use chitin_control::BootConfig;
use chitin_platform_kvm::{Config, KvmPlatform};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Opens /dev/kvm, for the runtime; an error names cause and remedy.
pub fn kvm_device() -> Result<OwnedFd, String> {
    chitin_platform_kvm::open().map_err(|error| error.to_string())
}

/// Asked while the host's /sys is in sight.
pub(crate) fn has_shadow_tables() -> bool {
    chitin_platform_kvm::has_shadow_tables()
}

/// Starts it for a moment, for the doctor.
pub(crate) fn start_alone() -> Result<(), String> {
    let config = Config { device: kvm_device()?, cpus: 1, memory: 256 << 20, shadow: None, maps: None };
    KvmPlatform::new(config).map(drop).map_err(|error| error.to_string())
}

pub(crate) fn make(config: &BootConfig, memory: u64, shadow: bool, maps: File) -> Result<Chosen, String> {
    let number = config.fds.kvm.ok_or("--platform=kvm, but the runtime passed no /dev/kvm; this is a bug")?;
    // The host's CPUs that we may use; what guests see may be fewer, and then less is run at once.
    let device = take(number, "/dev/kvm")?;
    let config = Config { device, cpus: config.cpus, memory, shadow: Some(shadow), maps: Some(maps) };
    let platform = KvmPlatform::new(config).map_err(|error| error.to_string())?;
    tracing::info!(platform = "kvm", why = "asked for", "platform chosen");
    Ok(Chosen { platform: Arc::new(platform), rules: rules()?, features: "/dev/kvm".into(), proc_fd: None })
}

/// What it asks of its descriptors while guests run; files are mapped as the sentry's own list allows.
fn rules() -> Result<Rules, String> {
    let bug = |error| format!("the rules of the platform kvm do not compile: {error}; this is a bug");
    let ioctls: Result<Vec<_>, _> =
        chitin_platform_kvm::seccomp_ioctls().iter().map(|request| all(vec![is(1, *request)?])).collect();
    Ok(Rules::from([(libc::SYS_ioctl, ioctls.map_err(bug)?)]))
}
