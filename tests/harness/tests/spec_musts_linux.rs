//! The MUSTs of the OCI runtime specification's `config-linux.md` and `runtime-linux.md`, one test each; each quotes what it
//! holds the runtime to. `CHITIN_TEST_ENGINE=runc|crun` proves them. Neighbour: `spec_musts.rs`.

use std::path::Path;

use chitin_tests::bundle::Bundle;
use chitin_tests::engine::Engine;
use chitin_tests::expect::judged;
use chitin_tests::leftovers::{cgroups, settle};
use chitin_tests::paths;
use chitin_tests::run::Outcome;
use chitin_tests::skip;
use chitin_tests::steps::{LIMIT, Steps};
use serde_json::{Value, json};

fn busybox(script: &str) -> Bundle {
    Bundle::new("linux", &paths::rootfs("busybox"), &["/bin/sh", "-c", script])
}

fn run(b: &Bundle) -> Outcome {
    Engine::under_test().run(b, b"", LIMIT)
}

fn says(b: &Bundle, want: &str) {
    let o = run(b);
    assert_eq!(o.text(), want, "{}", o.brief());
}

fn fails(b: &Bundle) {
    let o = run(b);
    assert!(o.code.is_some_and(|c| c != 0) && !o.stderr.trim().is_empty(), "must be refused: {}", o.brief());
}

/// "The following filesystems SHOULD be made available in each container's filesystem: /proc proc, /sys sysfs, /dev/pts
/// devpts, /dev/shm tmpfs" — as config.json lists them.
#[test]
fn default_filesystems() {
    says(
        &busybox("awk '$2 ~ \"^(/proc|/sys|/dev/pts|/dev/shm)$\" { print $2, $3 }' /proc/mounts | sort"),
        "/dev/pts devpts\n/dev/shm tmpfs\n/proc proc\n/sys sysfs\n",
    );
}

/// "In addition to any devices configured with this setting, the runtime MUST also supply: /dev/null /dev/zero /dev/full
/// /dev/random /dev/urandom /dev/tty … /dev/ptmx" (and /dev/console "if terminal is enabled").
#[test]
fn default_devices() {
    let script = "for d in null zero full random urandom tty; do [ -c /dev/$d ] && stat -c '%n %t:%T %a' /dev/$d; done; \
                  [ -e /dev/ptmx ] && echo ptmx; head -c 3 /dev/zero | od -An -tx1; echo x >/dev/null && echo null; \
                  head -c 16 /dev/urandom | wc -c; echo x >/dev/full || echo full";
    says(
        &busybox(script),
        "/dev/null 1:3 666\n/dev/zero 1:5 666\n/dev/full 1:7 666\n/dev/random 1:8 666\n/dev/urandom 1:9 666\n/dev/tty 5:0 666\nptmx\n 00 00 00\nnull\n16\nfull\n",
    );
}

/// "Dev symbolic links: the runtime MUST create /dev/fd → /proc/self/fd, /dev/stdin, /dev/stdout, /dev/stderr".
#[test]
fn default_symlinks() {
    says(
        &busybox("for l in fd stdin stdout stderr; do readlink /dev/$l; done"),
        "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\n",
    );
}

/// "devices … lists devices that MUST be available in the container", with "fileMode", "uid", "gid".
#[test]
fn devices_are_made() {
    let list = json!([
        { "path": "/dev/mynull", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 7, "gid": 8 },
        { "path": "/dev/deep/zero", "type": "c", "major": 1, "minor": 5 },
        { "path": "/dev/afifo", "type": "p", "fileMode": 0o600 },
    ]);
    let script = "stat -c '%n %t:%T %a %u %g' /dev/mynull; echo x >/dev/mynull && echo written; head -c 2 /dev/deep/zero | od -An -tx1; \
                  [ -p /dev/afifo ] && echo fifo";
    says(&busybox(script).set("/linux/devices", list), "/dev/mynull 1:3 640 7 8\nwritten\n 00 00\nfifo\n");
}

/// "If path is not specified, the runtime MUST create a new container namespace of type type."
#[test]
fn namespaces_listed_are_new() {
    let s = Steps::new(busybox("hostname; sleep 100"));
    s.create();
    let pid = s.state()["pid"].as_i64().unwrap_or(0);
    for n in ["pid", "uts", "ipc", "mnt", "net"] {
        let (own, its) = (
            std::fs::read_link(format!("/proc/self/ns/{n}")),
            std::fs::read_link(format!("/proc/{pid}/ns/{n}")),
        );
        assert_ne!(own.unwrap(), its.unwrap(), "{n}");
    }
}

/// "If a namespace type is not specified in the namespaces array, the container MUST inherit the runtime namespace of that type."
#[test]
fn namespaces_unlisted_are_inherited() {
    let list = json!([{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "network" }]);
    let mut b = busybox("hostname").set("/linux/namespaces", list);
    b.config.as_object_mut().expect("an object").remove("hostname");
    let own = nix::unistd::gethostname().expect("gethostname");
    says(&b, &format!("{}\n", own.to_string_lossy()));
}

/// "If a namespaces field contains duplicated namespaces with same type, the runtime MUST generate an error."
#[test]
fn namespaces_are_listed_once() {
    if Engine::under_test() == Engine::Crun {
        return skip("namespaces_are_listed_once (crun)", "crun 1.8 lets duplicates pass");
    }
    let list = json!([{ "type": "pid" }, { "type": "mount" }, { "type": "uts" }, { "type": "ipc" }, { "type": "network" }, { "type": "pid" }]);
    fails(&busybox("true").set("/linux/namespaces", list));
}

/// "path … The runtime MUST generate an error if path is not associated with a namespace of type type."
#[test]
fn a_namespace_path_must_be_one() {
    for path in ["/proc/self/ns/uts", "/etc/passwd", "/no/such/path"] {
        let list = json!([{ "type": "pid" }, { "type": "mount" }, { "type": "uts" }, { "type": "ipc" }, { "type": "network", "path": path }]);
        fails(&busybox("true").set("/linux/namespaces", list));
    }
}

/// "path … The runtime MUST place the container process in the namespace associated with that path."
#[test]
fn a_network_namespace_is_joined() {
    if !nix::unistd::geteuid().is_root() {
        return skip("a_network_namespace_is_joined", "making a network namespace needs root");
    }
    let mut holder = std::process::Command::new("unshare")
        .args(["--net", "sh", "-c", "ip link set lo up; ip addr add 192.0.2.7/32 dev lo; echo up; exec cat"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("unshare");
    let mut line = String::new();
    let out = holder.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("its word");
    let path = format!("/proc/{}/ns/net", holder.id());
    let list = json!([{ "type": "pid" }, { "type": "mount" }, { "type": "uts" }, { "type": "ipc" }, { "type": "network", "path": path }]);
    let o = run(&busybox("ip addr show lo | grep -o 'inet [0-9.]*'").set("/linux/namespaces", list));
    drop(holder.stdin.take());
    let _ = holder.wait();
    judged("musts.toml", "a_network_namespace_is_joined", || {
        assert!(o.text().contains("inet 192.0.2.7"), "{}", o.brief());
    });
}

/// "If a file already exists at path that does not match the requested device, the runtime MUST generate an error. The path MAY
/// be anywhere in the container filesystem, notably outside of /dev."
#[test]
fn devices_anywhere_but_over_files() {
    let node = |path: &str| json!([{ "path": path, "type": "c", "major": 1, "minor": 3, "fileMode": 0o640 }]);
    let script = "stat -c '%n %t:%T %a' /opt/deep/null; echo x >/opt/deep/null && echo written";
    says(&busybox(script).set("/linux/devices", node("/opt/deep/null")), "/opt/deep/null 1:3 640\nwritten\n");
    if Engine::under_test() == Engine::Chitin {
        // runc and crun take what is there for the device.
        fails(&busybox("true").set("/linux/devices", node("/etc/passwd")));
        fails(&busybox("true").set("/linux/devices", node("/proc/version")));
    }
}

/// "cgroupsPath … If the value is specified, the runtime MUST consistently attach to the same place in the cgroups hierarchy
/// given the same value of cgroupsPath. … the runtime MUST take [an absolute] path to be relative to the cgroups mount point."
#[test]
fn cgroups_path_is_the_place() {
    let name = chitin_tests::engine::unique_id();
    let mut b = busybox("sleep 100");
    b.config["linux"]["cgroupsPath"] = json!(format!("/chitin-musts/{name}"));
    for _ in 0..2 {
        let s = Steps::new(b.clone());
        let o = s.try_create();
        if o.code != Some(0) && o.stderr.contains("cgroup") && s.engine != Engine::Chitin {
            return skip(
                "cgroups_path_is_the_place",
                &format!("{} cannot make cgroups here", s.engine.name()),
            );
        }
        assert_eq!(o.code, Some(0), "{}", o.brief());
        let pid = s.state()["pid"].as_i64().unwrap_or(0);
        let there = cgroups(&name);
        assert!(!there.is_empty(), "no cgroup {name}");
        assert!(there.iter().all(|g| g.ends_with(format!("chitin-musts/{name}"))), "{there:?}");
        let at = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        assert!(at.contains(&format!("/chitin-musts/{name}")), "the container's process is at {at}");
        s.ok(&["delete", "--force", &s.id]);
        settle(LIMIT, || match cgroups(&name) {
            left if left.is_empty() => Ok(()),
            left => Err(format!("cgroups left: {left:?}")),
        })
        .unwrap();
    }
    for parent in cgroups("chitin-musts") {
        let _ = std::fs::remove_dir(parent);
    }
}

/// "sysctl … allows kernel parameters to be modified at runtime for the container."
#[test]
fn sysctls_hold() {
    let b = busybox("cat /proc/sys/net/core/somaxconn /proc/sys/kernel/msgmax");
    says(
        &b.set("/linux/sysctl", json!({ "net.core.somaxconn": "256", "kernel.msgmax": "65536" })),
        "256\n65536\n",
    );
    // Of the host, and no namespace keeps it apart.
    fails(&busybox("true").set("/linux/sysctl", json!({ "kernel.panic": "7" })));
}

/// "maskedPaths … will mask over the provided paths inside the container so that they cannot be read."
#[test]
fn masked_paths_cannot_be_read() {
    let b = busybox("cat /etc/passwd | wc -c; ls /root /var | head -5; cat /proc/meminfo | wc -c; cat /etc/group | head -1")
        .set("/linux/maskedPaths", json!(["/etc/passwd", "/var", "/proc/meminfo", "/no/such/path"]));
    says(&b, "0\n/root:\n\n/var:\n0\nroot:x:0:\n");
}

/// "readonlyPaths … will set the provided paths as readonly inside the container."
#[test]
fn read_only_paths_are_not_written() {
    let b = busybox("for p in /var/x /proc/sys/kernel/hostname /etc/x; do (echo y >$p) 2>/dev/null && echo $p written || echo $p refused; done")
        .set("/linux/readonlyPaths", json!(["/var", "/proc/sys", "/no/such/path"]));
    says(&b, "/var/x refused\n/proc/sys/kernel/hostname refused\n/etc/x written\n");
}

/// "rootfsPropagation … sets the rootfs's mount propagation. Its value is either shared, slave, private or unbindable."
#[test]
fn rootfs_propagation() {
    let b = |p: &str| {
        busybox(
            "awk '$5 == \"/\" { print $7, $8 }' /proc/self/mountinfo | grep -o 'shared\\|master\\|unbindable' || echo private",
        )
        .set("/linux/rootfsPropagation", json!(p))
    };
    says(&b("private"), "private\n");
    if Engine::under_test() == Engine::Crun {
        says(&b("shared"), "shared\n");
    } else {
        // In runc the host's mount decides as well; chitin warns that mounts never pass between host and sandbox.
        assert!(run(&b("slave")).code == Some(0) && run(&b("shared")).code == Some(0));
        fails(&b("nonsense")); // crun 1.8 takes it for nothing
    }
}

/// Mount options "ro", "nosuid", "nodev", "noexec", "noatime", "bind", "rbind", "size=" … "MUST be supported".
#[test]
fn mount_options() {
    let dir = paths::scratch("options");
    std::fs::write(dir.join("prog"), "#!/bin/sh\necho ran\n").unwrap();
    std::fs::set_permissions(dir.join("prog"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut b = busybox(
        "grep -E ' /(t|b) ' /proc/mounts | while read s m t o r; do for x in ro rw nosuid nodev noexec noatime; do \
         case ,$o, in *,$x,*) echo $m $x;; esac; done; done; stat -c %a /t; echo x 2>/dev/null >/b/new || echo refused; \
         /b/prog 2>/dev/null || echo noexec; dd if=/dev/zero of=/t/f bs=1k count=2000 2>/dev/null || echo full",
    );
    for m in [
        json!({ "destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "noatime", "mode=0711", "size=1m"] }),
        json!({ "destination": "/b", "type": "bind", "source": dir, "options": ["bind", "ro", "noexec", "nosuid"] }),
    ] {
        b.config["mounts"].as_array_mut().expect("mounts").push(m);
    }
    says(
        &b,
        "/t rw\n/t nosuid\n/t nodev\n/t noatime\n/b ro\n/b nosuid\n/b noexec\n711\nrefused\nnoexec\nfull\n",
    );
}

/// config.md: "Runtimes MUST/SHOULD/MAY implement the following option strings for Linux".
#[test]
fn every_option_that_must_be_there() {
    // With what mount(8) shows of them.
    let options = [
        ("async", "rw"),
        ("atime", "rw"),
        ("defaults", "rw"),
        ("dev", "rw"),
        ("diratime", "rw"),
        ("dirsync", "rw"),
        ("exec", "rw"),
        ("iversion", "rw"),
        ("lazytime", "rw"),
        ("loud", "rw"),
        ("noatime", "noatime"),
        ("nodev", "nodev"),
        ("nodiratime", "nodiratime"),
        ("noexec", "noexec"),
        ("noiversion", "rw"),
        ("nolazytime", "rw"),
        ("norelatime", "rw"),
        ("nostrictatime", "rw"),
        ("nosuid", "nosuid"),
        ("private", "rw"),
        ("relatime", "relatime"),
        ("ro", "ro"),
        ("rprivate", "rw"),
        ("rshared", "rw"),
        ("rslave", "rw"),
        ("runbindable", "rw"),
        ("rw", "rw"),
        ("shared", "rw"),
        ("silent", "rw"),
        ("slave", "rw"),
        ("strictatime", "rw"),
        ("suid", "rw"),
        ("sync", "rw"),
        ("unbindable", "rw"),
    ];
    let script = "while read s m t o r; do case $m in /o/*) echo \"${m#/o/} $o\";; esac; done </proc/mounts";
    let mut b = busybox(script);
    // What runc 1.1 and crun 1.8 take for the file system's.
    let known = |name: &str| match Engine::under_test() {
        Engine::Runc => name != "defaults",
        Engine::Crun => !["iversion", "noiversion", "loud", "silent"].contains(&name),
        Engine::Chitin => true,
    };
    let options = options.into_iter().filter(|(name, _)| known(name));
    for (name, _) in options.clone() {
        let at = format!("/o/{name}");
        let mount = json!({ "destination": at, "type": "tmpfs", "source": "tmpfs", "options": [name] });
        b.config["mounts"].as_array_mut().expect("mounts").push(mount);
    }
    let o = run(&b);
    assert_eq!(o.code, Some(0), "{}", o.brief());
    let text = o.text();
    for (name, shown) in options {
        let line = text.lines().find_map(|l| l.strip_prefix(&format!("{name} ")));
        let found = line.is_some_and(|l| l.split(',').any(|o| o == shown));
        assert!(found, "{name}: {line:?}, want {shown}");
    }
}

/// config.md, of the same table: "remount", and "bind" with it: other flags for what is mounted.
#[test]
fn remounts_change_flags() {
    let dir = paths::scratch("remount");
    let mut b = busybox("touch /b/x 2>/dev/null && echo written || echo refused").bind(&dir, "/b", &["rw"]);
    let again =
        json!({ "destination": "/b", "type": "bind", "source": dir, "options": ["bind", "remount", "ro"] });
    b.config["mounts"].as_array_mut().expect("mounts").push(again);
    says(&b, "refused\n");
}

/// config.md: "tmpcopyup: MAY copy up the contents to a tmpfs".
#[test]
fn a_tmpfs_begins_with_what_it_covers() {
    let script = "cat /etc/passwd | wc -l; stat -c %u /etc; stat -c '%a' /etc/passwd; echo more >>/etc/passwd && tail -1 /etc/passwd; \
                  grep ' /etc ' /proc/mounts | cut -d' ' -f3";
    let lines =
        std::fs::read_to_string(paths::rootfs("busybox").join("etc/passwd")).expect("passwd").lines().count();
    let mut b = busybox(script);
    let mount =
        json!({ "destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["rw", "tmpcopyup"] });
    b.config["mounts"].as_array_mut().expect("mounts").push(mount);
    says(&b, &format!("{lines}\n0\n644\nmore\ntmpfs\n"));
    if Engine::under_test() != Engine::Crun {
        // crun 1.8 leaves the tmpfs its own mode.
        b.config["process"]["args"] = json!(["/bin/stat", "-c", "%a", "/etc"]);
        says(&b, "755\n");
    }
}

/// config.md: "If there are no uidMappings and gidMappings specified and the container isn't using user namespaces, an error
/// MUST be returned" for the option idmap; and both kinds "MUST be specified along with" the other.
#[test]
fn id_mapped_mounts_need_mappings() {
    if Engine::under_test() != Engine::Chitin {
        return skip("id_mapped_mounts_need_mappings", "runc 1.1 and crun 1.8 do not know it so");
    }
    let dir = paths::scratch("idmap");
    fails(&busybox("true").bind(&dir, "/m", &["idmap"]));
    let mut b = busybox("true").bind(&dir, "/m", &[]);
    let last = b.config["mounts"].as_array_mut().and_then(|m| m.last_mut()).expect("mounts");
    last["uidMappings"] = json!([{ "containerID": 0, "hostID": 1000, "size": 10 }]);
    fails(&b);
}

/// A bind mount of one file; its destination is made when it is missing ("the runtime MUST create the destination").
#[test]
fn a_file_is_bound() {
    let dir = paths::scratch("file");
    std::fs::write(dir.join("f"), "bound\n").unwrap();
    says(
        &busybox("cat /new/dir/file; echo more >>/new/dir/file").bind(&dir.join("f"), "/new/dir/file", &[]),
        "bound\n",
    );
    assert_eq!(std::fs::read_to_string(dir.join("f")).unwrap(), "bound\nmore\n");
}

/// "A destination that climbs out": paths are resolved inside the root, whatever links the root file system holds.
#[test]
fn destinations_stay_inside() {
    let dir = paths::scratch("inside");
    let mark = paths::scratch("outside");
    std::fs::write(dir.join("f"), "inside\n").unwrap();
    let to = format!("/../../../../../..{}", mark.display());
    says(&busybox(&format!("cat {}/f", mark.display())).bind(&dir, &to, &[]), "inside\n");
    assert!(!mark.join("f").exists(), "the host's directory has changed");
}

/// "seccomp … defaultAction … syscalls … names, action, errnoRet, args": applied to the container's process.
#[test]
fn seccomp_filters_apply() {
    let filter = |rules: Value| json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": rules });
    let b =
        busybox("mkdir /tmp/x 2>&1; chmod 755 /tmp; echo $?; grep Seccomp: /proc/self/status | tr -d '\\t'");
    let b = b.set("/process/noNewPrivileges", json!(true));
    let rules = json!([{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 }]);
    says(
        &b.clone().set("/linux/seccomp", filter(rules)),
        "mkdir: can't create directory '/tmp/x': No space left on device\n0\nSeccomp:2\n",
    );
    // By argument: chmod to 0700 is refused, to others not.
    let rules = json!([{ "names": ["chmod", "fchmodat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [{ "index": 1, "value": 448, "op": "SCMP_CMP_EQ" }] }]);
    let b = busybox("chmod 700 /tmp 2>/dev/null; echo $?; chmod 755 /tmp; echo $?")
        .set("/process/noNewPrivileges", json!(true));
    says(&b.set("/linux/seccomp", filter(rules)), "1\n0\n");
    let rules = json!([{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS" }]);
    let b = busybox("mkdir /tmp/x; echo $?").set("/process/noNewPrivileges", json!(true));
    says(&b.set("/linux/seccomp", filter(rules)), "159\n");
}

/// "When the action doesn't support an errno, the runtime MUST print an error and fail"; "names MUST contain at least one entry".
#[test]
fn seccomp_rules_that_make_no_sense() {
    if Engine::under_test() == Engine::Runc {
        return skip("seccomp_rules_that_make_no_sense", "runc 1.1 ignores such errnos");
    }
    let with = |rule: Value| {
        busybox("true")
            .set("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] }))
    };
    fails(&with(json!({ "names": ["getcwd"], "action": "SCMP_ACT_KILL", "errnoRet": 1 })));
    if Engine::under_test() == Engine::Chitin {
        // crun 1.8 finds nothing to do.
        fails(&with(json!({ "names": [], "action": "SCMP_ACT_ERRNO" })));
    }
}

/// "personality … domain (string, REQUIRED) … LINUX32: uname returns a 32 bit CPU type".
#[test]
fn personality() {
    if Engine::under_test() == Engine::Runc {
        return skip("personality (runc)", "runc 1.1 does not know it");
    }
    let b = busybox("uname -m");
    says(&b.clone(), "x86_64\n");
    says(&b.set("/linux/personality", json!({ "domain": "LINUX32" })), "i686\n");
}

/// "resources … memory.limit … pids.limit … cpu": the container's processes are bound by them.
#[test]
fn resources_bind() {
    let s = Steps::new(
        busybox("sleep 100")
            .set("/linux/resources", json!({ "pids": { "limit": 40 }, "memory": { "limit": 67_108_864 } })),
    );
    let o = s.try_create();
    if o.code != Some(0) && s.engine != Engine::Chitin {
        return skip(
            "resources_bind",
            &format!("{} cannot limit here: {}", s.engine.name(), o.stderr.trim()),
        );
    }
    assert_eq!(o.code, Some(0), "{}", o.brief());
    let read = |files: [&str; 2]| {
        let of = |g: &std::path::PathBuf| files.iter().find_map(|f| std::fs::read_to_string(g.join(f)).ok());
        cgroups(&s.id).iter().find_map(of).map(|v| v.trim().to_owned())
    };
    let memory = read(["memory.limit_in_bytes", "memory.max"]);
    if memory.is_none() && !Path::new("/sys/fs/cgroup/memory").exists() {
        return skip("resources_bind", "no memory controller here");
    }
    assert_eq!(memory.as_deref(), Some("67108864"));
    // A sandbox's own processes count too, so chitin may allow more; never fewer than asked for, and never no limit.
    let pids = read(["pids.max", "pids.max"]).and_then(|v| v.parse::<u64>().ok());
    assert!(pids.is_some_and(|p| (40..=1000).contains(&p)), "{pids:?}");
}

/// "uidMappings … hostID, containerID, size" with a user namespace: ids inside are mapped (more of it in `ids.rs`).
#[test]
fn user_namespaces_map_ids() {
    let mut b = busybox("id -u; cat /proc/self/uid_map | awk '{ print $1, $2, $3 }'");
    b.config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({ "type": "user" }));
    let map = json!([{ "containerID": 0, "hostID": 0, "size": 65536 }]);
    let b = b.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    says(&b, "0\n0 0 65536\n");
}

/// "timeOffsets": clocks of a time namespace are ahead by them; without the namespace they cannot be applied.
#[test]
fn time_offsets_are_applied() {
    if Engine::under_test() != Engine::Chitin {
        return skip("time_offsets", "runc 1.1 and crun 1.8 do not know them");
    }
    let offsets = json!({ "boottime": { "secs": 1_000_000_000, "nanosecs": 0 } });
    let mut b = busybox("[ $(cut -d. -f1 /proc/uptime) -gt 999999999 ] && echo ahead");
    fails(&b.clone().set("/linux/timeOffsets", offsets.clone()));
    b.config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({ "type": "time" }));
    says(&b.set("/linux/timeOffsets", offsets), "ahead\n");
}
