//! The platform suite, and what only this platform has.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block)]

use chitin_platform_ptrace::{Config, PtracePlatform};
use chitin_platform_tests::*;
use std::sync::Arc;

fn main() {
    let modes = [("new", Place::Namespace), ("plain", Place::Plain)];
    chitin_platform_tests::main(&modes, make, &[]);
}

fn make(_mode: &str) -> Subject {
    if std::env::var_os("CASE_LOG").is_some() {
        tracing_subscriber::fmt().with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG).init();
    }
    let platform = Arc::new(PtracePlatform::new(Config::default()).expect("platform"));
    let group = platform.process_group();
    Subject {
        platform,
        traits: Traits { host_side: true, lazy_frames: true, kept_fds: 1 },
        kill: Box::new(move || {
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }),
    }
}
