//! The other side of a launch: this binary running as the gofer, the sentry or a network proxy.
//!
//! Reached before the command line is parsed, by `chitin gofer|sentry|net-proxy --config-fd=N ID`. All find their
//! configuration in the memfd N and everything else in descriptors that it names.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::process::ExitCode;

use chitin_control::{BootConfig, LogFormat};
use chitin_host::label::{ATTRIBUTES, Label, Pending};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::launch::own_fd;
use crate::network::proxy;
use crate::spec::GoferRoot;
use crate::util::{Context, Result};

/// What the gofer is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GoferBoot {
    pub socket: RawFd,
    /// With the user namespaces of those that are id-mapped.
    pub roots: Vec<(GoferRoot, Option<RawFd>)>,
    /// Where it goes once its mounts are made.
    pub user_ns: Option<RawFd>,
    /// Its SELinux label: files are labelled for the container, so that is who may touch them. (A profile of AppArmor's is
    /// about paths of the container's, which are others here.)
    pub selinux: Option<String>,
    /// Standard error is a log file.
    pub log: bool,
    pub log_format: LogFormat,
}

/// A memfd with `value` in it, to be inherited.
pub fn config_memfd<T: Serialize>(value: &T) -> Result<OwnedFd> {
    let mut file = empty_memfd()?;
    let bytes = serde_json::to_vec(value).context(|| "cannot pass the configuration on".to_owned())?;
    fill_memfd(&mut file, &bytes)?;
    Ok(file.into())
}

/// One that is inherited before its content is known, and filled before the process runs.
pub fn empty_memfd() -> Result<File> {
    let file = memfd_create(c"chitin-config", MFdFlags::MFD_CLOEXEC);
    file.map(File::from).context(|| "cannot pass the configuration on".to_owned())
}

pub fn fill_memfd(file: &mut File, bytes: &[u8]) -> Result<()> {
    let failed = || "cannot pass the configuration on".to_owned();
    file.write_all(bytes).context(failed)?;
    file.rewind().context(failed)
}

fn read_config<T: DeserializeOwned>(argument: Option<&str>) -> Result<T> {
    let number = argument.and_then(|a| a.strip_prefix("--config-fd=")).and_then(|n| n.parse().ok());
    let number = number.ok_or("this is an internal command: use `chitin run` or `chitin do`")?;
    let failed = || "cannot read the configuration".to_owned();
    let mut text = Vec::new();
    File::from(own_fd(number).context(failed)?).read_to_end(&mut text).context(failed)?;
    serde_json::from_slice(&text).context(failed)
}

/// Runs a role and ends in it, if the arguments name one.
pub fn run(arguments: &[String]) -> Option<ExitCode> {
    let role = arguments.get(1).map(String::as_str);
    let config = arguments.get(2).map(String::as_str);
    let outcome = match role {
        Some("sentry") => read_config::<BootConfig>(config).map(chitin_sentry::run),
        Some("gofer") => read_config::<GoferBoot>(config).and_then(gofer).map(|()| ExitCode::SUCCESS),
        Some("net-proxy") => read_config::<proxy::Boot>(config).and_then(proxy::run),
        _ => return None,
    };
    Some(outcome.unwrap_or_else(|e| {
        // The gofer's standard output is read by its launcher; the sentry has a report of its own for most failures.
        match role {
            Some("gofer") => println!("{e}"),
            _ => eprintln!("chitin: {e}"),
        }
        ExitCode::FAILURE
    }))
}

fn gofer(boot: GoferBoot) -> Result<()> {
    if boot.log {
        let builder = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(std::io::stderr)
            .with_max_level(tracing::Level::DEBUG);
        match boot.log_format {
            LogFormat::Json => builder.json().init(),
            LogFormat::Text => builder.init(),
        }
    }
    let socket = own_fd(boot.socket).context(|| "gofer socket".into())?;
    let namespace = |fd: Option<RawFd>| fd.map(own_fd).transpose().context(|| "user namespace".into());
    let mut roots = Vec::new();
    for (root, ids) in boot.roots {
        roots.push(chitin_gofer::RootConfig {
            path: root.path,
            readonly: !root.writable,
            recursive: root.recursive,
            noexec: root.noexec,
            id_mapped: namespace(ids)?.zip(root.id_mapped.map(|(_, recursive)| recursive)),
        });
    }
    let user_ns = namespace(boot.user_ns)?;
    let label = boot.selinux.as_deref().map(|label| {
        let opened = Label::Selinux(label).open(std::path::Path::new(ATTRIBUTES));
        opened.map(Pending::into_parts).context(|| "process.selinuxLabel: cannot open the file for it".into())
    });
    let label = label.transpose()?;
    let limits = chitin_gofer::Limits::default();
    let config = chitin_gofer::GoferConfig { roots, socket, limits, user_ns, label };
    chitin_gofer::run(config).map_err(|e| e.to_string())
}
