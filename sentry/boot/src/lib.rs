//! Boot and wiring of the sentry.

pub mod confine;
pub mod filter;

use std::process::ExitCode;

use chitin_control::{BootConfig, BootReport};

/// Runs the sandbox that `config` describes in this process, which the runtime has put into its namespaces.
/// The exit code is the first container's.
pub fn run(config: BootConfig) -> ExitCode {
    let message = "this build of chitin has no guest kernel yet".to_owned();
    if let Ok(line) = chitin_control::encode(&BootReport::Error { message }) {
        let _ = std::fs::write(format!("/proc/self/fd/{}", config.fds.ready), &line);
    }
    ExitCode::FAILURE
}
