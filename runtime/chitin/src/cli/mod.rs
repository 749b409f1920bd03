//! The command line: global flags, and one file per command.
//!
//! Names, defaults, exit codes and error texts are runc's wherever runc has them, because engines depend on them.
//! Errors end the command with code 1 and one line through [`crate::log`]; `run` and `do` end with the container's
//! exit code.

mod checkpoint;
mod create;
mod delete;
mod r#do;
mod events;
mod exec;
mod features;
mod kill;
mod list;
mod pause;
mod ps;
mod run;
mod spec;
mod start;
mod state;
mod update;

use std::path::PathBuf;
use std::process::ExitCode;

use chitin_control::{LogFormat, NetworkMode, OverlayMode, PlatformChoice};
use clap::{Parser, Subcommand, ValueEnum};

use crate::sandbox::{Options, OverlayMedium};
use crate::util::{Context, Result};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Platform {
    Auto,
    Seccomp,
    Ptrace,
    Kvm,
}

/// Whose network a container sees.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Network {
    Sandbox,
    Host,
    None,
}

impl From<Network> for NetworkMode {
    fn from(network: Network) -> Self {
        match network {
            Network::Sandbox => NetworkMode::Sandbox,
            Network::Host => NetworkMode::Host,
            Network::None => NetworkMode::None,
        }
    }
}

/// An OCI runtime whose containers run on a Linux kernel in user space.
#[derive(Debug, Parser)]
#[command(name = "chitin", version = version(), arg_required_else_help = true, disable_help_subcommand = false)]
struct Cli {
    /// Directory of the containers' state [default: /run/chitin for root, else $XDG_RUNTIME_DIR/chitin]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Append messages to this file instead of standard error
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Format of messages
    #[arg(long, value_enum, default_value = "text")]
    log_format: Format,
    /// Say more
    #[arg(long)]
    debug: bool,
    /// Where sentry and gofer write their logs (%ID% stands for the container's id)
    #[arg(long, value_name = "FILE")]
    debug_log: Option<PathBuf>,
    /// How guest code is run
    #[arg(long, value_enum, default_value = "auto")]
    platform: Platform,
    /// Whose network containers see
    #[arg(long, value_enum, default_value = "sandbox")]
    network: Network,
    /// Copy-on-write: none, root or all, then where writes go (:memory or :dir=PATH)
    #[arg(long, default_value = "root:memory", value_parser = parse_overlay)]
    overlay: (OverlayMode, OverlayMedium),
    /// Log every guest syscall (to --debug-log)
    #[arg(long)]
    strace: bool,
    /// Run without privileges on the host: auto (when not root), true or false
    #[arg(long, default_value = "auto", value_parser = ["auto", "true", "false"])]
    rootless: String,
    /// linux.cgroupsPath is slice:prefix:name
    #[arg(long)]
    systemd_cgroup: bool,
    /// For callers that pass it; checkpoints need no other program
    #[arg(long, hide = true)]
    criu: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a command on the host's files (copy-on-write) or on a directory, without a bundle
    Do(r#do::Do),
    /// Create and start a container
    Run(run::Run),
    /// Create a container
    Create(create::Create),
    /// Run a created container's process
    Start(start::Start),
    /// Run another process in a container
    Exec(exec::Exec),
    /// Show a container's state as JSON
    State(state::Show),
    /// Send a signal to a container [default: SIGTERM]
    Kill(kill::Kill),
    /// Remove a container
    Delete(delete::Delete),
    /// Stop a container's processes where they are
    Pause(pause::Pause),
    /// Let a paused container go on
    Resume(pause::Resume),
    /// Show a container's processes
    Ps(ps::Ps),
    /// Change a container's limits
    Update(update::Update),
    /// Show what a container uses, and when it runs out of memory
    Events(events::Events),
    /// Not supported yet
    Checkpoint(checkpoint::Checkpoint),
    /// Not supported yet
    Restore(checkpoint::Restore),
    /// List containers
    List(list::List),
    /// Write a config.json to start from
    Spec(spec::Template),
    /// Describe what this runtime supports, as JSON
    Features(features::Features),
}

fn version() -> &'static str {
    concat!(env!("CARGO_PKG_VERSION"), "\nspec: 1.2.1")
}

/// `MODE[:memory|:dir=PATH]`.
fn parse_overlay(text: &str) -> Result<(OverlayMode, OverlayMedium)> {
    let (mode, medium) = text.split_once(':').unwrap_or((text, "memory"));
    let mode = match mode {
        "none" => OverlayMode::None,
        "root" => OverlayMode::Root,
        "all" => OverlayMode::All,
        _ => return Err(format!("{mode:?} is none of none, root, all")),
    };
    let medium = match medium.strip_prefix("dir=") {
        Some("") => return Err("dir= needs a directory".into()),
        Some(path) => OverlayMedium::Dir(path.into()),
        None if medium == "memory" => OverlayMedium::Memory,
        None => return Err(format!("{medium:?} is neither memory nor dir=PATH")),
    };
    Ok((mode, medium))
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = match cli.log_format {
        Format::Text => LogFormat::Text,
        Format::Json => LogFormat::Json,
    };
    if let Err(e) = crate::log::set_up(cli.log.as_deref(), format, cli.debug) {
        eprintln!("chitin: {e}");
        return ExitCode::FAILURE;
    }
    let Cli { command, root, .. } = cli;
    let options = Options {
        root: root.unwrap_or_else(crate::container::default_root),
        platform: match cli.platform {
            Platform::Auto => PlatformChoice::Auto,
            Platform::Seccomp => PlatformChoice::Seccomp,
            Platform::Ptrace => PlatformChoice::Ptrace,
            Platform::Kvm => PlatformChoice::Kvm,
        },
        network: cli.network.into(),
        overlay: cli.overlay.0,
        medium: cli.overlay.1,
        log_format: format,
        debug: cli.debug,
        debug_log: cli.debug_log,
        strace: cli.strace,
        systemd_cgroup: cli.systemd_cgroup,
        rootless: match cli.rootless.as_str() {
            "true" => true,
            "false" => false,
            _ => !nix::unistd::geteuid().is_root(),
        },
    };
    match dispatch(command, options) {
        Ok(code) => code,
        Err(e) => {
            crate::log::error(&e);
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command, options: Options) -> Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match command {
        Command::Do(command) => command.run(options),
        Command::Run(command) => command.run(&options),
        Command::Create(command) => command.run(&options).map(done),
        Command::Start(command) => command.run(&options).map(done),
        Command::Exec(command) => Ok(command.run(&options)),
        Command::State(command) => command.run(&options).map(done),
        Command::Kill(command) => command.run(&options).map(done),
        Command::Delete(command) => command.run(&options).map(done),
        Command::Pause(command) => command.run(&options).map(done),
        Command::Resume(command) => command.run(&options).map(done),
        Command::Ps(command) => command.run(&options).map(done),
        Command::Update(command) => command.run(&options).map(done),
        Command::Events(command) => command.run(&options).map(done),
        Command::Checkpoint(command) => command.run(&options).map(done),
        Command::Restore(command) => command.run().map(done),
        Command::List(command) => command.run(&options).map(done),
        Command::Spec(command) => command.run(options.rootless).map(done),
        Command::Features(command) => command.run().map(done),
    }
}

/// Prints a text for a program that may have gone away.
fn print(text: &str) -> Result<()> {
    use std::io::Write;
    std::io::stdout().write_all(text.as_bytes()).context(|| "cannot write to standard output".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn overlays() {
        assert_eq!(parse_overlay("none"), Ok((OverlayMode::None, OverlayMedium::Memory)));
        assert_eq!(parse_overlay("all:memory"), Ok((OverlayMode::All, OverlayMedium::Memory)));
        assert_eq!(
            parse_overlay("root:dir=/a:b"),
            Ok((OverlayMode::Root, OverlayMedium::Dir("/a:b".into())))
        );
        for wrong in ["", "some", "root:", "root:disk", "root:dir=", ":memory"] {
            assert!(parse_overlay(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn command_lines_of_engines() {
        for line in [
            "chitin --root /r/ns --log /l/log.json --log-format json create --bundle /b --pid-file /b/init.pid ID",
            "chitin --root=/r --log=/l --log-format=json create --bundle /b --pid-file /p --console-socket /s ID",
            "chitin --log-format=json --log /l create --bundle /b --pid-file /p ID",
            "chitin create ID --bundle /b",
            "chitin --root /r start ID",
            "chitin delete --force ID",
            "chitin kill ID 9",
            "chitin kill --all ID SIGTERM",
            "chitin kill ID",
            "chitin --systemd-cgroup --rootless=false run -d -b /b ID",
            "chitin list -q",
            "chitin list --format json",
            "chitin features",
            "chitin do -t --env A=1 --volume /a:/b:ro --network none -- ls -l --color",
            "chitin do ls -l",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
        for line in ["chitin start", "chitin kill", "chitin start a b", "chitin nope", "chitin do"] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
