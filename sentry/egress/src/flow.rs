//! A connection, or what comes nearest to one in a protocol without connections.

use crate::packet::{ACK, FIN, RST, SYN, Segment};
use crate::policy::Stage;
use crate::{ICMP, ICMP6, TCP, UDP, dns, hello};
use std::net::SocketAddr;
use std::sync::Arc;

const SECOND: u64 = 1_000_000_000;
/// What is kept of the answers of a name server that is talked to by TCP.
const MAX_ANSWERS: usize = 8 << 10;

/// What packets of a flow have in common; of ICMP echoes the identifier is the local port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// IPPROTO_*.
    pub proto: u8,
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

impl Key {
    /// IPv4 in IPv6's clothes counts as IPv4.
    pub fn new(proto: u8, local: SocketAddr, remote: SocketAddr) -> Key {
        let plain = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
        Key { proto, local: plain(local), remote: plain(remote) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Live,
    /// The policy did not let it begin.
    Refused,
    /// It was cut off.
    Dead,
}

/// How far the beginning of what the guest says is known.
#[derive(Debug)]
pub enum Speech {
    /// It does not matter, or has passed.
    Over,
    /// Nobody has answered the SYN.
    Silent,
    /// The first bytes, and the sequence number behind them.
    Begun { next: u32, data: Vec<u8> },
    /// The verdict is there, and the other end has not confirmed all of it: it must not be said differently now.
    Judged { start: u32, data: Vec<u8> },
}

/// What the verdict stood on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    Opening,
    Plain,
    Named(Arc<str>),
}

impl Known {
    pub fn stage(&self) -> Stage<'_> {
        match self {
            Known::Opening => Stage::Opening,
            Known::Plain => Stage::Plain,
            Known::Named(name) => Stage::Named(name),
        }
    }
}

/// A name server's answers by TCP.
#[derive(Debug)]
pub struct Answers {
    next: u32,
    data: Vec<u8>,
}

/// What is to be done with a segment of the guest.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    Pass,
    /// Not in order, or not what was said before.
    Drop,
    /// The beginning is understood: judge it.
    Judge(hello::Hello),
}

#[derive(Debug)]
pub struct Flow {
    /// The other end began.
    pub incoming: bool,
    pub standing: Standing,
    pub generation: u32,
    pub rule: Arc<str>,
    /// Names of the remote address at the beginning, and which policies believe them.
    pub names: Vec<(Arc<str>, u8)>,
    pub known: Known,
    pub speech: Speech,
    pub answers: Option<Box<Answers>>,
    pub sent: u64,
    pub received: u64,
    pub used: u64,
    /// Sequence number of the last SYN.
    iss: Option<u32>,
    /// Who has said FIN (1 the guest, 2 the other end), or 4: RST.
    closed: u8,
}

impl Flow {
    pub fn new(key: &Key, incoming: bool, now: u64) -> Flow {
        let speech = if key.proto == TCP && !incoming { Speech::Silent } else { Speech::Over };
        Flow {
            incoming,
            standing: Standing::Live,
            generation: 0,
            rule: "".into(),
            names: Vec::new(),
            known: Known::Opening,
            speech,
            answers: None,
            sent: 0,
            received: 0,
            used: now,
            iss: None,
            closed: 0,
        }
    }

    /// The name that the log shows.
    pub fn domain(&self) -> Option<Arc<str>> {
        match &self.known {
            Known::Named(name) if !name.is_empty() => Some(name.clone()),
            _ => self.names.first().map(|(name, _)| name.clone()),
        }
    }

    pub fn lives(&self) -> bool {
        self.standing == Standing::Live
    }

    /// How long it is remembered without a packet.
    pub fn patience(&self, proto: u8) -> u64 {
        let seconds = match (self.standing, proto) {
            (Standing::Refused, _) => 1,
            (Standing::Dead, _) => 60,
            (_, TCP) if self.closed >= 3 => 5,
            // As long as Linux's connection tracking.
            (_, TCP) if matches!(self.speech, Speech::Silent) => 120,
            (_, TCP) => 432_000,
            (_, UDP) => 60,
            (_, ICMP | ICMP6) => 30,
            _ => 120,
        };
        seconds * SECOND
    }

    /// What goes first when there is no more room.
    pub fn worth(&self, proto: u8) -> (u8, u64) {
        let class = match proto {
            _ if !self.lives() || self.closed >= 3 => 0,
            _ if self.incoming => 1,
            TCP => 3,
            _ => 2,
        };
        (class, self.used)
    }

    /// A segment of the guest's; `payload` gets up to so many bytes of it.
    pub fn says(&mut self, segment: &Segment, len: usize, payload: &dyn Fn(usize) -> Vec<u8>) -> Said {
        if segment.flags & RST != 0 {
            self.closed |= 4;
            return Said::Pass;
        }
        if segment.flags & FIN != 0 {
            self.closed |= 1;
        }
        if segment.flags & SYN != 0 {
            // Data in it would come before anybody has agreed to a sequence number.
            if len > 0 {
                return Said::Drop;
            }
            self.iss = Some(segment.seq);
            return Said::Pass;
        }
        if len == 0 {
            return Said::Pass;
        }
        match &mut self.speech {
            Speech::Over => Said::Pass,
            Speech::Silent => Said::Drop,
            Speech::Judged { start, data } => {
                if agrees(*start, data, segment.seq, &payload(data.len())) {
                    Said::Pass
                } else {
                    Said::Drop
                }
            }
            Speech::Begun { next, data } => {
                let before = next.wrapping_sub(segment.seq);
                let Ok(before) = usize::try_from(before).map(|n| if n > (1 << 30) { usize::MAX } else { n })
                else {
                    return Said::Drop;
                };
                if before == usize::MAX || before > data.len() {
                    return Said::Drop;
                }
                let room = hello::LONGEST.saturating_sub(data.len());
                let bytes = payload(before.saturating_add(room));
                let start = next.wrapping_sub(u32::try_from(data.len()).unwrap_or(0));
                if !agrees(start, data, segment.seq, &bytes) {
                    return Said::Drop;
                }
                let new = bytes.get(before..).unwrap_or_default();
                *next = next.wrapping_add(u32::try_from(new.len()).unwrap_or(0));
                data.extend_from_slice(new);
                match hello::look(data) {
                    hello::Hello::More => Said::Pass,
                    other => Said::Judge(other),
                }
            }
        }
    }

    /// What a socket of the host sends: in order, and once.
    pub fn says_next(&mut self, bytes: &[u8]) -> Said {
        let Speech::Begun { data, .. } = &mut self.speech else { return Said::Pass };
        let room = hello::LONGEST.saturating_sub(data.len());
        data.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        match hello::look(data) {
            hello::Hello::More => Said::Pass,
            other => Said::Judge(other),
        }
    }

    /// The beginning has been judged.
    pub fn judged(&mut self) {
        if let Speech::Begun { next, data } = std::mem::replace(&mut self.speech, Speech::Over) {
            let start = next.wrapping_sub(u32::try_from(data.len()).unwrap_or(0));
            self.speech = Speech::Judged { start, data };
        }
    }

    /// Its beginning was not seen, and counts as TLS to nobody.
    pub fn unseen(&mut self) {
        self.speech = Speech::Over;
        self.known = Known::Named("".into());
    }

    /// The last so many bytes were not said after all.
    pub fn unsay(&mut self, count: usize) {
        if let Speech::Begun { data, .. } = &mut self.speech {
            data.truncate(data.len().saturating_sub(count));
        }
    }

    /// Bytes that are kept of what was said.
    pub fn held(&self) -> usize {
        match &self.speech {
            Speech::Begun { data, .. } | Speech::Judged { data, .. } => data.len(),
            _ => 0,
        }
    }

    /// A segment of the other end's. True: a connection begins.
    pub fn hears(&mut self, segment: &Segment) -> bool {
        let answers = segment.flags & (SYN | ACK | RST) == SYN | ACK;
        if answers && self.iss.is_some_and(|iss| iss.wrapping_add(1) == segment.ack) {
            self.iss = None;
            self.closed = 0;
            self.standing = Standing::Live;
            self.known = Known::Opening;
            self.speech = Speech::Begun { next: segment.ack, data: Vec::new() };
            return true;
        }
        if segment.flags & RST != 0 {
            self.closed |= 4;
        }
        if segment.flags & FIN != 0 {
            self.closed |= 2;
        }
        if let Speech::Judged { start, data } = &self.speech
            && segment.flags & ACK != 0
            && usize::try_from(segment.ack.wrapping_sub(*start)).is_ok_and(|n| n >= data.len() && n < 1 << 30)
        {
            self.speech = Speech::Over;
        }
        false
    }

    /// From here on, answers of a name server may come.
    pub fn listen(&mut self, next: u32) {
        self.answers = Some(Box::new(Answers { next, data: Vec::new() }));
    }

    /// A piece of a name server's stream; whole answers in it.
    pub fn answers(&mut self, seq: u32, piece: &[u8]) -> Vec<dns::Answer> {
        let Some(answers) = &mut self.answers else { return Vec::new() };
        if answers.next != seq || answers.data.len().saturating_add(piece.len()) > MAX_ANSWERS {
            // What does not come in order is read by the guest alone.
            let late = answers.next.wrapping_sub(seq) < 1 << 30 && answers.next != seq;
            if !late {
                self.answers = None;
            }
            return Vec::new();
        }
        answers.next = seq.wrapping_add(u32::try_from(piece.len()).unwrap_or(0));
        answers.data.extend_from_slice(piece);
        let mut found = Vec::new();
        while let Some((message, rest)) = dns::framed(&answers.data) {
            found.extend(dns::answer(message));
            answers.data = rest.to_vec();
        }
        found
    }

    /// The same where bytes are read in order anyhow.
    pub fn answers_next(&mut self, piece: &[u8]) -> Vec<dns::Answer> {
        let next = self.answers.as_ref().map_or(0, |answers| answers.next);
        self.answers(next, piece)
    }
}

/// Whether bytes from `seq` on are those that `data` has from `start` on, as far as both go.
fn agrees(start: u32, data: &[u8], seq: u32, bytes: &[u8]) -> bool {
    let ahead = usize::try_from(seq.wrapping_sub(start)).unwrap_or(usize::MAX);
    if ahead < 1 << 30 {
        return data.get(ahead..).is_none_or(|known| known.iter().zip(bytes).all(|(a, b)| a == b));
    }
    // It begins before, with what is older than the connection.
    false
}
