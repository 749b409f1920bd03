//! What the calls cost that servers make all the time: each is handled as a worker handles it, on a kernel without a platform.
//!
//! `cargo test --release -p chitin-syscalls --test hot -- --ignored --nocapture` shows how long they take.

mod allocations;
mod machine;

use chitin_abi::epoll::*;
use chitin_abi::fcntl::{AT_FDCWD, O_NONBLOCK, O_RDONLY};
use chitin_abi::nr::*;
use chitin_abi::socket::*;
use chitin_mm::SliceSource;
use machine::{Guest, RAM, WAITS};
use std::time::Instant;

const DATA: u64 = RAM;
const BACK: u64 = RAM + 0x1000;
const EVENT: u64 = RAM + 0x2000;
const EVENTS: u64 = RAM + 0x3000;
const NAME: u64 = RAM + 0x4000;
const NAME_LEN: u64 = RAM + 0x5000;
const FROM: u64 = RAM + 0x6000;
const PATH: u64 = RAM + 0x7000;
/// Bytes of a request.
const LEN: u64 = 50;

fn put_event(guest: &Guest, events: u32, data: u64) {
    guest.put(EVENT, &events.to_ne_bytes());
    guest.put(EVENT + 4, &data.to_ne_bytes());
}

/// Both ends of a TCP connection over `lo`; they do not wait.
fn connection(guest: &Guest) -> (u64, u64) {
    let kind = u64::from(SOCK_STREAM);
    let listener = guest.done(SYS_socket, &[u64::from(AF_INET), kind, 0]);
    let mut name = [0u8; 16];
    name[..2].copy_from_slice(&2u16.to_ne_bytes());
    name[4..8].copy_from_slice(&[127, 0, 0, 1]);
    guest.put(NAME, &name);
    guest.done(SYS_bind, &[listener, NAME, 16]);
    guest.done(SYS_listen, &[listener, 8]);
    guest.put(NAME_LEN, &16u32.to_ne_bytes());
    guest.done(SYS_getsockname, &[listener, NAME, NAME_LEN]);
    let client = guest.done(SYS_socket, &[u64::from(AF_INET), kind, 0]);
    guest.done(SYS_connect, &[client, NAME, 16]);
    let server = guest.done(SYS_accept4, &[listener, 0, 0, u64::from(O_NONBLOCK)]);
    let set_fl = 4;
    guest.done(SYS_fcntl, &[client, set_fl, u64::from(O_NONBLOCK)]);
    guest.done(SYS_close, &[listener]);
    (client, server)
}

/// Two UDP sockets, the second of which has a name, which is left at NAME.
fn datagrams(guest: &Guest) -> (u64, u64) {
    let made = || guest.done(SYS_socket, &[u64::from(AF_INET), u64::from(SOCK_DGRAM | O_NONBLOCK), 0]);
    let (one, two) = (made(), made());
    guest.put(NAME + 2, &[0, 0]);
    guest.done(SYS_bind, &[two, NAME, 16]);
    guest.put(NAME_LEN, &16u32.to_ne_bytes());
    guest.done(SYS_getsockname, &[two, NAME, NAME_LEN]);
    (one, two)
}

/// A server's epoll and connection, and the client's end of it; and other things that it has.
struct Server {
    guest: Guest,
    epoll: u64,
    client: u64,
    server: u64,
    datagrams: (u64, u64),
    pair: [u64; 2],
    pipe: [u64; 2],
}

impl Server {
    fn new() -> Server {
        let guest = Guest::new();
        let epoll = guest.done(SYS_epoll_create1, &[0]);
        let (client, server) = connection(&guest);
        put_event(&guest, EPOLLIN, server);
        guest.done(SYS_epoll_ctl, &[epoll, u64::from(EPOLL_CTL_ADD), server, EVENT]);
        let datagrams = datagrams(&guest);
        let two = |addr: u64| {
            let [one, two] = [0, 4].map(|at| u32::from_ne_bytes(guest.get(addr + at)).into());
            [one, two]
        };
        guest.done(SYS_socketpair, &[u64::from(AF_UNIX), u64::from(SOCK_STREAM), 0, BACK]);
        let pair = two(BACK);
        guest.done(SYS_pipe2, &[BACK, 0]);
        let pipe = two(BACK);
        guest.put(PATH, b"/program\0");
        guest.put(DATA, &[b'x'; LEN as usize]);
        Server { guest, epoll, client, server, datagrams, pair, pipe }
    }

    fn write(&self, fd: u64) {
        assert_eq!(self.guest.done(SYS_write, &[fd, DATA, LEN]), LEN);
    }
    fn read(&self, fd: u64) {
        assert_eq!(self.guest.done(SYS_read, &[fd, BACK, 0x800]), LEN);
    }
    fn send(&self, fd: u64) {
        assert_eq!(self.guest.done(SYS_sendto, &[fd, DATA, LEN, 0x4000, 0, 0]), LEN);
    }
    fn recv(&self, fd: u64) {
        assert_eq!(self.guest.done(SYS_recvfrom, &[fd, BACK, 0x800, 0, 0, 0]), LEN);
    }
    fn wait(&self, timeout: i64) -> i64 {
        self.guest.call(SYS_epoll_wait, [self.epoll, EVENTS, 64, timeout as u64, 0, 0])
    }
    fn control(&self, op: u32, fd: u64, events: u32) {
        put_event(&self.guest, events, fd);
        self.guest.done(SYS_epoll_ctl, &[self.epoll, u64::from(op), fd, EVENT]);
    }

    fn open(&self) -> u64 {
        self.guest.done(SYS_openat, &[AT_FDCWD as u64, PATH, u64::from(O_RDONLY), 0])
    }

    /// Other calls than those of [`Server::round`], by name.
    fn other_round(&self, mut around: impl FnMut(&'static str, &dyn Fn())) {
        let (guest, (one, two)) = (&self.guest, self.datagrams);
        around("sendto, UDP", &|| assert_eq!(guest.done(SYS_sendto, &[one, DATA, LEN, 0, NAME, 16]), LEN));
        around("recvfrom, UDP", &|| {
            assert_eq!(guest.done(SYS_recvfrom, &[two, BACK, 0x800, 0, FROM, NAME_LEN]), LEN);
        });
        around("write, unix", &|| self.write(self.pair[0]));
        around("read, unix", &|| self.read(self.pair[1]));
        around("write, pipe", &|| self.write(self.pipe[1]));
        around("read, pipe", &|| self.read(self.pipe[0]));
        around("stat", &|| assert_eq!(guest.done(SYS_stat, &[PATH, BACK]), 0));
        around("openat and close", &|| assert_eq!(guest.done(SYS_close, &[self.open()]), 0));
        around("getppid", &|| assert_eq!(guest.done(SYS_getppid, &[]), 0));
    }

    /// Each of the calls, by name, in an order that makes sense.
    fn round(&self, mut around: impl FnMut(&'static str, &dyn Fn())) {
        around("write", &|| self.write(self.client));
        around("epoll_wait, an event", &|| assert_eq!(self.wait(-1), 1));
        around("read", &|| self.read(self.server));
        around("epoll_wait, none", &|| assert_eq!(self.wait(0), 0));
        around("sendto", &|| self.send(self.server));
        around("recvfrom", &|| self.recv(self.client));
        around("epoll_ctl, MOD", &|| self.control(EPOLL_CTL_MOD, self.server, EPOLLIN | EPOLLET));
        around("epoll_ctl, MOD", &|| self.control(EPOLL_CTL_MOD, self.server, EPOLLIN));
        around("epoll_ctl, ADD", &|| self.control(EPOLL_CTL_ADD, self.client, EPOLLIN));
        around("epoll_ctl, DEL", &|| self.control(EPOLL_CTL_DEL, self.client, 0));
    }
}

#[test]
fn a_request_allocates_little() {
    let server = Server::new();
    // What grows once is there then.
    (0..3).for_each(|_| server.round(|_, call| call()));
    server.round(|name, call| {
        let before = allocations::count();
        call();
        let count = allocations::count() - before;
        let most = match name {
            // What holds the bytes on their way.
            "write" | "sendto" => 1,
            // The item, and its places in wait queues.
            "epoll_ctl, ADD" => 2,
            _ => 0,
        };
        assert!(count <= most, "{name} allocates {count} times");
    });
}

#[test]
fn a_wait_ends_with_what_it_waits_for() {
    let server = Server::new();
    assert_eq!(server.wait(-1), WAITS);
    let data = [1, server.server as u8];
    let guest = &server.guest;
    // One task cannot do two things at once: the other end is used from outside.
    let file = guest.task.io_file(server.client as i32).unwrap();
    file.write(&mut SliceSource::new(&data)).unwrap();
    assert_eq!(guest.answer(), WAITS);
    chitin_kernel::run::drain();
    assert_eq!(guest.answer(), 1);
    let event = [&EPOLLIN.to_ne_bytes()[..], &server.server.to_ne_bytes()].concat();
    assert_eq!(guest.get::<12>(EVENTS)[..], event);
}

#[test]
#[ignore = "shows figures"]
fn figures() {
    let server = Server::new();
    const ROUNDS: u32 = 50_000;
    let mut best: Vec<(&str, f64)> = Vec::new();
    for _ in 0..5 {
        let mut sums: Vec<(&str, u64)> = Vec::new();
        for _ in 0..ROUNDS {
            let mut timed = |name, call: &dyn Fn()| {
                let begin = Instant::now();
                call();
                let took = begin.elapsed().as_nanos() as u64;
                match sums.iter_mut().find(|sum| sum.0 == name) {
                    Some(sum) => sum.1 += took,
                    None => sums.push((name, took)),
                }
            };
            server.round(&mut timed);
            server.other_round(&mut timed);
        }
        let clock = {
            let begin = Instant::now();
            for _ in 0..ROUNDS {
                std::hint::black_box(Instant::now());
            }
            begin.elapsed().as_nanos() as f64 / f64::from(ROUNDS)
        };
        for (at, (name, sum)) in sums.iter().enumerate() {
            let calls = if *name == "epoll_ctl, MOD" { 2 * ROUNDS } else { ROUNDS };
            let each = *sum as f64 / f64::from(calls) - clock;
            match best.get_mut(at) {
                Some(best) => best.1 = best.1.min(each),
                None => best.push((name, each)),
            }
        }
    }
    for (name, ns) in best {
        println!("{name:24} {ns:6.0} ns");
    }
}

/// For a profiler that counts instructions within [`profiled`] (`valgrind --tool=callgrind --toggle-collect='*profiled*'
/// --collect-atstart=no`): the call that `CALL` names, among all others.
#[test]
#[ignore = "for a profiler"]
fn one() {
    let server = Server::new();
    let chosen = std::env::var("CALL").expect("CALL names one of the calls that `figures` shows");
    for _ in 0..2000 {
        let mut run =
            |name: &'static str, call: &dyn Fn()| if name == chosen { profiled(call) } else { call() };
        server.round(&mut run);
        server.other_round(&mut run);
    }
}

#[inline(never)]
fn profiled(call: &dyn Fn()) {
    call();
}
