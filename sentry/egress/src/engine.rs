//! The engine: policies in force, and what they make of packets.
//!
//! Off, it costs whoever asks one relaxed load ([`Engine::is_on`]). Audit lines and resets go to the [`World`], which must
//! only note them.

use crate::audit::{self, Event};
use crate::bucket::Bucket;
use crate::flow::{Flow, Key, Known, Said, Standing};
use crate::hello::Hello;
use crate::names::Names;
use crate::packet::{self, ACK, Packet, Parsed, Pieces, RST, SYN};
use crate::policy::{Asked, Policy, Stage};
use crate::table::{Fragments, Shard, Table, make_room};
use crate::{DNS, ICMP, ICMP6, IGMP, TCP, UDP, be16, dns};
use parking_lot::{Mutex, RwLock};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Policies at a time: bits that say who believes whom.
const MAX_POLICIES: usize = 8;
/// Beginnings of connections that are kept until they are understood.
const MAX_HELD: usize = 8 << 20;
/// Audit lines per second, and at once: a guest must not fill the host's disk.
const LINES: (u64, u64) = (200, 10_000);
/// The longest answer of a name server that is read.
const MAX_ANSWER: usize = 4 << 10;

/// What the engine needs from outside. Called with locks held: note, and return.
pub trait World: Send + Sync {
    /// Monotonic nanoseconds.
    fn now(&self) -> u64;
    /// Nanoseconds since the epoch.
    fn wall(&self) -> u64;
    /// A line for the audit log, newline included. False: there was no room.
    fn line(&self, line: String) -> bool;
    /// A TCP connection of the stack is to be reset.
    fn reset(&self, local: SocketAddr, remote: SocketAddr);
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Pass,
    /// It does not leave.
    Drop,
    /// Not now: the rate is used up.
    Later,
}

/// What is in force.
pub(crate) struct Rules {
    pub policies: Vec<Policy>,
    pub generation: u32,
    buckets: Vec<Bucket>,
    audit: bool,
}

pub struct Engine {
    on: AtomicBool,
    pub(crate) world: Box<dyn World>,
    rules: RwLock<Arc<Rules>>,
    pub(crate) names: Mutex<Names>,
    table: Table,
    fragments: Mutex<Fragments>,
    /// Bytes of beginnings.
    held: AtomicUsize,
    lines: Bucket,
    lost: AtomicU64,
    generation: AtomicU32,
}

impl Engine {
    /// Without a policy.
    pub fn new(world: Box<dyn World>) -> Arc<Engine> {
        let lines = Bucket::new(LINES.0, LINES.1, world.now());
        let rules = Rules { policies: Vec::new(), generation: 0, buckets: Vec::new(), audit: false };
        Arc::new(Engine {
            on: AtomicBool::new(false),
            world,
            rules: RwLock::new(Arc::new(rules)),
            names: Mutex::new(Names::new()),
            table: Table::new(),
            fragments: Mutex::new(Fragments::new()),
            held: AtomicUsize::new(0),
            lines,
            lost: AtomicU64::new(0),
            generation: AtomicU32::new(0),
        })
    }

    /// Puts policies in force, each of which has to allow what is done; none: everything is allowed. Connections that are
    /// there are judged anew when they send.
    pub fn set(&self, policies: Vec<Policy>, audit: bool) -> Result<(), String> {
        if policies.len() > MAX_POLICIES {
            return Err(format!("more than {MAX_POLICIES} egress policies; join them"));
        }
        let now = self.world.now();
        let on = !policies.is_empty();
        let buckets = policies.iter().filter_map(|policy| policy.bucket(now)).collect();
        let generation = self.generation.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        *self.rules.write() = Arc::new(Rules { policies, generation, buckets, audit });
        self.on.store(on, Ordering::Release);
        Ok(())
    }

    /// Whether there is a policy.
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    pub(crate) fn rules(&self) -> Arc<Rules> {
        self.rules.read().clone()
    }

    // Verdicts.

    /// Judges a flow by all policies; notes by which rule.
    pub(crate) fn judge(&self, rules: &Rules, key: &Key, flow: &mut Flow, stage: Stage<'_>) -> bool {
        flow.generation = rules.generation;
        let mut rule = None;
        for (at, policy) in rules.policies.iter().enumerate() {
            let believed = |(_, believers): &&(Arc<str>, u8)| believers >> at & 1 != 0;
            let names: Vec<Arc<str>> =
                flow.names.iter().filter(believed).map(|(name, _)| name.clone()).collect();
            let (remote, port) = (key.remote.ip(), key.remote.port());
            let (allowed, by) = policy.judge(&Asked { proto: key.proto, remote, port, names: &names, stage });
            if !allowed {
                flow.rule = by;
                return false;
            }
            rule = rule.or(Some(by));
        }
        flow.rule = rule.unwrap_or_else(|| "no policy".into());
        true
    }

    /// A flow that the guest begins, judged. `stage`: what is known already.
    pub(crate) fn begin(&self, rules: &Rules, key: &Key, stage: Stage<'_>) -> Flow {
        let now = self.world.now();
        let mut flow = Flow::new(key, false, now);
        flow.names = self.names.lock().of(key.remote.ip(), now);
        if !self.judge(rules, key, &mut flow, stage) {
            flow.standing = Standing::Refused;
        }
        flow
    }

    /// Another policy is in force since the flow was judged: whether it may go on.
    pub(crate) fn renew(&self, rules: &Rules, key: &Key, flow: &mut Flow) -> bool {
        if flow.generation == rules.generation || flow.incoming {
            return true;
        }
        let known = flow.known.clone();
        self.judge(rules, key, flow, known.stage())
    }

    /// The beginning of what the guest says is understood: whether it may go on.
    pub(crate) fn conclude(&self, rules: &Rules, key: &Key, flow: &mut Flow, hello: Hello) -> bool {
        flow.known = match hello {
            Hello::Other | Hello::More => Known::Plain,
            Hello::Nobody => Known::Named("".into()),
            Hello::Name(name) => Known::Named(name.into()),
        };
        let known = flow.known.clone();
        self.judge(rules, key, flow, known.stage())
    }

    // The audit log.

    pub(crate) fn audit(&self, rules: &Rules, event: Event, key: &Key, flow: &Flow) {
        if rules.audit {
            self.write(|wall| audit::line(wall, event, key, flow));
        }
    }

    fn write(&self, line: impl FnOnce(u64) -> String) {
        let room = self.lines.take(1, self.world.now());
        if !room || !self.world.line(line(self.world.wall())) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn closed(&self, rules: &Rules, key: &Key, flow: &Flow) {
        self.held.fetch_sub(flow.held(), Ordering::Relaxed);
        if flow.lives() && !flow.incoming {
            self.audit(rules, Event::Close, key, flow);
        }
    }

    // The rate.

    /// Takes so many bytes of the rate; false: it is used up.
    pub(crate) fn spend(&self, rules: &Rules, bytes: usize) -> bool {
        let now = self.world.now();
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        rules.buckets.iter().all(|bucket| bucket.take(bytes, now))
    }

    /// How long nothing may be sent, in nanoseconds.
    pub fn wait(&self) -> u64 {
        if !self.is_on() {
            return 0;
        }
        let now = self.world.now();
        self.rules().buckets.iter().map(|bucket| bucket.wait(now)).max().unwrap_or(0)
    }

    // What sockets of the stack ask beforehand.

    /// Whether a TCP connection may begin; if not, the log has it.
    pub fn may_connect(&self, local: SocketAddr, remote: SocketAddr) -> bool {
        let (rules, key) = (self.rules(), Key::new(TCP, local, remote));
        let flow = self.begin(&rules, &key, Stage::Opening);
        if !flow.lives() {
            self.audit(&rules, Event::Deny, &key, &flow);
        }
        flow.lives()
    }

    /// Whether a datagram may be sent; if not, the log has it.
    pub fn may_send(&self, proto: u8, local: SocketAddr, remote: SocketAddr, payload: &[u8]) -> bool {
        let (rules, key) = (self.rules(), Key::new(proto, local, remote));
        let incoming = {
            let Some(mut shard) = self.table.shard(&key) else { return false };
            match self.find(&mut shard, &rules, &key, Stage::Opening) {
                Some(flow) if flow.lives() => flow.incoming,
                _ => return false,
            }
        };
        incoming || self.may_ask(&rules, &key, payload)
    }

    /// Whether a datagram is a question that may be asked, if it goes to a name server; if not, the log has it.
    pub(crate) fn may_ask(&self, rules: &Rules, key: &Key, payload: &[u8]) -> bool {
        let server = key.remote.ip();
        if key.proto != UDP || key.remote.port() != DNS || !rules.policies.iter().any(|policy| policy.strict)
        {
            return true;
        }
        let name = dns::question(payload);
        let allowed = rules.policies.iter().all(|policy| policy.may_ask(server, name.as_deref()));
        if !allowed {
            let mut asked = Flow::new(key, false, 0);
            asked.rule = "dns strict".into();
            asked.known = Known::Named(name.unwrap_or_default().into());
            self.audit(rules, Event::Deny, key, &asked);
        }
        allowed
    }

    /// Whether something may be sent in an IP packet. What needs more to be judged by is left to its frame.
    pub fn may_send_payload(&self, proto: u8, local: IpAddr, remote: IpAddr, payload: &[u8]) -> bool {
        let port = |at| be16(payload, at).unwrap_or(0);
        let (own, other) = match (proto, payload.first()) {
            (TCP | IGMP, _) | (ICMP6, Some(130..=136 | 143)) => return true,
            (UDP, _) => (port(0), port(2)),
            (ICMP, Some(0 | 8)) | (ICMP6, Some(128 | 129)) => (port(4), 0),
            _ => (0, 0),
        };
        let payload = if proto == UDP { payload.get(8..).unwrap_or_default() } else { payload };
        self.may_send(proto, SocketAddr::new(local, own), SocketAddr::new(remote, other), payload)
    }

    /// Whether an IP packet without its link header may be sent as it is.
    pub fn may_send_packet(&self, packet: &[u8]) -> bool {
        match packet::parse(&Pieces([packet, &[], &[]]), false) {
            Parsed::Ip(p) if packet::is_housekeeping(&p) || p.tcp.is_some() || p.fragment.is_some() => true,
            Parsed::Ip(p) => {
                let payload =
                    packet.get(p.payload..p.payload.saturating_add(p.payload_len)).unwrap_or_default();
                self.may_send(p.proto, from(&p).local, from(&p).remote, payload)
            }
            _ => true,
        }
    }

    // Frames.

    /// A frame that is about to leave.
    pub fn outgoing(&self, frame: &Pieces<'_>, ether: bool) -> Fate {
        let rules = self.rules();
        let packet = match packet::parse(frame, ether) {
            Parsed::Arp => return Fate::Pass,
            Parsed::Ip(packet) => packet,
            Parsed::Odd(what) => {
                if rules.audit {
                    self.write(|wall| audit::odd(wall, what));
                }
                return Fate::Drop;
            }
        };
        if packet::is_housekeeping(&packet) {
            return Fate::Pass;
        }
        let piece = packet
            .fragment
            .map(|fragment| (fragment.first, (packet.src, packet.dst, packet.proto, fragment.id)));
        if let Some((first, piece)) = piece {
            // A stack never cuts segments; whoever does wants to be misunderstood.
            let fits = packet.proto != TCP && (first || self.fragments.lock().has_passed(&piece));
            if !fits {
                return Fate::Drop;
            }
            if !first {
                return if self.spend(&rules, frame.len()) { Fate::Pass } else { Fate::Later };
            }
        }
        if self.is_about_incoming(frame, &packet) {
            return Fate::Pass;
        }
        let fate = self.packet_out(&rules, frame, &packet);
        if let Some((_, piece)) = piece.filter(|_| fate == Fate::Pass) {
            self.fragments.lock().pass(piece);
        }
        fate
    }

    /// An ICMP error about a packet of a flow that there is.
    fn is_about_incoming(&self, frame: &Pieces<'_>, packet: &Packet) -> bool {
        let Some(inner) = packet::quoted(frame, packet).filter(|inner| inner.src == packet.dst) else {
            return false;
        };
        let key = to(&inner);
        self.table.shard(&key).is_some_and(|shard| shard.get(&key).is_some_and(Flow::lives))
    }

    /// The flow of a key, made and judged if there is none.
    fn find<'a>(
        &self,
        shard: &'a mut Shard,
        rules: &Rules,
        key: &Key,
        stage: Stage<'_>,
    ) -> Option<&'a mut Flow> {
        let now = self.world.now();
        let over = |flow: &Flow| now.saturating_sub(flow.used) >= flow.patience(key.proto);
        if let Some(old) = shard.get(key).filter(|flow| over(flow)) {
            self.closed(rules, key, old);
            shard.remove(key);
        }
        if !shard.contains_key(key) {
            for (key, flow) in make_room(shard) {
                self.closed(rules, &key, &flow);
            }
            let mut flow = self.begin(rules, key, stage);
            if key.proto == TCP && stage != Stage::Opening {
                flow.unseen();
            }
            let event = if flow.lives() { Event::Open } else { Event::Deny };
            self.audit(rules, event, key, &flow);
            shard.insert(*key, flow);
        }
        shard.get_mut(key)
    }

    fn packet_out(&self, rules: &Rules, frame: &Pieces<'_>, packet: &Packet) -> Fate {
        let key = from(packet);
        let Some(mut shard) = self.table.shard(&key) else { return Fate::Drop };
        // What is in the middle of a connection that is not known cannot be looked at any more.
        let opening = packet.tcp.is_none_or(|tcp| tcp.flags & SYN != 0);
        let stage = if opening { Stage::Opening } else { Stage::Named("") };
        let reset = packet.tcp.is_some_and(|tcp| tcp.flags & RST != 0 && packet.payload_len == 0);
        if reset && !shard.contains_key(&key) {
            // The stack's answer to what is nobody's. It begins nothing, so nobody is told.
            return pass(self.begin(rules, &key, Stage::Opening).lives());
        }
        let now = self.world.now();
        let Some(flow) = self.find(&mut shard, rules, &key, stage) else { return Fate::Drop };
        if flow.standing == Standing::Refused {
            if packet.tcp.is_some() && !opening {
                self.world.reset(key.local, key.remote);
            }
            return Fate::Drop;
        }
        let renewed = flow.lives() && !self.renew(rules, &key, flow);
        if renewed {
            self.cut(rules, &key, flow);
        }
        // A reset is what remains to be said; a new connection may take the place of one that was cut off.
        if !flow.lives() {
            return pass(match packet.tcp {
                Some(tcp) if tcp.flags & RST != 0 && packet.payload_len == 0 => true,
                Some(tcp) if tcp.flags & (SYN | ACK) == SYN && packet.payload_len == 0 => {
                    let fresh = self.begin(rules, &key, Stage::Opening);
                    if fresh.lives() {
                        flow.used = now;
                        flow.says(&tcp, 0, &|_| Vec::new());
                    }
                    fresh.lives()
                }
                _ => false,
            });
        }
        if let Some(tcp) = packet.tcp.filter(|_| !flow.incoming) {
            let payload = |max: usize| frame.gather(packet.payload, max.min(packet.payload_len));
            let before = flow.held();
            let said = flow.says(&tcp, packet.payload_len, &payload);
            if !self.heard(rules, &key, flow, said, before) {
                return Fate::Drop;
            }
        }
        if key.proto == UDP && key.remote.port() == DNS && !flow.incoming {
            // In pieces nobody asks who is in his right mind.
            let whole = packet.fragment.is_none();
            let question = frame.gather(packet.payload, packet.payload_len.min(MAX_ANSWER));
            if !self.may_ask(rules, &key, if whole { &question } else { &[] }) {
                return Fate::Drop;
            }
        }
        if !self.spend(rules, frame.len()) {
            return Fate::Later;
        }
        flow.used = now;
        flow.sent = flow.sent.saturating_add(u64::try_from(packet.payload_len).unwrap_or(0));
        Fate::Pass
    }

    /// What follows from something that was said. `before`: the bytes that were held before it.
    pub(crate) fn heard(&self, rules: &Rules, key: &Key, flow: &mut Flow, said: Said, before: usize) -> bool {
        let more = flow.held().saturating_sub(before);
        let held = self.held.fetch_add(more, Ordering::Relaxed).saturating_add(more);
        let said = match said {
            // There is no room to wait for the rest.
            Said::Pass if more > 0 && held > MAX_HELD => Said::Judge(Hello::Nobody),
            said => said,
        };
        match said {
            Said::Pass => true,
            Said::Drop => false,
            Said::Judge(hello) => {
                let fine = self.conclude(rules, key, flow, hello);
                flow.judged();
                if !fine {
                    self.cut(rules, key, flow);
                }
                fine
            }
        }
    }

    /// Ends a connection.
    pub(crate) fn cut(&self, rules: &Rules, key: &Key, flow: &mut Flow) {
        flow.standing = Standing::Dead;
        self.audit(rules, Event::Reset, key, flow);
        // Whoever holds a ticket is told by the answer.
        if key.proto == TCP && key.local.port() != 0 {
            self.world.reset(key.local, key.remote);
        }
    }

    /// Gives back what was kept of a beginning.
    pub(crate) fn let_go(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// A frame that has arrived.
    pub fn incoming(&self, frame: &[u8], ether: bool) {
        let pieces = Pieces([frame, &[], &[]]);
        let Parsed::Ip(packet) = packet::parse(&pieces, ether) else { return };
        if packet.fragment.is_some_and(|fragment| !fragment.first) {
            return;
        }
        let (rules, key, now) = (self.rules(), to(&packet), self.world.now());
        let Some(mut shard) = self.table.shard(&key) else { return };
        let Some(flow) = shard.get_mut(&key).filter(|flow| flow.standing != Standing::Refused) else {
            let begins = match packet.proto {
                TCP => packet.tcp.is_some_and(|tcp| tcp.flags & (SYN | ACK | RST) == SYN),
                ICMP | ICMP6 => matches!(packet.icmp, Some((8 | 128, _))),
                _ => true,
            };
            if begins && !packet.dst.is_multicast() {
                for (key, flow) in make_room(&mut shard) {
                    self.closed(&rules, &key, &flow);
                }
                shard.insert(key, Flow::new(&key, true, now));
            }
            return;
        };
        flow.used = now;
        flow.received = flow.received.saturating_add(u64::try_from(packet.payload_len).unwrap_or(0));
        let trusted =
            key.remote.port() == DNS && !flow.incoming && self.believers(&rules, key.remote.ip()) != 0;
        if let Some(tcp) = packet.tcp {
            let before = flow.held();
            let begins = flow.hears(&tcp);
            self.held.fetch_sub(before.saturating_sub(flow.held()), Ordering::Relaxed);
            if begins && trusted {
                flow.listen(tcp.seq.wrapping_add(1));
            } else if trusted && packet.payload_len > 0 {
                let found = flow.answers(tcp.seq, &pieces.gather(packet.payload, packet.payload_len));
                self.learn_all(&rules, key.remote.ip(), &found);
            }
        } else if trusted && packet.proto == UDP && packet.fragment.is_none() {
            let answer = dns::answer(&pieces.gather(packet.payload, packet.payload_len.min(MAX_ANSWER)));
            self.learn_all(&rules, key.remote.ip(), answer.as_slice());
        }
    }

    // Names.

    /// Which policies believe a name server: a bit each.
    pub(crate) fn believers(&self, rules: &Rules, server: IpAddr) -> u8 {
        let bit = |(at, policy): (usize, &Policy)| u8::from(policy.believes(server)) << at;
        rules.policies.iter().take(MAX_POLICIES).enumerate().map(bit).fold(0, |all, bit| all | bit)
    }

    pub(crate) fn learn_all(&self, rules: &Rules, server: IpAddr, answers: &[dns::Answer]) {
        let believers = self.believers(rules, server);
        let now = self.world.now();
        for answer in answers {
            let mut names = self.names.lock();
            for name in answer.names.iter().rev() {
                let wanted = rules.policies.iter().any(|policy| policy.speaks_of(name));
                for (address, ttl) in &answer.addresses {
                    names.learn(*address, name, believers, wanted, *ttl, now);
                }
            }
        }
    }

    // Housekeeping.

    /// Forgets what is over; to be called about once a second.
    pub fn sweep(&self) {
        let (rules, now) = (self.rules(), self.world.now());
        for mut shard in self.table.all() {
            let over = |key: &Key, flow: &Flow| now.saturating_sub(flow.used) >= flow.patience(key.proto);
            shard.retain(|key, flow| {
                let over = over(key, flow);
                if over {
                    self.closed(&rules, key, flow);
                }
                !over
            });
        }
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 && rules.audit && !self.world.line(audit::lost(self.world.wall(), lost)) {
            self.lost.fetch_add(lost, Ordering::Relaxed);
        }
    }

    /// The end of the sandbox: what is still open is closed.
    pub fn finish(&self) {
        let rules = self.rules();
        for mut shard in self.table.all() {
            for (key, flow) in shard.drain() {
                self.closed(&rules, &key, &flow);
            }
        }
    }

    /// Flows and kept bytes, for tests.
    #[cfg(test)]
    pub fn load(&self) -> (usize, usize) {
        (self.table.all().map(|shard| shard.len()).sum(), self.held.load(Ordering::Relaxed))
    }
}

fn pass(passes: bool) -> Fate {
    if passes { Fate::Pass } else { Fate::Drop }
}

/// The flow of a packet that leaves.
fn from(packet: &Packet) -> Key {
    let at = |ip: IpAddr, port: u16| SocketAddr::new(ip, port);
    Key::new(packet.proto, at(packet.src, packet.src_port), at(packet.dst, packet.dst_port))
}

/// The flow of a packet that arrives.
fn to(packet: &Packet) -> Key {
    let at = |ip: IpAddr, port: u16| SocketAddr::new(ip, port);
    match packet.proto {
        ICMP | ICMP6 => Key::new(packet.proto, at(packet.dst, packet.src_port), at(packet.src, 0)),
        _ => Key::new(packet.proto, at(packet.dst, packet.dst_port), at(packet.src, packet.src_port)),
    }
}
