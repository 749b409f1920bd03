//! /proc/net/unix, and what sock_diag(7) tells of these sockets.

use super::{Phase, UnixSock};
use crate::{NetNs, UnixAddr};
use chitin_abi::inet::{TCP_CLOSE, TCP_ESTABLISHED, TCP_LISTEN};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// SO_ACCEPTCON in the flags' column.
const ACCEPTS: u32 = 1 << 16;

/// A socket as sock_diag(7) tells of it.
pub(crate) struct Entry {
    pub kind: u32,
    /// TCP_ESTABLISHED, TCP_LISTEN or TCP_CLOSE.
    pub state: u32,
    pub ino: u64,
    pub cookie: u64,
    pub name: Option<UnixAddr>,
    pub peer: Option<u64>,
    /// Messages to receive, or connections to accept; of a listener, its backlog.
    pub queued: usize,
    pub backlog: usize,
}

/// All that somebody has open.
pub(crate) fn entries(ns: &NetNs) -> Vec<Entry> {
    let sockets: Vec<Arc<UnixSock>> = ns.unix.lock().values().filter_map(|sock| sock.upgrade()).collect();
    let shown = sockets.iter().filter_map(|sock| {
        let state = sock.state.lock();
        let ino = sock.common.ino.load(Ordering::Relaxed);
        if state.dead || ino == 0 {
            return None;
        }
        let listens = state.phase == Phase::Listening;
        Some(Entry {
            kind: sock.kind(),
            state: match state.phase {
                Phase::Connected => TCP_ESTABLISHED,
                Phase::Listening => TCP_LISTEN,
                _ => TCP_CLOSE,
            },
            ino,
            cookie: sock.common.cookie(),
            name: sock.addr().filter(|name| **name != UnixAddr::Unnamed).cloned(),
            peer: state.peer.as_ref().map(|peer| peer.common.ino.load(Ordering::Relaxed)),
            queued: if listens { state.pending.len() } else { state.queue.len() },
            backlog: if listens { state.backlog } else { 0 },
        })
    });
    shown.collect()
}

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
