//! Further containers of a pod: they run in the sentry of the pod's sandbox container.
//!
//! Which containers belong together is said by annotations, containerd's or CRI-O's; or by the network namespace, if a
//! configuration names it as that of another container's process (Podman's pods, `--network container:X`): the kernel that
//! has the network is that sandbox's, so who shares the one shares the other, and its end. Such a container has a state
//! directory, a gofer and a cgroup of its own, and a stand-in that is its process for the engine. Its first host process
//! inside the sentry (from which the others are forked) is made first and moved into the cgroup, then the container.
//! Everything is undone if this command fails in between: the end of the connection undoes the sentry's part.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use chitin_control::{Namespace, NetworkMode, Request, Response, Status};
use oci_spec::runtime::Spec;

use super::gofer::{Gofer, Streams};
use super::launch::{self, Child};
use super::link::{Link, misfit};
use super::stand_in::{StandIn, Whom};
use super::view::View;
use super::{
    Creation, KILL_PATIENCE, Options, Reserved, console, ids, make_cgroups, open_debug_log,
    run_creation_hooks, set_io_priority, start,
};
use crate::cgroup::Cgroups;
use crate::container::{Directory, HostProcess, NOT_FOUND, State};
use crate::egress;
use crate::network;
use crate::spec::{self, Network};
use crate::util::{Context, Result, dev_null, duplicate, write_atomically};

/// Annotations that say what a container is and which sandbox it belongs to.
const ANNOTATIONS: [(&str, &str); 2] = [
    ("io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"),
    ("io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"),
];

/// The sandbox that a container is to join; none if it is one itself or belongs to no pod.
pub fn sandbox_of(options: &Options, spec: &Spec, id: &str) -> Option<String> {
    annotated_sandbox(spec, id).or_else(|| match spec::network(spec) {
        Network::Path(path) if options.network == NetworkMode::Sandbox => {
            network::claim::holder(&options.root, id, &path)
        }
        _ => None,
    })
}

fn annotated_sandbox(spec: &Spec, id: &str) -> Option<String> {
    let annotations = spec.annotations().as_ref()?;
    ANNOTATIONS.iter().find_map(|(kind, sandbox)| {
        let is_container = annotations.get(*kind).is_some_and(|k| k == "container");
        annotations.get(*sandbox).filter(|s| is_container && !s.is_empty() && *s != id).cloned()
    })
}

/// A further container that is created. Unless released, its drop ends it.
#[derive(Debug)]
pub struct Joined {
    // Dropped in this order.
    stand_in: Child,
    gofer: Gofer,
    cgroups: Option<Cgroups>,
    reserved: Reserved,
}

impl Joined {
    pub fn create(options: &Options, creation: Creation<'_>, sandbox: &str) -> Result<Self> {
        let lost = |why: &str| format!("the pod's sandbox {sandbox} cannot be joined: {why}");
        let pod = Directory::find(&options.root, sandbox).and_then(|d| d.state()).map_err(|e| {
            match e == NOT_FOUND {
                true => lost("there is no such container (is --root the same?)"),
                false => e,
            }
        })?;
        match pod.status() {
            Status::Stopped => return Err(lost("it has ended")),
            Status::Paused => return Err(lost("it is paused")),
            _ if pod.sandbox.is_some() => return Err(lost("it is no sandbox")),
            _ => {}
        }
        egress::warn_of_other(pod.egress.as_ref(), options);
        egress::same_as(pod.egress.as_ref(), creation.spec, creation.bundle, sandbox)?;
        for warning in spec::check_in(creation.spec, creation.bundle, Some(pod.sentry.pid))? {
            crate::log::warn(&format!("config.json: {warning}"));
        }
        if let Some(process) = creation.spec.process() {
            let first = Directory::find(&options.root, sandbox)?;
            spec::warn_of_others(process, &spec::load(first.path())?);
        }
        let plan = spec::translate(creation.id, creation.spec, creation.bundle, options.overlay)?;
        let mut reserved =
            Reserved { directory: Some(Directory::create(&options.root, creation.id)?), farewell: None };
        spec::store(creation.spec, reserved.directory()?.path())?;
        let cgroups = make_cgroups(options, &creation, &plan, &reserved)?;
        let none = Cgroups::default();
        let members = cgroups.as_ref().unwrap_or(&none);

        let exe = launch::executable()?;
        let null = duplicate(dev_null()?)?;
        let log = open_debug_log(options, creation.id)?;
        let last_words = log.as_ref().map_or(null.as_fd(), |log| log.as_fd());
        let selinux = spec::selinux_label(creation.spec);
        let streams = Streams { null: null.as_fd(), last_words, log: log.is_some(), selinux };
        let mut plan = plan;
        if plan.container.namespaces.user == Namespace::Sandbox {
            // Its ids are the pod's.
            let first = Directory::find(&options.root, sandbox)?;
            let first = spec::load(first.path())?;
            plan.container.id_mappings = spec::id_mappings(&first);
        }
        let roots = (plan.roots, plan.container.id_mappings.as_ref());
        let mut gofer = Gofer::launch(exe.as_fd(), options, creation.id, roots, streams, cgroups.as_ref())?;
        // What the sentry does for all containers has the first one's.
        set_io_priority(creation.spec, &[gofer.child.pid()])?;
        let directory = reserved.directory()?;
        let mut link = Link::connect(directory.file().as_raw_fd(), Some(sandbox))?;
        let prepared = link.call_for_fd(&Request::Prepare { container: creation.id.to_owned() })?;
        match prepared_pid(prepared)? {
            Some(zygote) => members.add(zygote)?,
            None => warn_of_limits(creation.spec),
        }
        let terminal = creation.terminal.as_ref();
        let view = if creation.start { None } else { View::mount(options) };
        let whom =
            Whom { container: creation.id, sandbox: Some(sandbox), beside: &pod.sentry, view: view.as_ref() };
        let mut stand_in = StandIn::prepare(directory, whom, &link, members, terminal)?;
        let pid = stand_in.pid();
        if creation.has_hooks() {
            stand_in.joined();
            gofer.child.joined();
        }
        if !creation.has_hooks() {
            gofer.child.go()?;
        }
        run_creation_hooks(options, &creation, (&mut gofer.child, pod.sentry.pid, pid), &mut reserved)?;

        let mut container = plan.container;
        container.plain_command = creation.plain_command;
        container.inherited_ids = ids::inherited(&creation)?;
        container.no_setgroups = ids::without_setgroups(&container);
        container.gofer_fd = 0;
        container.process.stdio = [1, 2, 3];
        let extra = creation.extra.as_fds();
        container.process.extra = (4..).take(extra.len()).collect();
        creation.extra.announce(&mut container.process.env);
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let stdio = match terminal {
            Some(slave) => [slave.as_fd(); 3],
            None => [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
        };
        let mut fds = vec![gofer.socket.as_fd(), stdio[0], stdio[1], stdio[2]];
        fds.extend(extra);
        if let Some(view) = &view {
            container.view_fd = i32::try_from(fds.len()).ok();
            fds.push(view.device.as_fd());
        }
        match link.call_with(&Request::Create { config: Box::new(container) }, &fds) {
            Ok(Response::Ok) => {}
            Ok(other) => return Err(misfit(&other)),
            Err(e) => return Err(gofer_failure(&mut gofer).unwrap_or(e)),
        }
        let stand_in = stand_in.go(None)?;
        let directory = reserved.directory()?;
        let mut state = creation.state(plan.rootfs, pod.sentry, HostProcess::of(gofer.child.pid())?);
        state.sandbox = Some(sandbox.to_owned());
        state.stand_in = Some(HostProcess::of(pid)?);
        state.save(directory.path())?;
        if let Some(path) = creation.pid_file {
            write_atomically(path, pid.to_string().as_bytes())?;
        }
        if let Some(socket) = creation.pidfd_socket {
            console::hand_over(socket, "--pidfd-socket", b"standard", stand_in.pidfd())?;
        }
        if creation.start {
            start::start(directory, &mut state, creation.spec)?;
        }
        directory.unlock()?;
        Ok(Self { stand_in, gofer, cgroups, reserved })
    }

    /// Lets it outlive this command.
    pub fn detach(self) -> Result<()> {
        let Self { mut stand_in, mut gofer, cgroups, mut reserved } = self;
        stand_in.release();
        gofer.child.release();
        if let Some(cgroups) = cgroups {
            cgroups.keep();
        }
        reserved.keep();
        Ok(())
    }
}

/// The host pid behind the pidfd that came with the answer; `None`: guests are no processes of the host.
fn prepared_pid((response, pidfd): (Response, Option<OwnedFd>)) -> Result<Option<i32>> {
    let pidfd = match (response, pidfd) {
        (Response::Prepared, Some(pidfd)) => pidfd,
        (Response::Prepared, None) => return Ok(None),
        (other, _) => return Err(misfit(&other)),
    };
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(&path).context(|| format!("cannot read {path}"))?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse::<i32>().ok());
    // Zero or less: not a process of ours, or one that has ended.
    pid.filter(|pid| *pid > 0)
        .map(Some)
        .ok_or_else(|| "the sentry's first process for the container has died".into())
}

/// Its guests are the sentry's, and so is what they use.
fn warn_of_limits(spec: &Spec) {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    if resources.is_some_and(|r| r.memory().is_some() || r.cpu().is_some() || r.pids().is_some()) {
        crate::log::warn(
            "linux.resources: with --platform=kvm the host accounts for all containers of a pod in the first one's cgroup, \
             so this container's limits bind none of its processes; set them for the pod, or use --platform=seccomp",
        );
    }
}

/// Why the gofer has died, if it has: that is the cause then.
fn gofer_failure(gofer: &mut Gofer) -> Option<String> {
    let ended = launch::wait_gone(gofer.child.pidfd(), Duration::from_millis(100)).unwrap_or(false);
    if !ended {
        return None;
    }
    let _ = gofer.child.wait();
    gofer.last_words()
}

/// Ends a further container, for `delete`.
pub fn remove(directory: &Directory, state: &State) -> Result<()> {
    if state.sentry.is_alive() {
        let request = Request::Remove { container: state.id.clone() };
        let asked = Link::to(directory, state).and_then(|mut link| link.order(&request));
        if let Err(e) = asked {
            // It may have been removed before; what is left of it ends with the sandbox.
            crate::log::debug(&format!("removing container {} from its sandbox: {e}", state.id));
        }
    }
    launch::kill_and_wait(state.init(), KILL_PATIENCE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn annotated(annotations: serde_json::Value) -> Spec {
        serde_json::from_value(json!({"ociVersion": "1.0.2", "annotations": annotations})).unwrap()
    }

    #[test]
    fn annotations_say_who_joins_whom() {
        let containerd = |kind: &str| {
            annotated(
                json!({"io.kubernetes.cri.container-type": kind, "io.kubernetes.cri.sandbox-id": "pod"}),
            )
        };
        assert_eq!(annotated_sandbox(&containerd("container"), "c"), Some("pod".into()));
        assert_eq!(annotated_sandbox(&containerd("sandbox"), "pod"), None);
        assert_eq!(annotated_sandbox(&containerd("container"), "pod"), None);
        let crio =
            json!({"io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": "p"});
        assert_eq!(annotated_sandbox(&annotated(crio), "c"), Some("p".into()));
        assert_eq!(annotated_sandbox(&annotated(json!({})), "c"), None);
        assert_eq!(
            annotated_sandbox(&annotated(json!({"io.kubernetes.cri.container-type": "container"})), "c"),
            None
        );
    }
}
