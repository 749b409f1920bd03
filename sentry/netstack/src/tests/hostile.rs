//! Frames that nobody well-meaning sends.

use crate::testing::*;
use crate::*;

/// A handful of well-formed frames to begin with.
fn seeds() -> Vec<Vec<u8>> {
    let world = World::new(11, Faults::default());
    *world.wire.record.lock() = Some(Vec::new());
    let (_a, _b) = (told(&world.a, &[1]), told(&world.b, &[9]));
    let send = |src: &str, dst: &str, len: usize| {
        let oif = if at(dst).ip().is_multicast() { ETH0 } else { 0 };
        let route = world.a.config.route(at(dst).ip(), None, oif, 0).unwrap();
        world.a.udp_send(&route, at(src), at(dst), &vec![3; len], &SendOpts::default()).unwrap();
        world.idle(1.0);
    };
    send("10.0.0.1:1", "10.0.0.2:9", 30);
    send("10.0.0.1:1", "10.0.0.2:10", 30);
    send("10.0.0.1:1", "10.0.0.2:9", 4000);
    send("[fd00::1]:1", "[fd00::2]:9", 30);
    send("[fd00::1]:1", "[fd00::2]:10", 30);
    send("[fd00::1]:1", "[fd00::2]:9", 4000);
    world.a.join(ETH0, ip("224.3.3.3")).unwrap();
    world.a.join(ETH0, ip("ff02::99")).unwrap();
    world.idle(2.0);
    world.wire.record.lock().take().unwrap()
}

#[test]
fn mutated_frames_do_no_harm() {
    let seeds = seeds();
    assert!(seeds.len() > 15);
    for offload in [false, true] {
        let world = World::with(12, Faults::default(), offload, 1500);
        let told = told(&world.b, &[9]);
        world.b.want_raw(true);
        let mut rng = Rng::new(13);
        for n in 0..60_000 {
            let mut frame = seeds[rng.below(seeds.len() as u64) as usize].clone();
            frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
            for _ in 0..rng.below(6) {
                let at = 12 + rng.below(frame.len() as u64 - 12) as usize;
                frame[at] = rng.number() as u8;
            }
            if rng.chance(20.0) {
                frame.truncate(rng.below(frame.len() as u64 + 1) as usize);
            }
            if rng.chance(5.0) {
                frame.extend((0..rng.below(100)).map(|n| n as u8));
            }
            // With checksums taken for right, more of the code is reached.
            let gso_size = if rng.chance(5.0) { rng.number() as u16 } else { 0 };
            world.b.receive(
                ETH0,
                &[RxFrame { data: &frame, csum_ok: rng.chance(70.0), gso_size, ..RxFrame::default() }],
            );
            if n % 100 == 0 {
                world.idle(0.01);
                told.udp.lock().clear();
                told.raw.lock().clear();
                told.errors.lock().clear();
            }
        }
        assert!(world.b.fragment_bytes() <= 5 << 20);
        assert!(world.b.neighbours().len() <= 1024);
        assert!(world.b.timers.len() < 3000, "{}", world.b.timers.len());
    }
}

#[test]
fn neighbours_are_bounded() {
    let world = World::new(14, Faults::default());
    let _told = told(&world.b, &[]);
    // All of a large network asks for us.
    for n in 0..20_000_u32 {
        let [_, x, y, z] = n.to_be_bytes();
        let mut frame = vec![0xff; 6];
        frame.extend_from_slice(&[2, 1, 1, x, y, z, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1, 2, 1, 1, x, y, z]);
        frame.extend_from_slice(&[10, 1, y, z, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
        world.b.receive(ETH0, &[RxFrame { data: &frame, ..RxFrame::default() }]);
    }
    let known = world.b.neighbours();
    assert!((100..=1024).contains(&known.len()), "{}", known.len());
    assert!(known.iter().any(|n| n.hw_addr == Some([2, 1, 1, 0, 0x4e, 0x1f])), "the last one is there");
}

/// Both ends of a connection, if it can be made.
fn victim(pair: &Pair, v6: bool) -> Option<(std::sync::Arc<TcpConn>, std::sync::Arc<TcpConn>)> {
    let conn = pair.dial(v6, TcpOptions::default());
    pair.world.idle(0.01);
    for _ in 0..20 {
        let mut accepted = pair.listener.accepted.lock();
        if let Some(at) = accepted.iter().position(|c| c.remote() == conn.local()) {
            return Some((conn, accepted.remove(at)));
        }
        drop(accepted);
        pair.world.idle(0.5);
    }
    conn.abort();
    None
}

/// Frames of live TCP connections, changed at random and thrown at both ends, while a transfer goes on beside.
#[test]
fn mutated_segments_do_no_harm() {
    let (mut thrown, mut made) = (0, 0);
    for (seed, offload) in [(81, false), (82, true)] {
        let pair = Pair::new(World::with(seed, Faults { loss: 2.0, ..Faults::default() }, offload, 1500));
        let (a, b) = pair.connect(false, TcpOptions::default());
        let mut flow = Flow::new(&a, &b, 30_000_000);
        let mut rng = Rng::new(seed);
        let mut done = false;
        for round in 0..120 {
            *pair.world.wire.record.lock() = Some(Vec::new());
            // What was thrown before may stand in the way of a connection: then there is one less.
            let victims: Vec<_> = (0..3).filter_map(|n| victim(&pair, n == 0)).collect();
            for (x, y) in &victims {
                let _ = x.send(&[5; 20_000], SendFlags::default());
                let _ = y.send(&[5; 3_000], SendFlags { oob: round % 3 == 0, more: false });
            }
            pair.world.idle(0.003);
            if round % 4 == 0 {
                victims.first().inspect(|(x, _)| x.close());
            }
            let mut seeds = pair.world.wire.record.lock().take().unwrap();
            // The transfer beside it is left in peace, so that it must go through unharmed.
            seeds.retain(|f| {
                f.len() >= 60 && !f.windows(2).take(50).any(|w| w == a.local().port().to_be_bytes())
            });
            made += victims.len();
            for n in 0..if seeds.is_empty() { 0 } else { 600 } {
                let mut frame = seeds[rng.below(seeds.len() as u64) as usize].clone();
                let to_b = frame[5] == 2;
                for _ in 0..1 + rng.below(4) {
                    // Addresses stay, so that it reaches a connection; ports mostly do.
                    let at = 12 + rng.below(90.min(frame.len() as u64 - 12)) as usize;
                    if (26..36).contains(&at) || at < 14 {
                        continue;
                    }
                    frame[at] = if rng.chance(50.0) { rng.number() as u8 } else { frame[at].wrapping_add(1) };
                }
                if rng.chance(10.0) {
                    frame.truncate(rng.below(frame.len() as u64) as usize);
                }
                // What a mutation makes of the ports must not be the transfer's.
                let own = a.local().port().to_be_bytes();
                if frame.windows(2).take(60).any(|w| w == own) {
                    continue;
                }
                let end = if to_b { &pair.world.b } else { &pair.world.a };
                let gso_size = if rng.chance(10.0) { rng.number() as u16 } else { 0 };
                end.receive(ETH0, &[RxFrame { data: &frame, csum_ok: true, gso_size, ..RxFrame::default() }]);
                thrown += 1;
                if n % 100 == 0 {
                    pair.world.idle(0.001);
                    done = done || flow.turn();
                }
            }
            for (x, y) in &victims {
                let mut buf = vec![0; 50_000];
                let _ = (x.recv(&mut buf), y.recv(&mut buf), y.recv_oob(false), x.info(), y.readiness());
                x.close();
                y.abort();
            }
            pair.listener.accepted.lock().drain(..).for_each(|conn| conn.abort());
            let memory = pair.world.a.tcp_memory() + pair.world.b.tcp_memory();
            assert!(memory < 40 << 20, "{memory}");
        }
        pair.world.run(100.0, || done || flow.turn());
        pair.world.idle(1300.0);
        let left = pair.world.b.tcp_list();
        assert!(left.len() < 5, "{left:?}");
        assert!(pair.world.b.timers.len() + pair.world.a.timers.len() < 20);
    }
    assert!(thrown > 100_000 && made > 600, "{thrown} at {made} connections");
}

/// Small segments cost more than their bytes: where many are under way, what follows waits to be put together.
#[test]
fn small_segments_are_bounded() {
    let pair = Pair::new(World::new(15, Faults::default()));
    let (a, b) = pair.connect(false, TcpOptions { nodelay: true, ..TcpOptions::default() });
    pair.world.wire.faults.lock().loss = 100.0;
    let sent = pair.world.wire.sent.load(std::sync::atomic::Ordering::Relaxed);
    for n in 0..5000 {
        assert_eq!(a.send(&[pattern(n)], SendFlags::default()), Ok(1));
    }
    let sent = pair.world.wire.sent.load(std::sync::atomic::Ordering::Relaxed) - sent;
    assert!((200..800).contains(&sent), "{sent}");
    pair.world.wire.faults.lock().loss = 0.0;
    let mut got = Vec::new();
    pair.world.run(10.0, || {
        let mut buf = [0; 8000];
        got.extend_from_slice(b.recv(&mut buf).map_or(&[], |n| &buf[..n]));
        got.len() == 5000
    });
    assert!(got.iter().enumerate().all(|(n, byte)| *byte == pattern(n)));
}

/// Sends datagrams from B to hosts that are not there.
fn shout(world: &World, len: usize) {
    for n in 0..250 {
        let dst = at(&format!("[fd00::{:x}]:4000", 0x300 + n));
        let route = world.b.config.route(dst.ip(), None, 0, 0).unwrap();
        for _ in 0..100 {
            let _ = world.b.udp_send(&route, at("[fd00::2]:9"), dst, &vec![1; len], &SendOpts::default());
        }
    }
}

#[test]
fn what_waits_for_neighbours_is_bounded() {
    for len in [0, 1400] {
        let world = World::new(16, Faults::default());
        let _told = told(&world.b, &[]);
        shout(&world, len);
        let held = world.b.held();
        assert!(((1 << 20)..(6 << 20)).contains(&held), "{held}");
        world.idle(10.0);
        // There is room again once nobody has answered.
        let first = world.b.held();
        shout(&world, len);
        assert!(world.b.held() > first + (1 << 20), "{first}, {}", world.b.held());
    }
}

#[test]
fn a_neighbour_that_is_set_gets_what_waited() {
    let world = World::new(17, Faults::default());
    let (_a, _b) = (told(&world.a, &[]), told(&world.b, &[]));
    shout(&world, 10);
    *world.wire.record.lock() = Some(Vec::new());
    let known = Neighbour { hw_addr: Some([2, 7, 7, 7, 7, 7]), ..world.b.neighbours().remove(0) };
    let timers = world.b.timers.len();
    world.b.neighbour_set(&Neighbour { state: chitin_abi::rtnetlink::NUD_PERMANENT, ..known }).unwrap();
    let record = world.wire.record.lock().take().unwrap();
    assert_eq!(record.len(), 64);
    assert!(record.iter().all(|frame| frame[..6] == [2, 7, 7, 7, 7, 7]));
    assert_eq!(world.b.timers.len(), timers - 1);
}

/// Fragments with long headers, each of another packet.
#[test]
fn headers_of_fragments_count() {
    let world = World::new(18, Faults::default());
    let _told = told(&world.b, &[]);
    for id in 0..20_000_u32 {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0];
        let headers = 1024;
        frame.extend_from_slice(&(headers + 16_u16).to_be_bytes());
        frame.extend_from_slice(&[60, 64]);
        frame.extend_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        frame.extend_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        let mut options = vec![0; usize::from(headers)];
        options[..2].copy_from_slice(&[44, 127]);
        frame.extend(options);
        frame.extend_from_slice(&[17, 0, 0, 1]);
        frame.extend_from_slice(&id.to_be_bytes());
        frame.extend_from_slice(&[0; 8]);
        world.b.receive(ETH0, &[RxFrame { data: &frame, csum_ok: true, gso_size: 0, ..RxFrame::default() }]);
    }
    let held = world.b.held();
    assert!(((2 << 20)..(7 << 20)).contains(&held), "{held}");
}

/// A query that is to be answered earlier takes the place of one that had more time.
#[test]
fn queries_do_not_pile_up() {
    let world = World::new(19, Faults::default());
    let _told = told(&world.b, &[]);
    world.b.join(ETH0, ip("224.5.5.5")).unwrap();
    world.idle(5.0);
    let before = world.b.timers.len();
    for n in 0..2000_u32 {
        let time = [100, 1][(n % 2) as usize];
        let mut igmp = [0x11, time, 0, 0, 0, 0, 0, 0];
        let sum = crate::wire::Sum::default().put(&igmp).finish();
        igmp[2..4].copy_from_slice(sum.as_ref());
        let mut ip = [0x45, 0, 0, 28, 0, 0, 0, 0, 1, 2, 0, 0, 10, 0, 0, 1, 224, 0, 0, 1];
        let sum = crate::wire::Sum::default().put(&ip).finish();
        ip[10..12].copy_from_slice(sum.as_ref());
        let eth = [1, 0, 0x5e, 0, 0, 1, 2, 0, 0, 0, 0, 1, 8, 0];
        let frame = [&eth[..], &ip, &igmp].concat();
        world.b.receive(ETH0, &[RxFrame { data: &frame, csum_ok: false, gso_size: 0, ..RxFrame::default() }]);
        if time == 1 {
            world.idle(0.11);
        }
        assert!(world.b.timers.len() <= before + 1, "{}", world.b.timers.len());
    }
}

/// Sysctls are the guest's; what it may hold is not.
#[test]
fn settings_do_not_lift_bounds() {
    let world = World::new(20, Faults::default());
    for path in ["ipv4/ipfrag_high_thresh", "ipv4/tcp_max_tw_buckets", "ipv4/tcp_rmem", "ipv4/tcp_wmem"] {
        world.b.tune(path, &[i32::MAX.into(); 3]).unwrap();
    }
    world.b.tcp_memory_limit(1 << 20);
    let pair = Pair::new(world);
    let ends: Vec<_> = (0..8).map(|_| pair.connect(false, TcpOptions::default())).collect();
    for (a, _) in &ends {
        let _ = a.send(&vec![1; 4 << 20], SendFlags::default());
    }
    pair.world.idle(20.0);
    let memory = pair.world.b.tcp_memory();
    // And what each has in any case.
    assert!(memory <= (1 << 20) + 8 * 5000, "{memory}");
}
