//! Docker's networks that users make: names by dockerd's server at 127.0.0.11. One daemon serves all tests of this file.

use std::sync::OnceLock;
use std::time::Duration;

use chitin_tests::engine::unique_id;
use chitin_tests::engines::client::{Client, Container};
use chitin_tests::engines::containerd::BUSYBOX;
use chitin_tests::engines::docker::Docker;
use chitin_tests::engines::world::Daemon;
use chitin_tests::skip;

const LIMIT: Duration = Duration::from_secs(60);

fn daemon(test: &str) -> Option<&'static Docker> {
    static ONE: OnceLock<Result<Docker, String>> = OnceLock::new();
    ONE.get_or_init(|| Docker::start("docker-networks"))
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
    let listens = || d.world.run(&["cat", "/proc/net/udp"], LIMIT).text().contains(":0035 ");
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
    drop(server);
}
