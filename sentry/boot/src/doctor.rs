//! What a sentry would find on this host, for `chitin doctor`: each platform is started and ended again.
//!
//! Neighbours: `platforms` knows the platforms; the runtime prints it, beside what it looks at itself.

use crate::platforms;
use std::os::fd::OwnedFd;

pub use crate::platforms::{filtered, name, order};

/// One platform's trial.
#[derive(Clone, Debug)]
pub struct Trial {
    pub platform: &'static str,
    /// What it says of itself, or why it does not work here: cause and remedy.
    pub result: Result<String, String>,
}

/// Starts every platform of this build.
pub fn platforms() -> Vec<Trial> {
    platforms::try_all().into_iter().map(|(platform, result)| Trial { platform, result }).collect()
}

/// Whether the host's kernel has pidfd_open(2).
pub fn has_pidfd() -> bool {
    let own = i32::try_from(std::process::id()).unwrap_or(1);
    chitin_platform_host::sys::pidfd_open(own).is_ok()
}

/// Whether one mapping can be asked for by address (PROCMAP_QUERY).
pub fn has_map_query() -> bool {
    std::fs::File::open("/proc/self/maps")
        .map(OwnedFd::from)
        .is_ok_and(|maps| chitin_platform_host::maps::has_query(&maps))
}
