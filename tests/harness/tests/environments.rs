//! Bad environments, in real runs: what an outer container's seccomp profile, yama or /dev/kvm keep from us is told with cause
//! and remedy in one line, or `auto` falls back. `outer_filter.py` plays the outer container; what yama's scopes 2 and 3
//! forbid it forbids alike, since few machines let a test change them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use chitin_tests::engine::Engine;
use chitin_tests::run::{self, Outcome};
use chitin_tests::{paths, skip};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);

/// `chitin ARGS` as `wrap` has it run, with its state in a directory of its own.
fn chitin(wrap: &[&str], args: &[&str]) -> Outcome {
    let dir = paths::scratch("environments");
    let mut words: Vec<String> = wrap.iter().map(|w| (*w).to_owned()).collect();
    words.extend([paths::chitin().to_string_lossy().into_owned(), "--root".into()]);
    words.push(dir.join("state").to_string_lossy().into_owned());
    words.extend(args.iter().map(|a| (*a).to_owned()));
    let mut c = Command::new(&words[0]);
    c.args(&words[1..]);
    run::run(c, b"", &dir, LIMIT)
}

/// A guest under an outer filter, on a platform.
fn under(filter: &str, platform: &str) -> Outcome {
    let script = paths::repo().join("tests/harness/outer_filter.py").to_string_lossy().into_owned();
    let rootfs = paths::rootfs("busybox").to_string_lossy().into_owned();
    let platform = format!("--platform={platform}");
    chitin(&["python3", &script, filter], &[&platform, "do", "--rootfs", &rootfs, "--", "echo", "it works"])
}

fn works(o: &Outcome) {
    assert!(o.code == Some(0) && o.text() == "it works\n", "{}", o.brief());
}

/// Fails with one line that has all of `words`.
fn fails(o: &Outcome, words: &[&str]) {
    assert!(o.code.is_some_and(|c| c != 0), "{}", o.brief());
    let line = o.stderr.trim();
    assert_eq!(line.lines().count(), 1, "{}", o.brief());
    for word in words {
        assert!(line.contains(word), "no {word:?} in {line}");
    }
}

fn can() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if Engine::under_test() != Engine::Chitin || !root || !run::have("python3") {
        skip("environments", "needs chitin as the engine, root and python3");
        return false;
    }
    true
}

fn kvm_opens() -> bool {
    let opens = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    if !opens {
        skip("environments: kvm", "/dev/kvm cannot be opened here");
    }
    opens
}

#[test]
fn a_listener_of_an_outer_container() {
    if !can() {
        return;
    }
    works(&under("listener", "auto"));
    works(&under("listener", "ptrace"));
    fails(
        &under("listener", "seccomp"),
        &["platform seccomp", "another seccomp user-notify listener", "--platform=ptrace"],
    );
}

#[test]
fn an_outer_profile_without_user_notification() {
    if !can() {
        return;
    }
    works(&under("no-listener", "auto"));
    fails(
        &under("no-listener", "seccomp"),
        &["platform seccomp", "outer container", "seccomp=unconfined", "--platform=ptrace"],
    );
}

/// `auto` avoids seccomp where an outer filter would answer guests in our place; who asks for it gets it.
#[test]
fn an_outer_filter_as_such() {
    if !can() {
        return;
    }
    works(&under("plain", "auto"));
    works(&under("plain", "seccomp"));
    let script = paths::repo().join("tests/harness/outer_filter.py").to_string_lossy().into_owned();
    let doctor = chitin(&["python3", &script, "plain"], &["doctor", "--json"]);
    let doctor: Value = serde_json::from_str(&doctor.text()).expect("doctor prints JSON");
    let seccomp = doctor["checks"]
        .as_array()
        .expect("checks")
        .iter()
        .find(|c| c["name"] == "seccomp" && c["group"] == "kernel");
    let seccomp = seccomp.expect("a check of seccomp");
    assert!(seccomp["status"] == "limited" && seccomp["remedy"].is_string(), "{seccomp}");
}

#[test]
fn no_tracing() {
    if !can() {
        return;
    }
    works(&under("no-ptrace", "seccomp"));
    fails(
        &under("no-ptrace", "ptrace"),
        &["platform ptrace", "ptrace_scope", "SYS_PTRACE", "--platform=seccomp"],
    );
}

/// Without another process's memory nothing can be done; `auto` tells what each platform lacks.
#[test]
fn no_access_to_memory() {
    if !can() {
        return;
    }
    for platform in ["seccomp", "ptrace", "auto"] {
        fails(
            &under("no-memory", platform),
            &["reading a guest's memory", "ptrace_scope", "process_vm_readv", "seccomp=unconfined"],
        );
    }
    if kvm_opens() {
        fails(&under("no-memory", "kvm"), &["platform kvm", "process_vm_readv"]);
    }
}

#[test]
fn kvm_lacks_an_extension() {
    if !can() || !kvm_opens() {
        return;
    }
    // KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_SYNC_REGS.
    fails(&under("kvm-lacks-136", "kvm"), &["platform kvm", "KVM_CAP_IMMEDIATE_EXIT", "--platform=seccomp"]);
    fails(&under("kvm-lacks-74", "kvm"), &["platform kvm", "KVM_CAP_SYNC_REGS", "--platform=seccomp"]);
}

/// /dev/kvm that is not there, is something else, or belongs to others.
#[test]
fn no_kvm_device() {
    if !can() {
        return;
    }
    let kvm = |wrap: &[&str]| chitin(wrap, &["--platform=kvm", "do", "--", "true"]);
    // A /dev of its own, with nothing but what every program needs.
    let bare = "mkdir /tmp/dev-$$ && mount --rbind /dev /tmp/dev-$$ && mount -t tmpfs none /dev && \
                for n in null zero full random urandom tty; do touch /dev/$n && mount --bind /tmp/dev-$$/$n /dev/$n; done && \
                umount -l /tmp/dev-$$ && rmdir /tmp/dev-$$ && exec \"$@\"";
    let namespace =
        |script: &'static str| ["unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh"];
    fails(
        &kvm(&namespace(bare)),
        &["cannot open /dev/kvm", "No such file", "load kvm_intel or kvm_amd", "--platform=seccomp"],
    );
    if Path::new("/dev/kvm").exists() {
        let other = "mount --bind /dev/null /dev/kvm && exec \"$@\"";
        fails(&kvm(&namespace(other)), &["not KVM's device", "mknod", "--platform=seccomp"]);
        // CAP_DAC_OVERRIDE opens whatever the mode.
        let bare = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-all"];
        let closed = "mount -t tmpfs none /mnt && mknod /mnt/kvm c 10 232 && chmod 0 /mnt/kvm && \
                      mount --bind /mnt/kvm /dev/kvm && umount -l /mnt && exec \"$@\"";
        let wrap: Vec<&str> = namespace(closed).into_iter().chain(bare).collect();
        fails(
            &kvm(&wrap),
            &["cannot open /dev/kvm", "Permission denied", "usually kvm", "--platform=seccomp"],
        );
    }
}
