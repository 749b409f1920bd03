//! The micro benchmarks, in turns: one process per column, started once and asked for one round after the other. A machine's
//! slow second falls on all columns of a round alike, so a ratio is taken within a round.
//!
//! Neighbours: `../guest/micro.c` (does a round per line it reads), `main` (medians of what the rounds found).

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use chitin_tests::bundle::Bundle;
use chitin_tests::engine::{Engine, state_root, unique_id};
use chitin_tests::{paths, run};

use crate::{COLUMNS, Column, Results};

/// The row of the bare notification, which answers the same call as `getppid`.
pub const BARE: &str = "notification";

/// For one round of one benchmark, and for the start of a container.
const LIMIT: Duration = Duration::from_secs(60);

struct Player {
    name: &'static str,
    column: Column,
    bare: bool,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// How to remove a container that does not end.
    rescue: Option<Command>,
    _bundle: Option<Bundle>,
}

impl Player {
    fn start(name: &'static str, column: Column, mut c: Command) -> Result<Player, String> {
        c.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = c.spawn().map_err(|e| format!("{name}: {e}"))?;
        let (sender, lines) = channel();
        if let Some(out) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(out).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        let stdin = child.stdin.take();
        Ok(Player { name, column, bare: false, child, stdin, lines, rescue: None, _bundle: None })
    }

    /// One round, in nanoseconds an operation.
    fn round(&mut self, benchmark: &str) -> Result<f64, String> {
        let failed = |what: &str| format!("{}: {benchmark}: {what}", self.name);
        let ask = self.stdin.as_mut().ok_or("no standard input").and_then(|i| {
            i.write_all(format!("{benchmark}\n").as_bytes()).map_err(|_| "it has ended before its time")
        });
        ask.map_err(failed)?;
        let line = self.lines.recv_timeout(LIMIT).map_err(|e| failed(&e.to_string()))?;
        line.split_once(' ').and_then(|(_, v)| v.parse().ok()).ok_or_else(|| failed(&line))
    }

    fn end(mut self) -> Result<(), String> {
        drop(self.stdin.take());
        let code = run::wait_for(&mut self.child, LIMIT);
        if code.is_none() {
            run::kill_tree(&mut self.child);
            if let Some(c) = self.rescue.take() {
                run::quick(c, LIMIT);
            }
        }
        if code == Some(0) { Ok(()) } else { Err(format!("{}: exit code {code:?}", self.name)) }
    }
}

fn bundle(bin: &Path) -> Bundle {
    let b = Bundle::new("turns", &paths::rootfs("busybox"), &["/bench/micro", "turns", "/tmp"])
        .bind(bin, "/bench", &["ro"])
        .tmpfs("/tmp");
    b.write();
    b
}

fn container(engine: Engine, column: Column, bin: &Path) -> Result<Player, String> {
    let b = bundle(bin);
    let (id, dir, root) = (unique_id(), b.dir.to_string_lossy().into_owned(), state_root("turns"));
    let c = engine.command(&root, Some(&b), &["run", "--bundle", &dir, &id]);
    let mut p = Player::start(engine.name(), column, c)?;
    p.rescue = Some(engine.command(&root, None, &["delete", "--force", &id]));
    p._bundle = Some(b);
    Ok(p)
}

/// runsc is not part of the test harness: it is called plainly when it is there.
fn runsc(bin: &Path) -> Result<Player, String> {
    let b = bundle(bin);
    let mut c = Command::new("runsc");
    c.args(["--ignore-cgroups", "--network=none", "--root"]).arg(b.dir.join("runsc"));
    c.arg("run").arg("--bundle").arg(&b.dir).arg(unique_id());
    let mut p = Player::start("runsc", Column::Runsc, c)?;
    p._bundle = Some(b);
    Ok(p)
}

fn micro(bin: &Path, args: &[&str]) -> Command {
    let mut c = Command::new(bin.join("micro"));
    c.args(args);
    c
}

/// The players of a column, in the order of their turns; none if its engine is not installed.
fn players(column: Column, bin: &Path) -> Result<Vec<Player>, String> {
    let engine = match column {
        // Files on a tmpfs, as in the containers.
        Column::Native => {
            return Ok(vec![Player::start("native", column, micro(bin, &["turns", "/dev/shm"]))?]);
        }
        Column::Runsc => None,
        Column::Crun => Some(Engine::Crun),
        Column::Runc => Some(Engine::Runc),
        Column::Chitin => Some(Engine::Chitin),
    };
    if !engine.map_or_else(|| run::have("runsc"), Engine::available) {
        eprintln!("SKIP: {} is not installed", column.name());
        return Ok(Vec::new());
    }
    let Some(engine) = engine else { return Ok(vec![runsc(bin)?]) };
    let mut all = Vec::new();
    if column == Column::Chitin {
        // What chitin's calls are compared with, as close to them in time as can be.
        let mut p = Player::start("the bare notification", Column::Native, micro(bin, &["turns-notified"]))?;
        p.bare = true;
        all.push(p);
    }
    all.push(container(engine, column, bin)?);
    Ok(all)
}

/// What the program can measure.
fn benchmarks(bin: &Path) -> Vec<String> {
    run::quick(micro(bin, &["list"]), LIMIT).text().lines().map(str::to_owned).collect()
}

/// `rounds` rounds of each benchmark, each with what it found; the flag says whether something failed.
pub fn play(bin: &Path, wanted: &dyn Fn(Column) -> bool, rounds: usize) -> (Vec<Results>, bool) {
    let (mut all, mut failed) = (Vec::new(), false);
    let mut complain = |e: String| {
        eprintln!("{e}");
        failed = true;
    };
    let mut playing = Vec::new();
    for column in COLUMNS.into_iter().filter(|c| wanted(*c)) {
        match players(column, bin) {
            Ok(p) => playing.extend(p),
            Err(e) => complain(e),
        }
    }
    let benchmarks = benchmarks(bin);
    if benchmarks.is_empty() {
        complain("the benchmark program lists nothing that it could measure".to_owned());
    }
    for benchmark in &benchmarks {
        // The first round warms up and does not count.
        for n in 0..=rounds {
            let mut found = Results::new();
            playing.retain_mut(|p| {
                if p.bare && benchmark != "getppid" {
                    return true;
                }
                let row = if p.bare { BARE } else { benchmark.as_str() };
                match p.round(benchmark) {
                    Ok(v) => drop(found.entry(row.to_owned()).or_default().insert(p.column, v)),
                    Err(e) => {
                        complain(e);
                        return false;
                    }
                }
                true
            });
            if n > 0 {
                all.push(found);
            }
        }
    }
    for p in playing {
        if let Err(e) = p.end() {
            complain(e);
        }
    }
    (all, failed)
}
