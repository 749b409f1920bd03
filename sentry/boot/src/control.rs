//! The control socket: what the runtime asks of a running sandbox.
//!
//! One thread accepts, one thread serves each connection; they are few and short-lived. The peer is the runtime of the
//! same user, but its bytes are parsed as strictly as anybody's.

use chitin_abi::num::low8;
use chitin_abi::signal::{SI_USER, SigInfo};
use chitin_control::{ExitStatus as Status, ProcessInfo, Request, Response, Server, Status as State};
use chitin_kernel::clone::start_init;
use chitin_kernel::signal::send_to_process;
use chitin_kernel::{ExitStatus, Kernel, Task, run};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Connections served at once; more are refused by closing them.
const MAX_CONNECTIONS: usize = 64;
const STACK: usize = 256 << 10;

/// Answers to [`Request::Wait`] that are still to be written.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// Gives waiting connections a moment to get their answers.
pub fn settle() {
    for _ in 0..100 {
        if WAITING.load(Ordering::Acquire) == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub struct Control {
    kernel: Arc<Kernel>,
    init: Arc<Task>,
    id: String,
    started: AtomicBool,
    connections: AtomicUsize,
}

impl Control {
    pub fn new(kernel: Arc<Kernel>, init: Arc<Task>, id: String) -> Arc<Control> {
        Arc::new(Control {
            kernel,
            init,
            id,
            started: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
        })
    }

    /// Starts serving; with `start` the container runs at once.
    pub fn serve(self: &Arc<Control>, listener: OwnedFd, start: bool) -> Result<(), String> {
        let listener = UnixListener::from(listener);
        let own = self.clone();
        std::thread::Builder::new()
            .name("control".into())
            .stack_size(STACK)
            .spawn(move || {
                for stream in listener.incoming().flatten() {
                    own.accept(stream);
                }
            })
            .map_err(|error| {
                format!("cannot start the control thread: {error}; raise the limit on processes")
            })?;
        if start {
            self.start();
        }
        Ok(())
    }

    fn start(&self) -> bool {
        let first = !self.started.swap(true, Ordering::AcqRel);
        if first {
            start_init(&self.init);
        }
        first
    }

    fn accept(self: &Arc<Control>, stream: UnixStream) {
        if self.connections.fetch_add(1, Ordering::AcqRel) >= MAX_CONNECTIONS {
            self.connections.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let own = self.clone();
        let spawned =
            std::thread::Builder::new().name("control-conn".into()).stack_size(STACK).spawn(move || {
                own.talk(stream);
                own.connections.fetch_sub(1, Ordering::AcqRel);
            });
        if spawned.is_err() {
            self.connections.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn talk(&self, stream: UnixStream) {
        let mut server = Server::new(stream);
        while let Ok(Some(request)) = server.receive() {
            let waits = matches!(request, Request::Wait { .. });
            if waits {
                WAITING.fetch_add(1, Ordering::AcqRel);
            }
            let response = self.answer(request);
            run::drain();
            let sent = server.answer(&response);
            if waits {
                WAITING.fetch_sub(1, Ordering::AcqRel);
            }
            if sent.is_err() {
                return;
            }
        }
    }

    fn answer(&self, request: Request) -> Response {
        let error = |message: &str| Response::Error { message: message.into() };
        let named = match &request {
            Request::Start { container }
            | Request::Signal { container, .. }
            | Request::State { container }
            | Request::Wait { container }
            | Request::Processes { container }
            | Request::Resize { container, .. }
            | Request::Exec { container, .. }
            | Request::Terminal { container, .. }
            | Request::Pause { container }
            | Request::Resume { container }
            | Request::Update { container, .. }
            | Request::WaitExec { container, .. } => Some(container.as_str()),
            Request::Prepare { .. } | Request::Create { .. } | Request::Remove { .. } | Request::Destroy => {
                None
            }
        };
        if named.is_some_and(|named| named != self.id) {
            return error("no such container in this sandbox");
        }
        match request {
            Request::Start { .. } if self.start() => Response::Ok,
            Request::Start { .. } => error("the container has been started already"),
            Request::Signal { signal, all, .. } => self.signal(signal, all),
            Request::State { .. } => self.state(),
            Request::Wait { .. } => {
                let status =
                    chitin_kernel::wait::block_until(&self.kernel.init_events, || self.kernel.init_status());
                Response::Exited { status: status_of(status) }
            }
            Request::Processes { .. } => Response::Processes { processes: self.processes() },
            Request::Resize { rows, cols, .. } => match self.init.process.tty() {
                Some(tty) => {
                    tty.set_winsize(crate::stdio::winsize(rows, cols));
                    Response::Ok
                }
                None => error("the container has no terminal"),
            },
            Request::Exec { .. } | Request::WaitExec { .. } => {
                error("running further processes in a container is not supported yet")
            }
            Request::Prepare { .. } | Request::Create { .. } | Request::Remove { .. } => {
                error("further containers in a sandbox are not supported yet")
            }
            Request::Terminal { .. }
            | Request::Pause { .. }
            | Request::Resume { .. }
            | Request::Update { .. } => error("not supported yet"),
            Request::Destroy => {
                self.kernel.kill_all(ExitStatus::Signaled { signal: 9, core: false });
                Response::Ok
            }
        }
    }

    fn signal(&self, signal: i32, all: bool) -> Response {
        let Some(number) = u32::try_from(signal).ok().filter(|number| (1..=64).contains(number)) else {
            return Response::Error { message: format!("{signal} is not a signal number") };
        };
        // From outside: the sender has no pid inside.
        let info = SigInfo::kill(number, SI_USER, 0, 0);
        if all {
            for process in self.kernel.processes() {
                send_to_process(&process, info);
            }
        } else {
            send_to_process(&self.init.process, info);
        }
        Response::Ok
    }

    fn state(&self) -> Response {
        let exit = self.kernel.init_status().map(status_of);
        let status = match exit {
            Some(_) => State::Stopped,
            None if self.started.load(Ordering::Acquire) => State::Running,
            None => State::Created,
        };
        Response::State { status, exit, init_pid: self.init.pid() }
    }

    fn processes(&self) -> Vec<ProcessInfo> {
        let now = chitin_kernel::time::realtime() / 1_000_000_000;
        let monotonic = chitin_kernel::time::monotonic();
        let row = |process: Arc<chitin_kernel::Process>| {
            let leader = process.leader()?;
            let (user, system) = process.cpu_ns();
            let age = monotonic.saturating_sub(process.started_ns) / 1_000_000_000;
            Some(ProcessInfo {
                pid: process.pid,
                stub: i32::try_from(leader.platform().debug_id()).unwrap_or(0),
                ppid: process.ppid(),
                uid: leader.creds().uid,
                threads: u32::try_from(process.threads().len()).unwrap_or(u32::MAX),
                cpu_ms: user.saturating_add(system) / 1_000_000,
                started: now.saturating_sub(age),
                tty: process.tty().map(|_| "console".to_string()),
                command: String::from_utf8_lossy(&leader.name()).into_owned(),
            })
        };
        self.kernel.processes().into_iter().filter_map(row).collect()
    }
}

fn status_of(status: ExitStatus) -> Status {
    match status {
        ExitStatus::Exited(code) => Status::Exited(code),
        ExitStatus::Signaled { signal, .. } => Status::Signaled(low8(signal)),
    }
}
