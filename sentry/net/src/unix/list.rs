//! /proc/net/unix.

use super::{Phase, UnixSock};
use crate::{NetNs, UnixAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// SO_ACCEPTCON in the flags' column.
const ACCEPTS: u32 = 1 << 16;

/// The text of /proc/net/unix for a namespace.
pub fn proc_net_unix(ns: &NetNs) -> Vec<u8> {
    let mut text = b"Num       RefCount Protocol Flags    Type St Inode Path\n".to_vec();
    let sockets: Vec<Arc<UnixSock>> = ns.unix.lock().values().filter_map(|sock| sock.upgrade()).collect();
    for sock in sockets {
        let (phase, dead) = {
            let state = sock.state.lock();
            (state.phase, state.dead)
        };
        if dead {
            continue;
        }
        let ino = sock.common.ino.load(Ordering::Relaxed);
        let flags = if phase == Phase::Listening { ACCEPTS } else { 0 };
        // SS_CONNECTED and SS_UNCONNECTED; SS_CONNECTING for what nobody has accepted yet.
        let state = match (phase, ino) {
            (Phase::Connected, 0) => 2,
            (Phase::Connected, _) => 3,
            _ => 1,
        };
        // One reference is ours.
        let references = Arc::strong_count(&sock).saturating_sub(1);
        let line = format!(
            "{:016x}: {references:08X} {:08X} {flags:08X} {:04X} {state:02X} {ino:5}",
            0,
            0,
            sock.kind()
        );
        text.extend_from_slice(line.as_bytes());
        if let Some(name) = sock.addr().filter(|name| **name != UnixAddr::Unnamed) {
            text.push(b' ');
            text.extend(name.text());
        }
        text.push(b'\n');
    }
    text
}
