//! Docker's networks that users make: names by dockerd's server at 127.0.0.11, from a container's start on or once it is
//! connected. One daemon serves all tests of this file.

use std::sync::OnceLock;
use std::time::Duration;

use chitin_tests::engine::unique_id;
use chitin_tests::engines::client::{Client, Container};
use chitin_tests::engines::containerd::BUSYBOX;
use chitin_tests::engines::docker::Docker;
use chitin_tests::engines::world::Daemon;
use chitin_tests::leftovers::settle;
use chitin_tests::skip;

const LIMIT: Duration = Duration::from_secs(60);

fn daemon(test: &str) -> Option<&'static Docker> {
    static ONE: OnceLock<Result<Docker, String>> = OnceLock::new();
    ONE.get_or_init(|| Docker::start_bridged("docker-networks"))
        .as_ref()
        .map_err(|why| skip(test, &format!("Docker does not start here: {why}")))
        .ok()
}

/// A network of a user's, `10.NUMBER.0.0/24` with the host at `.1`.
struct Network<'a> {
    on: &'a Docker,
    name: String,
    number: u8,
}

impl<'a> Network<'a> {
    fn new(on: &'a Docker, number: u8) -> Self {
        let name = unique_id();
        let subnet = format!("--subnet=10.{number}.0.0/24");
        let o = on.call(&["network", "create", &subnet, &format!("--gateway=10.{number}.0.1"), &name]);
        assert_eq!(o.code, Some(0), "network create: {}\n{}", o.brief(), on.log());
        Self { on, name, number }
    }

    /// The host's address in it.
    fn host(&self) -> String {
        format!("10.{}.0.1", self.number)
    }

    /// A container in it.
    fn up(&self, flags: &[&str], script: &str) -> Container<'a, Docker> {
        let c = Container::named(self.on);
        let mut all = vec!["run", "-d", "--name", &c.name, "--network", &self.name];
        all.extend(flags);
        all.extend([BUSYBOX, "sh", "-c", script]);
        let o = self.on.call(&all);
        assert_eq!(o.code, Some(0), "run -d: {}\n{}", o.brief(), self.on.log());
        c
    }
}

impl Drop for Network<'_> {
    fn drop(&mut self) {
        let _ = self.on.call(&["network", "rm", &self.name]);
    }
}

fn inside(c: &Container<'_, Docker>, d: &Docker, script: &str) -> String {
    let o = d.call(&["exec", &c.name, "sh", "-c", script]);
    format!("{}{}", o.text(), o.stderr)
}

/// A name server on the host that answers all questions with 192.0.2.99, over TCP with 192.0.2.98.
fn name_server(d: &Docker, at: &str) -> Daemon {
    let script = format!(
        "import socket, threading\n\
        def answer(q, last):\n\
        \tend = q.index(b'\\0', 12) + 5\n\
        \tv4 = q[end - 4:end - 2] == b'\\0\\1'\n\
        \tfound = b'\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x09\\0\\4' + bytes([192, 0, 2, last]) if v4 else b''\n\
        \treturn q[:2] + b'\\x81\\x80\\0\\1\\0' + bytes([v4]) + b'\\0\\0\\0\\0' + q[12:end] + found\n\
        def streams():\n\
        \tt = socket.create_server(('{at}', 53))\n\
        \twhile True:\n\
        \t\tc, _ = t.accept()\n\
        \t\tq = c.recv(512)\n\
        \t\ta = answer(q[2:], 98)\n\
        \t\tc.sendall(len(a).to_bytes(2, 'big') + a)\n\
        \t\tc.close()\n\
        threading.Thread(target=streams).start()\n\
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('{at}', 53))\n\
        while True:\n\
        \tq, a = s.recvfrom(512)\n\
        \ts.sendto(answer(q, 99), a)\n"
    );
    let mut c = d.world.command("python3");
    c.args(["-c", &script]);
    let mut server = d.world.daemon("names", c).expect("python3");
    let octets = at.parse::<std::net::Ipv4Addr>().expect("an address").octets();
    let shown = format!("{:08X}:0035 ", u32::from_ne_bytes(octets));
    let listens = || d.world.run(&["cat", "/proc/net/udp"], LIMIT).text().contains(&shown);
    server.ready(LIMIT, listens).expect("a name server");
    server
}

#[test]
fn names_of_containers_and_of_the_world() {
    let Some(d) = daemon("docker names") else { return };
    let net = Network::new(d, 81);
    let server = name_server(d, &net.host());
    let other = net.up(&["--network-alias", "neighbour"], "exec httpd -f -p 80 -h /etc");
    let c = net.up(&["--dns", &net.host()], "sleep 1000");
    let told = inside(&c, d, "cat /etc/resolv.conf");
    assert!(told.contains("nameserver 127.0.0.11"), "{told}");
    let address = other.inspect("range .NetworkSettings.Networks}}{{.IPAddress}}{{end");
    for name in [other.name.as_str(), "neighbour"] {
        let found =
            inside(&c, d, &format!("nslookup {name}; ping -c 1 -W 5 {name}; wget -qO- http://{name}/passwd"));
        assert!(found.contains(&address), "{name} is {address}: {found}");
        assert!(found.contains("1 packets received") && found.contains("root:"), "{found}\n{}", d.log());
    }
    // What dockerd asks another server for, from within the container's namespace.
    for _ in 0..3 {
        let found = inside(&c, d, "nslookup outside.example");
        assert!(found.contains("192.0.2.99"), "{found}\n{}", d.log());
    }
    // The same over TCP: 33 bytes, one question.
    let query =
        "printf '\\0\\041\\022\\064\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\7outside\\7example\\0\\0\\1\\0\\1'";
    let found = inside(&c, d, &format!("{query} | nc -w 10 127.0.0.11 53 | xxd -p"));
    assert!(found.replace('\n', "").ends_with("c0000262"), "{found}\n{}", d.log());
    // The guest asks that server itself, as well.
    let found = inside(&c, d, &format!("nslookup direct.example {}", net.host()));
    assert!(found.contains("192.0.2.99"), "{found}");
    let found = inside(&c, d, &format!("{query} | nc -w 10 {} 53 | xxd -p", net.host()));
    assert!(found.replace('\n', "").ends_with("c0000262"), "{found}");
    // Also from where dockerd's own questions come from.
    let range = "net.ipv4.ip_local_port_range=64600 64700";
    let c = net.up(&["--dns", &net.host(), "--sysctl", range], "sleep 1000");
    for _ in 0..3 {
        let found = inside(&c, d, &format!("nslookup direct.example {}", net.host()));
        assert!(found.contains("192.0.2.99"), "{found}");
        let found = inside(&c, d, "nslookup outside.example");
        assert!(found.contains("192.0.2.99"), "{found}\n{}", d.log());
    }
    drop(server);
}

#[test]
fn a_network_is_connected_later_and_taken_away() {
    let Some(d) = daemon("docker network connect") else { return };
    let net = Network::new(d, 82);
    let server = name_server(d, &net.host());
    let peer = net.up(&["--network-alias", "neighbour"], "exec httpd -f -p 80 -h /etc");
    let there = peer.inspect("range .NetworkSettings.Networks}}{{.IPAddress}}{{end");
    let c = Container::named(d);
    let served = "mkdir /w; echo served >/w/f; exec httpd -f -p 80 -h /w";
    let host = net.host();
    let o = d.call(&["run", "-d", "--name", &c.name, "--dns", &host, BUSYBOX, "sh", "-c", served]);
    assert_eq!(o.code, Some(0), "run -d on the default bridge: {}\n{}", o.brief(), d.log());
    let first = c.inspect(".NetworkSettings.Gateway");
    // Whether `lo` has ::1 is Docker's choice.
    let host_side = format!("--net={}", c.inspect(".NetworkSettings.SandboxKey"));
    let theirs = d.world.run(&["nsenter", &host_side, "ip", "-o", "addr", "show", "lo"], LIMIT).text();
    let ours = inside(&c, d, "ip -o addr show lo");
    assert!(theirs.contains("inet 127.0.0.1/8"), "{theirs}");
    for address in ["inet 127.0.0.1/8", "inet6 ::1/128"] {
        assert_eq!(ours.contains(address), theirs.contains(address), "{ours}\n{theirs}");
    }
    let pings = |to: &str| inside(&c, d, &format!("ping -c 1 -W 5 {to}"));
    let before = inside(&c, d, "cat /etc/resolv.conf; ip -o -4 addr; ip route");
    assert!(
        !before.contains("127.0.0.11") && !before.contains("inet 10.82.") && before.contains("eth0"),
        "{before}"
    );
    assert!(pings(&first).contains("1 packets received"), "{before}");

    // A second time is as good as the first.
    for time in ["first", "second"] {
        c.ok(&["network", "connect", &net.name, &c.name]);
        let mut name = String::new();
        settle(LIMIT, || {
            let found = inside(&c, d, "ip -o -4 addr; ip route");
            let line = found.lines().find(|line| line.contains("inet 10.82.0."));
            name = line.and_then(|line| line.split_whitespace().nth(1)).unwrap_or_default().to_owned();
            let route = format!("10.82.0.0/24 dev {name}");
            if name.starts_with("eth") && found.contains(&route) { Ok(()) } else { Err(found) }
        })
        .unwrap_or_else(|why| panic!("the {time} time: {why}\n{}", d.log()));
        assert!(pings(&there).contains("1 packets received"), "{}", pings(&there));
        let told = inside(&c, d, "cat /etc/resolv.conf");
        assert!(told.contains("nameserver 127.0.0.11"), "{told}");
        for to in [peer.name.as_str(), "neighbour"] {
            let script =
                format!("nslookup {to}; ping -c 1 -W 5 {to}; timeout 20 wget -qO- http://{to}/passwd");
            let found = inside(&c, d, &script);
            assert!(found.contains(&format!("Address: {there}")), "{to} is {there}: {found}\n{}", d.log());
            assert!(found.contains("1 packets received") && found.contains("root:"), "{found}\n{}", d.log());
        }
        let found = inside(&peer, d, &format!("timeout 20 wget -qO- http://{}/f", c.name));
        assert_eq!(found, "served\n", "from the other side\n{}", d.log());
        // What dockerd asks another server for, by the interface that came later.
        let found = inside(&c, d, "nslookup outside.example");
        assert!(found.contains("192.0.2.99"), "{found}\n{}", d.log());

        c.ok(&["network", "disconnect", &net.name, &c.name]);
        settle(LIMIT, || {
            let found = inside(&c, d, "ip -o addr; ip route");
            if found.contains(&name) || found.contains("10.82.") { Err(found) } else { Ok(()) }
        })
        .unwrap();
        let found = inside(&c, d, &format!("ping -c 1 -W 1 {there}; ping -c 1 -W 5 {first}"));
        assert_eq!(found.matches("1 packets received").count(), 1, "the first network stays: {found}");
    }
    drop(server);
}
