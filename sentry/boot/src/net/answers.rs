//! Answers of name servers that are not the guest's.
//!
//! An engine's name server asks others by sockets of the host's stack, in the sandbox's own namespace. What is answered by UDP
//! to the ports that it has for this comes to both stacks (`runtime/chitin/src/network/answers.rs`). Where no guest has
//! a socket, the stack is not shown it, so that it does not say that nobody is there, nor the egress policy, for which it would be a
//! flow that the other end has begun.

use chitin_net::NetNs;
use std::sync::{Arc, Weak};

const ETHER: usize = 14;
const IPV4: [u8; 2] = [8, 0];
const UDP: u8 = 17;
const DNS: u16 = 53;

#[derive(Clone)]
pub struct Answers {
    ns: Weak<NetNs>,
    ports: (u16, u16),
}

impl Answers {
    pub fn new(ns: &Arc<NetNs>, ports: (u16, u16)) -> Answers {
        Answers { ns: Arc::downgrade(ns), ports }
    }

    /// Whether the frame is one for the host's stack alone. `ether`: it has an Ethernet header.
    pub fn are_not_ours(&self, frame: &[u8], ether: bool) -> bool {
        let Some(port) = answered(frame, ether) else { return false };
        let (first, last) = self.ports;
        (first..=last).contains(&port) && self.ns.upgrade().is_some_and(|ns| !ns.has_udp_port(port))
    }
}

/// The port to which a name server answers.
fn answered(frame: &[u8], ether: bool) -> Option<u16> {
    let packet = if ether {
        let (head, packet) = frame.split_at_checked(ETHER)?;
        if !head.ends_with(&IPV4) {
            return None;
        }
        packet
    } else {
        frame
    };
    let ([first, _, _, _, _, _, high, low, _, protocol, ..], _) = packet.split_first_chunk::<20>()?;
    let later = u16::from_be_bytes([*high, *low]) & 0x1fff != 0;
    if first >> 4 != 4 || *protocol != UDP || later {
        return None;
    }
    let udp = packet.get(usize::from(first & 15) * 4..)?;
    let [a, b, c, d] = *udp.first_chunk::<4>()?;
    (u16::from_be_bytes([a, b]) == DNS).then_some(u16::from_be_bytes([c, d]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_others() {
        let mut packet = vec![0u8; 32];
        (packet[0], packet[9]) = (0x45, UDP);
        packet[20..24].copy_from_slice(&[0, 53, 0xfc, 0]);
        assert_eq!(answered(&packet, false), Some(0xfc00));
        let frame = [&[2; 12][..], &IPV4, &packet].concat();
        assert_eq!(answered(&frame, true), Some(0xfc00));
        // The first of several fragments has the ports, a later one has not.
        packet[6] = 0x20;
        assert_eq!(answered(&packet, false), Some(0xfc00));
        packet[7] = 1;
        assert_eq!(answered(&packet, false), None);
        // Other protocols, ports and versions, options, and what is too short.
        for (at, value) in [(9, 6), (21, 54), (0, 0x65), (0, 0x46)] {
            let mut other = frame.clone();
            other[ETHER + at] = value;
            assert_eq!(answered(&other, true), None, "{at}");
        }
        for length in 0..ETHER + 24 {
            assert_eq!(answered(&frame[..length], true), None, "{length}");
        }
    }
}
