//! The command line: global flags, and one file per command.
//!
//! Names, defaults, exit codes and error texts are runc's wherever runc has them, because engines depend on them.
//! Errors end the command with code 1 and one line through [`crate::log`]; `run` and `do` end with the container's
//! exit code.

mod arguments;
mod checkpoint;
mod create;
mod debug;
mod delete;
mod r#do;
mod doctor;
mod events;
mod exec;
mod features;
mod globals;
mod kill;
mod list;
mod pause;
mod pcap;
mod ps;
mod run;
mod spec;
mod start;
mod state;
mod update;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use chitin_control::{LogFormat, OverlayMode};
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use self::globals::Network;
use self::globals::{Format, Globals};
use crate::log::Level;
use crate::sandbox::Options;
use crate::sandbox::extra::Extra;
use crate::util::{Context, Result};

/// An OCI runtime whose containers run on a Linux kernel in user space.
#[derive(Debug, Parser)]
#[command(name = "chitin", version = version(), arg_required_else_help = true, disable_help_subcommand = false)]
#[command(disable_version_flag = true)]
struct Cli {
    /// Show the version
    #[arg(short = 'v', short_alias = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,
    /// Read other settings from this file [default: /etc/chitin/config.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    globals: Globals,
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
    /// Show what a container's threads do, or wait for
    Debug(debug::Debug),
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
    /// Look at this host: what will work, what will not, and what to do about it
    Doctor(doctor::Doctor),
    /// Describe what this runtime supports, as JSON
    Features(features::Features),
}

impl Command {
    /// What our caller wants the process to have beside its standard streams.
    fn extra(&self) -> Result<Extra> {
        match self {
            Command::Create(command) => Extra::take(command.preserve_fds(), true),
            Command::Run(command) => Extra::take(command.preserve_fds(), true),
            Command::Exec(command) => Extra::take(command.preserve_fds(), false),
            _ => Ok(Extra::default()),
        }
    }

    /// Where a container's writes to its root go unless --overlay says so. Engines, which `create`, copy files out of the
    /// root file system they made and commit it as an image; by hand, a directory that is given stays as it is.
    fn overlay(&self) -> OverlayMode {
        if matches!(self, Command::Create(_)) { OverlayMode::None } else { OverlayMode::Root }
    }
}

/// What runc ends with for a command that it does not have.
const NO_SUCH_COMMAND: u8 = 3;

/// In the form of runc's, which engines take apart: `NAME version VERSION`, then lines of `KEY: VALUE`.
fn version() -> &'static str {
    concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.2.1")
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let Cli { command, config, globals, version: _ } = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    // Before this command has files of its own.
    let extra = command.extra();
    let globals = match globals.complete(config.as_deref(), &|name| std::env::var_os(name)) {
        Ok(globals) => globals,
        Err(e) => return fail(&e),
    };
    if let Err(e) = crate::log::set_up(globals.log(), globals.log_format(), globals.log_level()) {
        return fail(&e);
    }
    let options = globals.options(command.overlay());
    match dispatch(command, options, extra) {
        Ok(code) => code,
        Err(e) => fail(&e),
    }
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> std::result::Result<Cli, clap::Error> {
    let mut command = Cli::command();
    // With what clap adds to it.
    command.build();
    let arguments = arguments::normalise(&command, arguments);
    Cli::from_arg_matches(&command.try_get_matches_from(arguments)?)
}

fn fail(e: &str) -> ExitCode {
    crate::log::error(e);
    ExitCode::FAILURE
}

/// Help, or a command line that cannot be understood: also that is said where the caller will look for it.
fn usage(e: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    if matches!(
        e.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        let _ = e.print();
        return ExitCode::SUCCESS;
    }
    if e.kind() == ErrorKind::MissingSubcommand {
        let _ = Cli::command().print_help();
        return ExitCode::SUCCESS;
    }
    let arguments: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    let value = |flag: &str| {
        arguments.iter().enumerate().find_map(|(at, a)| match a.strip_prefix(flag)? {
            "" => arguments.get(at + 1).cloned(),
            rest => rest.strip_prefix('=').map(str::to_owned),
        })
    };
    let format = match value("--log-format").as_deref() {
        Some("json") => LogFormat::Json,
        _ => LogFormat::Text,
    };
    let _ = crate::log::set_up(value("--log").map(PathBuf::from).as_deref(), format, Level::Warning);
    let code = fail(&one_line(e));
    if e.kind() == ErrorKind::InvalidSubcommand { ExitCode::from(NO_SUCH_COMMAND) } else { code }
}

/// What is wrong with a command line, without the help around it.
fn one_line(e: &clap::Error) -> String {
    let text = e.to_string();
    let lines = text.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let joined: Vec<&str> = lines.map(str::trim).filter(|line| !line.is_empty()).collect();
    joined.join(" ").trim_start_matches("error: ").to_owned()
}

fn dispatch(command: Command, options: Options, extra: Result<Extra>) -> Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match command {
        Command::Do(command) => command.run(options),
        Command::Run(command) => command.run(&options, extra?),
        Command::Create(command) => command.run(&options, extra?).map(done),
        Command::Start(command) => command.run(&options).map(done),
        Command::Exec(command) => Ok(command.run(&options, extra)),
        Command::State(command) => command.run(&options).map(done),
        Command::Kill(command) => command.run(&options).map(done),
        Command::Delete(command) => command.run(&options).map(done),
        Command::Pause(command) => command.run(&options).map(done),
        Command::Resume(command) => command.run(&options).map(done),
        Command::Ps(command) => command.run(&options).map(done),
        Command::Debug(command) => command.run(&options).map(done),
        Command::Update(command) => command.run(&options).map(done),
        Command::Events(command) => command.run(&options).map(done),
        Command::Checkpoint(command) => command.run(&options).map(done),
        Command::Restore(command) => command.run().map(done),
        Command::List(command) => command.run(&options).map(done),
        Command::Spec(command) => command.run(options.rootless).map(done),
        Command::Doctor(command) => command.run(),
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
            "chitin --config /c.toml --debug=true --systemd-cgroup=false --criu /c state ID",
            "chitin --root /r --log /l --log-format json exec --process /p --console-socket /s --detach --pid-file /f ID",
            "chitin exec --tty -u 1:2 -g 5 -g 6 -e A=1 -c CAP_KILL --cwd / --no-new-privs ID ls -l --color",
            "chitin exec -t -d --preserve-fds 2 --cgroup / --ignore-paused --apparmor x --process-label y ID sh",
            "chitin ps --format json ID",
            "chitin ps ID -ef",
            "chitin pause ID",
            "chitin resume ID",
            "chitin update --resources=- ID",
            "chitin update --memory 512m --memory-swap -1 --cpu-quota -1 --pids-limit -1 --blkio-weight 100 ID",
            "chitin events --stats ID",
            "chitin events --interval 100ms ID",
            "chitin checkpoint --image-path /d --work-path /d --leave-running ID",
            "chitin restore --image-path /d --bundle /b --detach --no-pivot --pid-file /p ID",
            "chitin spec --rootless --bundle /b",
            "chitin list -f table",
            "chitin do -t --env A=1 --volume /a:/b:ro --network none -- ls -l --color",
            "chitin do ls -l",
            // Flags of newer ones than the tests may find installed: runc 1.2 and 1.3, crun 1.28.
            "chitin create --bundle /b --pidfd-socket /s --no-new-keyring --no-pivot ID",
            "chitin run --keep --pidfd-socket /s --no-subreaper ID",
            "chitin exec --pidfd-socket /s --tty=false ID ls",
            "chitin update --cpu-burst 1 --cpu-idle 1 --kernel-memory 1 --l3-cache-schema x --mem-bw-schema y ID",
            "chitin --log-level debug --cgroup-manager disabled create --config other.json ID",
            "chitin checkpoint --manage-cgroups-mode ignore --parent-path /p --pre-dump --tcp-close ID",
            "chitin restore --lsm-profile apparmor:x --lsm-mount-context y --tcp-close --network-lock skip ID",
            "chitin kill --regex ^a TERM",
            "chitin delete -f -r ^a",
            "chitin spec -f other.json",
            "chitin -root /r list -quiet=true",
        ] {
            let arguments = line.split(' ').map(OsString::from);
            parse(arguments).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
        for line in ["chitin start", "chitin kill", "chitin start a b", "chitin nope", "chitin do"] {
            assert!(parse(line.split(' ').map(OsString::from)).is_err(), "{line}");
        }
    }
}
