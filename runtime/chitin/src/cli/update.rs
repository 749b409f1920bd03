//! `chitin update`: other limits for a container that is there.
//!
//! As with runc, zero and the empty text mean "leave it as it is", and a JSON of resources makes the other flags moot.

use std::io::Read;

use chitin_control::{Limits, Request, Status};
use clap::Args;
use oci_spec::runtime::{LinuxIntelRdt, LinuxResources};
use serde_json::{Value, json};

use crate::cgroup::guest;
use crate::container::Directory;
use crate::egress::Egress;
use crate::sandbox::Options;
use crate::sandbox::link::Link;
use crate::util::{Context, Result};

/// Larger ones are refused.
const MAX_SIZE: u64 = 16 << 20;

#[derive(Debug, Args)]
pub struct Update {
    /// File with the resources as JSON (linux.resources of config.json), or - for standard input
    #[arg(short, long, value_name = "FILE")]
    resources: Option<String>,
    /// Weight of block I/O (10 to 1000)
    #[arg(long, value_name = "N", default_value_t = 0)]
    blkio_weight: u16,
    /// CPU period in microseconds
    #[arg(long, value_name = "N")]
    cpu_period: Option<String>,
    /// CPU time allowed per period, in microseconds (-1: unlimited)
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    cpu_quota: Option<String>,
    /// CPU time beyond the quota that may be saved up, in microseconds
    #[arg(long, value_name = "N")]
    cpu_burst: Option<String>,
    /// Share of the CPUs relative to other containers
    #[arg(long, value_name = "N")]
    cpu_share: Option<String>,
    /// Realtime period in microseconds
    #[arg(long, value_name = "N")]
    cpu_rt_period: Option<String>,
    /// Realtime CPU time allowed per period, in microseconds
    #[arg(long, value_name = "N")]
    cpu_rt_runtime: Option<String>,
    /// Run only when nobody else wants to (1) or not (0)
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    cpu_idle: Option<String>,
    /// CPUs to run on
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Memory in bytes, or with a unit (512m); -1 is unlimited
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    memory: Option<String>,
    /// Memory that is kept when others need some
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    memory_reservation: Option<String>,
    /// Memory and swap together
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    memory_swap: Option<String>,
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, hide = true)]
    kernel_memory: Option<String>,
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, hide = true)]
    kernel_memory_tcp: Option<String>,
    /// Number of processes; -1 is unlimited
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pids_limit: i64,
    /// Share of the L3 cache, as a line of resctrl's schemata
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Share of the memory's bandwidth, likewise
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
    /// Another egress policy than the one that --egress had: a policy, a file with one, or off
    #[arg(long, value_name = "POLICY|FILE")]
    egress: Option<String>,
    /// The container's name
    id: String,
}

impl Update {
    pub fn run(self, options: &Options) -> Result<()> {
        let directory = Directory::open(&options.root, &self.id)?;
        let mut state = directory.state()?;
        if state.status() == Status::Stopped {
            return Err("container not running".into());
        }
        if let Some(text) = &self.egress {
            Egress::change(&directory, &mut state, text)?;
        }
        let resources = match &self.resources {
            Some(from) => from_json(&read(from)?)?,
            None => parse(self.flags()?)?,
        };
        let cgroups = directory.cgroups()?;
        if resources != LinuxResources::default() || self.resources.is_some() {
            cgroups.update(&resources)?;
        }
        if let Some(rdt) = self.rdt()? {
            cgroups.update_rdt(&rdt)?;
        }
        let limits = guest::limits(&resources);
        if limits == Limits::default() {
            return Ok(());
        }
        let mut link = Link::to(&directory, &state)?;
        let request = Request::Update { container: self.id, limits };
        match state.status() {
            // A frozen sentry reads it when it is thawed.
            Status::Paused => link.post(&request),
            _ => link.order(&request),
        }
    }

    /// What `linux.intelRdt` would say.
    fn rdt(&self) -> Result<Option<LinuxIntelRdt>> {
        let given = |schema: &Option<String>| schema.clone().filter(|s| !s.is_empty());
        let (cache, bandwidth) = (given(&self.l3_cache_schema), given(&self.mem_bw_schema));
        if cache.is_none() && bandwidth.is_none() {
            return Ok(None);
        }
        let mut rdt = LinuxIntelRdt::default();
        rdt.set_l3_cache_schema(cache).set_mem_bw_schema(bandwidth);
        Ok(Some(rdt))
    }

    fn flags(&self) -> Result<Value> {
        Ok(json!({
            "blockIO": {"weight": self.blkio_weight},
            "cpu": {
                "period": number("cpu-period", &self.cpu_period)?,
                "quota": number("cpu-quota", &self.cpu_quota)?,
                "burst": number("cpu-burst", &self.cpu_burst)?,
                "shares": number("cpu-share", &self.cpu_share)?,
                "realtimePeriod": number("cpu-rt-period", &self.cpu_rt_period)?,
                "realtimeRuntime": number("cpu-rt-runtime", &self.cpu_rt_runtime)?,
                "idle": number("cpu-idle", &self.cpu_idle)?,
                "cpus": self.cpuset_cpus,
                "mems": self.cpuset_mems,
            },
            "memory": {
                "limit": size("memory", &self.memory)?,
                "reservation": size("memory-reservation", &self.memory_reservation)?,
                "swap": size("memory-swap", &self.memory_swap)?,
                "kernel": size("kernel-memory", &self.kernel_memory)?,
                "kernelTCP": size("kernel-memory-tcp", &self.kernel_memory_tcp)?,
            },
            "pids": {"limit": self.pids_limit},
        }))
    }
}

fn read(from: &str) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let failed = || format!("--resources {from}");
    match from {
        "-" => std::io::stdin().take(MAX_SIZE).read_to_end(&mut text),
        path => std::fs::File::open(path).and_then(|f| f.take(MAX_SIZE).read_to_end(&mut text)),
    }
    .context(failed)?;
    Ok(text)
}

fn from_json(text: &[u8]) -> Result<LinuxResources> {
    parse(serde_json::from_slice(text).context(|| "--resources: not JSON".into())?)
}

/// Drops what leaves things as they are, and the device rules, which `update` never changes.
fn parse(mut resources: Value) -> Result<LinuxResources> {
    if let Some(top) = resources.as_object_mut() {
        top.remove("devices");
        for (_, part) in top.iter_mut() {
            if let Some(part) = part.as_object_mut() {
                part.retain(|name, value| {
                    let nothing =
                        value.is_null() || value.as_str() == Some("") || value.as_f64() == Some(0.0);
                    // Where zero says something.
                    !nothing || (name == "idle" && !value.is_null())
                });
            }
        }
        top.retain(|_, part| !part.is_null() && part.as_object().is_none_or(|p| !p.is_empty()));
    }
    serde_path_to_error::deserialize(resources).map_err(|e| {
        let path = e.path().to_string();
        format!("--resources: {path}: {}", e.into_inner())
    })
}

fn number(flag: &str, text: &Option<String>) -> Result<Option<i64>> {
    let Some(text) = text.as_deref().filter(|t| !t.is_empty()) else { return Ok(None) };
    text.parse().map(Some).map_err(|e| format!("invalid value for {flag}: {text:?}: {e}"))
}

/// Bytes with an optional binary unit, as Docker's flags have it.
fn size(flag: &str, text: &Option<String>) -> Result<Option<i64>> {
    let Some(text) = text.as_deref().filter(|t| !t.is_empty()) else { return Ok(None) };
    let wrong = || format!("invalid value for {flag}: {text:?} is no size like 512m");
    if text == "-1" {
        return Ok(Some(-1));
    }
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim_end();
    let unit = lower.get(digits.len()..).unwrap_or_default().trim();
    let shift = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" if unit == "i" || unit == "ib" => return Err(wrong()),
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(wrong()),
    };
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    let bytes = number * (1i64 << shift) as f64;
    // Exactly representable or not, a limit beyond 2^62 is none.
    if !(0.0..=4.6e18).contains(&bytes) {
        return Err(wrong());
    }
    Ok(Some(bytes as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let size = |text: &str| size("memory", &Some(text.into()));
        assert_eq!(size("512"), Ok(Some(512)));
        assert_eq!(size("1k"), Ok(Some(1024)));
        assert_eq!(size("2MB"), Ok(Some(2 << 20)));
        assert_eq!(size("1.5GiB"), Ok(Some(3 << 29)));
        assert_eq!(size("-1"), Ok(Some(-1)));
        assert_eq!(size(""), Ok(None));
        for wrong in ["x", "-2", "1x", "1e99g", "k", "1ib"] {
            assert!(size(wrong).unwrap_err().starts_with("invalid value for memory"), "{wrong}");
        }
    }

    #[test]
    fn zero_and_empty_change_nothing() {
        let text =
            br#"{"memory":{"limit":0,"swap":7},"cpu":{"shares":0,"cpus":"","idle":0},"blockIO":{"weight":0},
            "pids":{"limit":0},"devices":[{"allow":true}]}"#;
        let resources = from_json(text).unwrap();
        assert_eq!(resources.memory().as_ref().unwrap().limit(), None);
        assert_eq!(resources.memory().as_ref().unwrap().swap(), Some(7));
        assert_eq!(resources.cpu().as_ref().unwrap().idle(), Some(0));
        assert!(resources.cpu().as_ref().unwrap().shares().is_none());
        assert!(
            resources.block_io().is_none() && resources.pids().is_none() && resources.devices().is_none()
        );
        assert_eq!(guest::limits(&resources), Limits::default());
        assert!(from_json(b"[").is_err());
        assert!(from_json(br#"{"memory":{"limit":"x"}}"#).unwrap_err().contains("memory.limit"));
    }

    #[test]
    fn what_the_guest_sees() {
        let of = |text: &str| guest::limits(&from_json(text.as_bytes()).unwrap());
        assert_eq!(of(r#"{"memory":{"limit":1048576}}"#).memory, Some(1 << 20));
        assert_eq!(of(r#"{"memory":{"limit":-1}}"#).memory, Some(u64::MAX));
        assert_eq!(of(r#"{"cpu":{"quota":150000,"period":100000}}"#).cpus, Some(2));
        assert_eq!(of(r#"{"cpu":{"quota":1000}}"#).cpus, Some(1));
        assert_eq!(of(r#"{"cpu":{"quota":-1}}"#).cpus, None);
    }
}
