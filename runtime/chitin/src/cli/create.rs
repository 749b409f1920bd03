//! `chitin create`: a container that waits for `start`.

use std::path::{Path, PathBuf};

use clap::Args;
use oci_spec::runtime::{Process, Spec};

use crate::sandbox::console::Pty;
use crate::sandbox::extra::Extra;
use crate::sandbox::{Creation, Options, Sandbox, pod};
use crate::util::{Context, Result};

/// Flags that `create` and `run` share.
#[derive(Debug, Args)]
pub struct Bundle {
    /// Directory with config.json [default: the current one]
    #[arg(short, long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// The configuration [default: the bundle's config.json]
    #[arg(short = 'f', long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Write the host pid of the container's process here
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Send the terminal's master to this unix socket
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Send a pidfd of the container's process to this unix socket
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// Accepted for compatibility: the sandbox has no use for it
    #[arg(long, hide = true)]
    pub no_subreaper: bool,
    /// Accepted for compatibility: the sandbox has no use for it
    #[arg(long, hide = true)]
    pub no_pivot: bool,
    /// Accepted for compatibility: the sandbox has no use for it
    #[arg(long, hide = true)]
    pub no_new_keyring: bool,
    /// Number of further descriptors to pass on (files, pipes, connected sockets, devices)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    /// What the container may connect to (overrides the global flag)
    #[arg(long, value_name = "POLICY|FILE")]
    pub egress: Option<String>,
    /// The container's name
    pub id: String,
}

impl Bundle {
    /// The options of this container.
    pub fn options(&self, options: &Options) -> Options {
        let mut options = options.clone();
        options.egress = self.egress.clone().or(options.egress);
        options
    }

    /// The bundle's absolute path and its configuration.
    pub fn load(&self) -> Result<(PathBuf, Spec)> {
        let path = self.bundle.clone().unwrap_or_else(|| ".".into());
        let path = std::fs::canonicalize(&path).context(|| format!("--bundle {}", path.display()))?;
        let spec = match &self.config {
            Some(file) => crate::spec::load_file(file),
            None => crate::spec::load(&path),
        }?;
        Ok((path, spec))
    }

    /// The pty of a container that nobody attends: its master goes to the console socket.
    pub fn detached_console(&self, spec: &Spec) -> Result<Option<Pty>> {
        check_console(wants_terminal(spec), true, self.console_socket.as_deref())?;
        let (Some(socket), Some(process)) = (&self.console_socket, spec.process()) else { return Ok(None) };
        let pty = Pty::open(console_size(process))?;
        pty.send_master(socket)?;
        Ok(Some(pty))
    }
}

/// Makes a container that outlives this command: a sandbox, or a further container of a pod.
pub fn create_detached(options: &Options, creation: Creation<'_>) -> Result<()> {
    match pod::sandbox_of(options, creation.spec, creation.id) {
        Some(sandbox) => pod::Joined::create(options, creation, &sandbox)?.detach(),
        None => Sandbox::create(options, creation)?.detach(),
    }
}

/// A terminal without anybody to attend it needs a console socket, and nothing else can use one.
pub fn check_console(terminal: bool, detach: bool, socket: Option<&Path>) -> Result<()> {
    if detach && terminal && socket.is_none() {
        return Err("cannot allocate tty if chitin will detach without setting console socket".into());
    }
    if (!detach || !terminal) && socket.is_some() {
        return Err("cannot use console socket if chitin will not detach or allocate tty".into());
    }
    Ok(())
}

pub fn wants_terminal(spec: &Spec) -> bool {
    spec.process().as_ref().and_then(|p| p.terminal()).unwrap_or(false)
}

/// The size that the configuration asks for.
pub fn console_size(process: &Process) -> Option<nix::pty::Winsize> {
    let size = process.console_size().filter(|s| s.height() != 0 && s.width() != 0)?;
    let clamp = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
    Some(nix::pty::Winsize {
        ws_row: clamp(size.height()),
        ws_col: clamp(size.width()),
        ws_xpixel: 0,
        ws_ypixel: 0,
    })
}

#[derive(Debug, Args)]
pub struct Create {
    #[command(flatten)]
    bundle: Bundle,
}

impl Create {
    pub fn preserve_fds(&self) -> u32 {
        self.bundle.preserve_fds
    }

    pub fn run(self, options: &Options, extra: Extra) -> Result<()> {
        let options = &self.bundle.options(options);
        let (path, spec) = self.bundle.load()?;
        crate::container::valid_id(&self.bundle.id)?;
        crate::container::sweep(&options.root);
        let pty = self.bundle.detached_console(&spec)?;
        let creation = Creation {
            id: &self.bundle.id,
            bundle: &path,
            spec: &spec,
            start: false,
            ephemeral: false,
            plain_command: false,
            terminal: pty.map(|p| p.slave),
            pid_file: self.bundle.pid_file.as_deref(),
            pidfd_socket: self.bundle.pidfd_socket.as_deref(),
            extra,
        };
        create_detached(options, creation)
    }
}
