//! The sentry: boot and wiring. The only crate that names concrete platforms and file systems.
//!
//! Neighbours: the runtime starts [`run`] in a process of its own, already in its namespaces, and tells it everything
//! in a [`BootConfig`]; `control` answers the runtime afterwards.
//!
//! Order of a boot, which is also the order in which the process loses what it could do: log → empty root → labels →
//! no_new_privs, capabilities → lifeline → platform (its zygote must not inherit our filter) → seccomp filter → kernel, mounts,
//! first process → ready.

// Guest data must neither panic the sentry nor be cut silently; tests may.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::unimplemented,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

mod boot;
pub mod confine;
mod containers;
mod control;
mod copyup;
pub mod doctor;
mod exec;
mod factory;
pub mod filter;
mod kvm;
mod lifeline;
mod log;
mod mount_options;
mod mounts;
mod net;
mod netview;
mod oom;
mod platforms;
mod process;
mod processes;
mod profile;
mod stdio;
mod stream;
mod table;
mod view;

pub use kvm::kvm_device;
pub use mount_options::mount_options;
pub use table::{SyscallRow, syscalls};

use chitin_control::{BootConfig, BootReport};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

/// Runs the sandbox that `config` describes in this process, which the runtime has put into its namespaces.
/// The exit code is the first container's.
pub fn run(config: BootConfig) -> ExitCode {
    let ready = match chitin_host::inherit::take(config.fds.ready) {
        Ok(ready) => ready,
        Err(error) => {
            eprintln!("chitin sentry: descriptor {} (ready pipe) is not open: {error}", config.fds.ready);
            return ExitCode::FAILURE;
        }
    };
    match boot::boot(config) {
        Ok(sandbox) => {
            report(ready, &BootReport::Ready);
            sandbox.wait()
        }
        Err(message) => {
            tracing::error!("{message}");
            report(ready, &BootReport::Error { message });
            ExitCode::FAILURE
        }
    }
}

/// Writes the one line of the ready pipe and closes it.
fn report(ready: OwnedFd, report: &BootReport) {
    if let Ok(line) = chitin_control::encode(report) {
        // A runtime that is gone will be noticed by the lifeline.
        let _ = File::from(ready).write_all(&line);
    }
}

/// What a sentry says that ends for somebody else's reason: in the log, and where the container's errors go.
fn last_words(text: &str) {
    tracing::error!("{text}");
    // Not eprintln!, which panics if nobody reads.
    let _ = writeln!(std::io::stderr(), "chitin: {text}");
}
