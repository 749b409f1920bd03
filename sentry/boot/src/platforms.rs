//! Which platform runs the guests, and what the sentry's own seccomp list must allow for it.
//!
//! Neighbours: `boot` asks for one, before the filter; `doctor` starts all of them to see which would work.
//!
//! `auto` takes the fastest one that gives right answers here: `seccomp`; `ptrace` where the host has no user notification
//! to give, or where an outer container's filter would answer guests' calls in our place.

use crate::filter::{self, Rules};
use chitin_control::PlatformChoice;
use chitin_platform::Platform;
use chitin_platform_ptrace::PtracePlatform;
use chitin_platform_seccomp::SeccompPlatform;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// A started platform.
pub struct Chosen {
    pub platform: Arc<dyn Platform>,
    /// What the sentry's seccomp list has to allow for it.
    pub rules: Rules,
    /// What the host offers it.
    pub features: String,
    /// Its descriptor of our procfs, if it has one.
    pub proc_fd: Option<RawFd>,
}

/// One that can be chosen.
struct Kind {
    choice: PlatformChoice,
    start: fn(OwnedFd, cpus: usize) -> Result<Chosen, String>,
}

/// In the order in which `auto` tries them.
const KINDS: &[Kind] = &[
    Kind { choice: PlatformChoice::Seccomp, start: seccomp },
    Kind { choice: PlatformChoice::Ptrace, start: ptrace },
];

fn seccomp(proc_dir: OwnedFd, cpus: usize) -> Result<Chosen, String> {
    let proc_fd = Some(proc_dir.as_raw_fd());
    let options = chitin_platform_seccomp::Options { cpus: Some(cpus), ..Default::default() };
    let config = chitin_platform_seccomp::Config { proc_dir: Some(proc_dir), options };
    let platform = SeccompPlatform::new(config).map_err(|error| error.to_string())?;
    let features = format!("{:?}", platform.features());
    Ok(Chosen { platform: Arc::new(platform), rules: filter::notification_rules()?, features, proc_fd })
}

fn ptrace(proc_dir: OwnedFd, _: usize) -> Result<Chosen, String> {
    let proc_fd = Some(proc_dir.as_raw_fd());
    let config = chitin_platform_ptrace::Config { proc_dir: Some(proc_dir), ..Default::default() };
    let platform = PtracePlatform::new(config).map_err(|error| error.to_string())?;
    Ok(Chosen {
        platform: Arc::new(platform),
        rules: filter::ptrace_rules(chitin_platform_ptrace::REQUESTS)?,
        features: "PTRACE_SYSEMU".into(),
        proc_fd,
    })
}

/// The flag's value.
pub fn name(choice: PlatformChoice) -> &'static str {
    match choice {
        PlatformChoice::Auto => "auto",
        PlatformChoice::Seccomp => "seccomp",
        PlatformChoice::Ptrace => "ptrace",
        PlatformChoice::Kvm => "kvm",
    }
}

/// Starts the platform that is asked for, and says in the log which and why. `cpus`: how many may be used to serve calls
/// without a change of context, those of the guests included.
pub fn start(
    choice: PlatformChoice,
    cpus: usize,
    outer_filters: bool,
    proc_dir: &OwnedFd,
) -> Result<Chosen, String> {
    let started = |kind: &Kind| {
        let dir = proc_dir.try_clone().map_err(|error| format!("cannot keep procfs: {error}"))?;
        (kind.start)(dir, cpus)
    };
    if choice != PlatformChoice::Auto {
        let Some(kind) = KINDS.iter().find(|kind| kind.choice == choice) else {
            return Err(format!("--platform={} is made elsewhere; this is a bug", name(choice)));
        };
        let chosen = started(kind)?;
        if outer_filters && choice == PlatformChoice::Seccomp {
            tracing::warn!("{OUTER}");
        }
        tracing::info!(
            platform = name(choice),
            why = "asked for",
            features = chosen.features,
            "platform chosen"
        );
        return Ok(chosen);
    }
    let (order, mut why) = order(outer_filters);
    let mut failures = Vec::new();
    for choice in order {
        let Some(kind) = KINDS.iter().find(|kind| kind.choice == choice) else { continue };
        match started(kind) {
            Ok(chosen) => {
                tracing::info!(platform = name(choice), why, features = chosen.features, "platform chosen");
                return Ok(chosen);
            }
            Err(error) => {
                tracing::warn!("{error}");
                why = "what comes before it does not work here (see above)".into();
                failures.push(error);
            }
        }
    }
    Err(format!("no platform works here: {}", failures.join(" -- ")))
}

const OUTER: &str = "this process already is under a seccomp filter (an outer container's); what that one forbids, guests \
                     are refused, too, without the sentry's knowing: give the outer container no profile (docker: \
                     --security-opt seccomp=unconfined), or use --platform=ptrace";

/// What `auto` tries, and the reason for the first.
pub fn order(outer_filters: bool) -> (Vec<PlatformChoice>, String) {
    let mut order: Vec<_> = KINDS.iter().map(|kind| kind.choice).collect();
    if outer_filters {
        // Stable: only the one that is hurt goes to the end.
        order.sort_by_key(|choice| *choice == PlatformChoice::Seccomp);
        return (order, format!("not seccomp: {OUTER}"));
    }
    (order, "the default, and the host has it".into())
}

/// Whether this process has been put under seccomp filters, from `/proc/self/status`.
pub fn filtered(status: &str) -> bool {
    status.lines().filter_map(|line| line.strip_prefix("Seccomp:")).any(|mode| mode.trim() == "2")
}

/// Starts each platform and ends it again: name, and what it says of itself or why it does not work here.
pub fn try_all() -> Vec<(&'static str, Result<String, String>)> {
    let procfs =
        || std::fs::File::open("/proc").map(OwnedFd::from).map_err(|error| format!("/proc: {error}"));
    let host = KINDS.iter().map(|kind| {
        (
            name(kind.choice),
            procfs().and_then(|dir| (kind.start)(dir, usize::MAX)).map(|chosen| chosen.features),
        )
    });
    let kvm = crate::kvm::start_alone().map(|()| "/dev/kvm".to_owned());
    host.chain([(name(PlatformChoice::Kvm), kvm)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outer_filters_put_seccomp_last() {
        let (order, why) = order(true);
        assert_eq!(order.last(), Some(&PlatformChoice::Seccomp));
        assert!(why.contains("outer container"), "{why}");
        assert_eq!(super::order(false).0.first(), Some(&PlatformChoice::Seccomp));
    }

    #[test]
    fn sees_filters() {
        assert!(filtered("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"));
        assert!(!filtered("Seccomp:\t0\nSeccomp_filters:\t0\n"));
    }

    #[test]
    fn each_starts_here() {
        for (name, result) in try_all().into_iter().filter(|(name, _)| *name != "kvm") {
            assert!(result.is_ok(), "{name}: {result:?}");
        }
    }
}
