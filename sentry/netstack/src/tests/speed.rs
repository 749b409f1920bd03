//! How fast two stacks are on one core, with frames handed over in memory. Run with:
//! `cargo test --release -p chitin-netstack speed -- --ignored --nocapture --test-threads=1`.

use crate::device::{Device, DeviceInfo, RxFrame, TxFrame};
use crate::testing::*;
use crate::*;
use chitin_abi::netdevice::*;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

struct RealEnv(Instant, AtomicU64);

impl Env for RealEnv {
    fn now(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64 + 1_000_000_000
    }
    fn random(&self) -> u64 {
        self.1.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
    }
    fn arm(&self, _at: u64) {}
}

/// Frames in one direction, in buffers that are used again.
#[derive(Default)]
struct Pipe {
    full: Mutex<Vec<(Vec<u8>, u16)>>,
    empty: Mutex<Vec<(Vec<u8>, u16)>>,
}

struct Port(Arc<Pipe>, DeviceInfo);

impl Device for Port {
    fn info(&self) -> DeviceInfo {
        self.1.clone()
    }
    fn transmit(&self, frames: &[TxFrame<'_>]) -> usize {
        let (mut full, mut empty) = (self.0.full.lock(), self.0.empty.lock());
        for frame in frames {
            let (mut buf, _) = empty.pop().unwrap_or_default();
            buf.clear();
            frame.copy_to(&mut buf);
            full.push((buf, frame.gso.map_or(0, |gso| gso.size)));
        }
        frames.len()
    }
}

fn deliver(stack: &Stack, pipe: &Pipe, csum_ok: bool) -> bool {
    let frames = std::mem::take(&mut *pipe.full.lock());
    for chunk in frames.chunks(64) {
        let rx: Vec<_> = chunk
            .iter()
            .map(|(data, gso_size)| RxFrame { data, csum_ok, gso_size: *gso_size, ..RxFrame::default() })
            .collect();
        stack.receive(ETH0, &rx);
    }
    let any = !frames.is_empty();
    pipe.empty.lock().extend(frames);
    any
}

fn pair(offload: bool, mtu: u32) -> ([Arc<Stack>; 2], [Arc<Pipe>; 2]) {
    let pipes = [Arc::<Pipe>::default(), Arc::<Pipe>::default()];
    let start = Instant::now();
    let stack = |n: u8| {
        let stack = Stack::new(Arc::new(RealEnv(start, AtomicU64::new(u64::from(n)))));
        let hw_addr = [2, 0, 0, 0, 0, n];
        stack.config.link_add(veth(ETH0, "eth0", mtu, hw_addr)).unwrap();
        let info =
            DeviceInfo { mtu, hw_type: ARPHRD_ETHER, hw_addr, csum: offload, tso: offload, uso: offload };
        stack.add_device(ETH0, Arc::new(Port(pipes[usize::from(n - 1)].clone(), info))).unwrap();
        stack.config.addr_add(Address::new(ETH0, ip(&format!("10.0.0.{n}")), 24), false).unwrap();
        stack
    };
    ([stack(1), stack(2)], pipes)
}

fn turn(stacks: &[Arc<Stack>; 2], pipes: &[Arc<Pipe>; 2], csum_ok: bool) {
    let moved = deliver(&stacks[1], &pipes[0], csum_ok) | deliver(&stacks[0], &pipes[1], csum_ok);
    if !moved {
        for stack in stacks {
            stack.on_timer(stack.env().now());
        }
    }
}

fn connected(stacks: &[Arc<Stack>; 2], pipes: &[Arc<Pipe>; 2], csum_ok: bool) -> [Arc<TcpConn>; 2] {
    told(&stacks[0], &[]);
    let listener = listen(&told(&stacks[1], &[]), 128);
    let ears = Arc::new(Ears::default());
    let a =
        stacks[0].tcp_connect(at("10.0.0.1:1000"), at("10.0.0.2:80"), TcpOptions::default(), ears).unwrap();
    while listener.accepted.lock().is_empty() || a.state() != 1 {
        turn(stacks, pipes, csum_ok);
    }
    let b = listener.accepted.lock().pop().unwrap();
    [a, b]
}

#[test]
#[ignore = "a measurement"]
fn speed_of_bulk() {
    for (offload, mtu) in [(true, 1500), (false, 1500), (false, 9000)] {
        let (stacks, pipes) = pair(offload, mtu);
        let [a, b] = connected(&stacks, &pipes, offload);
        let data = vec![7; 1 << 17];
        let mut buf = vec![0; 1 << 17];
        let (start, mut got) = (Instant::now(), 0_u64);
        while got < 4 << 30 && start.elapsed().as_secs() < 4 {
            let _ = a.send(&data, SendFlags::default());
            turn(&stacks, &pipes, offload);
            while let Ok(n) = b.recv(&mut buf) {
                got += n as u64;
            }
        }
        let rate = got as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e9;
        let info = a.info();
        println!(
            "offload {offload}, MTU {mtu}: {rate:.2} Gbit/s, {} packets, {} sent again, cwnd {}, rtt {} us",
            info.tcpi_segs_out, info.tcpi_total_retrans, info.tcpi_snd_cwnd, info.tcpi_rtt
        );
    }
}

#[test]
#[ignore = "a measurement"]
fn speed_of_requests() {
    let (stacks, pipes) = pair(true, 1500);
    let [a, b] = connected(&stacks, &pipes, true);
    let (start, mut n) = (Instant::now(), 0_u64);
    let mut buf = [0; 256];
    while start.elapsed().as_secs() < 2 {
        a.send(&[1; 100], SendFlags::default()).unwrap();
        turn(&stacks, &pipes, true);
        assert_eq!(b.recv(&mut buf), Ok(100));
        b.send(&buf[..100], SendFlags::default()).unwrap();
        turn(&stacks, &pipes, true);
        assert_eq!(a.recv(&mut buf), Ok(100));
        n += 1;
    }
    let each = start.elapsed().as_nanos() as u64 / n;
    println!("{n} requests with answers, {each} ns each (both ends)");
}

#[test]
#[ignore = "a measurement"]
fn speed_of_datagrams() {
    let (stacks, pipes) = pair(true, 1500);
    let _a = told(&stacks[0], &[]);
    let b = told(&stacks[1], &[9]);
    let (start, mut n) = (Instant::now(), 0_u64);
    let mut got = 0;
    while start.elapsed().as_secs() < 2 {
        let route = stacks[0].config.route(ip("10.0.0.2"), None, 0, 0).unwrap();
        for _ in 0..64 {
            let (src, dst) = (at("10.0.0.1:1"), at("10.0.0.2:9"));
            stacks[0].udp_send(&route, src, dst, &[1; 100], &SendOpts::default()).unwrap();
        }
        turn(&stacks, &pipes, true);
        got += std::mem::take(&mut *b.udp.lock()).len();
        n += 64;
    }
    assert!(got as u64 > n / 2);
    println!("{n} datagrams, {} ns each (both ends)", start.elapsed().as_nanos() as u64 / n);
}
