//! The command line against that of the runc and crun that are installed: every flag of their `--help` is taken here, with a
//! value where they have one; exit codes and the keys of JSON answers are runc's. What is not, and why, stands in
//! `tests/expect/command_line.toml`.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use chitin_tests::engine::Engine;
use chitin_tests::expect::Gaps;
use chitin_tests::limited::{Container, View, v1_host};
use chitin_tests::run::{self, Outcome};
use chitin_tests::{paths, skip};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(20);
const EXPECTED: &str = "command_line.toml";

#[derive(Debug, PartialEq, Eq)]
struct Flag {
    /// With its dashes.
    name: String,
    takes_value: bool,
}

/// The commands that runc's help lists, or crun's.
fn commands(help: &str, first_indent: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|l| !l.starts_with("COMMANDS:")).skip(1);
    let listed = listed.take_while(|l| l.starts_with(first_indent));
    let names = listed.filter_map(|l| l.trim_start().split([' ', ',', '\t']).next());
    names.filter(|n| !n.is_empty() && *n != "help").map(str::to_owned).collect()
}

/// The first column of a line, which two blanks end.
fn column(line: &str) -> Option<&str> {
    let line = line.trim_start();
    line.starts_with('-').then(|| line.split("  ").next().unwrap_or_default().trim_end())
}

/// `--bundle value, -b value  text`.
fn runc_flags(help: &str) -> Vec<Flag> {
    let flags = help.lines().filter_map(column).flat_map(|c| c.split(", "));
    let flags = flags.map(|flag| match flag.split_once(' ') {
        Some((name, _)) => Flag { name: name.to_owned(), takes_value: true },
        None => Flag { name: flag.to_owned(), takes_value: false },
    });
    flags.filter(|f| !matches!(f.name.as_str(), "--help" | "-h")).collect()
}

/// `-b, --bundle=DIR   text`; a value in brackets may be left out.
fn crun_flags(help: &str) -> Vec<Flag> {
    let mut all = Vec::new();
    for column in help.lines().filter_map(column) {
        let takes_value = column.contains('=') && !column.contains("[=");
        for flag in column.split(", ") {
            let name = flag.split(['=', '[']).next().unwrap_or_default().to_owned();
            if !matches!(name.as_str(), "--help" | "-?" | "--usage") {
                all.push(Flag { name, takes_value });
            }
        }
    }
    all
}

/// Whether our command line takes a flag: it is no argument that is "unexpected", and neither is what comes behind it.
fn taken(command: Option<&str>, flag: &Flag) -> Result<(), String> {
    let dir = paths::scratch("flags");
    let mut c = Command::new(paths::chitin());
    c.current_dir(&dir).arg("--root").arg(dir.join("state"));
    let give = |c: &mut Command| {
        c.arg(&flag.name);
        if flag.takes_value {
            c.arg("1");
        }
    };
    match command {
        None => {
            give(&mut c);
            c.arg("list");
        }
        Some(command) => {
            c.arg(command);
            give(&mut c);
            if !matches!(command, "list" | "features" | "spec") {
                c.arg("no-such-container");
            }
        }
    }
    let o = run::quick(c, LIMIT);
    let refused =
        ["unexpected argument", "unrecognized subcommand", "value is required", "required arguments"];
    match o.code {
        None => Err(format!("does not end: {}", o.brief())),
        _ if refused.iter().any(|r| o.stderr.contains(r)) => Err(o.stderr.trim().to_owned()),
        _ => Ok(()),
    }
}

fn help(engine: &str, command: Option<&str>) -> String {
    let mut c = Command::new(engine);
    c.args(command).arg("--help");
    let o = run::quick(c, LIMIT);
    assert_eq!(o.code, Some(0), "{engine} {command:?} --help: {}", o.brief());
    o.text()
}

fn all_flags_are_taken(engine: &str, indent: &str, of: fn(&str) -> Vec<Flag>, at_least: usize) {
    if !run::have(engine) {
        return skip("all_flags_are_taken", &format!("{engine} is not installed"));
    }
    let gaps = Gaps::load(EXPECTED, "chitin");
    let top = help(engine, None);
    let commands = commands(&top, indent);
    assert!(commands.len() >= 12, "{commands:?}");
    let (mut complaints, mut count) = (Vec::new(), 0);
    let levels = std::iter::once(None).chain(commands.iter().map(|c| Some(c.as_str())));
    for command in levels {
        let flags = of(&command.map_or_else(|| top.clone(), |c| help(engine, Some(c))));
        count += flags.len();
        for flag in flags {
            let name = format!("{engine} {} {}", command.unwrap_or("(all)"), flag.name);
            complaints.extend(gaps.judge(&name, taken(command, &flag)));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    assert!(count >= at_least, "only {count} flags in the help of {engine}: is its form another one?");
}

#[test]
fn all_flags_of_runc_are_taken() {
    all_flags_are_taken("runc", "   ", runc_flags, 100);
}

#[test]
fn all_flags_of_crun_are_taken() {
    all_flags_are_taken("crun", "\t", crun_flags, 60);
}

#[test]
fn what_is_no_flag_is_not_taken() {
    let flag = |name: &str, takes_value| Flag { name: name.into(), takes_value };
    assert!(taken(Some("run"), &flag("--no-such-flag", false)).is_err());
    assert!(taken(Some("run"), &flag("--detach", true)).is_err(), "a switch has no value");
    assert!(taken(Some("run"), &flag("--bundle", false)).is_err(), "the id is the flag's value");
    assert!(taken(Some("nonsense"), &flag("--help", false)).is_err());
    let text =
        "   --bundle value, -b value  path\n   --force, -f  text\n   --log value  set (default: \"x\")\n";
    let names: Vec<_> = runc_flags(text).into_iter().map(|f| (f.name, f.takes_value)).collect();
    let expected = [("--bundle", true), ("-b", true), ("--force", false), ("-f", false), ("--log", true)];
    assert_eq!(names, expected.map(|(n, v)| (n.to_owned(), v)));
    let text = "  -b, --bundle=DIR           container\n  -t, --tty[=TTY]            x\n      --no-pivot             do not\n";
    let names: Vec<_> = crun_flags(text).into_iter().map(|f| (f.name, f.takes_value)).collect();
    let expected = [("-b", true), ("--bundle", true), ("-t", false), ("--tty", false), ("--no-pivot", false)];
    assert_eq!(names, expected.map(|(n, v)| (n.to_owned(), v)));
}

fn plain(program: &std::path::Path, args: &[&str]) -> Outcome {
    let dir = paths::scratch("codes");
    let mut c = Command::new(program);
    c.current_dir(&dir).arg("--root").arg(dir.join("state")).args(args);
    run::quick(c, LIMIT)
}

/// What fails, or not, ends with the same code.
#[test]
fn exit_codes_are_runcs() {
    if !run::have("runc") {
        return skip("exit_codes_are_runcs", "runc is not installed");
    }
    let gaps = Gaps::load(EXPECTED, "chitin");
    let lines = [
        &[][..],
        &["--help"],
        &["--version"],
        &["state"],
        &["state", "nope"],
        &["start", "nope"],
        &["kill", "nope"],
        &["kill", "nope", "NONSENSE"],
        &["delete"],
        &["delete", "nope"],
        &["delete", "--force", "nope"],
        &["exec"],
        &["exec", "nope"],
        &["exec", "nope", "true"],
        &["exec", "--process", "/no/such/file", "nope"],
        &["pause", "nope"],
        &["resume", "nope"],
        &["ps", "nope"],
        &["ps", "--format", "nonsense", "nope"],
        &["events", "nope"],
        &["events", "--stats", "nope"],
        &["update", "nope"],
        &["update", "--memory", "nonsense", "nope"],
        &["create", "nope"],
        &["run", "nope"],
        &["run", "--bundle", "/no/such/directory", "nope"],
        &["checkpoint", "nope"],
        &["restore", "nope"],
        &["list"],
        &["list", "-q"],
        &["list", "--format", "json"],
        &["list", "--format=nonsense"],
        &["spec", "--bundle", "/no/such/directory"],
        &["features"],
        &["state", "--no-such-flag", "nope"],
        &["nonsense"],
        &["--log-format", "nonsense", "list"],
        &["-log-format", "json", "list", "-format=json", "-quiet=false"],
    ];
    let mut complaints = Vec::new();
    for args in lines {
        let (ours, runcs) = (plain(&paths::chitin(), args), plain("runc".as_ref(), args));
        let result = if ours.code == runcs.code {
            Ok(())
        } else {
            Err(format!("{} but runc {}", ours.brief(), runcs.brief()))
        };
        complaints.extend(gaps.judge(&format!("code of {}", args.join(" ")), result));
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// All paths to values; elements of an array have one path.
fn keys(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (name, below) in map {
                found.insert(format!("{at}/{name}"));
                keys(below, &format!("{at}/{name}"), found);
            }
        }
        Value::Array(list) => list.iter().for_each(|v| keys(v, &format!("{at}[]"), found)),
        _ => {}
    }
}

fn keys_of(text: &[u8]) -> BTreeSet<String> {
    let value: Value = serde_json::from_slice(text).expect("JSON");
    let mut found = BTreeSet::new();
    keys(&value, "", &mut found);
    found
}

/// Every key that runc answers with is in our answer, and none that runc (which may be an older one) does not know, but
/// for those listed.
fn same_keys(what: &str, ours: &BTreeSet<String>, runcs: &BTreeSet<String>) -> Vec<String> {
    let gaps = Gaps::load(EXPECTED, "chitin");
    let missing = runcs.difference(ours).map(|key| (key, "is missing"));
    let more = ours.difference(runcs).map(|key| (key, "is not runc's"));
    let differences: Vec<_> = missing.chain(more).collect();
    let judged = differences
        .iter()
        .filter_map(|(key, why)| gaps.judge(&format!("{what} {key}"), Err((*why).to_owned())));
    judged.collect()
}

#[test]
fn features_has_the_keys_of_runc() {
    if !run::have("runc") {
        return skip("features_has_the_keys_of_runc", "runc is not installed");
    }
    let of = |program: &std::path::Path| {
        let o = plain(program, &["features"]);
        assert_eq!(o.code, Some(0), "{}", o.brief());
        let mut value: Value = serde_json::from_slice(&o.stdout).expect("JSON");
        // Names of each runtime's own.
        value.as_object_mut().expect("an object").remove("annotations");
        value
    };
    // Of later versions of the specification than runc's, which may be an old one.
    const NEWER: [&str; 16] = [
        "/linux/cgroup/rdma",
        "/linux/intelRdt",
        "/linux/intelRdt/enabled",
        "/linux/intelRdt/schemata",
        "/linux/intelRdt/monitoring",
        "/linux/memoryPolicy",
        "/linux/memoryPolicy/flags",
        "/linux/memoryPolicy/modes",
        "/linux/mountExtensions",
        "/linux/mountExtensions/idmap",
        "/linux/mountExtensions/idmap/enabled",
        "/linux/netDevices",
        "/linux/netDevices/enabled",
        "/linux/seccomp/knownFlags",
        "/linux/seccomp/supportedFlags",
        "/potentiallyUnsafeConfigAnnotations",
    ];
    let (ours, runcs) = (of(&paths::chitin()), of("runc".as_ref()));
    let bytes = |v: &Value| serde_json::to_vec(v).expect("JSON");
    let (mut our_keys, runc_keys) = (keys_of(&bytes(&ours)), keys_of(&bytes(&runcs)));
    our_keys.retain(|key| runc_keys.contains(key) || !NEWER.contains(&key.as_str()));
    let mut complaints = same_keys("features", &our_keys, &runc_keys);
    // What runc lists in lists, too.
    let gaps = Gaps::load(EXPECTED, "chitin");
    for list in [
        "/hooks",
        "/mountOptions",
        "/linux/namespaces",
        "/linux/capabilities",
        "/linux/seccomp/actions",
        "/linux/seccomp/operators",
        "/linux/seccomp/archs",
    ] {
        let of = |v: &Value| v.pointer(list).and_then(Value::as_array).cloned().unwrap_or_default();
        let (ours, runcs) = (of(&ours), of(&runcs));
        assert!(!runcs.is_empty(), "{list}");
        for name in runcs {
            let result = if ours.contains(&name) { Ok(()) } else { Err("is missing".to_owned()) };
            let name = name.as_str().unwrap_or_default();
            complaints.extend(gaps.judge(&format!("features {list} {name}"), result));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// `state` and `list` of a running container, each runtime with v1's hierarchies. Statistics: `limits.rs`.
#[test]
fn answers_have_the_keys_of_runc() {
    if !run::have("runc") || !v1_host("answers_have_the_keys_of_runc") {
        return skip("answers_have_the_keys_of_runc", "runc is not installed, or no hierarchies of v1");
    }
    let answers = |engine: Engine| {
        let resources = serde_json::json!({ "memory": { "limit": 67_108_864 }, "pids": { "limit": 50 } });
        let mut c = Container::new(engine, View::V1, "while :; do sleep 1; done", resources);
        c.bundle = c.bundle.clone().set("/annotations", serde_json::json!({ "a": "b" }));
        c.bundle.write();
        c.create();
        c.ok(&["start", &c.id]);
        [c.ok(&["state", &c.id]).stdout, c.ok(&["list", "--format", "json"]).stdout]
    };
    let (ours, runcs) = (answers(Engine::Chitin), answers(Engine::Runc));
    let mut complaints = Vec::new();
    for (at, what) in ["state", "list"].into_iter().enumerate() {
        complaints.extend(same_keys(what, &keys_of(&ours[at]), &keys_of(&runcs[at])));
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
