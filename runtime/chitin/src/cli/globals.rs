//! Flags before the command, and where else their values come from.
//!
//! The configuration file (`/etc/chitin/config.toml`, or `--config`, or `$CHITIN_CONFIG`), then the environment
//! (`CHITIN_` and the flag's name in capitals), then the command line: the later one counts. All three are parsed by
//! the same parser, so a key of the file is a flag's name, and its value what the flag takes (or true and false):
//!
//! ```toml
//! platform = "seccomp"
//! overlay = "root:dir=/var/lib/chitin"
//! systemd-cgroup = true
//! ```

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use chitin_control::{LogFormat, NetworkMode, OverlayMode, PlatformChoice};
use clap::{Args, CommandFactory, Parser, ValueEnum};

use crate::log::Level;
use crate::sandbox::{Options, OverlayMedium};
use crate::util::{Context, Result, in_user_namespace};

/// The file that is read if there is one.
const CONFIG: &str = "/etc/chitin/config.toml";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Platform {
    Auto,
    Seccomp,
    Ptrace,
    Kvm,
}

/// What is worth a line of the log, from the gravest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogLevel {
    Error,
    #[value(alias = "warn")]
    Warning,
    Info,
    Debug,
}

/// Who makes a container's cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CgroupManager {
    /// This runtime.
    Cgroupfs,
    Systemd,
    /// Nobody: it has none.
    Disabled,
}

/// Whose network a container sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Network {
    Sandbox,
    Host,
    None,
}

impl From<Network> for NetworkMode {
    fn from(network: Network) -> Self {
        match network {
            Network::Sandbox => NetworkMode::Sandbox,
            Network::Host => NetworkMode::Host,
            Network::None => NetworkMode::None,
        }
    }
}

/// The global flags, each as far as it is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Globals {
    /// Directory of the containers' state [default: /run/chitin for root, else $XDG_RUNTIME_DIR/chitin]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Append messages to this file instead of standard error
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Format of messages [default: text]
    #[arg(long, value_enum)]
    log_format: Option<Format>,
    /// Say more
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = truth)]
    debug: Option<bool>,
    /// What to say: as much as is at least as grave [default: warning]
    #[arg(long, value_enum)]
    log_level: Option<LogLevel>,
    /// Where sentry and gofer write their logs (%ID% stands for the container's id)
    #[arg(long, value_name = "FILE")]
    debug_log: Option<PathBuf>,
    /// How guest code is run [default: auto]
    #[arg(long, value_enum)]
    platform: Option<Platform>,
    /// Let busy programs hand calls over through memory: their code is changed in memory, and a CPU that is free polls (platform
    /// seccomp) [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = truth)]
    patch_calls: Option<bool>,
    /// Whose network containers see [default: sandbox]
    #[arg(long, value_enum)]
    network: Option<Network>,
    /// What containers may connect to: a policy (`default deny; allow 10.0.0.0/8 tcp:443`), a file with one (its path begins
    /// with / or .), or off; see docs/EGRESS.md [default: off]
    #[arg(long, value_name = "POLICY|FILE")]
    egress: Option<String>,
    /// Copy-on-write: none, root or all, then where writes go (:memory or :dir=PATH)
    /// [default: none for `create`, whose caller owns the root file system and commits what is written, else root:memory]
    #[arg(long, value_parser = parse_overlay)]
    overlay: Option<(OverlayMode, OverlayMedium)>,
    /// Log every guest syscall (to --debug-log)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = truth)]
    strace: Option<bool>,
    /// Run without privileges on the host: auto (when not root), true or false [default: auto]
    #[arg(long, value_parser = ["auto", "true", "false"])]
    rootless: Option<String>,
    /// linux.cgroupsPath is slice:prefix:name
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = truth)]
    systemd_cgroup: Option<bool>,
    /// Who makes the container's cgroup (systemd is what --systemd-cgroup says) [default: cgroupfs]
    #[arg(long, value_enum)]
    cgroup_manager: Option<CgroupManager>,
    /// For callers that pass it; checkpoints need no other program
    #[arg(long, hide = true)]
    criu: Option<String>,
}

/// One source of values by itself.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Layer {
    #[command(flatten)]
    globals: Globals,
}

pub fn truth(text: &str) -> Result<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" | "yes" | "on" => Ok(true),
        "0" | "f" | "false" | "no" | "off" => Ok(false),
        _ => Err("neither true nor false".into()),
    }
}

/// `MODE[:memory|:dir=PATH]`.
fn parse_overlay(text: &str) -> Result<(OverlayMode, OverlayMedium)> {
    let (mode, medium) = text.split_once(':').unwrap_or((text, "memory"));
    let mode = match mode {
        "none" => OverlayMode::None,
        "root" => OverlayMode::Root,
        "all" => OverlayMode::All,
        _ => return Err(format!("{mode:?} is none of none, root, all")),
    };
    let medium = match medium.strip_prefix("dir=") {
        Some("") => return Err("dir= needs a directory".into()),
        Some(path) => OverlayMedium::Dir(path.into()),
        None if medium == "memory" => OverlayMedium::Memory,
        None => return Err(format!("{medium:?} is neither memory nor dir=PATH")),
    };
    Ok((mode, medium))
}

impl Globals {
    /// Completes the command line's values by the environment's, then by the file's. `config` is `--config`.
    pub fn complete(
        self,
        config: Option<&Path>,
        environment: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self> {
        let environment = |name: &str| environment(name).filter(|value| !value.is_empty());
        let named = config.map(Path::to_owned).or_else(|| environment("CHITIN_CONFIG").map(PathBuf::from));
        let file = match named {
            Some(path) => file_layer(&path)?,
            None if Path::new(CONFIG).exists() => file_layer(Path::new(CONFIG))?,
            None => Self::default(),
        };
        Ok(self.or(environment_layer(&environment)?).or(file))
    }

    /// Ours, and where there is none the other's. Two flags are about one thing: ours of either kind counts.
    fn or(self, mut other: Self) -> Self {
        if self.systemd_cgroup.is_some() || self.cgroup_manager.is_some() {
            (other.systemd_cgroup, other.cgroup_manager) = (None, None);
        }
        if self.debug.is_some() || self.log_level.is_some() {
            (other.debug, other.log_level) = (None, None);
        }
        Self {
            root: self.root.or(other.root),
            log: self.log.or(other.log),
            log_format: self.log_format.or(other.log_format),
            debug: self.debug.or(other.debug),
            log_level: self.log_level.or(other.log_level),
            debug_log: self.debug_log.or(other.debug_log),
            platform: self.platform.or(other.platform),
            patch_calls: self.patch_calls.or(other.patch_calls),
            network: self.network.or(other.network),
            egress: self.egress.or(other.egress),
            overlay: self.overlay.or(other.overlay),
            strace: self.strace.or(other.strace),
            rootless: self.rootless.or(other.rootless),
            systemd_cgroup: self.systemd_cgroup.or(other.systemd_cgroup),
            cgroup_manager: self.cgroup_manager.or(other.cgroup_manager),
            criu: self.criu.or(other.criu),
        }
    }

    pub fn log(&self) -> Option<&Path> {
        self.log.as_deref()
    }

    pub fn log_format(&self) -> LogFormat {
        match self.log_format {
            Some(Format::Json) => LogFormat::Json,
            Some(Format::Text) | None => LogFormat::Text,
        }
    }

    fn debug(&self) -> bool {
        self.debug.unwrap_or(self.log_level == Some(LogLevel::Debug))
    }

    pub fn log_level(&self) -> Level {
        match self.log_level {
            _ if self.debug() => Level::Debug,
            Some(LogLevel::Error) => Level::Error,
            _ => Level::Warning,
        }
    }

    /// What the command shall do; `overlay` is its default.
    pub fn options(self, overlay: OverlayMode) -> Options {
        let (log_format, debug) = (self.log_format(), self.debug());
        let is_root = nix::unistd::geteuid().is_root();
        let rootless = match self.rootless.as_deref() {
            Some("true") => Some(true),
            Some("false") => Some(false),
            _ => None,
        };
        let (overlay, medium) = self.overlay.unwrap_or((overlay, OverlayMedium::Memory));
        Options {
            root: self.root.unwrap_or_else(crate::container::default_root),
            platform: match self.platform {
                Some(Platform::Auto) | None => PlatformChoice::Auto,
                Some(Platform::Seccomp) => PlatformChoice::Seccomp,
                Some(Platform::Ptrace) => PlatformChoice::Ptrace,
                Some(Platform::Kvm) => PlatformChoice::Kvm,
            },
            patch_calls: self.patch_calls.unwrap_or(true),
            network: self.network.unwrap_or(Network::Sandbox).into(),
            overlay,
            medium,
            log_format,
            debug,
            debug_log: self.debug_log,
            strace: self.strace.unwrap_or(false),
            systemd_cgroup: match self.cgroup_manager {
                Some(manager) => manager == CgroupManager::Systemd,
                None => self.systemd_cgroup.unwrap_or(false),
            },
            no_cgroups: self.cgroup_manager == Some(CgroupManager::Disabled),
            rootless: rootless.unwrap_or(!is_root),
            lenient_cgroups: rootless.unwrap_or_else(|| !is_root || in_user_namespace()),
            publish: Vec::new(),
            egress: self.egress,
        }
    }
}

/// The names of all flags.
fn names() -> Vec<String> {
    Layer::command().get_arguments().filter_map(|a| a.get_long().map(str::to_owned)).collect()
}

/// Parses one setting by itself, so that an error can be told with its place.
fn setting(name: &str, value: OsString) -> Result<Globals> {
    let mut flag = OsString::from(format!("--{name}="));
    flag.push(value);
    Layer::try_parse_from([flag]).map(|layer| layer.globals).map_err(|e| super::one_line(&e))
}

fn environment_layer(environment: &dyn Fn(&str) -> Option<OsString>) -> Result<Globals> {
    let mut layer = Globals::default();
    for name in names() {
        let variable = format!("CHITIN_{}", name.to_uppercase().replace('-', "_"));
        if let Some(value) = environment(&variable) {
            layer = setting(&name, value).context(|| format!("environment variable {variable}"))?.or(layer);
        }
    }
    Ok(layer)
}

fn file_layer(path: &Path) -> Result<Globals> {
    let failed = || format!("configuration file {}", path.display());
    let text = std::fs::read_to_string(path).context(failed)?;
    parse_file(&text).context(failed)
}

fn parse_file(text: &str) -> Result<Globals> {
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
        let line = e.span().map(|s| text.get(..s.start).unwrap_or_default().lines().count().max(1));
        let line = line.map_or_else(String::new, |n| format!("line {n}: "));
        format!("{line}{}", e.message().replace('\n', ", "))
    })?;
    let names = names();
    let mut layer = Globals::default();
    for (key, value) in &table {
        if !names.contains(key) {
            return Err(format!("unknown key {key:?} (there are {})", names.join(", ")));
        }
        let value = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Boolean(truth) => truth.to_string(),
            other => return Err(format!("{key}: a {} is not possible, a text is needed", other.type_str())),
        };
        layer = setting(key, value.into()).context(|| key.clone())?.or(layer);
    }
    Ok(layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlays() {
        assert_eq!(parse_overlay("none"), Ok((OverlayMode::None, OverlayMedium::Memory)));
        assert_eq!(parse_overlay("all:memory"), Ok((OverlayMode::All, OverlayMedium::Memory)));
        assert_eq!(
            parse_overlay("root:dir=/a:b"),
            Ok((OverlayMode::Root, OverlayMedium::Dir("/a:b".into())))
        );
        for wrong in ["", "some", "root:", "root:disk", "root:dir=", ":memory"] {
            assert!(parse_overlay(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_nearer_source_counts() {
        let path = std::env::temp_dir().join(format!("chitin-config-{}.toml", std::process::id()));
        std::fs::write(&path, "root = \"/file\"\nnetwork = \"none\"\nstrace = true\nplatform = \"kvm\"\n")
            .unwrap();
        let environment = |name: &str| match name {
            "CHITIN_ROOT" => Some("/env".into()),
            "CHITIN_NETWORK" => Some("host".into()),
            "CHITIN_STRACE" => Some("0".into()),
            "CHITIN_DEBUG" => Some(OsString::new()),
            _ => None,
        };
        let line = Layer::try_parse_from(["--root", "/flag", "--systemd-cgroup"]).unwrap().globals;
        let got = line.complete(Some(&path), &environment).unwrap();
        assert_eq!(got.root.as_deref(), Some(Path::new("/flag")));
        assert_eq!(got.network, Some(Network::Host));
        assert_eq!(got.strace, Some(false));
        assert_eq!(got.platform, Some(Platform::Kvm));
        assert_eq!((got.systemd_cgroup, got.debug), (Some(true), None));
        // The file that the environment names; and one that is not there.
        let by_name = |name: &str| (name == "CHITIN_CONFIG").then(|| path.clone().into());
        assert_eq!(
            Globals::default().complete(None, &by_name).unwrap().root.as_deref(),
            Some(Path::new("/file"))
        );
        std::fs::remove_file(&path).unwrap();
        let error = Globals::default().complete(None, &by_name).unwrap_err();
        assert!(error.starts_with("configuration file /"), "{error}");
    }

    #[test]
    fn two_flags_about_one_thing() {
        let of = |line: &str| Layer::try_parse_from(line.split(' ')).unwrap().globals;
        let options = |globals: Globals| {
            let options = globals.options(OverlayMode::Root);
            (options.systemd_cgroup, options.no_cgroups)
        };
        assert_eq!(options(of("--cgroup-manager systemd")), (true, false));
        assert_eq!(options(of("--systemd-cgroup --cgroup-manager=cgroupfs")), (false, false));
        assert_eq!(options(of("--cgroup-manager=disabled")), (false, true));
        assert_eq!(options(of("--systemd-cgroup").or(of("--cgroup-manager=disabled"))), (true, false));
        assert_eq!(of("--log-level=debug").log_level(), Level::Debug);
        assert_eq!(of("--log-level=error").log_level(), Level::Error);
        assert_eq!(of("--debug --log-level=error").log_level(), Level::Debug);
        assert_eq!(of("--log-level=error").or(of("--debug")).log_level(), Level::Error);
        assert_eq!(of("--log-level=info").log_level(), Level::Warning);
    }

    #[test]
    fn mistakes_name_their_place() {
        let error = parse_file("rot = \"/x\"").unwrap_err();
        assert!(error.starts_with("unknown key \"rot\" (there are root, log, "), "{error}");
        assert!(parse_file("debug = \"maybe\"").unwrap_err().starts_with("debug: "));
        assert!(parse_file("root = 7").unwrap_err().starts_with("root: a integer"));
        assert!(parse_file("root = \"a\"\nlog = [").unwrap_err().starts_with("line 2: "));
        assert!(!parse_file("platform = \"xen\"").unwrap_err().contains('\n'));
        let environment = |name: &str| (name == "CHITIN_PLATFORM").then(|| "xen".into());
        let error = environment_layer(&environment).unwrap_err();
        assert!(error.starts_with("environment variable CHITIN_PLATFORM: "), "{error}");
    }
}
