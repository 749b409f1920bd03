//! The hooks of a configuration: programs of the host's that are told of a container's state on standard input.
//!
//! Where they run, in the order in which they do:
//! - prestart, createRuntime: in the runtime's own namespaces, while gofer and sentry exist (with all namespaces) and
//!   have not begun. What they do to the network namespace is there when the sentry looks at it.
//! - createContainer: in the gofer's mount namespace, which is then still a copy of the host's, so that what is mounted
//!   below the rootfs there becomes visible in the container and nowhere else; and in the sentry's network, IPC and UTS
//!   namespaces (not when rootless, where nobody may join both processes' namespaces).
//! - startContainer: inside the sandbox, as root with the container's capabilities, before its process.
//! - poststart, poststop: in the runtime's namespaces; failures of the latter are warnings.
//!
//! Hooks are the host administrator's and trusted, so their output is kept without bound and shown in part.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use chitin_control::{ProcessConfig, Request, Response};
use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{Hook, Hooks, Spec};
use serde::Serialize;

use super::launch;
use super::link::{Link, misfit};
use crate::container::{Directory, State};
use crate::spec;
use crate::util::{Context, Result};

/// How much of a failed hook's output is shown.
const SHOWN: u64 = 4096;

/// The kinds of hooks that we run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Prestart => "prestart",
            Kind::CreateRuntime => "createRuntime",
            Kind::CreateContainer => "createContainer",
            Kind::StartContainer => "startContainer",
            Kind::Poststart => "poststart",
            Kind::Poststop => "poststop",
        }
    }

    /// The hooks of this kind.
    pub fn of(self, hooks: Option<&Hooks>) -> &[Hook] {
        let list = hooks.and_then(|h| match self {
            // Deprecated for whoever writes configurations, not for us.
            #[allow(deprecated)]
            Kind::Prestart => h.prestart().as_deref(),
            Kind::CreateRuntime => h.create_runtime().as_deref(),
            Kind::CreateContainer => h.create_container().as_deref(),
            Kind::StartContainer => h.start_container().as_deref(),
            Kind::Poststart => h.poststart().as_deref(),
            Kind::Poststop => h.poststop().as_deref(),
        });
        list.unwrap_or_default()
    }
}

/// The state of a container as the specification defines it for hooks.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    pub oci_version: String,
    pub id: String,
    pub status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    pub bundle: std::path::PathBuf,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Told {
    /// Of a container that is being made.
    pub fn creating(id: &str, spec: &Spec, bundle: &Path, pid: i32) -> Self {
        Self {
            oci_version: spec.version().clone(),
            id: id.to_owned(),
            status: "creating",
            pid: Some(pid),
            bundle: bundle.to_owned(),
            annotations: spec.annotations().clone().unwrap_or_default().into_iter().collect(),
        }
    }

    pub fn of(state: &State, status: &'static str) -> Self {
        Self {
            oci_version: state.oci_version.clone(),
            id: state.id.clone(),
            status,
            pid: (status != "stopped").then_some(state.init().pid),
            bundle: state.bundle.clone(),
            annotations: state.annotations.clone(),
        }
    }

    pub fn stopped(self) -> Self {
        Self { status: "stopped", pid: None, ..self }
    }
}

/// Namespaces to be joined, with their `CLONE_NEW*` flags, in this order.
pub type Namespaces = Vec<(OwnedFd, i32)>;

/// Where createContainer hooks run.
pub fn container_namespaces(gofer: i32, sentry: i32, rootless: bool) -> Result<Namespaces> {
    let open = |pid: i32, name: &str, flag: i32| {
        let path = format!("/proc/{pid}/ns/{name}");
        File::open(&path).map(|f| (OwnedFd::from(f), flag)).context(|| format!("cannot open {path}"))
    };
    let mut all = Vec::new();
    if rootless {
        all.push(open(gofer, "user", libc::CLONE_NEWUSER)?);
    } else {
        all.push(open(sentry, "net", libc::CLONE_NEWNET)?);
        all.push(open(sentry, "ipc", libc::CLONE_NEWIPC)?);
        all.push(open(sentry, "uts", libc::CLONE_NEWUTS)?);
    }
    all.push(open(gofer, "mnt", libc::CLONE_NEWNS)?);
    Ok(all)
}

/// Runs all hooks of a kind on the host, one after the other, until one fails.
pub fn run(kind: Kind, hooks: Option<&Hooks>, told: &Told, namespaces: Option<&Namespaces>) -> Result<()> {
    for (index, hook) in kind.of(hooks).iter().enumerate() {
        run_one(hook, told, namespaces)
            .context(|| format!("error running {} hook #{index} ({})", kind.name(), hook.path().display()))?;
    }
    Ok(())
}

/// The same for hooks whose failures are only reported, each for itself.
pub fn run_leniently(kind: Kind, hooks: Option<&Hooks>, told: &Told) {
    for (index, hook) in kind.of(hooks).iter().enumerate() {
        if let Err(e) = run_one(hook, told, None) {
            let path = hook.path().display();
            crate::log::warn(&format!("error running {} hook #{index} ({path}): {e}", kind.name()));
        }
    }
}

fn run_one(hook: &Hook, told: &Told, namespaces: Option<&Namespaces>) -> Result<()> {
    let (stdout, stderr) = (memory_file()?, memory_file()?);
    let handle = |file: &File| file.try_clone().context(|| "cannot prepare the hook".into());
    let mut command = Command::new(hook.path());
    let mut args = hook.args().iter().flatten();
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    command.args(args).env_clear().stdin(input(told)?).stdout(handle(&stdout)?).stderr(handle(&stderr)?);
    for entry in hook.env().iter().flatten() {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        command.env(name, value);
    }
    if told.bundle.is_dir() {
        command.current_dir(&told.bundle);
    }
    launch::before_hook(&mut command, namespaces);
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    let pid = i32::try_from(child.id()).context(|| "pid".into())?;
    let pidfd = launch::open_process(pid).context(|| "cannot watch the hook".into())?;
    let patience = timeout(hook);
    let ended = match patience {
        Some(patience) => launch::wait_gone(pidfd.as_fd(), patience)?,
        None => true,
    };
    if !ended {
        let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    let status = child.wait().context(|| "cannot wait for the hook".into())?;
    match patience {
        Some(patience) if !ended => {
            Err(format!("killed, as it ran longer than its timeout of {} s", patience.as_secs()))
        }
        _ if status.success() => Ok(()),
        _ => Err(format!("{}, stdout: {}, stderr: {}", how(status), excerpt(stdout), excerpt(stderr))),
    }
}

fn timeout(hook: &Hook) -> Option<Duration> {
    hook.timeout().and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs)
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => "ended".into(),
    }
}

/// Memory files instead of pipes: whatever a hook leaves running cannot hold us up.
fn memory_file() -> Result<File> {
    memfd_create(c"hook", MFdFlags::MFD_CLOEXEC).map(File::from).context(|| "cannot prepare the hook".into())
}

fn input(told: &Told) -> Result<File> {
    let failed = || "cannot prepare the hook".to_owned();
    let mut file = memory_file()?;
    file.write_all(&serde_json::to_vec(told).context(failed)?).context(failed)?;
    file.rewind().context(failed)?;
    Ok(file)
}

fn excerpt(mut file: File) -> String {
    let mut bytes = Vec::new();
    let _ = file.rewind().and_then(|()| file.take(SHOWN).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).trim_end().replace('\n', "; ")
}

/// Runs the startContainer hooks inside the sandbox, on connections of their own whose end ends a hook that is late.
pub fn run_inside(directory: &Directory, state: &State, spec: &Spec) -> Result<()> {
    let hooks = Kind::StartContainer.of(spec.hooks().as_ref());
    for (index, hook) in hooks.iter().enumerate() {
        run_one_inside(hook, directory, state, spec)
            .context(|| format!("error running startContainer hook #{index} ({})", hook.path().display()))?;
    }
    Ok(())
}

fn run_one_inside(hook: &Hook, directory: &Directory, state: &State, spec: &Spec) -> Result<()> {
    let container = spec.process().as_ref().ok_or("the container has no process")?;
    let path = hook.path().to_string_lossy().into_owned();
    let mut process = ProcessConfig {
        args: hook.args().clone().unwrap_or_default(),
        env: hook.env().clone().unwrap_or_default(),
        cwd: "/".into(),
        uid: 0,
        gid: 0,
        additional_gids: Vec::new(),
        terminal: false,
        console_size: None,
        stdio: [0, 1, 2],
        ..spec::process_config(container)
    };
    // The protocol runs what the first argument names.
    match process.args.first_mut() {
        Some(first) => *first = path,
        None => process.args.push(path),
    }
    let (stdin, stdout, stderr) = (input(&Told::of(state, "created"))?, memory_file()?, memory_file()?);
    let mut link = Link::to(directory, state)?;
    let request = Request::Exec { container: state.id.clone(), process: Box::new(process) };
    let pid = match link.call_with(&request, &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])? {
        Response::Started { pid } => pid,
        other => return Err(misfit(&other)),
    };
    let begun = Instant::now();
    let patience = timeout(hook);
    link.be_patient(patience)?;
    match link.call(&Request::WaitExec { container: state.id.clone(), pid }) {
        Ok(Response::Exited { status }) if status.code() == 0 => Ok(()),
        Ok(Response::Exited { status }) => Err(format!(
            "exit status {}, stdout: {}, stderr: {}",
            status.code(),
            excerpt(stdout),
            excerpt(stderr)
        )),
        Ok(other) => Err(misfit(&other)),
        Err(_) if patience.is_some_and(|p| begun.elapsed() >= p) => Err(format!(
            "killed, as it ran longer than its timeout of {} s",
            patience.unwrap_or_default().as_secs()
        )),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn told() -> Told {
        Told {
            oci_version: "1.0.2".into(),
            id: "c".into(),
            status: "creating",
            pid: Some(7),
            bundle: "/tmp".into(),
            annotations: BTreeMap::new(),
        }
    }

    fn hooks(script: &str, timeout: Option<i64>) -> Hooks {
        let mut hook = json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["A=b=c"]});
        if let Some(timeout) = timeout {
            hook["timeout"] = json!(timeout);
        }
        serde_json::from_value(json!({"createRuntime": [hook]})).unwrap()
    }

    fn go(script: &str, timeout: Option<i64>) -> Result<()> {
        run(Kind::CreateRuntime, Some(&hooks(script, timeout)), &told(), None)
    }

    #[test]
    fn a_hook_gets_state_arguments_and_environment() {
        let out = std::env::temp_dir().join(format!("chitin-hook-{}", std::process::id()));
        let script = format!("cat > {0}; echo; echo \"$0 $A ${{HOME-none}} $PWD\" >> {0}", out.display());
        go(&script, None).unwrap();
        let text = std::fs::read_to_string(&out).unwrap();
        std::fs::remove_file(&out).unwrap();
        let (state, rest) = text.split_at(text.rfind('}').unwrap() + 1);
        let state: Value = serde_json::from_str(state).unwrap();
        assert_eq!(
            state,
            json!({"ociVersion": "1.0.2", "id": "c", "status": "creating", "pid": 7, "bundle": "/tmp"})
        );
        assert_eq!(rest.trim(), "sh b=c none /tmp");
    }

    #[test]
    fn failures_say_what_happened() {
        let error = go("echo out; echo err >&2; exit 3", None).unwrap_err();
        assert!(error.ends_with("(/bin/sh): exit status 3, stdout: out, stderr: err"), "{error}");
        assert!(error.starts_with("error running createRuntime hook #0"), "{error}");
        assert!(go("kill -9 $$", None).unwrap_err().contains("signal 9"));
        let absent: Hooks = serde_json::from_value(json!({"prestart": [{"path": "/no/such/hook"}]})).unwrap();
        assert!(run(Kind::Prestart, Some(&absent), &told(), None).unwrap_err().contains("No such file"));
        assert_eq!(run(Kind::Prestart, None, &told(), None), Ok(()));
    }

    #[test]
    fn a_late_hook_is_killed_with_its_children() {
        let begun = Instant::now();
        let error = go("sleep 100 & sleep 100", Some(1)).unwrap_err();
        assert!(error.contains("timeout of 1 s"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(20));
        // What a hook leaves behind does not hold us up.
        go("sleep 1 &", None).unwrap();
    }
}
