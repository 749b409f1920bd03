//! Running the process of a created container, with the hooks around it.

use std::os::fd::AsFd;
use std::time::Duration;

use chitin_control::{Request, Response};
use oci_spec::runtime::Spec;

use super::hooks::{self, Kind, Told};
use super::launch;
use super::link::{Link, misfit};
use crate::container::{Directory, State};
use crate::network::{self, Attachment, Others};
use crate::util::Result;

const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Starts it. A startContainer or poststart hook that fails ends the container; what is left of it is for `delete`.
pub fn start(directory: &Directory, state: &mut State, spec: &Spec) -> Result<()> {
    hooks::run_inside(directory, state, spec).inspect_err(|_| end(state))?;
    let mut link = Link::to(directory, state)?;
    if let Some(egress) = &state.egress {
        egress.enforce(&mut link, &state.id)?;
    }
    let root = directory.path().parent().unwrap_or(directory.path());
    let cgroups = directory.cgroups()?;
    let attached = match state.network {
        Attachment::None => None,
        Attachment::Namespace => {
            let others = Others { named: state.namespace.is_some(), told: spec.hooks().is_some() };
            Some(network::take_over(root, &state.id, state.sentry.pid, others, &cgroups)?)
        }
        Attachment::Shown => Some(network::show(root, &state.id, state.sentry.pid)?),
        Attachment::Outbound => Some(network::outbound::to_everywhere(&state.id, &state.publish, &cgroups)?),
    };
    if let Some(mut attached) = attached {
        if let Some(named) = &mut state.namespace {
            named.ports = attached.ports.take();
        }
        let fds: Vec<_> = attached.fds.iter().map(AsFd::as_fd).collect();
        match link.call_with(&Request::Network { config: Box::new(attached.config) }, &fds)? {
            Response::Ok => {}
            other => return Err(misfit(&other)),
        }
        if let Some(mut proxy) = attached.proxy.take() {
            // It ends with the sentry's sockets.
            proxy.release();
        }
    }
    link.order(&Request::Start { container: state.id.clone() })?;
    state.started = true;
    state.save(directory.path())?;
    started(state, spec)
}

/// What follows a start that was successful.
pub fn started(state: &State, spec: &Spec) -> Result<()> {
    let told = Told::of(state, "running");
    hooks::run(Kind::Poststart, spec.hooks().as_ref(), &told, None).inspect_err(|_| end(state))
}

fn end(state: &State) {
    if let Err(e) = launch::kill_and_wait(state.init(), KILL_PATIENCE) {
        crate::log::warn(&e);
    }
}
