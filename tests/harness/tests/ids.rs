//! Ids and clocks of configurations: user namespaces that map to other host ids, id-mapped mounts, time offsets, and guests'
//! own user namespaces as Debian's tools make them.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use chitin_tests::bundle::Bundle;
use chitin_tests::engine::{Engine, unique_id};
use chitin_tests::steps::Steps;
use chitin_tests::{paths, skip};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const FIRST: u32 = 100_000;

fn root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skip(test, "needs root to map other users' ids");
    }
    root
}

/// A directory of the test's own that everybody can search.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        let dir = std::env::temp_dir().join(format!("chitin-ids-{}", unique_id()));
        std::fs::create_dir(&dir).expect("the temporary directory is writable");
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o755)).expect("own directory");
        Dir(dir)
    }
    fn file(&self, name: &str, owner: u32, mode: u32) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, name).expect("own directory");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("own file");
        chown(&path, Some(owner), Some(owner)).expect("root");
        path
    }
    /// busybox, owned by a user.
    fn rootfs(&self, owner: u32) -> PathBuf {
        let to = self.0.join("rootfs");
        let copied = Command::new("cp").arg("-a").arg(paths::rootfs("busybox")).arg(&to).status();
        assert!(copied.is_ok_and(|s| s.success()), "cp");
        // Runtimes that make mount points would be root of an overlay that is not theirs.
        let _ = std::fs::create_dir(to.join("data"));
        let own = Command::new("chown").args(["-hR", &format!("{owner}:{owner}")]).arg(&to).status();
        assert!(own.is_ok_and(|s| s.success()), "chown");
        to
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn owner(path: &Path) -> (u32, u32) {
    let m = std::fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    (m.uid(), m.gid())
}

fn map(host: u32, size: u32) -> Value {
    json!([{ "containerID": 0, "hostID": host, "size": size }])
}

fn with_users(mut b: Bundle, map: &Value) -> Bundle {
    b.config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({ "type": "user" }));
    b.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map.clone())
}

fn mapped(dir: &Dir, script: &str) -> Bundle {
    let data = dir.0.join("data");
    std::fs::create_dir_all(&data).expect("own directory");
    chown(&data, Some(FIRST), Some(FIRST)).expect("root");
    let b = Bundle::new("ids", &dir.rootfs(FIRST), &["/bin/sh", "-c", script]).bind(&data, "/data", &[]);
    with_users(b, &map(FIRST, 65536))
}

#[test]
fn files_belong_to_the_hosts_ids() {
    if !root("files_belong_to_the_hosts_ids") {
        return;
    }
    let d = Dir::new();
    let b = mapped(
        &d,
        "id -u; echo $(cat /proc/self/uid_map); touch /data/mine; chown 7:8 /data/mine; stat -c %u:%g /data/mine /data/other \
         /data/hosts; cat /data/hosts; (echo x >/data/hosts) 2>/dev/null || echo kept; chown 0 /data/hosts 2>/dev/null || echo kept; \
         chmod 600 /data/other; mkdir /data/dir; ln -s x /data/link; touch /root-file",
    );
    let file = |name: &str| d.0.join("data").join(name);
    d.file("data/other", FIRST + 5, 0o644);
    d.file("data/hosts", 0, 0o644);
    let o = Engine::under_test().run(&b, b"", LIMIT);
    assert_eq!(o.text(), "0\n0 100000 65536\n7:8\n5:5\n65534:65534\ndata/hostskept\nkept\n", "{}", o.brief());
    assert_eq!(o.code, Some(0), "{}", o.brief());
    assert_eq!(owner(&file("mine")), (FIRST + 7, FIRST + 8));
    assert_eq!(owner(&file("dir")), (FIRST, FIRST));
    assert_eq!(owner(&file("link")), (FIRST, FIRST));
    assert_eq!(owner(&file("hosts")), (0, 0));
}

#[test]
fn ids_end_where_the_map_ends() {
    if !root("ids_end_where_the_map_ends") {
        return;
    }
    let d = Dir::new();
    let script = "chown 70000 /data 2>/dev/null || echo no such id; mknod /data/null c 1 3 2>/dev/null || echo no device; \
                  cat /proc/self/setgroups; id -G";
    let mut b = mapped(&d, script);
    b.config["process"]["user"]["additionalGids"] = json!([5, 6]);
    let o = Engine::under_test().run(&b, b"", LIMIT);
    assert_eq!(o.text(), "no such id\nno device\nallow\n0 5 6\n", "{}", o.brief());
    for (field, id) in [("uid", json!(70_000)), ("gid", json!(70_000))] {
        let mut b = b.clone();
        b.config["process"]["user"][field] = id;
        let o = Engine::under_test().run(&b, b"", LIMIT);
        assert!(o.code != Some(0) && o.stdout.is_empty() && !o.stderr.is_empty(), "{field}: {}", o.brief());
    }
}

#[test]
fn exec_and_create_with_mapped_ids() {
    if !root("exec_and_create_with_mapped_ids") {
        return;
    }
    let d = Dir::new();
    let s = Steps::new(mapped(&d, "touch /data/made; sleep 100"));
    s.launch();
    let o = s.exec(&["--user", "5:6"], &["/bin/sh", "-c", "id -u; id -g; cat /proc/1/uid_map | wc -l"]);
    assert_eq!(o.text(), "5\n6\n1\n", "{}", o.brief());
    let o = s.exec(&["--user", "70000"], &["/bin/true"]);
    assert_ne!(o.code, Some(0), "{}", o.brief());
    chitin_tests::leftovers::settle(LIMIT, || {
        let made = d.0.join("data/made");
        if made.exists() { Ok(()) } else { Err("not yet".into()) }
    })
    .unwrap();
    assert_eq!(owner(&d.0.join("data/made")), (FIRST, FIRST));
}

#[test]
fn sources_that_only_root_reaches() {
    if Engine::under_test() != Engine::Chitin {
        return skip("sources_that_only_root_reaches", "runc 1.1 cannot bind them either");
    }
    if !root("sources_that_only_root_reaches") {
        return;
    }
    let d = Dir::new();
    let b = mapped(&d, "cat /secret/f");
    let hidden = d.0.join("hidden/deep");
    std::fs::create_dir_all(&hidden).expect("own directory");
    std::fs::set_permissions(d.0.join("hidden"), PermissionsExt::from_mode(0o700)).expect("own directory");
    d.file("hidden/deep/f", FIRST, 0o600);
    let o = Engine::under_test().run(&b.bind(&hidden, "/secret", &[]), b"", LIMIT);
    assert_eq!(o.text(), "hidden/deep/f", "{}", o.brief());
}

#[test]
fn id_mapped_mounts() {
    if Engine::under_test() != Engine::Chitin {
        return skip("id_mapped_mounts", "runc 1.1 and crun 1.8 do not know mounts[].uidMappings");
    }
    if !root("id_mapped_mounts") {
        return;
    }
    let d = Dir::new();
    let tree = d.0.join("tree");
    std::fs::create_dir(&tree).expect("own directory");
    let of_root = d.file("tree/of_root", 0, 0o600);
    d.file("tree/of_other", 5000, 0o644);
    let script = "stat -c %u:%g /m/of_root /m/of_other; cat /m/of_root; touch /m/new; chown 3:3 /m/new";
    // In a container with a user namespace: what root has on the disk is root's inside.
    let mut b = mapped(&d, script).bind(&tree, "/m", &["idmap"]);
    let o = Engine::under_test().run(&b, b"", LIMIT);
    if o.stderr.contains("file system that can be id-mapped") {
        return skip("id_mapped_mounts", "the temporary directory's file system cannot be id-mapped");
    }
    assert_eq!(o.text(), "0:0\n5000:5000\ntree/of_root", "{}", o.brief());
    assert_eq!((owner(&of_root), owner(&tree.join("new"))), ((0, 0), (3, 3)));
    // Without one, and with maps of the mount's own.
    std::fs::remove_file(tree.join("new")).expect("made above");
    b = Bundle::new(
        "ids",
        &paths::rootfs("busybox"),
        &["/bin/sh", "-c", "stat -c %u:%g /m/of_root; touch /m/new; stat -c %u /m/new"],
    )
    .bind(&tree, "/m", &[]);
    let last = b.config["mounts"].as_array_mut().and_then(|m| m.last_mut()).expect("a mount");
    last["uidMappings"] = map(2000, 10);
    last["gidMappings"] = map(3000, 10);
    let o = Engine::under_test().run(&b, b"", LIMIT);
    // Root's own id is none that the mount knows, so root makes nothing there.
    assert!(o.text().starts_with("2000:3000\n"), "{}", o.brief());
    assert!(!tree.join("new").exists(), "{}", o.brief());
}

#[test]
fn clocks_are_offset() {
    if Engine::under_test() != Engine::Chitin {
        return skip("clocks_are_offset", "runc 1.1 and crun 1.8 do not know linux.timeOffsets");
    }
    let script = "cut -d. -f1 /proc/uptime; cat /proc/self/timens_offsets | awk '{ print $1, $2, $3 }'";
    let mut b = Bundle::new("ids", &paths::rootfs("busybox"), &["/bin/sh", "-c", script]);
    b.config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({ "type": "time" }));
    let offsets =
        json!({ "boottime": { "secs": 1_000_000_000 }, "monotonic": { "secs": -5, "nanosecs": 500 } });
    let o = Engine::under_test().run(&b.set("/linux/timeOffsets", offsets), b"", LIMIT);
    let text = o.text();
    let (uptime, rest) = text.split_once('\n').unwrap_or_default();
    assert!(
        uptime.parse::<u64>().is_ok_and(|s| (1_000_000_000..1_000_010_000).contains(&s)),
        "{}",
        o.brief()
    );
    assert_eq!(rest, "monotonic -5 500\nboottime 1000000000 0\n", "{}", o.brief());
}

/// Debian's tools in a container of the sandbox.
fn debian(script: &str, caps: &[&str]) -> Bundle {
    let mut b = Bundle::new("ids", &paths::rootfs("bookworm"), &["/bin/bash", "-c", script]).tmpfs("/tmp");
    for cap in caps {
        b = b.capability(cap);
    }
    b
}

#[test]
fn unshare_as_an_ordinary_user() {
    let script = "unshare -Ur sh -c 'id -u; echo $(cat /proc/self/uid_map); cat /proc/self/setgroups'; \
                  unshare -Urm sh -c 'mount -t tmpfs x /mnt && touch /mnt/f && ls /mnt && stat -c %u /mnt/f'; ls /mnt; \
                  unshare -Urn sh -c 'wc -l </proc/self/uid_map'; \
                  unshare -Uc id -u; unshare -Urpf --mount-proc sh -c 'echo $$' 2>&1";
    let mut b = debian(script, &[]);
    b.config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    b.config["process"]["capabilities"] = json!({});
    let o = Engine::under_test().run(&b, b"", LIMIT);
    assert_eq!(o.text(), "0\n0 1000 1\ndeny\nf\n0\n1\n1000\n1\n", "{}", o.brief());
}

#[test]
fn bubblewrap() {
    let Some(bwrap) = chitin_tests::engines::which("bwrap") else {
        return skip("bubblewrap", "bwrap is not installed (tests/rootfs/packages)");
    };
    let script = "bwrap --ro-bind / / --dev /dev --proc /proc --tmpfs /tmp --unshare-user --unshare-pid --unshare-ipc --unshare-uts --unshare-cgroup --die-with-parent \
                  --uid 5 --gid 6 sh -c 'id -u; id -g; echo $$; touch /x 2>/dev/null || echo read-only; echo y >/tmp/y && cat /tmp/y; \
                  ls /proc | grep -c ^1$; echo >/dev/null && echo devices'; ls /tmp";
    let mut b = debian(script, &[]).bind(&bwrap, "/usr/bin/bwrap", &["ro"]);
    b.config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    b.config["process"]["capabilities"] = json!({});
    let o = Engine::under_test().run(&b, b"", LIMIT);
    assert_eq!(o.text(), "5\n6\n2\nread-only\ny\n1\ndevices\n", "{}", o.brief());
}
