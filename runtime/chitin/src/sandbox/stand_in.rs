//! The stand-in: a host process that is what engines take for a guest process.
//!
//! Engines know a process by a host pid: they signal it with kill(2), wait for it, and read its exit status. A process
//! that `exec` starts, and a further container of a pod, exist inside the sentry only, so a small process stands for
//! each, reparented to the engine when the command that made it ends. It holds the connection on which the process was
//! started and waits there for its end, which becomes its own exit code; passes every signal on; and with a terminal
//! leads that terminal's session on the host, so that keys and hang-ups reach it.
//! Nothing can be passed on of SIGKILL: the connection ends, upon which the sentry kills the process.
//!
//! It lives in the sandbox's mount namespace, so that who enters by its pid sees the container's files ([`View`]) or
//! nothing; that of a further container is a copy with its own view on top.
//!
//! Neighbours: `exec` and `pod` make it; `runtime/stand-in` has the program. What the sentry says decides nothing but the
//! exit code.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use chitin_control::{Request, encode};
use chitin_sentry::filter::Rules;
use chitin_stand_in::{Order, PROGRAM, layout, step_name};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use super::launch::{self, Child, Role};
use super::link::Link;
use super::role;
use super::view::View;
use crate::cgroup::Cgroups;
use crate::container::{Directory, HostProcess};
use crate::util::{Context, Result, dev_null, duplicate};

/// A number that no signal has: where a request is cut.
const SIGNAL: i32 = 987_654_321;

/// Whom a stand-in stands for.
#[derive(Clone, Copy, Debug)]
pub struct Whom<'a> {
    pub container: &'a str,
    /// The sandbox, if the container is not its first one.
    pub sandbox: Option<&'a str>,
    /// The process whose mount namespace it is to live in.
    pub beside: &'a HostProcess,
    /// What is to be seen there.
    pub view: Option<&'a View>,
}

/// A stand-in that waits to be told whom it stands for.
#[derive(Debug)]
pub struct StandIn {
    child: Child,
    config: File,
    container: String,
    ready: std::io::PipeReader,
    // The child's copies are made by the clone, under these numbers.
    inherited: Inherited,
}

#[derive(Debug)]
struct Inherited {
    connection: OwnedFd,
    post: OwnedFd,
    ready: OwnedFd,
    namespace: Option<OwnedFd>,
    view: Option<OwnedFd>,
}

impl StandIn {
    /// Clones the process, in the container's cgroup. `terminal` becomes its own.
    pub fn prepare(
        directory: &Directory,
        whom: Whom<'_>,
        link: &Link,
        cgroups: &Cgroups,
        terminal: Option<&OwnedFd>,
    ) -> Result<Self> {
        let exe = launch::program(c"chitin-stand-in", PROGRAM)?;
        let null = duplicate(dev_null()?)?;
        let (ready, ready_write) = std::io::pipe().context(failed)?;
        let post = Link::connect(directory.file().as_raw_fd(), whom.sandbox)?;
        // The rootless may not even look.
        let namespace = File::open(format!("/proc/{}/ns/mnt", whom.beside.pid)).ok();
        let inherited = Inherited {
            connection: duplicate(link.as_fd())?,
            post: duplicate(post.as_fd())?,
            ready: duplicate(ready_write)?,
            namespace: namespace.filter(|_| whom.beside.is_alive()).map(duplicate).transpose()?,
            view: whom.view.map(|view| duplicate(&view.mount)).transpose()?,
        };
        let config = role::empty_memfd()?;
        let Inherited { connection, post, ready: told, namespace, view } = &inherited;
        let numbers = [Some(connection), Some(post), Some(told), namespace.as_ref(), view.as_ref()];
        let child = launch::spawn(
            exe.as_fd(),
            &Role {
                name: c"stand-in",
                id: whom.container,
                config: config.as_fd(),
                namespaces: 0,
                stdio: [null.as_fd(), null.as_fd(), null.as_fd()],
                inherited: numbers.into_iter().flatten().map(AsRawFd::as_raw_fd).collect(),
                terminal: terminal.map(AsFd::as_fd),
                namespace_root: false,
                cgroups: Some(cgroups),
                memory: None,
            },
        )?;
        Ok(Self { child, config, container: whom.container.to_owned(), ready, inherited })
    }

    pub fn pid(&self) -> i32 {
        self.child.pid()
    }

    /// Waits until it is in the container's cgroup.
    pub fn joined(&mut self) {
        self.child.joined();
    }

    /// Lets it stand for the guest's `pid`, or for the container. Returns once it catches signals.
    pub fn go(self, pid: Option<i32>) -> Result<Child> {
        let Self { mut child, mut config, container, mut ready, inherited } = self;
        role::fill_memfd(&mut config, &order(&inherited, &container, pid)?)?;
        // So that its end is seen.
        drop(inherited);
        child.go()?;
        let mut said = Vec::new();
        ready.read_to_end(&mut said).context(failed)?;
        let why = match said.as_slice() {
            [layout::READY, ..] => return Ok(child),
            [step, errno, ..] => {
                format!("{}: {}", step_name(*step), std::io::Error::from_raw_os_error((*errno).into()))
            }
            _ => {
                child.kill();
                let _ = child.wait();
                child.startup_failure().unwrap_or_else(|| "it has died".into())
            }
        };
        Err(format!("the process that stands for the container's could not be started: {why}"))
    }
}

fn failed() -> String {
    "cannot prepare the process that stands for the container's".to_owned()
}

fn order(fds: &Inherited, container: &str, pid: Option<i32>) -> Result<Vec<u8>> {
    let container = || container.to_owned();
    let wait = match pid {
        Some(pid) => Request::WaitExec { container: container(), pid },
        None => Request::Wait { container: container() },
    };
    let wait = encode(&wait).context(failed)?;
    let signal = cut(&Request::Signal { container: container(), signal: SIGNAL, all: false, pid })?;
    let terminal = cut(&Request::Terminal { container: container(), signal: SIGNAL, pid })?;
    let filter = launch::filter_bytes(&filter()?);
    let order = Order {
        connection: fds.connection.as_fd(),
        post: fds.post.as_fd(),
        ready: fds.ready.as_fd(),
        namespace: fds.namespace.as_ref().map(AsFd::as_fd),
        view: fds.view.as_ref().map(AsFd::as_fd),
        user: nix::unistd::geteuid().is_root().then_some(super::NOBODY),
        filter: &filter,
        wait: &wait,
        signal: (&signal.0, &signal.1),
        terminal: (&terminal.0, &terminal.1),
    };
    order.encode().ok_or_else(failed)
}

/// A request before and after its signal's number.
fn cut(request: &Request) -> Result<(Vec<u8>, Vec<u8>)> {
    let text = encode(request).context(failed)?;
    let number = SIGNAL.to_string();
    let found = text.windows(number.len()).rposition(|window| window == number.as_bytes());
    let (before, rest) = found.and_then(|at| text.split_at_checked(at)).ok_or_else(failed)?;
    Ok((before.to_vec(), rest.get(number.len()..).unwrap_or_default().to_vec()))
}

/// What a stand-in may ask of the host kernel once it is set up; anything else kills it.
fn filter() -> Result<BpfProgram> {
    let calls = [
        // Waiting for an answer or a signal, and how the host goes on with it after a stop.
        libc::SYS_poll,
        libc::SYS_restart_syscall,
        // Answers and signals.
        libc::SYS_read,
        // Requests; its sockets are connected, so an address would not matter.
        libc::SYS_sendto,
        // Whether a signal is its own doing.
        libc::SYS_getpid,
        // The pipe that has been told it is ready, and its first words.
        libc::SYS_write,
        libc::SYS_close,
        // Its end.
        libc::SYS_exit_group,
    ];
    let rules: Rules = calls.iter().map(|nr| (*nr, vec![])).collect();
    let filter =
        SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64);
    filter.and_then(BpfProgram::try_from).context(|| "the stand-in's seccomp list".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_cut_at_the_signals_number() {
        let request =
            |signal| Request::Signal { container: "987654321".into(), signal, all: false, pid: Some(7) };
        let (before, after) = cut(&request(SIGNAL)).unwrap();
        assert_eq!([&before[..], b"15", &after].concat(), encode(&request(15)).unwrap());
    }

    #[test]
    fn the_list_compiles_and_is_short() {
        assert!(filter().unwrap().len() < 64);
    }
}
