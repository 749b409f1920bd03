//! `chitin`: an OCI runtime whose containers run on a kernel in user space.
//!
//! One binary, several roles: the command line that engines and people use ([`cli`]), and the two processes of a
//! sandbox, the gofer and the sentry, which are this binary executed again ([`sandbox::role`]). Modules: `spec`
//! (OCI configurations), `container` (state directories), `cgroup`, `network`, `egress` (policies), `sandbox`
//! (launching, consoles, control).

mod cgroup;
mod cli;
mod container;
mod egress;
mod log;
mod network;
mod sandbox;
mod spec;
mod util;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    // The roles come first: they start many times a second and know no flags.
    sandbox::role::run(&arguments).unwrap_or_else(cli::main)
}
