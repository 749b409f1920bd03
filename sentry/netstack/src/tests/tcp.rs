//! Transfers over good wires and bad ones.

use crate::testing::*;
use crate::*;

/// Moves so many bytes both ways; the virtual seconds it took.
fn transfer(pair: &Pair, v6: bool, forth: usize, back: usize, options: TcpOptions, limit: f64) -> f64 {
    let (a, b) = pair.connect(v6, options);
    let start = pair.world.now();
    let mut flows = [Flow::new(&a, &b, forth), Flow::new(&b, &a, back)];
    let mut done = [false; 2];
    pair.world.run(limit, || {
        for (flow, done) in flows.iter_mut().zip(&mut done) {
            *done = *done || flow.turn();
        }
        done == [true; 2]
    });
    let took = (pair.world.now() - start) as f64 / 1e9;
    a.close();
    b.close();
    pair.world.idle(1.0);
    took
}

#[test]
fn plain_transfers() {
    for offload in [false, true] {
        for v6 in [false, true] {
            let pair = Pair::new(World::with(21, Faults::default(), offload, 1500));
            let took = transfer(&pair, v6, 20_000_000, 3_000_000, TcpOptions::default(), 30.0);
            assert!(took < 2.0, "{took}");
            assert!(pair.world.a.tcp_memory() == 0 && pair.world.b.tcp_memory() == 0);
            assert!(pair.world.b.tcp_list().len() <= 1);
        }
    }
}

#[test]
fn tiny_transfers() {
    let pair = Pair::new(World::new(22, Faults::default()));
    for n in [0, 1, 2, 1447, 1448, 1449, 1460, 4000] {
        transfer(&pair, n % 2 == 0, n, n / 2, TcpOptions::default(), 10.0);
    }
}

#[test]
fn losses_reordering_doubles_delays() {
    let mut seed = 100;
    for (loss, double, reorder, delay_ms, size) in [
        (1.0, 0.0, 0.0, 10, 4_000_000),
        (3.0, 1.0, 0.0, 10, 2_000_000),
        (10.0, 2.0, 0.0, 5, 600_000),
        (0.0, 0.0, 5.0, 10, 4_000_000),
        (1.0, 10.0, 10.0, 2, 2_000_000),
        (20.0, 5.0, 20.0, 1, 200_000),
        (0.5, 0.0, 0.0, 50, 4_000_000),
    ] {
        for (offload, v6, congestion) in [
            (false, false, Congestion::Cubic),
            (true, true, Congestion::Cubic),
            (false, true, Congestion::Reno),
            (true, false, Congestion::Bbr),
        ] {
            seed += 1;
            let delay = delay_ms * 1_000_000;
            let faults = Faults { loss, double, reorder, delay, ..Faults::default() };
            let pair = Pair::new(World::with(seed, faults.clone(), offload, 1500));
            let options = TcpOptions { congestion, ..TcpOptions::default() };
            let took = transfer(&pair, v6, size, size / 10, options, 900.0);
            let rate = size as f64 / took / 1e6;
            println!("{faults:?} offload {offload} {congestion:?}: {took:.2} s, {rate:.2} MB/s");
        }
    }
}

/// Losses on a fast wire with little delay: timeouts, of 200 ms at least, would cost most of the throughput.
#[test]
fn losses_are_mended_without_timeouts() {
    let (mut rtos, mut again, mut time) = (0, 0, 0.0);
    for seed in 0..20 {
        let faults = Faults {
            loss: 2.0,
            reorder: 1.0,
            delay: 30_000,
            rate: 500_000_000,
            queue: 20_000_000,
            ..Faults::default()
        };
        let pair = Pair::new(World::new(500 + seed, faults));
        let (a, b) = pair.connect(false, TcpOptions::default());
        let mut flow = Flow::new(&a, &b, 5_000_000);
        let start = pair.world.now();
        pair.world.run(60.0, || flow.turn());
        let info = a.info();
        let took = (pair.world.now() - start) as f64 / 1e9;
        println!("{took:.2} s, {} sent again, {} timeouts", info.tcpi_total_retrans, info.tcpi_total_rto);
        rtos += info.tcpi_total_rto;
        again += info.tcpi_total_retrans;
        time += took;
    }
    println!("{rtos} timeouts, {again} sent again, {time:.2} s for 100 MB");
    assert!(rtos <= 8, "{rtos}");
}

#[test]
fn peers_without_options() {
    for (sack, ts, scale) in [(0, 0, 0), (1, 0, 1), (0, 1, 1), (1, 1, 0)] {
        let faults = Faults { loss: 1.0, reorder: 1.0, delay: 2_000_000, ..Faults::default() };
        let pair = Pair::new(World::new(30 + sack as u64 + ts as u64 * 2, faults));
        pair.world.b.sysctls.tcp_sack.set(sack);
        pair.world.b.sysctls.tcp_timestamps.set(ts);
        pair.world.b.sysctls.tcp_window_scaling.set(scale);
        let took = transfer(&pair, false, 1_000_000, 100_000, TcpOptions::default(), 200.0);
        println!("sack {sack} ts {ts} scale {scale}: {took:.2} s");
    }
}

#[test]
fn a_bottleneck_is_filled() {
    // 100 Mbit/s, 40 ms there and back, a queue of half that.
    for (rtt_ms, queue_ms) in [(40, 20), (40, 60), (100, 50)] {
        let faults = Faults {
            rate: 100_000_000,
            queue: queue_ms * 1_000_000,
            delay: rtt_ms * 500_000,
            ..Faults::default()
        };
        let pair = Pair::new(World::new(41, faults));
        let size = 50_000_000;
        let took = transfer(&pair, false, size, 0, TcpOptions::default(), 100.0);
        let rate = size as f64 * 8.0 / took / 1e6;
        println!("rtt {rtt_ms} ms, queue {queue_ms} ms: {rate:.1} Mbit/s");
        assert!(rate > 60.0, "{rate}");
    }
}

/// As before, with losses on the way, which make CUBIC slow: 1% at 20 ms leaves it a few Mbit/s.
#[test]
fn bbr_fills_a_bottleneck_whatever_is_lost() {
    for (loss, rtt_ms, queue_ms, offload) in [
        (0.0, 40, 20, false),
        (0.0, 40, 60, true),
        (1.0, 20, 20, false),
        (3.0, 40, 40, false),
        (1.0, 20, 20, true),
    ] {
        let faults = Faults {
            loss,
            rate: 100_000_000,
            queue: queue_ms * 1_000_000,
            delay: rtt_ms * 500_000,
            ..Faults::default()
        };
        let pair = Pair::new(World::with(45, faults, offload, 1500));
        let size = 50_000_000;
        let options = TcpOptions { congestion: Congestion::Bbr, ..TcpOptions::default() };
        let took = transfer(&pair, false, size, 0, options, 100.0);
        let rate = size as f64 * 8.0 / took / 1e6;
        let sent = pair.world.wire.bytes.load(std::sync::atomic::Ordering::Relaxed) as f64 / size as f64;
        println!(
            "loss {loss}%, rtt {rtt_ms} ms, queue {queue_ms} ms, offload {offload}: {rate:.1} Mbit/s, {sent:.2} sent"
        );
        assert!(rate > 70.0, "{rate}");
        assert!(sent < 1.25, "{sent}");
    }
}

/// A machine that is too busy now and then, writers and readers that pause, a wire that does everything: nothing stands
/// still for good.
#[test]
fn nothing_stands_still_on_a_busy_machine() {
    for seed in 108..116 {
        let faults = Faults {
            loss: 1.0,
            double: 1.0,
            reorder: 1.0,
            delay: 500_000,
            rate: if seed % 2 == 0 { 0 } else { 1_000_000_000 },
            ..Faults::default()
        };
        let pair = Pair::new(World::with(900 + seed, faults, seed % 4 < 2, 1500));
        let options = TcpOptions { congestion: Congestion::Bbr, ..TcpOptions::default() };
        let (a, b) = pair.connect(false, options);
        let mut flow = Flow::new(&a, &b, 80_000_000);
        let mut rng = Rng::new(seed);
        let mut paused = 0;
        pair.world.run(600.0, || {
            let now = pair.world.now();
            if rng.chance(0.05) {
                let hiccup = rng.below(1_500_000_000);
                pair.world.time.fetch_add(hiccup, std::sync::atomic::Ordering::Relaxed);
            }
            if rng.chance(0.05) {
                paused = now + rng.below(30_000_000);
            }
            now >= paused && flow.turn()
        });
    }
}

#[test]
fn windows_grow_to_megabytes() {
    // 1 Gbit/s with 40 ms is 5 MB; the reader's window may have 3 MB.
    let faults = Faults { delay: 20_000_000, ..Faults::default() };
    let pair = Pair::new(World::with(42, faults, true, 1500));
    let size = 100_000_000;
    let took = transfer(&pair, false, size, 0, TcpOptions::default(), 60.0);
    let rate = size as f64 / took / 1e6;
    println!("{rate:.1} MB/s");
    assert!(rate > 40.0, "{rate} MB/s");
}

#[test]
fn many_at_once() {
    let faults = Faults { loss: 1.0, delay: 1_000_000, ..Faults::default() };
    let pair = Pair::new(World::with(43, faults, true, 1500));
    let ends: Vec<_> = (0..100).map(|n| pair.connect(n % 2 == 0, TcpOptions::default())).collect();
    let mut flows: Vec<_> = ends
        .iter()
        .flat_map(|(a, b)| [Flow::new(a, b, 100_000), Flow::new(b, a, 50_000)])
        .map(|flow| (flow, false))
        .collect();
    pair.world.run(120.0, || {
        flows.iter_mut().for_each(|(flow, done)| *done = *done || flow.turn());
        flows.iter().all(|(_, done)| *done)
    });
}

#[test]
fn ten_thousand_connections() {
    let pair = Pair::new(World::with(44, Faults::default(), true, 1500));
    let conns: Vec<_> = (0..10_000).map(|n| pair.dial(n % 2 == 0, TcpOptions::default())).collect();
    pair.world.run(200.0, || pair.listener.accepted.lock().len() == conns.len());
    let accepted = std::mem::take(&mut *pair.listener.accepted.lock());
    for (conn, n) in conns.iter().zip(0_u32..) {
        conn.send(&n.to_be_bytes(), SendFlags::default()).unwrap();
    }
    pair.world.idle(0.5);
    for conn in &accepted {
        let mut buf = [0; 10];
        assert_eq!(conn.recv(&mut buf), Ok(4));
        conn.send(&buf[..4], SendFlags::default()).unwrap();
    }
    pair.world.idle(0.5);
    for (conn, n) in conns.iter().zip(0_u32..) {
        let mut buf = [0; 10];
        assert_eq!(conn.recv(&mut buf), Ok(4));
        assert_eq!(buf[..4], n.to_be_bytes());
    }
    // Idle ones cost next to nothing.
    pair.world.idle(5.0);
    let memory = pair.world.a.tcp_memory() + pair.world.b.tcp_memory();
    assert_eq!(memory, 0);
    conns.iter().for_each(|conn| conn.close());
    pair.world.idle(0.5);
    accepted.iter().for_each(|conn| conn.close());
    pair.world.idle(1.0);
    let left = pair.world.a.tcp_list();
    assert!(left.iter().all(|e| e.state == 6), "all of them wait");
    assert_eq!(left.len(), 10_000);
    assert!(pair.world.b.tcp_list().is_empty());
    pair.world.idle(61.0);
    assert!(pair.world.a.tcp_list().is_empty());
    assert_eq!(pair.world.a.timers.len() + pair.world.b.timers.len(), 0);
}

#[test]
fn marks_stand_for_losses() {
    for (v6, at) in [(false, 14 + 20), (true, 14 + 40)] {
        let pair = Pair::new(World::new(31, Faults::default()));
        let world = &pair.world;
        world.a.sysctls.tcp_ecn.set(1);
        *world.wire.record.lock() = Some(Vec::new());
        let (a, b) = pair.connect(v6, TcpOptions::default());
        world.wire.faults.lock().marks = 3.0;
        let mut flow = Flow::new(&a, &b, 1_000_000);
        world.run(100.0, || flow.turn());
        let (sender, receiver) = (a.info(), b.info());
        let (ecn, seen) = (chitin_abi::inet::TCPI_OPT_ECN, chitin_abi::inet::TCPI_OPT_ECN_SEEN);
        assert_eq!((sender.tcpi_options & ecn, receiver.tcpi_options & (ecn | seen)), (ecn, ecn | seen));
        assert_eq!(sender.tcpi_total_retrans, 0);
        assert!(sender.tcpi_delivered_ce > 0 && sender.tcpi_snd_ssthresh < 1000, "the window was reduced");
        let frames = world.wire.record.lock().take().unwrap();
        let tcp: Vec<_> = frames
            .iter()
            .filter(|frame| {
                frame[12..14] == if v6 { [0x86, 0xdd] } else { [8, 0] }
                    && frame[if v6 { 20 } else { 23 }] == 6
            })
            .map(|frame| {
                let ecn = if v6 { frame[15] >> 4 & 3 } else { frame[15] & 3 };
                let len = frame.len() - at - usize::from(frame[at + 12] >> 4) * 4;
                (frame[5] == 2, ecn, frame[at + 13], len)
            })
            .collect();
        let (syn, answer) = (tcp[0], tcp[1]);
        assert_eq!((syn.1, syn.2, answer.1, answer.2), (0, 2 | 64 | 128, 0, 2 | 16 | 64));
        // Data can be marked, and nothing else.
        assert!(tcp.iter().all(|(_, ecn, _, len)| (*ecn == 2) == (*len > 0)));
        let echoes = tcp.iter().skip(2).filter(|(to_b, _, flags, _)| !to_b && flags & 64 != 0).count();
        let answers = tcp.iter().skip(2).filter(|(to_b, _, flags, _)| *to_b && flags & 128 != 0).count();
        assert!(answers > 0 && echoes >= answers, "{echoes} {answers}");
        let mut later = tcp.iter().skip(2).skip_while(|(to_b, _, flags, _)| !*to_b || flags & 128 == 0);
        assert!(later.any(|(to_b, _, flags, _)| !to_b && flags & 64 == 0), "what has been answered is over");
    }
    // Who is asked decides, and by default nobody asks; a lost SYN comes without the question.
    for (asks, answers, lost, expected) in [
        (2, 2, false, false),
        (1, 0, false, false),
        (0, 1, false, false),
        (1, 2, false, true),
        (1, 2, true, false),
    ] {
        let pair = Pair::new(World::new(32, Faults::default()));
        let world = &pair.world;
        // So that they know each other's hardware addresses.
        pair.connect(false, TcpOptions::default());
        world.a.sysctls.tcp_ecn.set(asks);
        world.b.sysctls.tcp_ecn.set(answers);
        if lost {
            world.wire.faults.lock().loss = 100.0;
        }
        let a = pair.dial(false, TcpOptions::default());
        if lost {
            world.idle(0.5);
            world.wire.faults.lock().loss = 0.0;
        }
        world.run(60.0, || a.state() == 1 && !pair.listener.accepted.lock().is_empty());
        let b = pair.listener.accepted.lock().remove(0);
        let on = |conn: &TcpConn| conn.info().tcpi_options & chitin_abi::inet::TCPI_OPT_ECN != 0;
        assert_eq!((on(&a), on(&b)), (expected, expected), "{asks} {answers} {lost}");
    }
}
