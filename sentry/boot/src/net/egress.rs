//! The egress policy's surroundings: time, the audit log, and resets.
//!
//! The engine judges in the middle of packets, with locks held; what it notes is done by two threads, which begin with the
//! first policy: one resets connections and sweeps, the other writes the log, whose reader may be slow. What does not fit
//! into their queues is counted (log), or comes again with the next packet (resets).

use chitin_egress::{Engine, Policy, World};
use chitin_host::clock::now_ns;
use chitin_kernel::run;
use chitin_kernel::time::monotonic;
use chitin_net::NetNs;
use chitin_netstack::Stack;
use parking_lot::Mutex;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

const CLOCK_REALTIME: i32 = 0;
const MAX_LINES: usize = 4096;
const MAX_RESETS: usize = 256;
const SWEEP: Duration = Duration::from_secs(1);
/// How long the end of a sandbox waits for its log, in steps of 10 ms.
const PATIENCE: u32 = 100;
const STACK_SIZE: usize = 512 << 10;

type Pair = (SocketAddr, SocketAddr);

/// What the engine notes.
struct Notes {
    lines: SyncSender<String>,
    /// Lines that are not written yet.
    waiting: Arc<AtomicUsize>,
    resets: SyncSender<Pair>,
}

impl World for Notes {
    fn now(&self) -> u64 {
        monotonic()
    }
    fn wall(&self) -> u64 {
        now_ns(CLOCK_REALTIME)
    }
    fn line(&self, line: String) -> bool {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let noted = self.lines.try_send(line).is_ok();
        if !noted {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
        }
        noted
    }
    fn reset(&self, local: SocketAddr, remote: SocketAddr) {
        let _ = self.resets.try_send((local, remote));
    }
}

pub struct Egress {
    engine: Arc<Engine>,
    stack: Weak<Stack>,
    log: Arc<Mutex<Option<Arc<File>>>>,
    waiting: Arc<AtomicUsize>,
    /// What the threads begin with.
    queues: Mutex<Option<(Receiver<String>, Receiver<Pair>)>>,
}

impl Egress {
    pub fn new(ns: &NetNs) -> Egress {
        let (lines, written) = sync_channel(MAX_LINES);
        let (resets, done) = sync_channel(MAX_RESETS);
        let waiting = Arc::<AtomicUsize>::default();
        let engine = Engine::new(Box::new(Notes { lines, waiting: waiting.clone(), resets }));
        ns.guard(engine.clone());
        let queues = Mutex::new(Some((written, done)));
        Egress { engine, stack: Arc::downgrade(ns.stack()), log: Arc::default(), waiting, queues }
    }

    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Puts policies in force, all or none of them.
    pub fn set(&self, texts: &[String], audit: Option<OwnedFd>) -> Result<(), String> {
        let policies = texts.iter().map(|text| Policy::parse(text)).collect::<Result<Vec<_>, _>>()?;
        if !policies.is_empty()
            && let Some((lines, resets)) = self.queues.lock().take()
        {
            self.start(lines, resets)
                .map_err(|error| format!("cannot start a thread for the egress policy: {error}"))?;
        }
        let logs = audit.is_some();
        // What was noted for the old one goes there.
        self.flush();
        *self.log.lock() = audit.map(|fd| Arc::new(File::from(fd)));
        self.engine.set(policies, logs)
    }

    fn start(&self, lines: Receiver<String>, resets: Receiver<Pair>) -> std::io::Result<()> {
        let thread = |name: &str| std::thread::Builder::new().name(name.into()).stack_size(STACK_SIZE);
        let (engine, stack) = (self.engine.clone(), self.stack.clone());
        thread("egress").spawn(move || {
            let mut swept = Instant::now();
            loop {
                match resets.recv_timeout(SWEEP) {
                    Ok((local, remote)) => {
                        if let Some(stack) = stack.upgrade() {
                            stack.tcp_abort(local, remote);
                        }
                        run::drain();
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                if swept.elapsed() >= SWEEP {
                    swept = Instant::now();
                    engine.sweep();
                }
            }
        })?;
        let (log, waiting) = (self.log.clone(), self.waiting.clone());
        thread("egress-log").spawn(move || {
            for line in lines {
                // Not with the lock held: a pipe that nobody reads must not keep the next log from coming.
                let file = log.lock().clone();
                if let Some(file) = file {
                    let _ = (&*file).write_all(line.as_bytes());
                }
                waiting.fetch_sub(1, Ordering::AcqRel);
            }
        })?;
        Ok(())
    }

    /// Waits for the log, for a while.
    fn flush(&self) {
        for _ in 0..PATIENCE {
            if self.waiting.load(Ordering::Acquire) == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn finish(&self) {
        self.engine.finish();
        self.flush();
    }
}
