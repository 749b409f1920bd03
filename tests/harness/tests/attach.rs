//! A sandbox and the networks it is attached to: veth pairs in network namespaces of the test, namespaces that hooks fill, host
//! mode, and networking without a namespace. Other runtimes prove what does not depend on chitin's own ways.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chitin_tests::bundle::Bundle;
use chitin_tests::engine::Engine;
use chitin_tests::leftovers::settle;
use chitin_tests::run::{Outcome, kill_tree, quick};
use chitin_tests::steps::Steps;
use chitin_tests::veth::{FAR, Pair, sh};
use chitin_tests::{paths, rng, skip};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);

fn bundle(pair: &Pair, script: &str) -> Bundle {
    pair.inside(busybox(script), &pair.far)
}

fn busybox(script: &str) -> Bundle {
    Bundle::new("attach", &paths::rootfs("busybox"), &["/bin/sh", "-c", script]).capability("CAP_NET_RAW")
}

fn run(bundle: &Bundle) -> Outcome {
    Engine::under_test().run(bundle, b"", LIMIT)
}

/// Until `command` at the near end says `want`.
fn until(pair: &Pair, command: &str, want: &str) {
    settle(LIMIT, || {
        let outcome = pair.near(command);
        if outcome.text().contains(want) { Ok(()) } else { Err(outcome.brief()) }
    })
    .unwrap();
}

#[test]
fn the_configuration_is_found_and_stays() {
    let Some(pair) = Pair::with_addresses(1400) else { return };
    sh(&format!(
        "ip -n {0} route add 10.88.0.0/16 via 10.77.0.9 metric 7
         ip netns exec {0} sh -c 'echo reno >/proc/sys/net/ipv4/tcp_congestion_control'",
        pair.far
    ));
    let o =
        run(&bundle(&pair, "ip addr show eth0; cat /proc/net/dev /proc/sys/net/ipv4/tcp_congestion_control"));
    let text = o.text();
    for want in [
        "mtu 1400",
        "inet 10.77.0.2/24",
        "inet6 fd77::2/64",
        "inet6 fe80::",
        "link/ether",
        "eth0:",
        "\nreno\n",
    ] {
        assert!(text.contains(want), "{want}: {}", o.brief());
    }
    // Whoever made the namespace finds it as it was.
    let kept = sh(&format!("ip -n {0} addr show eth0; ip -n {0} route", pair.far)).text();
    for want in ["10.77.0.2/24", "fd77::2/64", "default via 10.77.0.1", "10.88.0.0/16 via 10.77.0.9"] {
        assert!(kept.contains(want), "{want}: {kept}");
    }
}

#[test]
fn pings_both_ways() {
    let Some(pair) = Pair::with_addresses(1500) else { return };
    let s = Steps::new(bundle(
        &pair,
        "for a in 10.77.0.1 fd77::1; do ping -c 2 -W 3 $a >/dev/null && echo reached $a; done; \
         ping -c 1 -W 3 -s 4000 10.77.0.1 >/dev/null && echo fragments; while :; do sleep 1; done",
    ));
    s.launch();
    for address in ["10.77.0.2", "fd77::2"] {
        until(&pair, &format!("busybox ping -c 1 -W 2 {address} && echo reached"), "reached");
    }
    until(&pair, "busybox ping -c 1 -W 2 -s 4000 10.77.0.2 && echo reached", "reached");
    s.ok(&["delete", "--force", &s.id]);
    let o = run(&bundle(
        &pair,
        "for a in 10.77.0.1 fd77::1; do ping -c 2 -W 3 $a >/dev/null && echo reached $a; done",
    ));
    assert_eq!(o.text(), "reached 10.77.0.1\nreached fd77::1\n", "{}", o.brief());
}

/// Counts what the server at `address` sends, headers of HTTP left out.
const FETCH: &str = "import socket, sys\n\
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10); s.sendall(b'GET /f HTTP/1.0\\r\\n\\r\\n')\n\
    d = b''\n\
    while True:\n\
    \tc = s.recv(1 << 20)\n\
    \tif not c: break\n\
    \td += c\n\
    print(len(d.split(b'\\r\\n\\r\\n')[-1]))\n";

/// Sends 3,000,000 bytes to each of two who connect, then ends.
const SERVE: &str = "import socket\n\
    s = socket.socket(socket.AF_INET6); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('::', 80)); s.listen(9)\n\
    for i in range(2):\n\
    \tc, a = s.accept(); c.sendall(bytes(3000000)); c.close()\n";

#[test]
fn streams_both_ways() {
    let Some(pair) = Pair::with_addresses(1500) else { return };
    let s = Steps::new(bundle(
        &pair,
        "mkdir -p /tmp/www; head -c 3000000 /dev/zero >/tmp/www/f; exec httpd -f -p 80 -h /tmp/www",
    ));
    s.launch();
    let script = paths::scratch("attach-fetch").join("fetch.py");
    std::fs::write(&script, FETCH).unwrap();
    for address in ["10.77.0.2", "fd77::2"] {
        until(&pair, &format!("python3 {} {address} 80", script.display()), "3000000");
    }
    // A port that nobody listens at: the sandbox says so.
    let o = pair.near(&format!("python3 {} 10.77.0.2 81", script.display()));
    assert!(o.stderr.contains("ConnectionRefusedError"), "{}", o.brief());
    s.ok(&["delete", "--force", &s.id]);

    let mut server = Command::new("ip");
    server.args(["netns", "exec", &pair.near, "python3", "-c", SERVE]).stdin(Stdio::null());
    let mut server = server.spawn().expect("python3");
    until(&pair, "cat /proc/net/tcp6", ":0050 ");
    let o = run(&bundle(
        &pair,
        "for a in 10.77.0.1 fd77::1; do nc -w 10 $a 80 </dev/null | wc -c; done; nc -w 3 10.77.0.1 81 </dev/null",
    ));
    kill_tree(&mut server);
    assert_eq!(o.text(), "3000000\n3000000\n", "{}", o.brief());
    assert!(o.stderr.contains("refused"), "{}", o.brief());
}

/// What a guest program that talks to itself says of `amount`, with its server in a sandbox at the far end.
fn asked(pair: &Pair, program: &str, amount: &str) -> String {
    let guest = format!("/guest/{program}");
    let b = Bundle::new("attach-ask", &paths::rootfs("busybox"), &[&guest, "serve", "7000"]);
    let s = Steps::new(pair.inside(b.bind(&paths::guests(), "/guest", &["ro"]), &pair.far));
    s.launch();
    let mut ask = Command::new("ip");
    ask.args(["netns", "exec", &pair.near]).arg(paths::guests().join(program));
    ask.args(["ask", FAR, "7000", amount]);
    let o = quick(ask, Duration::from_secs(if amount.len() > 2 { 1800 } else { 120 }));
    s.until("stopped");
    assert_eq!(o.code, Some(0), "{}", o.brief());
    o.text()
}

/// Loss, delay, reordering, duplication: each byte arrives all the same, both ways. CHITIN_TEST_TRANSFER has the number of MiB.
#[test]
fn a_faulty_wire_damages_nothing() {
    let mib = std::env::var("CHITIN_TEST_TRANSFER").unwrap_or("16".into());
    for faults in ["1 500 1 {} 1", "0.5 0 0 {}", "0 2000 5 {} 5", "2 0 1 {} 1 whole"] {
        let faults = faults.replace("{}", &rng::seed().to_string());
        let Some((pair, _wire)) = Pair::over_a_faulty_wire(&faults) else { return };
        let said = asked(&pair, "transfer", &mib);
        assert!(said.starts_with(&format!("intact {mib} MiB")), "{faults}: {said}");
        println!("{faults}: {}", said.trim());
    }
}

/// Several threads write to one connection at both ends at once: nothing of theirs gets lost, doubled or out of order.
#[test]
fn writers_share_a_connection() {
    let Some(pair) = Pair::with_addresses(1500) else { return };
    assert_eq!(asked(&pair, "crowd", "64"), "in order, 64 MiB of each\n");
    drop(pair);
    let faults = format!("0.5 200 1 {} 1", rng::seed());
    let Some((pair, _wire)) = Pair::over_a_faulty_wire(&faults) else { return };
    assert_eq!(asked(&pair, "crowd", "4"), "in order, 4 MiB of each\n", "{faults}");
}

/// As Docker and others do it: a new namespace, which a hook fills.
#[test]
fn hooks_fill_the_namespace() {
    let Some(pair) = Pair::new(1500) else { return };
    let script = format!(
        "pid=$(grep -o '\"pid\": *[0-9]*' | grep -o '[0-9]*'); ip -n {} link set eth0 netns $pid; \
         nsenter -t $pid -n sh -c 'ip addr add 10.77.0.2/24 dev eth0; ip link set eth0 up'",
        pair.far
    );
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-ec", script], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}]);
    let guest =
        "ip addr show eth0 | grep -o 'inet [0-9.]*'; ping -c 1 -W 3 10.77.0.1 >/dev/null && echo reached";
    let o = run(&busybox(guest).set("/hooks", json!({"createRuntime": hook})));
    assert_eq!(o.text(), "inet 10.77.0.2\nreached\n", "{}", o.brief());
}

#[test]
fn several_interfaces() {
    let Some(pair) = Pair::with_addresses(1500) else { return };
    let Pair { near, far } = &pair;
    sh(&format!(
        "ip -n {near} link add veth1 type veth peer name net1 netns {far}
         ip -n {near} addr add 10.78.0.1/24 dev veth1; ip -n {near} link set veth1 up
         ip -n {far} addr add 10.78.0.2/24 dev net1; ip -n {far} link set net1 up"
    ));
    let o = run(&bundle(
        &pair,
        "for a in 10.77.0.1 10.78.0.1; do ping -c 1 -W 3 $a >/dev/null && echo reached $a; done",
    ));
    assert_eq!(o.text(), "reached 10.77.0.1\nreached 10.78.0.1\n", "{}", o.brief());
}

/// More changes than can wait to be heard, while the sentry is held up: then they are made up for.
#[test]
fn missed_changes_are_made_up_for() {
    let Some(pair) = Pair::with_addresses(1500) else { return };
    let far = &pair.far;
    sh(&format!(
        "ip -n {far} link add type veth peer name old0; ip -n {far} link set veth0 name oldpeer
         ip -n {far} link set old0 up; ip -n {far} addr add 10.80.0.2/24 dev old0
         ip -n {far} addr add 10.77.0.3/24 dev eth0; ip -n {far} addr add 10.77.0.4/24 dev eth0
         ip -n {far} route add 10.90.0.0/16 via 10.77.0.1; ip -n {far} route add 10.91.0.0/16 via 10.77.0.1"
    ));
    let s =
        Steps::new(bundle(&pair, "ip addr add 10.99.0.1/32 dev lo; sleep 1000").capability("CAP_NET_ADMIN"));
    s.launch();
    let pid = s.state()["pid"].as_i64().unwrap();
    let has = |want: &[&str], not: &[&str]| {
        settle(LIMIT, || {
            let text = s.exec(&[], &["sh", "-c", "ip addr; ip route"]).text();
            let bad = want.iter().find(|w| !text.contains(**w)).or(not.iter().find(|n| text.contains(**n)));
            bad.map_or(Ok(()), |bad| Err(format!("{bad}: {text}")))
        })
        .unwrap();
    };
    has(&["old0", "10.80.0.2/24", "10.77.0.3/24", "10.90.0.0/16", "10.91.0.0/16", "10.99.0.1"], &["new0"]);
    // A megabyte may wait: what comes after that is lost.
    sh(&format!(
        "kill -STOP {pid}
         for n in $(seq 1500); do echo addr add 10.81.0.1/32 dev eth0; echo addr del 10.81.0.1/32 dev eth0; done |
             ip -n {far} -batch -
         ip -n {far} link del old0
         ip -n {far} addr del 10.77.0.3/24 dev eth0; ip -n {far} route del 10.90.0.0/16
         ip -n {far} route replace 10.91.0.0/16 via 10.77.0.9
         ip -n {far} addr add 10.77.0.5/24 dev eth0; ip -n {far} route add 10.92.0.0/16 via 10.77.0.1
         ip -n {far} link add new0 type veth peer name newpeer netns {near}
         ip -n {far} addr add 10.82.0.2/24 dev new0; ip -n {far} link set new0 up
         ip -n {near} addr add 10.82.0.1/24 dev newpeer; ip -n {near} link set newpeer up
         ip -n {far} route add 10.93.0.0/16 via 10.82.0.1
         kill -CONT {pid}",
        near = pair.near
    ));
    has(
        &[
            "10.77.0.2/24",
            "10.77.0.4/24",
            "10.77.0.5/24",
            "10.92.0.0/16",
            "new0",
            "10.82.0.2/24",
            "10.93.0.0/16",
        ],
        &["old0", "10.80.0.2", "10.77.0.3/", "10.90.0.0", "10.81.0.1"],
    );
    // What leads elsewhere, and what the guest itself has made.
    has(&["10.91.0.0/16 via 10.77.0.9", "10.99.0.1"], &[]);
    let o = s.exec(&[], &["ping", "-c", "1", "-W", "3", "10.82.0.1"]);
    assert_eq!(o.code, Some(0), "{}", o.brief());
    // And what follows is heard as before.
    sh(&format!("ip -n {far} addr add 10.77.0.6/24 dev eth0"));
    has(&["10.77.0.6/24"], &[]);
}

/// dockerd's name server listens in the container's namespace, on the host's side of it.
#[test]
fn the_engines_name_server_is_reached() {
    let Some(pair) = Pair::with_addresses(1500) else { return };
    let script = "import socket\n\
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.11', 53))\n\
        while True:\n\
        \tq, a = s.recvfrom(512)\n\
        \tv4 = q[-4:-2] == b'\\0\\1'\n\
        \tanswer = b'\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x09\\0\\4' + bytes([192, 0, 2, 99]) if v4 else b''\n\
        \ts.sendto(q[:2] + b'\\x81\\x80\\0\\1\\0' + bytes([v4]) + b'\\0\\0\\0\\0' + q[12:] + answer, a)\n";
    let mut server = Command::new("ip");
    server.args(["netns", "exec", &pair.far, "python3", "-c", script]).stdin(Stdio::null());
    let mut server = server.spawn().expect("python3");
    settle(LIMIT, || {
        let there = sh(&format!("ip netns exec {} cat /proc/net/udp", pair.far)).text();
        if there.contains("0B00007F:0035") { Ok(()) } else { Err(there) }
    })
    .unwrap();
    let o = run(&bundle(&pair, "nslookup some.name 127.0.0.11"));
    kill_tree(&mut server);
    assert!(o.text().contains("192.0.2.99"), "{}", o.brief());
}

/// A server of the host that says `word` to whoever comes.
fn server(at: &str, word: &'static str) -> (u16, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind(at).expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let thread = std::thread::spawn(move || {
        listener.set_nonblocking(true).expect("non-blocking");
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            match listener.accept() {
                Ok((mut stream, _)) => {
                    let _ = stream.write_all(word.as_bytes());
                    return;
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    });
    (port, thread)
}

fn chitin_only(test: &str) -> bool {
    if Engine::under_test() != Engine::Chitin {
        skip(test, "a way of chitin's own");
    }
    Engine::under_test() == Engine::Chitin
}

fn on_busybox(flags: &[&str], script: &str) -> Outcome {
    let mut command = Command::new(paths::chitin());
    let rootfs = paths::rootfs("busybox");
    command
        .arg("--root")
        .arg(paths::scratch("attach-do").join("state"))
        .arg("do")
        .arg("--rootfs")
        .arg(rootfs);
    command.args(flags).args(["--", "/bin/sh", "-c", script]);
    quick(command, LIMIT)
}

#[test]
fn host_mode_has_the_hosts_sockets() {
    if !chitin_only("host_mode_has_the_hosts_sockets") {
        return;
    }
    let (port, thread) = server("127.0.0.1:0", "from the host\n");
    let o = on_busybox(&["--network=host"], &format!("nc -w 5 127.0.0.1 {port} </dev/null; ip addr show lo"));
    thread.join().unwrap();
    assert!(o.text().contains("from the host") && o.text().contains("127.0.0.1/8"), "{}", o.brief());
}

/// Programs of guests are the sentry's to run, not the host's.
#[test]
fn host_mode_filters_datagrams() {
    if !chitin_only("host_mode_filters_datagrams") {
        return;
    }
    let guests = format!("--volume={}:/guest:ro", paths::guests().display());
    let checks = "filters_of_datagrams filters_that_are_none";
    let o = on_busybox(&["--network=host", &guests], &format!("/guest/inet_opts {checks}"));
    assert!(
        o.text().contains("ok filters_of_datagrams") && o.text().contains("ok filters_that_are_none"),
        "{}",
        o.brief()
    );
    assert_eq!(o.code, Some(0), "{}", o.brief());
}

/// Of a stream it is what has come already that they are shown.
#[test]
fn host_mode_filters_streams() {
    if !chitin_only("host_mode_filters_streams") {
        return;
    }
    let guests = format!("--volume={}:/guest:ro", paths::guests().display());
    let checks = "filters_hold_back filters_look_into_segments filters_are_told";
    let o = on_busybox(&["--network=host", &guests], &format!("/guest/inet_opts {checks}"));
    assert!(o.code == Some(0) && o.text().contains("ok filters_hold_back"), "{}", o.brief());
}

/// A filter goes out with its socket, and what is out can be given one.
#[test]
fn without_a_namespace_filters_hold_outside() {
    let test = "without_a_namespace_filters_hold_outside";
    if !chitin_only(test) {
        return;
    }
    let Some(own) = own_address() else { return skip(test, "this machine has no address but loopback") };
    let (port, thread) = server(&format!("{own}:0"), "from outside\n");
    let script = format!(
        "import ctypes, select, socket, struct\n\
        program = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0))\n\
        nothing = struct.pack('HxxxxxxQ', 1, ctypes.addressof(program))\n\
        s = socket.socket()\n\
        s.setsockopt(socket.SOL_SOCKET, 26, nothing)\n\
        s.setsockopt(socket.SOL_SOCKET, 27, 0)\n\
        s.connect(('{own}', {port}))\n\
        s.setsockopt(socket.SOL_SOCKET, 26, nothing)\n\
        print(select.select([s], [], [], 0.5)[0])\n\
        s.setsockopt(socket.SOL_SOCKET, 27, 0)\n\
        print(s.recv(100), s.recv(100))\n"
    );
    let mut command = Command::new(paths::chitin());
    command.arg("--root").arg(paths::scratch("attach-do").join("state")).arg("do").arg("--rootfs");
    command.arg(paths::rootfs("network")).args(["--", "python3", "-c", &script]);
    let o = quick(command, LIMIT);
    thread.join().unwrap();
    assert_eq!(o.text(), "[]\nb'from outside\\n' b''\n", "{}", o.brief());
}

/// An address of this machine that is not loopback.
fn own_address() -> Option<String> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then(|| ip.to_string())
}

#[test]
fn without_a_namespace_the_world_is_reached() {
    if !chitin_only("without_a_namespace_the_world_is_reached") {
        return;
    }
    let Some(own) = own_address() else {
        return skip("without_a_namespace_the_world_is_reached", "this machine has no address but loopback");
    };
    let (port, thread) = server(&format!("{own}:0"), "from outside\n");
    let o = on_busybox(&[], &format!("nc -w 5 {own} {port} </dev/null; ip addr show eth0"));
    thread.join().unwrap();
    assert!(o.text().contains("from outside") && o.text().contains("inet 10.0.2.15/24"), "{}", o.brief());
}

#[test]
fn without_a_namespace_the_hosts_loopback_is_not() {
    if !chitin_only("without_a_namespace_the_hosts_loopback_is_not") {
        return;
    }
    let (port, thread) = server("127.0.0.1:0", "secret\n");
    let script =
        format!("for a in 127.0.0.1 10.0.2.2 localhost; do nc -w 2 $a {port} </dev/null; done; echo done");
    let o = on_busybox(&[], &script);
    assert_eq!(o.text(), "done\n", "{}", o.brief());
    drop(TcpStream::connect(("127.0.0.1", port)));
    thread.join().unwrap();
    let o = on_busybox(&["--network=none"], "nc -w 2 192.0.2.1 80 </dev/null; ip addr show eth0; true");
    assert!(!o.text().contains("10.0.2.15"), "{}", o.brief());
}

fn fetch(port: u16) -> Result<String, String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).map_err(|e| e.to_string())?;
    stream.write_all(b"GET /f HTTP/1.0\r\n\r\n").map_err(|e| e.to_string())?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|e| e.to_string())?;
    Ok(text)
}

#[test]
fn published_ports_lead_in() {
    if !chitin_only("published_ports_lead_in") {
        return;
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let rootfs = paths::rootfs("busybox");
    let script = "mkdir -p /tmp/w; echo inside >/tmp/w/f; exec httpd -f -p 80 -h /tmp/w";
    let mut command = Command::new(paths::chitin());
    command.arg("--root").arg(paths::scratch("attach-publish").join("state"));
    command
        .arg("do")
        .arg(format!("--rootfs={}", rootfs.display()))
        .arg(format!("--publish=127.0.0.1:{port}:80"));
    command.args(["--", "/bin/sh", "-c", script]).stdin(Stdio::null());
    let mut child: Child = command.spawn().expect("chitin");
    let got = settle(LIMIT, || match fetch(port) {
        Ok(text) if text.contains("inside") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let twice = fetch(port);
    kill_tree(&mut child);
    got.unwrap();
    assert!(twice.is_ok_and(|text| text.contains("inside")));
}

/// Echoes datagrams: two as a server does, and two more from a socket that is connected to who sent the first of them.
const ECHO: &str = "import socket\n\
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('0.0.0.0', 9999))\n\
    for i in range(2):\n\
    \td, a = s.recvfrom(70000); s.sendto(b'got ' + d, a)\n\
    d, a = s.recvfrom(70000); s.connect(a); s.send(b'linked ' + d)\n\
    s.send(b'again ' + s.recv(70000)); s.recv(1)\n";

#[test]
fn published_udp_ports_lead_in() {
    if !chitin_only("published_udp_ports_lead_in") {
        return;
    }
    let client = |server: &UdpSocket| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        socket.connect(server.local_addr().unwrap()).unwrap();
        socket
    };
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (first, second) = (client(&server), client(&server));
    let port = server.local_addr().unwrap().port();
    drop(server);
    let rootfs = paths::rootfs("bookworm");
    let mut command = Command::new(paths::chitin());
    command.arg("--root").arg(paths::scratch("attach-udp").join("state"));
    command
        .arg("do")
        .arg(format!("--rootfs={}", rootfs.display()))
        .arg(format!("--publish=127.0.0.1:{port}:9999/udp"));
    command.args(["--", "python3", "-c", ECHO]).stdin(Stdio::null());
    let mut child: Child = command.spawn().expect("chitin");
    let ask = |socket: &UdpSocket, text: &[u8]| -> Result<Vec<u8>, String> {
        let mut room = vec![0; 70_000];
        socket.send(text).map_err(|e| e.to_string())?;
        let count = socket.recv(&mut room).map_err(|e| e.to_string())?;
        Ok(room[..count].to_vec())
    };
    let mut answers = Vec::new();
    // Until it is there, datagrams are lost.
    let there = settle(LIMIT, || ask(&first, b"one").map(|answer| answers.push(answer)));
    let large = vec![b'x'; 60_000];
    for (socket, text) in [(&second, &large[..]), (&first, b"three"), (&first, b"four")] {
        answers.push(ask(socket, text).unwrap_or_default());
    }
    kill_tree(&mut child);
    there.unwrap();
    let want = [&b"got one"[..], &[b"got ", &large[..]].concat(), b"linked three", b"again four"];
    assert_eq!(answers.iter().map(Vec::len).collect::<Vec<_>>(), want.map(<[u8]>::len));
    assert!(answers.iter().zip(want).all(|(answer, want)| answer == want));
}

/// A frame of a pcapng file: its interface's name, link type, direction (1: came), original length and bytes.
#[derive(Debug, PartialEq)]
struct Seen {
    link: String,
    kind: u16,
    direction: u32,
    len: usize,
    data: Vec<u8>,
}

/// Reads a pcapng file strictly.
fn read_pcapng(bytes: &[u8]) -> Vec<Seen> {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let half = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap());
    let option = |mut at: usize, code: u16| loop {
        let (found, len) = (half(at), usize::from(half(at + 2)));
        if found == code {
            return bytes[at + 4..at + 4 + len].to_vec();
        }
        assert!(found != 0, "option {code} is missing");
        at += 4 + len.next_multiple_of(4);
    };
    assert_eq!((word(0), word(8)), (0x0a0d_0d0a, 0x1a2b_3c4d), "a section's header");
    let (mut at, mut links, mut seen) = (0, Vec::new(), Vec::new());
    while at < bytes.len() {
        let len = word(at + 4) as usize;
        assert_eq!(word(at + len - 4) as usize, len, "both lengths of the block at {at}");
        match word(at) {
            1 => links.push((String::from_utf8(option(at + 16, 2)).unwrap(), half(at + 8))),
            6 => {
                let (link, kept) = (&links[word(at + 8) as usize], word(at + 20) as usize);
                let end = at + 28 + kept;
                seen.push(Seen {
                    link: link.0.clone(),
                    kind: link.1,
                    direction: u32::from_le_bytes(option(end.next_multiple_of(4), 2).try_into().unwrap()),
                    len: word(at + 24) as usize,
                    data: bytes[at + 28..end].to_vec(),
                });
            }
            _ => {}
        }
        at += len;
    }
    seen
}

#[test]
fn packets_are_captured() {
    if !chitin_only("packets_are_captured") {
        return;
    }
    let Some(pair) = Pair::with_addresses(1500) else { return };
    let s = Steps::new(bundle(
        &pair,
        "while :; do ping -c 1 -W 2 10.77.0.1 >/dev/null; ping -c 1 127.0.0.1 >/dev/null; sleep 0.1; done",
    ));
    s.launch();
    let file = paths::scratch("attach-pcap").join("packets");
    let name = file.to_string_lossy().into_owned();
    s.ok(&["debug", "--pcap", &name, "--duration", "1500ms", &s.id]);
    let seen = read_pcapng(&std::fs::read(&file).unwrap());
    // An echo request out and its reply in, with Ethernet headers; and one that never leaves, without.
    let echo = |link: &str, kind: u16, direction: u32, at: usize, icmp: u8| {
        let is = |seen: &&Seen| {
            (seen.link.as_str(), seen.kind, seen.direction) == (link, kind, direction)
                && seen.data.get(at + 9) == Some(&1)
                && seen.data.get(at + 20) == Some(&icmp)
        };
        seen.iter().filter(is).count()
    };
    let counts = [echo("eth0", 1, 2, 14, 8), echo("eth0", 1, 1, 14, 0), echo("lo", 101, 2, 0, 8)];
    assert!(counts.iter().all(|count| *count >= 1), "{counts:?}: {seen:?}");
    assert!(seen.iter().all(|seen| seen.data.len() == seen.len), "all of each packet");
    if chitin_tests::run::have("tcpdump") {
        let mut tcpdump = Command::new("tcpdump");
        tcpdump.args(["-nr", &name]);
        let o = quick(tcpdump, LIMIT);
        assert!(o.text().contains("10.77.0.1: ICMP echo request"), "{}", o.brief());
    }
    // Cut short, and until it is interrupted.
    let mut capture = Command::new(paths::chitin());
    capture.arg("--root").arg(&s.root).args(["debug", "--pcap", "-", "--snaplen", "20", &s.id]);
    let mut child = capture.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().expect("chitin");
    let mut out = child.stdout.take().unwrap();
    let mut bytes = vec![0; 400];
    out.read_exact(&mut bytes).expect("packets come before the end");
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    out.read_to_end(&mut bytes).unwrap();
    assert!(child.wait().unwrap().success());
    let seen = read_pcapng(&bytes);
    assert!(seen.iter().any(|seen| seen.data.len() == 20 && seen.len > 80), "{seen:?}");
    s.ok(&["delete", "--force", &s.id]);
}
