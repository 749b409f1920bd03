//! Round trips of every request, and hostile packets.

use super::*;
use crate::{TimeSet, Timestamp};

fn samples() -> Vec<Request<'static>> {
    let time = TimeSet::At(Timestamp { sec: -5, nsec: 999_999_999 });
    let attr = SetAttr {
        mode: Some(0o644),
        size: Some(1 << 40),
        atime: TimeSet::Now,
        mtime: time,
        ..SetAttr::default()
    };
    vec![
        Request::Channel,
        Request::Attach { root: 3 },
        Request::Walk { node: 7, names: Names::List(&[b"usr", b"lib", b"x"]) },
        Request::Walk { node: 7, names: Names::List(&[]) },
        Request::Open { node: 1, flags: 2 },
        Request::Create { parent: 1, name: b"f", flags: 2, mode: 0o600, uid: 1, gid: 2 },
        Request::Mkdir { parent: 1, name: b"d", mode: 0o755, uid: 1, gid: 2 },
        Request::Symlink { parent: 1, name: b"l", target: b"/etc/passwd", uid: 1, gid: 2 },
        Request::Mknod { parent: 1, name: b"p", mode: 0o10644, rdev: 0, uid: 1, gid: 2 },
        Request::Link { node: 1, parent: 2, name: b"n" },
        Request::Rename { from: 1, from_name: b"a", to: 2, to_name: b"b", flags: 1 },
        Request::Unlink { parent: 1, name: b"a", flags: 0x200 },
        Request::SetAttr { node: 9, attr },
        Request::GetAttr { node: u64::MAX },
        Request::ReadLink { node: 4 },
        Request::StatFs { node: 4 },
        Request::GetXattr { node: 4, name: b"user.a" },
        Request::SetXattr { node: 4, name: b"user.a", value: b"\0\xff", flags: 1 },
        Request::ListXattr { node: 4 },
        Request::RemoveXattr { node: 4, name: b"user.a" },
        Request::ReadDir { node: 4, cookie: 99, attrs: true },
        Request::Close { nodes: Nodes::List(&[1, 2, u64::MAX]) },
        Request::Fsync { node: 4, data_only: false },
        Request::Bind { parent: 4, name: b"s" },
        Request::Connect { node: 4 },
    ]
}

#[test]
fn every_request_survives_the_round_trip_and_no_prefix_of_it_parses() {
    let mut packet = Vec::new();
    for request in samples() {
        request.encode(&mut packet).unwrap();
        assert_eq!(Request::decode(&packet), Ok(request));
        for cut in 0..packet.len() {
            match (request, Request::decode(&packet[..cut])) {
                // A shorter list of nodes is a list of nodes.
                (Request::Close { .. }, Ok(Request::Close { .. })) => assert_eq!((cut - 2) % 8, 0),
                (_, outcome) => assert!(outcome.is_err(), "{request:?} cut at {cut}: {outcome:?}"),
            }
        }
        packet.push(0);
        assert!(Request::decode(&packet).is_err(), "{request:?} with a byte too many");
    }
}

#[test]
fn random_and_mutated_bytes_are_parsed_without_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut packet = Vec::new();
    let samples = samples();
    let mut parsed = 0;
    for round in 0..50_000_u64 {
        if round % 2 == 0 {
            let len = random() % 64;
            packet = (0..len).map(|_| random() as u8).collect();
            if let Some(op) = packet.first_mut() {
                *op %= 28;
            }
            if let Some(op) = packet.get_mut(1) {
                *op = 0;
            }
        } else {
            samples[random() as usize % samples.len()].encode(&mut packet).unwrap();
            let at = random() as usize % packet.len();
            packet[at] = random() as u8;
        }
        if let Ok(request) = Request::decode(&packet) {
            parsed += 1;
            // What was accepted is well-formed: it can be said again and means the same.
            let mut again = Vec::new();
            request.encode(&mut again).unwrap();
            assert_eq!(Request::decode(&again), Ok(request));
        }
    }
    assert!(parsed > 1000, "the mutations hardly reach the parser: {parsed}");
}

#[test]
fn what_exceeds_a_bound_is_not_encoded() {
    let mut packet = Vec::new();
    let long = [b'x'; NAME_MAX + 1];
    assert!(Request::Unlink { parent: 1, name: &long, flags: 0 }.encode(&mut packet).is_err());
    let many = [&b"a"[..]; WALK_MAX + 1];
    assert!(Request::Walk { node: 1, names: Names::List(&many) }.encode(&mut packet).is_err());
    let value = vec![0; XATTR_MAX];
    let fits = Request::SetXattr { node: 1, name: &[b'n'; 255], value: &value, flags: 0 };
    fits.encode(&mut packet).unwrap();
    assert_eq!(Request::decode(&packet), Ok(fits));
}
