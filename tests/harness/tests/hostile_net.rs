//! A server in a sandbox under hostile load from its network: ten thousand connections that say little (slowloris), calls that are
//! never completed, malformed packets. Others are served all the while, and the sentry stays within bounds.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use chitin_tests::bundle::Bundle;
use chitin_tests::engine::Engine;
use chitin_tests::leftovers::settle;
use chitin_tests::run::kill_tree;
use chitin_tests::steps::Steps;
use chitin_tests::veth::{FAR, Pair, sh};
use chitin_tests::{paths, rng};
use serde_json::json;

const NGINX: &str = r#"chmod 1777 /tmp; mkdir -p /tmp/web; echo served >/tmp/web/index.html
cat >/tmp/web/nginx.conf <<'C'
worker_processes 1; worker_rlimit_nofile 16384; daemon off; pid /tmp/web/pid; error_log /tmp/web/error.log;
events { worker_connections 12000; }
http { access_log off; client_header_timeout 60s; server { listen 8080 backlog=512; root /tmp/web; } }
C
exec nginx -c /tmp/web/nginx.conf"#;

/// Holds so many connections with half a request each; says when they are there, and how many still are at the end of its input.
const HOLD: &str = "import resource, select, socket, sys\n\
    resource.setrlimit(resource.RLIMIT_NOFILE, (12000, 12000))\n\
    held = []\n\
    for n in range(int(sys.argv[2])):\n\
    \ts = socket.create_connection((sys.argv[1], 8080), 20); s.sendall(b'GET / HTTP/1.1\\r\\nHost: x\\r\\nX-a: '); held.append(s)\n\
    print('held', len(held), flush=True)\n\
    sys.stdin.readline()\n\
    gone = 0\n\
    for s in held:\n\
    \ts.setblocking(False)\n\
    \ttry: gone += s.recv(1) == b''\n\
    \texcept BlockingIOError: pass\n\
    print('gone', gone, flush=True)\n";

/// Resident memory of a process, in MiB.
fn resident(pid: u64) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    kib / 1024
}

fn served(pair: &Pair) -> Result<(), String> {
    let o = pair.near(&format!("busybox timeout 10 busybox wget -q -O - http://{FAR}:8080/"));
    if o.text() == "served\n" { Ok(()) } else { Err(o.brief()) }
}

fn at_near(pair: &Pair, program: &str, args: &[&str]) -> Child {
    let mut c = Command::new("ip");
    c.args(["netns", "exec", &pair.near, program]).args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
    std::os::unix::process::CommandExt::process_group(&mut c, 0);
    c.spawn().expect("a program at the near end")
}

fn line(child: &mut Child) -> String {
    let mut text = String::new();
    BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut text).expect("a line");
    text
}

#[test]
fn others_are_served_whatever_comes() {
    let Some(pair) = Pair::with_addresses(1500) else { return };
    let bundle = Bundle::new("hostile", &paths::rootfs("network"), &["bash", "-c", NGINX])
        .set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 16384, "hard": 16384}]));
    let s = Steps::new(pair.inside(bundle, &pair.far));
    s.launch();
    let pid = s.state()["pid"].as_u64().expect("a pid");
    settle(Duration::from_secs(20), || served(&pair)).unwrap();
    let before = resident(pid);

    let script = paths::scratch("hold").join("hold.py");
    std::fs::write(&script, HOLD).unwrap();
    let count = 10_000;
    let mut holder = at_near(&pair, "python3", &[&script.to_string_lossy(), FAR, &count.to_string()]);
    assert_eq!(line(&mut holder), format!("held {count}\n"));
    let with_all = resident(pid);
    (0..10).for_each(|_| served(&pair).expect("beside ten thousand connections"));

    let mac = sh(&format!("ip -n {} -o link show eth0 | sed 's/.*ether //; s/ .*//'", pair.far)).text();
    let seed = rng::seed().to_string();
    for kind in ["syn", "junk"] {
        let attack = paths::guests().join("attack").to_string_lossy().into_owned();
        let args = ["veth0", mac.trim(), FAR, "8080", kind, "3", "20000", &seed];
        let mut attacker = at_near(&pair, &attack, &args);
        for n in 0..5 {
            served(&pair).unwrap_or_else(|e| panic!("request {n} under {kind} (seed {seed}): {e}"));
        }
        println!("{kind}: {}", line(&mut attacker).trim());
        let _ = attacker.wait();
        served(&pair).unwrap_or_else(|e| panic!("after {kind} (seed {seed}): {e}"));
    }
    let after = resident(pid);
    println!("resident: {before} MiB, {with_all} with {count} connections, {after} after the attacks");
    if Engine::under_test() == Engine::Chitin {
        assert!(with_all < before + 250 && after < with_all + 100, "{before}, {with_all}, {after} MiB");
    }
    // Junk may have hit some of them; the rest stand.
    drop(holder.stdin.take());
    let gone: u32 = line(&mut holder).trim().trim_start_matches("gone ").parse().expect("a number");
    assert!(gone < 100, "{gone} of the connections that were held are gone");
    kill_tree(&mut holder);
    served(&pair).unwrap();
}
