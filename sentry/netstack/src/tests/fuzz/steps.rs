//! Steps of the hostile host other than TCP's.

use super::wire::*;
use super::{Attack, EVIL, MAC_B};
use crate::sockets::SendOpts;
use crate::testing::{ETH0, ip};
use crate::wire::*;
use chitin_abi::netdevice::*;
use chitin_fuzz::Bytes;
use std::net::{IpAddr, SocketAddr};
use zerocopy::IntoBytes;

impl Attack<'_> {
    pub fn fragments(&mut self, mut args: Bytes<'_>, how: &Bytes<'_>) {
        let what = args.u8();
        let v6 = what & 1 != 0;
        let (src, dst) = (evil(v6), target(v6));
        let total = usize::from(args.u8()) * if what & 2 != 0 { 257 } else { 16 } + 8;
        let size = 8 * (1 + usize::from(args.u8()));
        let id = args.u8();
        let (skip, shift, last) = (args.u8(), i32::from(args.u8().cast_signed()), args.u8());
        let proto = args.pick(&[17_u8, if v6 { 58 } else { 1 }, 6, 99, 44, 0]);
        let mut payload: Vec<u8> = (0..total).map(|n| n as u8).collect();
        let udp = Udp { src: 5555.into(), dst: 9.into(), len: len16(total), csum: 0.into() };
        payload[..8].copy_from_slice(udp.as_bytes());
        if proto != 17 {
            payload[..8].copy_from_slice(&[if v6 { 128 } else { 8 }, 0, 0, 0, 1, 2, 3, 4]);
        }
        mend(&src, &dst, proto, &mut payload);
        let mut pieces: Vec<(usize, &[u8])> = payload.chunks(size).enumerate().collect();
        let count = pieces.len();
        if what & 4 != 0 {
            pieces.reverse();
        }
        for (n, piece) in pieces.into_iter().take(64) {
            if skip != 0 && n % 256 == usize::from(skip) {
                continue;
            }
            let mut offset = (n * size / 8) as i32;
            if n % 4 == 1 {
                offset += shift;
            }
            let offset = (offset & 0x1fff) as u16;
            let more = n + 1 < count || last & 1 != 0;
            let one = if v6 {
                let off = offset << 3 | u16::from(more);
                let head = Frag6 { next: proto, reserved: 0, off: off.into(), id: u32::from(id).into() };
                let mut payload = [head.as_bytes(), piece].concat();
                let mut first = 44;
                // Headers that every fragment has.
                if what & 8 != 0 {
                    let units = usize::from(last >> 1) % 32;
                    let mut options = vec![0; (units + 1) * 8];
                    options[0] = 44;
                    options[1] = units as u8;
                    payload.splice(0..0, options);
                    first = 60;
                }
                packet(src, dst, first, 64, (0, 0), &payload)
            } else {
                let frag = offset | if more { IP_MF } else { 0 };
                packet(src, dst, proto, 64, (id.into(), frag), piece)
            };
            self.send(&one, how);
        }
    }

    pub fn arp(&mut self, mut args: Bytes<'_>, how: &Bytes<'_>) {
        let op = args.pick(&[1_u16, 2, 0, 3, 0x100]);
        let pick = |n: u8| match n {
            // Not the well-meaning one's.
            1 => [10, 0, 0, 66],
            2..=254 => [10, 0, 0, n],
            0 => [0; 4],
            255 => [10, 0, 0, 255],
        };
        let (src, dst) = (pick(args.u8()), pick(args.u8()));
        let mac = args.pick(&[EVIL, MAC_B, [0; 6], [0xff; 6], [1, 0, 0x5e, 0, 0, 1], [2, 9, 9, 9, 9, 9]]);
        let odd = args.u8();
        let arp = Arp {
            hw: if odd & 1 != 0 { u16::from(odd) } else { ARPHRD_ETHER }.into(),
            proto: ETH_P_IP.into(),
            hw_len: if odd & 2 != 0 { odd } else { 6 },
            proto_len: if odd & 4 != 0 { odd } else { 4 },
            op: op.into(),
            src_hw: mac,
            src,
            dst_hw: [0; 6],
            dst: if odd & 8 != 0 { dst } else { [10, 0, 0, 2] },
        };
        let to = if odd & 16 != 0 { [0xff; 6] } else { MAC_B };
        self.inject(frame(to, ETH_P_ARP, arp.as_bytes()), how.clone());
    }

    pub fn icmp(
        &mut self,
        (kind, code, rest): (u8, u8, u32),
        ttl: u8,
        (src, dst): (IpAddr, IpAddr),
        body: &[u8],
        how: &Bytes<'_>,
    ) {
        let v6 = src.is_ipv6();
        let head = Icmp { kind, code, csum: 0.into(), rest: rest.into() };
        let mut payload = [head.as_bytes(), body].concat();
        let proto = if v6 { 58 } else { 1 };
        mend(&src, &dst, proto, &mut payload);
        let one = packet(src, dst, proto, ttl, (3, 0), &payload);
        self.send(&one, how);
    }

    pub fn ndp(&mut self, mut args: Bytes<'_>, how: &Bytes<'_>) {
        let kind = args.pick(&[135_u8, 136, 133, 134, 137, 143, 131]);
        let pick = |n: u8| match n & 7 {
            0 | 1 => target(true),
            2 => ip("fe80::2"),
            3 => evil(true),
            4 => ip("ff02::1"),
            5 => ip("::"),
            6 => ip("fe80::66"),
            _ => ip(&format!("fd00::{:x}", 0x100 + u16::from(n))),
        };
        let (about, from, to) = (pick(args.u8()), pick(args.u8() | 1), args.u8());
        let dst = if to & 3 == 0 { target(true) } else { pick(to) };
        let flags = u32::from(args.u8()) << 24;
        let mut body = octets(&about);
        let (option, units) = (args.u8(), args.u8());
        body.extend_from_slice(&[option, units]);
        body.extend_from_slice(&[2, 9, 9, 9, 9, args.u8()]);
        body.resize(body.len() + usize::from(args.u8() & 31), option);
        let ttl = if to & 0x80 != 0 { 64 } else { 255 };
        // Nobody speaks as the stack itself or the well-meaning one.
        self.icmp((kind, 0, flags), ttl, (from, dst), &body, how);
    }

    pub fn icmp_step(&mut self, mut args: Bytes<'_>, how: &Bytes<'_>) {
        let what = args.u8();
        let v6 = what & 1 != 0;
        let kind = if v6 {
            args.pick(&[128_u8, 1, 2, 3, 4, 129, 130, 255])
        } else {
            args.pick(&[8_u8, 3, 11, 12, 0, 13, 4, 5, 255])
        };
        let code = args.u8() % 16;
        let rest = args.u32();
        let rest = if what & 2 != 0 { rest } else { rest & 0x7ff };
        // About something that was sent, or made up.
        let (pick, change, at) = (args.u8(), args.u8(), args.u8());
        let mut body = self
            .heard
            .get(usize::from(pick) % 8)
            .map_or_else(|| vec![0x45; 60], |frame| frame[14..].to_vec());
        body.truncate(600);
        if what & 4 != 0 && !body.is_empty() {
            let at = usize::from(at) % body.len();
            body[at] = change;
        }
        if what & 8 != 0 {
            body.truncate(usize::from(at));
        }
        let src = match what >> 4 & 7 {
            1 => ip(if v6 { "fd00::2" } else { "10.0.0.2" }),
            2 => ip(if v6 { "::" } else { "10.0.0.255" }),
            3 => ip(if v6 { "fe80::66" } else { "0.0.0.0" }),
            _ => evil(v6),
        };
        self.icmp((kind, code, rest), 64, (src, target(v6)), &body, how);
    }

    pub fn groups(&mut self, mut args: Bytes<'_>, how: &Bytes<'_>) {
        let what = args.u8();
        let group = if what & 1 != 0 { ip("ff02::77") } else { ip("224.7.7.7") };
        match what >> 1 & 3 {
            0 => {
                let count = if what & 8 != 0 { 200 } else { 1 };
                for _ in 0..count {
                    let time = args.u8();
                    if what & 1 != 0 {
                        let body = octets(&ip("::"));
                        self.icmp(
                            (130, 0, u32::from(time) << 20),
                            1,
                            (ip("fe80::66"), ip("ff02::1")),
                            &body,
                            how,
                        );
                    } else {
                        let mut payload = [0x11, time, 0, 0, 0, 0, 0, 0];
                        mend(&evil(false), &ip("224.0.0.1"), 2, &mut payload);
                        let one = packet(evil(false), ip("224.0.0.1"), 2, 1, (0, 0), &payload);
                        self.send(&one, how);
                    }
                }
            }
            1 => drop(self.world.b.join(ETH0, group)),
            2 => drop(self.world.b.leave(ETH0, group)),
            _ => {
                let mut payload = [args.u8(), args.u8(), 0, 0, 0, 0, 0, 0];
                mend(&evil(false), &ip("224.0.0.1"), 2, &mut payload);
                let one = packet(evil(false), ip("224.0.0.1"), 2, 1, (0, 0), &payload);
                self.send(&one, how);
            }
        }
    }

    /// IPv6 with extension headers.
    pub fn extensions(&mut self, mut args: Bytes<'_>, how: &Bytes<'_>) {
        let count = args.u8() % 12;
        let end = args.pick(&[17_u8, 58, 6, 59, 99, 44, 0]);
        let (units, option, len, left) = (args.u8() % 16, args.u8(), args.u8(), args.u8());
        let kinds: Vec<u8> = (0..count).map(|_| args.pick(&[0_u8, 60, 43, 44, 60, 51])).collect();
        let mut payload = Vec::new();
        for n in 0..kinds.len() {
            let next = kinds.get(n + 1).copied().unwrap_or(end);
            let mut head = vec![0; (usize::from(units) + 1) * 8];
            if kinds[n] == 44 {
                head = vec![0; 8];
                head[3] = left & 7;
            } else {
                head[1] = units;
                head[2..4].copy_from_slice(&[option, len]);
                if kinds[n] == 43 {
                    head[3] = left & 1;
                }
            }
            head[0] = next;
            payload.extend(head);
        }
        let udp = Udp { src: 5555.into(), dst: 9.into(), len: 20.into(), csum: 0.into() };
        let mut last = [udp.as_bytes(), &[0; 12]].concat();
        mend(&evil(true), &target(true), end, &mut last);
        payload.extend(last);
        let first = kinds.first().copied().unwrap_or(end);
        let one = packet(evil(true), target(true), first, 64, (0, 0), &payload);
        self.send(&one, how);
    }

    pub fn udp(&mut self, mut args: Bytes<'_>, how: &Bytes<'_>) {
        let what = args.u8();
        let v6 = what & 1 != 0;
        let port = args.pick(&[9_u16, 10, 0, 80]);
        let len = usize::from(args.u16() & 0x3fff);
        let said = match args.u8() & 3 {
            0 | 1 => len + 8,
            2 => usize::from(args.u16()),
            _ => 7,
        };
        let src = match what >> 1 & 7 {
            1 => target(v6),
            2 if !v6 => ip("10.0.0.255"),
            3 if !v6 => ip("255.255.255.255"),
            4 => ip(if v6 { "::" } else { "0.0.0.0" }),
            5 => ip(if v6 { "::1" } else { "127.0.0.1" }),
            _ => evil(v6),
        };
        let dst = match what >> 4 & 7 {
            1 if !v6 => ip("10.0.0.255"),
            1 => ip("ff02::1"),
            2 if !v6 => ip("224.0.0.1"),
            3 if !v6 => ip("127.0.0.1"),
            4 if !v6 => ip("255.255.255.255"),
            _ => target(v6),
        };
        let head = Udp { src: 5555.into(), dst: port.into(), len: len16(said), csum: 0.into() };
        let mut payload = [head.as_bytes(), &vec![3; len]].concat();
        if what & 0x80 == 0 {
            mend(&src, &dst, 17, &mut payload);
        }
        let proto = if args.u8() & 7 == 7 { 99 } else { 17 };
        let one = packet(src, dst, proto, 64, (9, 0), &payload);
        self.send(&one, how);
    }

    pub fn setting(&mut self, mut args: Bytes<'_>) {
        let path = args.pick(&[
            "ipv4/tcp_syncookies",
            "ipv4/tcp_sack",
            "ipv4/tcp_timestamps",
            "ipv4/tcp_window_scaling",
            "ipv4/tcp_abort_on_overflow",
            "ipv4/tcp_max_syn_backlog",
            "ipv4/ipfrag_high_thresh",
            "ipv4/ipfrag_time",
            "ipv4/tcp_max_tw_buckets",
            "ipv4/tcp_max_orphans",
            "ipv4/tcp_fin_timeout",
            "ipv4/tcp_synack_retries",
            "ipv4/tcp_orphan_retries",
            "ipv4/icmp_ratelimit",
            "ipv4/icmp_msgs_per_sec",
            "ipv4/tcp_invalid_ratelimit",
            "ipv4/icmp_echo_ignore_broadcasts",
            "ipv4/tcp_rfc1337",
        ]);
        let value = match args.u8() & 3 {
            0 => 0,
            1 => 1,
            2 => i64::from(args.u16()),
            _ => 0x7fff_ffff,
        };
        // Longer than the end waits for is legal.
        let patience = ["time", "retries"].iter().any(|word| path.contains(word)) && !path.contains("stamps");
        let _ = self.world.b.tune(path, &[if patience { value % 8 } else { value }]);
    }

    /// Datagrams to neighbours that nobody knows.
    pub fn shout(&mut self, mut args: Bytes<'_>) {
        let what = args.u8();
        let v6 = what & 1 != 0;
        let count = usize::from(args.u8());
        let len = usize::from(args.u16());
        for n in 0..count {
            let dst = if v6 {
                ip(&format!("fd00::{:x}", 0x200 + n))
            } else {
                ip(&format!("10.0.0.{}", 70 + n % 180))
            };
            let Ok(route) = self.world.b.config.route(dst, None, 0, 0) else { continue };
            let opts = SendOpts { segment: if what & 2 != 0 { 500 } else { 0 }, ..SendOpts::default() };
            let (src, dst) = (SocketAddr::new(target(v6), 9), SocketAddr::new(dst, 4000));
            let _ = self.world.b.udp_send(&route, src, dst, &vec![1; len], &opts);
        }
        self.look();
    }

    pub fn replay(&mut self, mut args: Bytes<'_>, how: &Bytes<'_>) {
        let which = usize::from(args.u8());
        let list = if args.u8() & 1 == 0 { &self.said } else { &self.heard };
        let Some(mut frame) = list.get(which % list.len().max(1)).cloned() else { return };
        if frame.len() < 15 {
            return;
        }
        frame[..6].copy_from_slice(&MAC_B);
        frame[6..12].copy_from_slice(&EVIL);
        for _ in 0..args.u8() % 4 {
            let (at, value) = (args.u8(), args.u8());
            let spot = 14 + usize::from(at) % (frame.len() - 14);
            frame[spot] = value;
        }
        mend_packet(&mut frame[14..]);
        self.inject(frame, how.clone());
    }
}
