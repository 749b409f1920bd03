//! The layers hold by test: which crate may depend on which, where `unsafe` may be, how long a file may get.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use chitin_tests::paths::repo;
use serde_json::Value;

/// Workspace crates by folder with the folders they may depend on; a trailing `*` stands for any rest.
fn allowed(from: &str) -> &'static [&'static str] {
    const LEAF: &[&str] = &["sentry/platform", "sentry/abi", "sentry/host"];
    const FS: &[&str] = &["sentry/vfs", "sentry/mm", "sentry/abi", "sentry/host"];
    const FS_KERNEL: &[&str] = &["sentry/vfs", "sentry/mm", "sentry/kernel", "sentry/abi", "sentry/host"];
    match from {
        "sentry/abi" => &[],
        "sentry/host" => &["sentry/abi"],
        "sentry/platform" => &["sentry/abi", "sentry/host"],
        "sentry/mm" => LEAF,
        "sentry/vfs" => &["sentry/mm", "sentry/abi", "sentry/host"],
        "sentry/fs-proc" | "sentry/fs-sys" | "sentry/fs-cgroup" => FS_KERNEL,
        // A devtmpfs is a filled tmpfs; terminals are the kernel's.
        "sentry/fs-dev" => {
            &["sentry/fs-tmpfs", "sentry/vfs", "sentry/mm", "sentry/kernel", "sentry/abi", "sentry/host"]
        }
        // Its writable layer keeps contents as a tmpfs does.
        "sentry/fs-overlay" => &["sentry/fs-tmpfs", "sentry/vfs", "sentry/mm", "sentry/abi", "sentry/host"],
        "sentry/fs-gofer" => &["sentry/vfs", "sentry/mm", "sentry/abi", "sentry/host", "gofer/protocol"],
        "sentry/netstack" => &["sentry/abi"],
        "sentry/egress" => &[],
        "sentry/bpf" => &["sentry/abi"],
        "sentry/net" => &[
            "sentry/netstack",
            "sentry/egress",
            "sentry/bpf",
            "sentry/vfs",
            "sentry/mm",
            "sentry/abi",
            "sentry/host",
        ],
        "sentry/kernel" => {
            &["sentry/vfs", "sentry/mm", "sentry/platform", "sentry/bpf", "sentry/abi", "sentry/host"]
        }
        "sentry/syscalls" => &[
            "sentry/kernel",
            "sentry/vfs",
            "sentry/mm",
            "sentry/net",
            "sentry/platform",
            "sentry/abi",
            "sentry/host",
        ],
        "sentry/boot" => &["sentry/*", "runtime/control", "gofer/protocol"],
        "gofer/server" => &["gofer/protocol"],
        "gofer/protocol" | "runtime/control" | "runtime/stand-in" => &[],
        "runtime/chitin" => &[
            "runtime/control",
            "gofer/server",
            "gofer/protocol",
            "sentry/boot",
            "sentry/host",
            "sentry/egress",
            "runtime/stand-in",
        ],
        "sentry/platform-host" => LEAF,
        // Guests live in host processes.
        "sentry/platform-seccomp" | "sentry/platform-ptrace" => {
            &["sentry/platform-host", "sentry/platform", "sentry/abi", "sentry/host"]
        }
        f if f.starts_with("sentry/platform-") => LEAF,
        f if f.starts_with("sentry/fs-") => FS,
        "tests/platform" => LEAF,
        "tests/harness" => &["tests/fuzz"],
        f if f.starts_with("tests/") => &[],
        f if f.starts_with("benches/") => &["tests/harness"],
        _ => panic!("{from} is in no layer; give it one here and in ARCHITECTURE.md"),
    }
}

fn edges() -> BTreeMap<String, BTreeSet<String>> {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version=1", "--offline"])
        .current_dir(repo())
        .output()
        .expect("cargo metadata runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let meta: Value = serde_json::from_slice(&out.stdout).expect("cargo metadata prints JSON");
    let folder = |p: &Value| -> Option<String> {
        let rel = Path::new(p.as_str()?).strip_prefix(repo()).ok()?;
        Some(rel.to_string_lossy().trim_end_matches("/Cargo.toml").to_owned())
    };
    let mut all = BTreeMap::new();
    for p in meta["packages"].as_array().expect("packages") {
        let deps = p["dependencies"].as_array().expect("dependencies").iter();
        let inner = deps.filter(|d| d["kind"] != "dev").filter_map(|d| folder(&d["path"])).collect();
        all.insert(folder(&p["manifest_path"]).expect("a member lies in the repository"), inner);
    }
    all
}

#[test]
fn only_allowed_edges() {
    let edges = edges();
    assert!(edges.len() > 15, "the workspace's members were found: {}", edges.len());
    let mut bad = Vec::new();
    for (from, deps) in &edges {
        let may = allowed(from);
        for to in deps {
            let fits = |m: &&str| m.strip_suffix('*').map_or(*m == to.as_str(), |p| to.starts_with(p));
            if !may.iter().any(fits) {
                bad.push(format!("{from} must not depend on {to}"));
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for e in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let p = e.path();
        let name = e.file_name().to_string_lossy().into_owned();
        if p.is_dir() && !name.starts_with('.') && name != "target" {
            sources(&p, out);
        } else if name.ends_with(".rs") || name.ends_with(".c") {
            out.push(p);
        }
    }
}

fn all_sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    sources(&repo(), &mut files);
    assert!(files.len() > 50, "sources were found: {}", files.len());
    let rel = |p: &Path| p.strip_prefix(repo()).expect("inside").to_string_lossy().into_owned();
    files.iter().map(|p| (rel(p), std::fs::read_to_string(p).unwrap_or_default())).collect()
}

#[test]
fn files_stay_short() {
    let long = |(f, t): &(String, String)| Some((f.clone(), t.lines().count())).filter(|(_, n)| *n > 800);
    let bad: Vec<_> = all_sources().iter().filter_map(long).collect();
    assert!(bad.is_empty(), "over 800 lines, split them: {bad:?}");
}

#[test]
fn modules_say_what_they_are() {
    // Included tables cannot hold inner doc comments, and `tests.rs` belongs to the module beside it.
    let silent = |(f, t): &(String, String)| {
        f.ends_with(".rs") && !f.ends_with("/tests.rs") && !t.trim_start().starts_with("//")
    };
    let bad: Vec<_> = all_sources().into_iter().filter(silent).map(|(f, _)| f).collect();
    assert!(bad.is_empty(), "no module comment at the top: {bad:?}");
}

#[test]
fn hostile_data_cannot_panic() {
    let lints = ["unwrap_used", "expect_used", "panic", "unreachable", "indexing_slicing", "string_slice"];
    let mut seen = 0;
    for (f, text) in all_sources() {
        let crates = f.starts_with("sentry/") || f.starts_with("gofer/");
        if crates && f.ends_with("/src/lib.rs") && f.matches('/').count() == 3 {
            seen += 1;
            let head = text.split_once("deny(").map_or("", |(_, rest)| rest);
            let missing: Vec<_> = lints.iter().filter(|l| !head.contains(&format!("clippy::{l}"))).collect();
            assert!(missing.is_empty(), "{f} does not deny {missing:?}; copy the head of another crate");
        }
    }
    assert!(seen > 15, "the crates were found: {seen}");
}

#[test]
fn unsafe_only_where_allowed() {
    let home = |f: &str| {
        f.starts_with("sentry/host/")
            || f.starts_with("sentry/platform-")
            // Its guests are assembly, and it asks the host about them.
            || f.starts_with("tests/platform/")
            || f.starts_with("runtime/chitin/src/") && f.contains("/launch")
            || f == "runtime/chitin/src/network/packet.rs"
            // Without a C library, system calls are its own.
            || f.starts_with("runtime/stand-in/program/")
            || f.starts_with("gofer/server/src/host")
            // One function: descriptors that recvmsg(2) has just made become owned.
            || f == "gofer/protocol/src/transport.rs"
            // Its tests try what the filter must kill.
            || f == "sentry/boot/src/filter.rs"
            // A crate's own tests may call the host directly to compare with it; no sandbox runs that code.
            || (f.contains("/tests/") && !f.starts_with("tests/"))
    };
    let mut bad = Vec::new();
    for (f, text) in all_sources() {
        if home(&f) || !f.ends_with(".rs") || f.ends_with("tests/imports.rs") {
            continue;
        }
        for (n, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let opens = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "allow(unsafe_code)"];
            if opens.iter().any(|o| code.contains(o)) {
                bad.push(format!("{f}:{}: {}", n + 1, line.trim()));
            }
        }
    }
    assert!(bad.is_empty(), "unsafe outside its crates:\n{}", bad.join("\n"));
}

/// `docs/MUSTS.md` names tests that exist, in the files it says, and every test of the two files that are made for it.
#[test]
fn the_table_of_musts_names_tests() {
    let doc = std::fs::read_to_string(repo().join("docs/MUSTS.md")).expect("docs/MUSTS.md");
    let sources = all_sources();
    let tests = |file: &str| -> BTreeSet<String> {
        let found = sources.iter().filter(|(f, _)| f.ends_with(&format!("/{file}")));
        let texts: Vec<&str> = found.map(|(_, text)| text.as_str()).collect();
        let marked = texts.iter().flat_map(|text| text.split("#[test]\n").skip(1));
        let functions = marked.filter_map(|rest| rest.trim_start().strip_prefix("fn ")?.split('(').next());
        functions.map(str::to_owned).collect()
    };
    let own: BTreeSet<String> =
        tests("spec_musts.rs").union(&tests("spec_musts_linux.rs")).cloned().collect();
    assert!(own.len() > 50, "{own:?}");
    let (mut listed, mut bad) = (BTreeSet::new(), Vec::new());
    for line in doc.lines().filter(|l| l.starts_with("| ") && !l.ends_with("| test |")) {
        let cell = line.trim_end_matches([' ', '|']).rsplit(" | ").next().unwrap_or_default();
        let mut there = own.clone();
        let names: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        if names.is_empty() {
            bad.push(format!("no test: {line}"));
        }
        for name in names {
            if name.ends_with(".rs") {
                there = tests(name);
            } else if there.contains(name) {
                listed.insert(name.to_owned());
            } else {
                bad.push(format!("{name} is no test: {line}"));
            }
        }
    }
    bad.extend(own.difference(&listed).map(|name| format!("{name} is not listed")));
    assert!(bad.is_empty(), "docs/MUSTS.md:\n{}", bad.join("\n"));
}
