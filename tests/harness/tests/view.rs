//! What somebody sees who enters the mount namespace of a container's process, as engines do to copy files and to list
//! processes: what the container sees. Other runtimes prove it, where that is so by nature.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use chitin_tests::bundle::Bundle;
use chitin_tests::engine::Engine;
use chitin_tests::leftovers::settle;
use chitin_tests::steps::Steps;
use chitin_tests::{paths, skip};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);

/// Runs `look` in the mount namespace of a process.
fn inside<T: Send>(pid: i64, look: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|s| {
        let looking = s.spawn(|| {
            unshare(CloneFlags::CLONE_FS).expect("a thread has its own root");
            let ns = File::open(format!("/proc/{pid}/ns/mnt")).expect("the process is there");
            setns(ns, CloneFlags::CLONE_NEWNS).expect("root enters");
            look()
        });
        looking.join().unwrap_or_else(|e| std::panic::resume_unwind(e))
    })
}

fn possible(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skip(test, "entering other mount namespaces needs root");
    }
    if root && Engine::under_test() == Engine::Chitin && !Path::new("/dev/fuse").exists() {
        skip(test, "no /dev/fuse on this host");
        return false;
    }
    root
}

fn pid(s: &Steps) -> i64 {
    s.state()["pid"].as_i64().expect("pid")
}

fn said(s: &Steps, script: &str) -> String {
    let o = s.exec(&[], &["/bin/sh", "-c", script]);
    assert_eq!(o.code, Some(0), "{script}: {}", o.brief());
    o.text()
}

fn ready(s: &Steps, file: &str) {
    let script = format!("test -e {file}");
    settle(LIMIT, || match s.exec(&[], &["/bin/sh", "-c", &script]).code {
        Some(0) => Ok(()),
        code => Err(format!("{file} is not there ({code:?})")),
    })
    .unwrap();
}

fn volume(name: &str) -> (Steps, std::path::PathBuf) {
    let volume = paths::scratch(&format!("{name}-volume"));
    fs::write(volume.join("host"), "of the host").unwrap();
    let script = "echo root >/in-root; echo mem >/mem/in-mem; chmod 640 /mem/in-mem; chown 7:8 /mem/in-mem; \
        mkfifo /mem/fifo; ln -s in-mem /mem/link; echo vol >/vol/in-vol; cd /mem; mkdir many; \
        for i in $(seq 700); do : >many/f$i; done; echo done >/mem/ready; while :; do sleep 1; done";
    let b = Bundle::new(name, &paths::rootfs("busybox"), &["/bin/sh", "-c", script])
        .tmpfs("/mem")
        .bind(&volume, "/vol", &[])
        .bind(&volume, "/vol-ro", &["ro"]);
    let s = Steps::new(b);
    s.launch();
    ready(&s, "/mem/ready");
    (s, volume)
}

#[test]
fn files_of_all_mounts_are_seen() {
    if !possible("files_of_all_mounts_are_seen") {
        return;
    }
    let (s, _volume) = volume("view-seen");
    inside(pid(&s), || {
        let text = |p: &str| fs::read_to_string(p).unwrap_or_else(|e| panic!("{p}: {e}"));
        assert_eq!((text("/in-root"), text("/mem/in-mem")), ("root\n".into(), "mem\n".into()));
        assert_eq!((text("/vol/in-vol"), text("/vol-ro/host")), ("vol\n".into(), "of the host".into()));
        let m = fs::symlink_metadata("/mem/in-mem").unwrap();
        assert_eq!((m.mode(), m.uid(), m.gid(), m.size(), m.nlink()), (0o100_640, 7, 8, 4, 1));
        assert_eq!(fs::read_link("/mem/link").unwrap().as_os_str(), "in-mem");
        assert_eq!(fs::symlink_metadata("/mem/fifo").unwrap().mode() & 0o170_000, 0o010_000);
        assert_eq!(fs::read_dir("/mem/many").unwrap().count(), 700);
        assert!(fs::metadata("/dev/null").is_ok_and(|m| m.rdev() == 0x103));
        assert_eq!(fs::read_to_string("/none").unwrap_err().raw_os_error(), Some(libc::ENOENT));
        assert_eq!(fs::write("/vol-ro/host", "x").unwrap_err().raw_os_error(), Some(libc::EROFS));
        // No way out.
        assert_eq!(text("/../in-root"), "root\n");
        assert!(nix::sys::statvfs::statvfs("/mem").is_ok_and(|v| v.block_size() == 4096));
    });
}

#[test]
fn changes_from_outside_are_the_containers() {
    if !possible("changes_from_outside_are_the_containers") {
        return;
    }
    let (s, volume) = volume("view-change");
    let big: Vec<u8> = (0..3_000_017u32).map(|i| (i ^ (i >> 9)).to_le_bytes()[0]).collect();
    inside(pid(&s), || {
        fs::create_dir_all("/mem/new/sub").unwrap();
        fs::write("/mem/new/big", &big).unwrap();
        assert!(fs::read("/mem/new/big").unwrap() == big, "3 MB come back as they were");
        let mut f = fs::OpenOptions::new();
        f.read(true).write(true).create_new(true).mode(0o604);
        let mut f = f.open("/mem/new/file").unwrap();
        f.write_all(b"0123456789").unwrap();
        f.seek(SeekFrom::Start(4)).unwrap();
        f.write_all(b"xy").unwrap();
        f.set_len(8).unwrap();
        f.sync_all().unwrap();
        let mut all = String::new();
        f.rewind().unwrap();
        f.read_to_string(&mut all).unwrap();
        assert_eq!(all, "0123xy67");
        fs::OpenOptions::new().append(true).open("/mem/new/file").unwrap().write_all(b"+").unwrap();
        chown("/mem/new/file", Some(1000), Some(1001)).unwrap();
        fs::set_permissions("/mem/new/file", PermissionsExt::from_mode(0o2751)).unwrap();
        File::options().write(true).open("/mem/new/file").unwrap().set_modified(at(1_000_000_000)).unwrap();
        symlink("file", "/mem/new/link").unwrap();
        fs::hard_link("/mem/new/file", "/mem/new/hard").unwrap();
        let inode = |p: &str| fs::metadata(p).map(|m| (m.ino(), m.nlink())).unwrap();
        assert_eq!(inode("/mem/new/file"), inode("/mem/new/hard"));
        assert_eq!(inode("/mem/new/file").1, 2);
        fs::rename("/mem/new/hard", "/mem/new/sub/moved").unwrap();
        fs::write("/vol/from-outside", "o").unwrap();
        fs::write("/in-root", "replaced").unwrap();
        let error = |r: std::io::Result<()>| r.unwrap_err().raw_os_error();
        assert_eq!(error(fs::remove_dir("/mem/new")), Some(libc::ENOTEMPTY));
        assert_eq!(error(fs::create_dir("/mem/new")), Some(libc::EEXIST));
        assert_eq!(error(fs::rename("/mem/new/link", "/vol/link")), Some(libc::EXDEV));
        assert_eq!(error(fs::remove_file("/mem/none")), Some(libc::ENOENT));
        fs::remove_file("/mem/in-mem").unwrap();
        fs::create_dir("/mem/gone").unwrap();
        fs::remove_dir("/mem/gone").unwrap();
    });
    let shown = said(
        &s,
        "cd /mem/new; stat -c '%a %u %g %h %s %Y' file; cat file; echo; readlink link; ls sub; cat /in-root; echo; ls /mem/in-mem /mem/gone 2>&1 | wc -l; wc -c <big",
    );
    assert_eq!(
        shown, "2751 1000 1001 2 9 1000000000\n0123xy67+\nfile\nmoved\nreplaced\n2\n3000017\n",
        "seen by the container"
    );
    assert_eq!(fs::read_to_string(volume.join("from-outside")).unwrap(), "o");
}

fn at(seconds: u64) -> std::time::SystemTime {
    std::time::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[test]
fn its_processes_are_seen() {
    if !possible("its_processes_are_seen") {
        return;
    }
    let s = Steps::busybox("view-proc", "sleep 1000 & while :; do sleep 1; done");
    s.launch();
    settle(LIMIT, || {
        inside(pid(&s), || {
            let line = |p: &str| fs::read(format!("/proc/{p}/cmdline")).unwrap_or_default();
            let numbers: Vec<String> = fs::read_dir("/proc")
                .unwrap()
                .filter_map(|e| e.ok()?.file_name().into_string().ok())
                .filter(|n| n.bytes().all(|b| b.is_ascii_digit()))
                .collect();
            let sleeps = numbers.iter().any(|n| line(n) == b"sleep\x001000\0");
            let status = fs::read_to_string("/proc/1/status").unwrap();
            assert!(status.starts_with("Name:\tsh\n") && status.contains("\nPid:\t1\n"), "{status}");
            if line("1").starts_with(b"/bin/sh\0-c\0") && sleeps && numbers.len() <= 4 {
                return Ok(());
            }
            Err(format!("{numbers:?}"))
        })
    })
    .unwrap();
}

#[test]
fn ids_are_the_hosts() {
    if !possible("ids_are_the_hosts") {
        return;
    }
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    let dir = std::env::temp_dir().join(format!("chitin-view-{}", chitin_tests::engine::unique_id()));
    fs::create_dir(&dir).unwrap();
    let copied =
        std::process::Command::new("cp").arg("-a").arg(paths::rootfs("busybox")).arg(dir.join("r")).status();
    assert!(copied.is_ok_and(|s| s.success()));
    let _ = fs::create_dir(dir.join("r/mem"));
    let own = std::process::Command::new("chown").args(["-hR", "100000:100000"]).arg(dir.join("r")).status();
    assert!(own.is_ok_and(|s| s.success()));
    let script = "echo a >/mem/a; chown 5:6 /mem/a; echo b >/mem/ready; while :; do sleep 1; done";
    let mut b = Bundle::new("view-ids", &dir.join("r"), &["/bin/sh", "-c", script]).tmpfs("/mem");
    b.config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({ "type": "user" }));
    let s = Steps::new(b.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map));
    s.launch();
    ready(&s, "/mem/ready");
    inside(pid(&s), || {
        let m = fs::metadata("/mem/a").unwrap();
        assert_eq!((m.uid(), m.gid()), (100_005, 100_006));
        chown("/mem/a", Some(100_009), None).unwrap();
    });
    assert_eq!(said(&s, "stat -c '%u %g' /mem/a"), "9 6\n");
    drop(s);
    fs::remove_dir_all(&dir).unwrap();
}

/// Who is inside when the container ends gets errors, and holds nobody up.
#[test]
fn the_end_of_the_container_ends_the_view() {
    if !possible("the_end_of_the_container_ends_the_view") || Engine::under_test() != Engine::Chitin {
        return;
    }
    let s = Steps::busybox("view-end", "while :; do sleep 1; done");
    s.launch();
    let (tell, told) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    let number = pid(&s);
    std::thread::spawn(move || {
        inside(number, move || {
            fs::read_dir("/").unwrap();
            tell.send(true).unwrap();
            wait.recv().unwrap();
            tell.send(fs::read_dir("/bin").is_err() && fs::read("/etc/passwd").is_err()).unwrap();
        });
    });
    assert_eq!(told.recv_timeout(LIMIT), Ok(true));
    s.ok(&["kill", &s.id, "9"]);
    s.until("stopped");
    s.ok(&["delete", &s.id]);
    go.send(()).unwrap();
    assert_eq!(told.recv_timeout(LIMIT), Ok(true), "the files are gone, and whoever asks is told so");
}
