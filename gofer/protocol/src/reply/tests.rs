//! Round trips of the replies, and hostile packets.

use super::*;
use crate::{StatFs, Timestamp};

fn attr() -> Attr {
    Attr { ino: 5, mode: 0o100644, mtime: Timestamp { sec: 1, nsec: 2 }, ..Attr::default() }
}

fn walk_packet(steps: usize, end: u8) -> Vec<u8> {
    let mut packet = Vec::new();
    let mut w = begin_ok(&mut packet);
    for node in 0..steps {
        w.u8(end_tag::STEP);
        NodeAttr { node: node as u64, attr: attr() }.encode(&mut w);
    }
    w.u8(end);
    match end {
        end_tag::SYMLINK => w.bytes(b"/target", PATH_MAX),
        end_tag::ERRNO => w.i32(libc::ENOENT),
        _ => {}
    }
    w.finish().unwrap();
    packet
}

fn parse_walk(packet: &[u8], asked: usize) -> Result<Walk, Malformed> {
    let mut body = ReplyHead::decode(packet)?.map_err(|_| Malformed("errno"))?;
    let walk = Walk::decode(&mut body, asked)?;
    body.end()?;
    Ok(walk)
}

#[test]
fn walks_round_trip() {
    let walk = parse_walk(&walk_packet(2, end_tag::COMPLETE), 2).unwrap();
    assert_eq!((walk.steps.len(), walk.end), (2, WalkEnd::Complete));
    assert_eq!(walk.steps[1], NodeAttr { node: 1, attr: attr() });
    let walk = parse_walk(&walk_packet(1, end_tag::SYMLINK), 2).unwrap();
    assert_eq!(walk.end, WalkEnd::Symlink(b"/target".to_vec()));
    let walk = parse_walk(&walk_packet(0, end_tag::ERRNO), 2).unwrap();
    assert_eq!(walk.end, WalkEnd::Errno(libc::ENOENT));
    assert_eq!(parse_walk(&walk_packet(1, end_tag::NOT_DIRECTORY), 2).unwrap().end, WalkEnd::NotDirectory);
}

#[test]
fn walks_that_contradict_the_question_are_refused() {
    assert!(parse_walk(&walk_packet(3, end_tag::COMPLETE), 2).is_err());
    assert!(parse_walk(&walk_packet(1, end_tag::COMPLETE), 2).is_err());
    assert!(parse_walk(&walk_packet(0, end_tag::SYMLINK), 2).is_err());
    assert!(parse_walk(&walk_packet(0, 9), 2).is_err());
}

#[test]
fn errors_have_an_errno_in_range() {
    let mut packet = Vec::new();
    begin_error(&mut packet, libc::ESTALE);
    assert_eq!(ReplyHead::decode(&packet).unwrap().unwrap_err(), libc::ESTALE);
    begin_error(&mut packet, 0);
    assert_eq!(ReplyHead::decode(&packet).unwrap().unwrap_err(), libc::EIO);
    assert!(ReplyHead::decode(&(-1_i32).to_le_bytes()).is_err());
    assert!(ReplyHead::decode(&4096_i32.to_le_bytes()).is_err());
}

#[test]
fn directory_entries_round_trip_and_bad_names_are_refused() {
    let encode = |names: &[&[u8]]| {
        let mut packet = Vec::new();
        let mut w = Writer::new(&mut packet, REPLY_MAX);
        w.u32(names.len() as u32);
        for (i, name) in names.iter().enumerate() {
            let attr = (i % 2 == 0).then(attr);
            DirEntry { name, ino: i as u64, kind: libc::DT_REG, next: 9, attr }.encode(&mut w);
        }
        w.finish().unwrap();
        packet
    };
    let entries = DirEntries::decode(&mut Reader::new(&encode(&[b"a", b"b"]))).unwrap();
    let names: Vec<_> = entries.iter().map(|e| (e.name, e.attr.is_some())).collect();
    assert_eq!(names, [(&b"a"[..], true), (&b"b"[..], false)]);
    for bad in [&b""[..], b"a/b", b"a\0"] {
        assert!(DirEntries::decode(&mut Reader::new(&encode(&[bad]))).is_err());
    }
    // A count that lies about what follows.
    let mut packet = encode(&[b"a"]);
    packet[0] = 200;
    assert!(DirEntries::decode(&mut Reader::new(&packet)).is_err());
}

#[test]
fn truncated_and_random_replies_are_parsed_without_panic() {
    let packet = walk_packet(2, end_tag::SYMLINK);
    for cut in 0..packet.len() {
        assert!(parse_walk(&packet[..cut], 2).is_err());
    }
    let mut state = 88172645463325252_u64;
    for _ in 0..20_000 {
        let mut bytes = packet.clone();
        for _ in 0..4 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let at = state as usize % bytes.len();
            bytes[at] = (state >> 32) as u8;
        }
        bytes[..4].fill(0);
        parse_as_any_reply(&bytes);
        let _ = parse_walk(&bytes, 2);
        let _ = DirEntries::decode(&mut Reader::new(&bytes[4..]));
        let _ = StatFs::decode(&mut Reader::new(&bytes));
        let _ = NodeAttr::decode(&mut Reader::new(&bytes));
    }
}
