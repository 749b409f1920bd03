//! `chitin ps`: the processes of a container.
//!
//! As JSON an array of *host* pids, which engines look up on the host; as a table what the guest knows, in the columns
//! of `ps -ef`. With other options the host's ps(1) is asked about the host's processes, as runc does it: their names are
//! those of the processes that run the guest's code.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chitin_control::{ProcessInfo, Request, Response, Status};
use clap::{Args, ValueEnum};

use super::print;
use crate::container::Directory;
use crate::sandbox::Options;
use crate::sandbox::link::{Link, misfit};
use crate::util::{Context, Result, rfc3339};

const HEAD: &str = "UID          PID    PPID  C STIME TTY          TIME CMD\n";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub struct Ps {
    /// How to show them
    #[arg(short, long, value_enum, default_value = "table")]
    format: Format,
    /// The container's name
    id: String,
    /// For ps(1), which then shows the host's processes [default: -ef, which shows the container's own]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

impl Ps {
    pub fn run(self, options: &Options) -> Result<()> {
        let known =
            |o: &String| o.starts_with('-') && o.len() > 1 && o.chars().skip(1).all(|c| c == 'e' || c == 'f');
        let of_host = !self.options.iter().all(known);
        let directory = Directory::find(&options.root, &self.id)?;
        let state = directory.state()?;
        match state.status() {
            Status::Stopped => {
                return match self.format {
                    Format::Json => print_json(&[]),
                    Format::Table => print(HEAD),
                };
            }
            // Its sentry may be frozen; the host knows the processes nonetheless.
            Status::Paused if matches!(self.format, Format::Table) && !of_host => {
                return Err("the container is paused: `resume` it, or use --format json".into());
            }
            Status::Paused => return self.show_host(&directory.cgroups()?.processes()?),
            _ => {}
        }
        let mut processes =
            match Link::to(&directory, &state)?.call(&Request::Processes { container: self.id.clone() })? {
                Response::Processes { processes } => processes,
                other => return Err(misfit(&other)),
            };
        processes.sort_by_key(|p| p.pid);
        match self.format {
            Format::Table if !of_host => print(&table(&processes, SystemTime::now())),
            _ => self.show_host(&host_pids(state.sentry.pid, &processes)),
        }
    }

    /// What the host knows of these processes.
    fn show_host(&self, pids: &[i32]) -> Result<()> {
        match self.format {
            Format::Json => print_json(pids),
            Format::Table => {
                let failed = || format!("ps {}", self.options.join(" "));
                let output = Command::new("ps").args(&self.options).output().context(failed)?;
                if !output.status.success() {
                    return Err(format!("{}: {}", failed(), String::from_utf8_lossy(&output.stderr).trim()));
                }
                print(&only(&String::from_utf8_lossy(&output.stdout), pids)?)
            }
        }
    }
}

/// The lines of ps(1) about some processes, with its head.
fn only(text: &str, pids: &[i32]) -> Result<String> {
    let head = text.lines().next().unwrap_or_default();
    let column = head.split_whitespace().position(|name| name == "PID");
    let column = column.ok_or("couldn't find PID field in ps output: leave its column in")?;
    let about = |line: &&str| {
        line.split_whitespace()
            .nth(column)
            .and_then(|pid| pid.parse().ok())
            .is_some_and(|pid| pids.contains(&pid))
    };
    Ok(text
        .lines()
        .take(1)
        .chain(text.lines().skip(1).filter(about))
        .map(|line| format!("{line}\n"))
        .collect())
}

fn print_json(pids: &[i32]) -> Result<()> {
    let text = serde_json::to_string(pids).context(|| "cannot encode the pids".into())?;
    print(&format!("{text}\n"))
}

/// The host's pids of the stubs.
fn host_pids(sentry: i32, processes: &[ProcessInfo]) -> Vec<i32> {
    let mut inside = HashMap::new();
    // All processes of the sandbox are in the PID namespace that the sentry is the first one of.
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = namespace(sentry);
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else { continue };
        if let Some(inner) = innermost(&status)
            && own.is_some()
            && namespace(pid) == own
        {
            inside.insert(inner, pid);
        }
    }
    let mut pids: Vec<i32> = processes.iter().filter_map(|p| inside.get(&p.stub).copied()).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// The pid in the innermost PID namespace, if there is more than one.
fn innermost(status: &str) -> Option<i32> {
    let line = status.lines().find_map(|l| l.strip_prefix("NSpid:"))?;
    let mut pids = line.split_ascii_whitespace();
    pids.next()?;
    pids.last()?.parse().ok()
}

/// The columns of `ps -ef`.
fn table(processes: &[ProcessInfo], now: SystemTime) -> String {
    let mut text = String::from(HEAD);
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    for p in processes {
        let cpu = p.cpu_ms / 1000;
        let age = now.saturating_sub(p.started).max(1);
        let share = (cpu.saturating_mul(100) / age).min(99);
        let started = rfc3339(UNIX_EPOCH + Duration::from_secs(p.started.min(now)));
        let begun = match age < 86_400 {
            true => started.get(11..16).unwrap_or("?").to_owned(),
            false => month_and_day(&started),
        };
        let time = format!("{:02}:{:02}:{:02}", cpu / 3600, cpu / 60 % 60, cpu % 60);
        let tty = p.tty.as_deref().unwrap_or("?");
        // A guest chooses its command's text; the terminal that shows it is not the guest's.
        let command: String =
            p.command.chars().map(|c| if c.is_control() { '?' } else { c }).take(4096).collect();
        let _ = writeln!(
            text,
            "{:<8} {:>7} {:>7} {share:>2} {begun:<5} {tty:<8} {time} {command}",
            p.uid, p.pid, p.ppid
        );
    }
    text
}

fn month_and_day(time: &str) -> String {
    const NAMES: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month =
        time.get(5..7).and_then(|m| m.parse::<usize>().ok()).and_then(|m| NAMES.get(m.checked_sub(1)?));
    format!("{}{}", month.unwrap_or(&"?"), time.get(8..10).unwrap_or("?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_pid() {
        assert_eq!(innermost("Name:\tx\nNSpid:\t12\t3\t1\nNSpgid:\t9\n"), Some(1));
        assert_eq!(innermost("NSpid:\t12\n"), None);
        assert_eq!(innermost("Name:\tx\n"), None);
    }

    #[test]
    fn rows_look_like_those_of_ps() {
        let process = |command: &str, started| ProcessInfo {
            pid: 1,
            stub: 2,
            ppid: 0,
            uid: 1000,
            threads: 1,
            cpu_ms: 3_723_999,
            started,
            tty: None,
            command: command.into(),
        };
        let now = UNIX_EPOCH + Duration::from_secs(1_709_251_199);
        let text = table(&[process("sh -c\x1b[2J x", 1_709_251_100), process("old", 951_782_400)], now);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "UID          PID    PPID  C STIME TTY          TIME CMD");
        assert_eq!(lines[1], "1000           1       0 99 23:58 ?        01:02:03 sh -c?[2J x");
        assert_eq!(lines[2], "1000           1       0  0 Feb29 ?        01:02:03 old");
    }
}
