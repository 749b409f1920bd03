//! `chitin checkpoint` and `chitin restore`: the flags of runc's, for engines that ask; neither is supported yet.

use std::path::PathBuf;

use clap::Args;

use crate::container::Directory;
use crate::sandbox::Options;
use crate::util::Result;

#[derive(Debug, Args)]
pub struct Checkpoint {
    #[command(flatten)]
    common: Common,
    #[arg(long, value_name = "DIR", hide = true)]
    parent_path: Option<PathBuf>,
    #[arg(long, hide = true)]
    leave_running: bool,
    #[arg(long, value_name = "FD", allow_negative_numbers = true, hide = true)]
    status_fd: Option<i32>,
    #[arg(long, value_name = "ADDRESS", hide = true)]
    page_server: Option<String>,
    #[arg(long, hide = true)]
    pre_dump: bool,
    /// The container's name
    id: String,
}

/// What both commands take.
#[derive(Debug, Args)]
struct Common {
    #[arg(long, value_name = "DIR", hide = true)]
    image_path: Option<PathBuf>,
    #[arg(long, value_name = "DIR", hide = true)]
    work_path: Option<PathBuf>,
    #[arg(long, hide = true)]
    tcp_established: bool,
    #[arg(long, hide = true)]
    ext_unix_sk: bool,
    #[arg(long, hide = true)]
    shell_job: bool,
    #[arg(long, hide = true)]
    lazy_pages: bool,
    #[arg(long, hide = true)]
    file_locks: bool,
    #[arg(long, value_name = "MODE", hide = true)]
    manage_cgroups_mode: Option<String>,
    #[arg(long, value_name = "NAMESPACE", hide = true)]
    empty_ns: Vec<String>,
    #[arg(long, hide = true)]
    auto_dedup: bool,
    #[arg(long, hide = true)]
    tcp_close: bool,
    #[arg(long, value_name = "METHOD", hide = true)]
    network_lock: Option<String>,
}

impl Checkpoint {
    pub fn run(self, options: &Options) -> Result<()> {
        Directory::find(&options.root, &self.id)?.state()?;
        Err("checkpoint is not supported: the state of the sandbox's kernel cannot be saved yet".into())
    }
}

#[derive(Debug, Args)]
pub struct Restore {
    #[command(flatten)]
    common: Common,
    #[arg(long, value_name = "SOCKET", hide = true)]
    console_socket: Option<PathBuf>,
    #[arg(short, long, value_name = "DIR", hide = true)]
    bundle: Option<PathBuf>,
    #[arg(short, long, hide = true)]
    detach: bool,
    #[arg(long, value_name = "FILE", hide = true)]
    pid_file: Option<PathBuf>,
    #[arg(long, hide = true)]
    no_subreaper: bool,
    #[arg(long, hide = true)]
    no_pivot: bool,
    #[arg(long, value_name = "PROFILE", hide = true)]
    lsm_profile: Option<String>,
    #[arg(long, value_name = "CONTEXT", hide = true)]
    lsm_mount_context: Option<String>,
    /// The container's name
    id: String,
}

impl Restore {
    pub fn run(self) -> Result<()> {
        Err("restore is not supported: the state of the sandbox's kernel cannot be saved yet".into())
    }
}
