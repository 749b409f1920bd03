//! Processes that the runtime starts: a container's init, and further ones by `exec`.
//!
//! Neighbours: `containers` knows the containers, `process` and `stdio` translate parts of the configuration. Words of
//! errors are runc's where users know them by heart.

use crate::containers::Record;
use crate::mounts::working_directory;
use crate::stdio::Descriptors;
use crate::{process, profile, stdio};
use chitin_abi::Errno;
use chitin_control::ProcessConfig;
use chitin_kernel::cgroup::{Cgroup, Moved};
use chitin_kernel::clone::{InitRequest, make_init};
use chitin_kernel::tty::Tty;
use chitin_kernel::{FsState, Kernel, Task};
use chitin_vfs::walk::Walk;
use chitin_vfs::{Caller, Context, Creds, FileKind, MountNs, Path, Place};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Where programs are looked for without PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A process that `exec` made, until it has been waited for.
pub struct Execed {
    pub task: Arc<Task>,
    pub tty: Option<Arc<Tty>>,
}

/// What kind of process is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Init,
    Further,
}

/// A context in a container's root.
pub fn context(kernel: &Arc<Kernel>, ns: &Arc<MountNs>, creds: Creds, umask: u32) -> Context {
    let caller = Caller { tgid: 1, tid: 1, creds: Arc::new(creds) };
    Context::new(Place::top(kernel.vfs.clone(), ns.clone(), umask), caller)
}

/// Makes a process, stopped before its first instruction. Its end finds no parent.
pub fn make(
    kernel: &Arc<Kernel>,
    record: &Record,
    ns: &Arc<MountNs>,
    settings: &ProcessConfig,
    fds: &mut Descriptors,
    role: Role,
) -> Result<Execed, String> {
    let ctx = context(kernel, ns, Creds::root(), 0o022);
    let tty = stdio::console(kernel, &ctx, settings, fds)?;
    if let (Role::Init, Some(tty)) = (role, &tty) {
        record.container.set_console(tty.clone());
    }
    let files = stdio::open(kernel, &ctx, settings, tty.as_ref(), fds)?;
    let cwd = match role {
        Role::Init => working_directory(&ctx, &settings.cwd),
        Role::Further => directory(&ctx, &settings.cwd),
    };
    let cwd = cwd.map_err(|errno| {
        format!("chdir to cwd ({:?}) set in config.json failed: {}", settings.cwd, lower(errno))
    })?;
    let umask = settings.umask.unwrap_or(0o022);
    let fs = FsState::new(Place { cwd, ..Place::top(kernel.vfs.clone(), ns.clone(), umask) });
    let creds = process::creds(settings, record.user_ns())?;
    let name = settings.args.first().cloned().unwrap_or_default();
    let caller = Caller { tgid: 1, tid: 1, creds: Arc::new(creds.clone()) };
    let ctx = Context { place: fs.place(), caller };
    find_program(&ctx, &name, &settings.env)?;
    let cgroup = settings.cgroup.as_deref().map(|path| cgroup(record, path)).transpose()?;
    let bytes = |texts: &[String]| texts.iter().map(|text| text.clone().into_bytes()).collect::<Vec<_>>();
    let request = InitRequest {
        namespaces: record.namespaces()?,
        container: record.container.clone(),
        fs,
        files,
        creds,
        rlimits: process::rlimits(settings),
        args: bytes(&settings.args),
        env: bytes(&settings.env),
        tty: tty.clone(),
    };
    let made = chitin_kernel::wait::block_on(make_init(kernel, request));
    let task =
        made.map_err(|errno| format!("unable to start container process: exec {name}: {}", lower(errno)))?;
    if let Some(adj) = settings.oom_score_adj {
        task.process.oom_score_adj.store(adj, Ordering::Relaxed);
    }
    if let Some(cgroup) = cgroup {
        match kernel.move_to_cgroup(&task.process, &cgroup) {
            Moved::Done => {}
            Moved::Internal => {
                profile::end(&task);
                return Err(
                    "--cgroup: it has controllers enabled for those below it, so no processes of its own"
                        .into(),
                );
            }
            Moved::Removed | Moved::Foreign => {
                profile::end(&task);
                return Err("--cgroup: it has been removed".into());
            }
        }
    }
    record.profile().apply(&task, settings)?;
    Ok(Execed { task, tty })
}

/// A cgroup of the container's, by its path from the container's own.
fn cgroup(record: &Record, path: &str) -> Result<Arc<Cgroup>, String> {
    let mut at = record.container.cgroup.clone();
    for name in path.split('/').filter(|name| !name.is_empty() && *name != ".") {
        let below = at.child(name.as_bytes());
        at = below.ok_or_else(|| format!("--cgroup {path}: the container has no cgroup {name:?} there"))?;
    }
    Ok(at)
}

fn lower(errno: Errno) -> String {
    errno.message().to_lowercase()
}

fn directory(ctx: &Context, path: &str) -> Result<Path, Errno> {
    let path = if path.is_empty() { "/" } else { path };
    let found = ctx.walk(&ctx.root, path.as_bytes(), Walk::FOLLOW)?;
    match found.inode().kind() {
        FileKind::Directory => Ok(found),
        _ => Err(Errno::ENOTDIR),
    }
}

/// Says what is wrong with a program's name in the words that users of runc know.
fn find_program(ctx: &Context, name: &str, env: &[String]) -> Result<(), String> {
    let failed = |why: &str| Err(format!("unable to start container process: exec: {name:?}: {why}"));
    let look = |path: &str| -> Result<(), Option<Errno>> {
        let found = ctx.walk(&ctx.cwd, path.as_bytes(), Walk::FOLLOW).map_err(Some)?;
        match (found.inode().kind(), found.inode().attr()) {
            (FileKind::Directory, _) => Err(Some(Errno::EISDIR)),
            (_, Ok(attr)) if attr.perm & 0o111 == 0 => Err(None),
            (_, Ok(_)) => Ok(()),
            (_, Err(errno)) => Err(Some(errno)),
        }
    };
    if name.contains('/') {
        return match look(name) {
            Ok(()) => Ok(()),
            Err(None) => failed("permission denied"),
            Err(Some(Errno::EISDIR)) => failed("is a directory"),
            Err(Some(errno)) => failed(&format!("stat {name}: {}", lower(errno))),
        };
    }
    let path = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let mut dirs = path.split(':').filter(|dir| !dir.is_empty());
    if !name.is_empty() && dirs.any(|dir| look(&format!("{dir}/{name}")).is_ok()) {
        return Ok(());
    }
    failed("executable file not found in $PATH")
}
