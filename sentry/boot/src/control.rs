//! The control socket: what the runtime asks of a running sandbox.
//!
//! One thread accepts, one thread serves each connection; they are few. The peer is the runtime of the same user, but its
//! bytes are parsed as strictly as anybody's. What a connection has made and not finished (a process by `exec`, a
//! container that was only prepared) is undone at its end.
//!
//! Neighbours: `stream` frames messages, `containers` and `exec` do what they ask for, `processes` answers `ps`.

use crate::containers::{self, Containers, Record};
use crate::exec::Execed;
use crate::net::{Capture, Network};
use crate::processes::list;
use crate::stdio::{Descriptors, winsize};
use crate::stream::Stream;
use chitin_abi::num::low8;
use chitin_abi::poll::{POLLERR, POLLHUP};
use chitin_abi::signal::{SI_USER, SIGKILL, SigInfo};
use chitin_control::{ExitStatus as Status, Request, Response};
use chitin_kernel::signal::{DefaultAction, default_action, send_to_process};
use chitin_kernel::tty::ConsoleTty;
use chitin_kernel::wait::block_until;
use chitin_kernel::{ExitStatus, Kernel, run};
use chitin_vfs::WaitQueue;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Connections served at once; more are refused by closing them. A process of `exec` has two.
const MAX_CONNECTIONS: usize = 2048;
const STACK: usize = 256 << 10;

/// Answers to [`Request::Wait`] and [`Request::WaitExec`] that are still to be written.
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
    containers: Arc<Containers>,
    network: Arc<Network>,
    connections: AtomicUsize,
}

/// What a request is answered by, if at all.
type Answer = Result<Response, String>;

impl Control {
    pub fn new(kernel: Arc<Kernel>, containers: Arc<Containers>, network: Arc<Network>) -> Arc<Control> {
        Arc::new(Control { kernel, containers, network, connections: AtomicUsize::new(0) })
    }

    /// Starts serving.
    pub fn serve(self: &Arc<Control>, listener: OwnedFd) -> Result<(), String> {
        let listener = UnixListener::from(listener);
        let own = self.clone();
        std::thread::Builder::new()
            .name("control".into())
            .stack_size(STACK)
            .spawn(move || {
                for stream in listener.incoming() {
                    match stream {
                        Ok(stream) => own.accept(stream),
                        // Out of descriptors, for now.
                        Err(_) => std::thread::sleep(Duration::from_millis(10)),
                    }
                }
            })
            .map(|_| ())
            .map_err(|error| {
                format!("cannot start the control thread: {error}; raise the limit on processes")
            })
    }

    fn accept(self: &Arc<Control>, stream: UnixStream) {
        if self.connections.fetch_add(1, Ordering::AcqRel) >= MAX_CONNECTIONS {
            self.connections.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let own = self.clone();
        let spawned =
            std::thread::Builder::new().name("control-conn".into()).stack_size(STACK).spawn(move || {
                let mut session = Session {
                    control: &own,
                    stream: Stream::new(stream),
                    execs: Vec::new(),
                    prepared: Vec::new(),
                    captures: Vec::new(),
                };
                session.talk();
                session.undo();
                own.connections.fetch_sub(1, Ordering::AcqRel);
            });
        if spawned.is_err() {
            self.connections.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// One connection.
struct Session<'a> {
    control: &'a Arc<Control>,
    stream: Stream,
    /// What this connection has started and not waited for.
    execs: Vec<(Arc<Record>, Arc<Execed>)>,
    /// Containers that it has prepared.
    prepared: Vec<String>,
    /// Captures of packets that it has begun.
    captures: Vec<Capture>,
}

impl Session<'_> {
    fn talk(&mut self) {
        loop {
            let (request, fds) = match self.stream.receive() {
                Ok(Some(received)) => received,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "a control connection ends");
                    return;
                }
            };
            let waits = matches!(request, Request::Wait { .. } | Request::WaitExec { .. });
            if waits {
                WAITING.fetch_add(1, Ordering::AcqRel);
            }
            let (answer, fd) = self.answer(request, fds);
            run::drain();
            let response = answer.unwrap_or_else(|message| Response::Error { message });
            let sent = self.stream.answer(&response, fd.as_ref().map(AsFd::as_fd));
            if waits {
                WAITING.fetch_sub(1, Ordering::AcqRel);
            }
            if sent.is_err() {
                return;
            }
        }
    }

    /// The client is gone: ends what it alone cared for.
    fn undo(&mut self) {
        self.captures.clear();
        for (record, exec) in std::mem::take(&mut self.execs) {
            let process = &exec.task.process;
            containers::kill(process);
            block_until(&process.exit_events, || process.exit_status());
            self.control.containers.forget_exec(&record, &exec);
        }
        for id in std::mem::take(&mut self.prepared) {
            self.control.containers.abandon(&id);
        }
        run::drain();
    }

    fn answer(&mut self, request: Request, fds: Vec<OwnedFd>) -> (Answer, Option<OwnedFd>) {
        if let Request::Prepare { container } = &request {
            return match self.control.containers.prepare(container) {
                Ok(origin) => {
                    self.prepared.push(container.clone());
                    (Ok(Response::Prepared), origin)
                }
                Err(message) => (Err(message), None),
            };
        }
        if let Request::Capture { snaplen } = request {
            let capture = self.control.network.capture(snaplen, fds);
            return (capture.map(|capture| self.captures.push(capture)).map(|()| Response::Ok), None);
        }
        (self.plain_answer(request, fds), None)
    }

    fn plain_answer(&mut self, request: Request, fds: Vec<OwnedFd>) -> Answer {
        let containers = &self.control.containers;
        let find = |id: &str| containers.find(id);
        let ok = |()| Response::Ok;
        match request {
            Request::Create { config } => containers.create(&config, &mut Descriptors::sent(fds)).map(ok),
            Request::Network { config } => self.control.network.attach(&config, fds).map(ok),
            Request::Egress { policies, audit } => {
                self.control.network.restrict(&policies, audit, fds).map(ok)
            }
            Request::Start { container } => containers.start(&*find(&container)?).map(ok),
            Request::Signal { container, signal, all, pid } => {
                self.signal(&*find(&container)?, signal, all, pid).map(ok)
            }
            Request::Terminal { container, signal, pid } => {
                let tty = find(&container)?.tty(pid)?;
                ConsoleTty::signal(&tty, number(signal)?);
                Ok(Response::Ok)
            }
            Request::State { container } => {
                let (status, exit, init_pid) = find(&container)?.state();
                Ok(Response::State { status, exit: exit.map(status_of), init_pid })
            }
            Request::Wait { container } => {
                let record = find(&container)?;
                let status = self.wait(&record.ended, || record.exit()).ok_or_else(gone)?;
                Ok(Response::Exited { status: status_of(status) })
            }
            Request::Processes { container } => {
                let record = find(&container)?;
                Ok(Response::Processes { processes: list(&self.control.kernel, &record.container) })
            }
            Request::Tasks { container } => {
                let record = find(&container)?;
                Ok(Response::Tasks {
                    tasks: crate::processes::tasks(&self.control.kernel, &record.container),
                })
            }
            Request::Resize { container, rows, cols } => {
                ConsoleTty::resize(&*find(&container)?.tty(None)?, winsize(rows, cols));
                Ok(Response::Ok)
            }
            Request::Exec { container, process } => {
                let record = find(&container)?;
                let exec = containers.exec(&record, &process, &mut Descriptors::sent(fds))?;
                let pid = exec.task.pid();
                self.execs.push((record, exec));
                Ok(Response::Started { pid })
            }
            Request::WaitExec { container, pid } => self.wait_exec(&container, pid),
            Request::Pause { container } => containers.pause(&*find(&container)?, true).map(ok),
            Request::Resume { container } => containers.pause(&*find(&container)?, false).map(ok),
            Request::Update { container, limits } => {
                find(&container)?.limit(limits, self.control.kernel.machine);
                Ok(Response::Ok)
            }
            Request::Remove { container } => containers.remove(&find(&container)?).map(ok),
            Request::Destroy => {
                self.control.kernel.kill_all(ExitStatus::Signaled { signal: SIGKILL, core: false });
                Ok(Response::Ok)
            }
            Request::Prepare { .. } | Request::Capture { .. } => Err("unexpected".into()),
        }
    }

    fn signal(&self, record: &Record, signal: i32, all: bool, pid: Option<i32>) -> Result<(), String> {
        // From outside: the sender has no pid inside.
        let number = number(signal)?;
        let info = SigInfo::kill(number, SI_USER, 0, 0);
        let fatal = matches!(default_action(number), DefaultAction::Terminate | DefaultAction::Core);
        if pid.is_none() && fatal && record.is_created() {
            // There is no program yet that could handle it.
            self.control.containers.kill(record, number);
        } else if all {
            self.control.kernel.signal_container(&record.container, info);
        } else {
            send_to_process(&record.process(pid)?, info);
        }
        Ok(())
    }

    fn wait_exec(&mut self, container: &str, pid: i32) -> Answer {
        let ours =
            |(record, exec): &(Arc<Record>, Arc<Execed>)| record.id == container && exec.task.pid() == pid;
        let at = self
            .execs
            .iter()
            .position(ours)
            .ok_or_else(|| format!("process {pid} was not started on this connection"))?;
        let Some((record, exec)) = self.execs.get(at).cloned() else { return Err(gone()) };
        let process = &exec.task.process;
        // The end of the connection ends the process, too: when it is undone.
        let status = self.wait(&process.exit_events, || process.exit_status()).ok_or_else(gone)?;
        if let Some(tty) = &exec.tty {
            ConsoleTty::show_rest(tty);
        }
        self.execs.remove(at);
        self.control.containers.forget_exec(&record, &exec);
        Ok(Response::Exited { status: status_of(status) })
    }

    /// Waits for what `queue` announces; `None` when the client hangs up first.
    fn wait<T>(&self, queue: &WaitQueue, mut check: impl FnMut() -> Option<T>) -> Option<T> {
        let hung_up = Arc::new(AtomicBool::new(false));
        let (flag, bell) = (hung_up.clone(), queue.clone());
        let on_ready = Box::new(move |events: u32| {
            if events & (POLLHUP | POLLERR) != 0 {
                flag.store(true, Ordering::Release);
                bell.wake(0);
            }
        });
        let watch = self
            .stream
            .duplicate()
            .and_then(|copy| self.control.kernel.reactor.watch_with(Arc::new(copy), on_ready));
        if let Err(error) = &watch {
            tracing::warn!(%error, "the end of a control connection goes unnoticed");
        }
        block_until(queue, || match check() {
            Some(value) => Some(Some(value)),
            None => hung_up.load(Ordering::Acquire).then_some(None),
        })
    }
}

fn gone() -> String {
    "the client has hung up".into()
}

fn number(signal: i32) -> Result<u32, String> {
    let number = u32::try_from(signal).ok().filter(|number| (1..=64).contains(number));
    number.ok_or_else(|| format!("{signal} is not a signal number"))
}

fn status_of(status: ExitStatus) -> Status {
    match status {
        ExitStatus::Exited(code) => Status::Exited(code),
        ExitStatus::Signaled { signal, .. } => Status::Signaled(low8(signal)),
    }
}
