//! Which egress policy a sandbox has: the flag's and the annotation's, and where its audit log goes.
//!
//! The flag (or its sources, see `cli::globals`) is the administrator's; the annotation `dev.chitin.egress` may come with a pod.
//! Both have to allow a connection, so that an annotation can only forbid more; nor does it name files of the host. Policies
//! are read and checked before anything is made. The sentry gets them at the start, before it has a network, and enforces
//! them (`sentry/egress`).

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use chitin_control::{Request, Response, Status};
use chitin_egress::{OFF, Policy};
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::container::{Directory, State};
use crate::sandbox::link::{Link, misfit};
use crate::sandbox::{Creation, Options};
use crate::util::{Context, Result};

const ANNOTATION: &str = "dev.chitin.egress";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Policies as texts, as the state directory keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Egress {
    flag: Option<String>,
    annotation: Option<String>,
    /// The log's file.
    audit: Option<PathBuf>,
}

impl Egress {
    /// What a new sandbox is to have, if anything.
    pub fn chosen(options: &Options, creation: &Creation<'_>) -> Result<Option<Self>> {
        let Creation { spec, id, .. } = *creation;
        let root = root_of(spec, creation.bundle);
        let mut egress = Self::default();
        if let Some(value) = &options.egress {
            egress.set_flag(value, spec, &root, id).context(|| "--egress".into())?;
        }
        if let Some(text) = annotation(spec) {
            let named = || format!("annotation {ANNOTATION}");
            let text = with_resolvers(text, spec, &root).context(named)?;
            if Policy::parse(&text).context(named)?.audit().is_some() {
                return Err(format!(
                    "annotation {ANNOTATION}: an annotation names no file of the host; say `audit` in --egress"
                ));
            }
            egress.annotation = Some(text);
        }
        Ok((egress != Self::default()).then_some(egress))
    }

    fn set_flag(&mut self, value: &str, spec: &Spec, root: &Path, id: &str) -> Result<()> {
        (self.flag, self.audit) = (None, None);
        if value.trim() == OFF {
            return Ok(());
        }
        let text = with_resolvers(&read(value)?, spec, root)?;
        let policy = Policy::parse(&text)?;
        if let Some(path) = policy.audit() {
            let path = PathBuf::from(path.replace("%ID%", id));
            self.audit = Some(std::path::absolute(&path).context(|| format!("audit {}", path.display()))?);
            self.open_log()?;
        }
        self.flag = Some(text);
        Ok(())
    }

    fn open_log(&self) -> Result<Option<std::fs::File>> {
        let Some(path) = &self.audit else { return Ok(None) };
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        file.map(Some)
            .context(|| format!("cannot open the audit log {}; does its directory exist?", path.display()))
    }

    /// Has a sentry enforce it.
    pub fn enforce(&self, link: &mut Link, id: &str) -> Result<()> {
        let policies = self.flag.iter().chain(&self.annotation).cloned().collect();
        let log = self.open_log().context(|| format!("container {id}"))?;
        let request = Request::Egress { policies, audit: log.is_some() };
        let fds: Vec<_> = log.iter().map(AsFd::as_fd).collect();
        let answer = if fds.is_empty() { link.call(&request)? } else { link.call_with(&request, &fds)? };
        match answer {
            Response::Ok => Ok(()),
            other => Err(misfit(&other)),
        }
    }

    /// Another flag for a sandbox that is there. What its annotation says stays in force.
    pub fn change(directory: &Directory, state: &mut State, value: &str) -> Result<()> {
        if let Some(sandbox) = &state.sandbox {
            return Err(format!(
                "--egress: the network is that of the pod's sandbox; update the container {sandbox} instead"
            ));
        }
        if state.status() == Status::Paused {
            return Err("--egress: the container is paused; resume it first".into());
        }
        let spec = crate::spec::load(directory.path())?;
        let mut egress = state.egress.clone().unwrap_or_default();
        egress.set_flag(value, &spec, &state.rootfs, &state.id).context(|| "--egress".into())?;
        // One that is merely created gets it at its start.
        if state.started {
            egress.enforce(&mut Link::to(directory, state)?, &state.id)?;
        }
        state.egress = (egress != Self::default()).then_some(egress);
        state.save(directory.path())
    }
}

fn root_of(spec: &Spec, bundle: &Path) -> PathBuf {
    bundle.join(spec.root().as_ref().map_or(Path::new("/"), |root| root.path().as_path()))
}

fn annotation(spec: &Spec) -> Option<&String> {
    spec.annotations().as_ref().and_then(|all: &HashMap<_, _>| all.get(ANNOTATION))
}

/// A further container of a pod shares the sandbox's network and cannot have a policy of its own; that its annotations repeat
/// the pod's is fine.
pub fn same_as(pod: Option<&Egress>, spec: &Spec, bundle: &Path, sandbox: &str) -> Result<()> {
    let root = root_of(spec, bundle);
    let Some(text) = annotation(spec) else { return Ok(()) };
    let same = pod.and_then(|pod| pod.annotation.as_ref()).is_some_and(|there| {
        there == text || with_resolvers(text, spec, &root).is_ok_and(|text| text == *there)
    });
    if same {
        return Ok(());
    }
    Err(format!(
        "annotation {ANNOTATION}: the network is that of the pod's sandbox {sandbox}, whose policy is another; annotate the pod"
    ))
}

/// The same of the flag, which a configuration file may have for all.
pub fn warn_of_other(pod: Option<&Egress>, options: &Options) {
    let Some(value) = &options.egress else { return };
    let there = pod.and_then(|pod| pod.flag.as_deref()).unwrap_or(OFF);
    if read(value).is_ok_and(|text| text.trim() != there && !text.contains("resolv.conf")) {
        crate::log::warn(
            "--egress is not applied: the network is that of the pod's sandbox, and so is the policy",
        );
    }
}

/// A policy's text, which may be in a file.
fn read(value: &str) -> Result<String> {
    if !value.starts_with(['/', '.']) {
        return Ok(value.to_owned());
    }
    std::fs::read_to_string(value).context(|| format!("cannot read the policy {value}"))
}

/// Puts name servers in the place of the word `resolv.conf` in `dns` statements.
fn with_resolvers(text: &str, spec: &Spec, root: &Path) -> Result<String> {
    let mut out = String::new();
    for piece in text.split_inclusive([';', '\n']) {
        let words: Vec<&str> = piece.split([' ', '\t', ';', '\n', '\r']).collect();
        let is_dns = words.iter().find(|word| !word.is_empty()) == Some(&"dns");
        if is_dns && words.contains(&"resolv.conf") {
            let servers = resolvers(&resolv_conf(spec, root)?);
            if servers.is_empty() {
                return Err(
                    "`dns resolv.conf`: the container's /etc/resolv.conf names no server; write addresses"
                        .into(),
                );
            }
            out += &piece.replacen("resolv.conf", &servers.join(" "), 1);
        } else {
            out += piece;
        }
    }
    Ok(out)
}

/// The container's /etc/resolv.conf: what an engine mounts there, or that of its root file system.
fn resolv_conf(spec: &Spec, root: &Path) -> Result<String> {
    let failed = |path: &Path| format!("`dns resolv.conf`: cannot read {}", path.display());
    let mounts = spec.mounts().as_deref().unwrap_or_default().iter();
    let mounted = mounts.rev().find(|mount| mount.destination() == Path::new(RESOLV_CONF));
    if let Some(source) = mounted.and_then(|mount| mount.source().as_ref()) {
        return std::fs::read_to_string(source).context(|| failed(source));
    }
    let path = root.join(RESOLV_CONF.trim_start_matches('/'));
    let (real, within) = (path.canonicalize(), root.canonicalize());
    match (real, within) {
        (Ok(real), Ok(within)) if real.starts_with(&within) => {
            std::fs::read_to_string(&real).context(|| failed(&path))
        }
        _ => Err(format!(
            "{}: it is not there, or leads out of the root file system; write addresses",
            failed(&path)
        )),
    }
}

fn resolvers(text: &str) -> Vec<String> {
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let addresses = servers.filter_map(|rest| rest.trim().parse::<std::net::IpAddr>().ok());
    addresses.take(8).map(|ip| ip.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_of_the_container() {
        let path = std::env::temp_dir().join(format!("chitin-resolv-{}", std::process::id()));
        std::fs::write(&path, "search x\nnameserver 10.0.0.3\nnameserver fd00::3\nnameserver nobody\n")
            .unwrap();
        let spec: Spec = serde_json::from_value(serde_json::json!({"ociVersion": "1.0.0",
            "mounts": [{"destination": "/etc/resolv.conf", "type": "bind", "source": path}]}))
        .unwrap();
        let text =
            with_resolvers("allow a.org;dns resolv.conf 1.1.1.1; deny any", &spec, Path::new("/")).unwrap();
        assert_eq!(text, "allow a.org;dns 10.0.0.3 fd00::3 1.1.1.1; deny any");
        std::fs::write(&path, "").unwrap();
        assert!(
            with_resolvers("dns resolv.conf", &spec, Path::new("/")).unwrap_err().contains("names no server")
        );
        assert_eq!(with_resolvers("allow resolv.conf", &spec, Path::new("/")).unwrap(), "allow resolv.conf");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_pods_containers_have_the_pods_policy() {
        let spec = |text: &str| -> Spec {
            serde_json::from_value(
                serde_json::json!({"ociVersion": "1.0.0", "annotations": {ANNOTATION: text}}),
            )
            .unwrap()
        };
        let pod = Egress { annotation: Some("default deny".into()), ..Egress::default() };
        assert!(same_as(Some(&pod), &spec("default deny"), Path::new("/"), "s").is_ok());
        assert!(
            same_as(Some(&pod), &spec("default allow"), Path::new("/"), "s")
                .unwrap_err()
                .contains("annotate the pod")
        );
        assert!(
            same_as(None, &spec("default deny"), Path::new("/"), "s").is_err()
                && same_as(None, &Spec::default(), Path::new("/"), "s").is_ok()
        );
    }
}
