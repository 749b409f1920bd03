//! A blocking connection to systemd: by the system's (or user's) message bus, or, for root where there is no bus,
//! systemd's own socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::wire::{self, Body, Header, Reader};
use crate::util::{Context, Result, in_user_namespace};

const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
const SYSTEMD: &str = "/run/systemd/private";
/// How long systemd may take for one thing, as runc has it.
const PATIENCE: Duration = Duration::from_secs(30);

pub const NAME: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// An error that the other side has answered with, or what went wrong on the way.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// Name and text.
    Answered(String, String),
    Broken(String),
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Failure::Broken(text)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Answered(name, text) => write!(f, "{text} ({name})"),
            Failure::Broken(text) => f.write_str(text),
        }
    }
}

/// Where systemd is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub socket: PathBuf,
    /// A bus, on which one says hello and names the receiver.
    pub is_bus: bool,
}

/// The addresses to be tried, first one first.
pub fn addresses(user: bool) -> Vec<Address> {
    let at = |socket: &Path, is_bus| Address { socket: socket.into(), is_bus };
    if !user {
        return vec![at(Path::new(SYSTEM_BUS), true), at(Path::new(SYSTEMD), false)];
    }
    let mut found = Vec::new();
    if let Ok(text) = std::env::var("DBUS_SESSION_BUS_ADDRESS") {
        let paths = text.split(';').filter_map(|a| a.strip_prefix("unix:path=")?.split(',').next());
        found.extend(paths.map(|p| at(Path::new(p), true)));
    }
    if let Some(runtime) = std::env::var_os("XDG_RUNTIME_DIR") {
        found.push(at(&Path::new(&runtime).join("bus"), true));
        found.push(at(&Path::new(&runtime).join("systemd/private"), false));
    }
    found
}

#[derive(Debug)]
pub struct Bus {
    stream: UnixStream,
    is_bus: bool,
    serial: u32,
    /// Jobs that have ended, with their results.
    ended: Vec<(String, String)>,
    /// Where jobs are reported, once that was asked for.
    subscribed: bool,
}

impl Bus {
    pub fn connect(addresses: &[Address]) -> Result<Self> {
        let mut failures = Vec::new();
        for address in addresses {
            match Self::open(address) {
                Ok(bus) => return Ok(bus),
                Err(e) => failures.push(format!("{}: {e}", address.socket.display())),
            }
        }
        if failures.is_empty() {
            failures.push("neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set".into());
        }
        Err(format!(
            "cannot reach systemd over D-Bus ({}): start the bus (for rootless containers the user's, see the package \
             dbus-user-session), or do without --systemd-cgroup",
            failures.join("; ")
        ))
    }

    fn open(address: &Address) -> Result<Self> {
        let stream = UnixStream::connect(&address.socket).map_err(|e| e.to_string())?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
        authenticate(&stream).map_err(|e| format!("authentication: {e}"))?;
        let mut bus =
            Self { stream, is_bus: address.is_bus, serial: 0, ended: Vec::new(), subscribed: false };
        if address.is_bus {
            let path = "/org/freedesktop/DBus";
            bus.call_at(("org.freedesktop.DBus", path, "org.freedesktop.DBus"), "Hello", &Body::default())
                .map_err(|e| e.to_string())?;
        }
        Ok(bus)
    }

    /// Calls a method of the manager. Its answer's body.
    pub fn call(&mut self, method: &str, body: &Body) -> std::result::Result<Vec<u8>, Failure> {
        self.call_at((NAME, PATH, MANAGER), method, body)
    }

    /// A property of the manager that is a text.
    pub fn property(&mut self, name: &str) -> std::result::Result<String, Failure> {
        let body = Body::default().text(MANAGER).text(name);
        let answer = self.call_at((NAME, PATH, "org.freedesktop.DBus.Properties"), "Get", &body)?;
        let mut reader = Reader::new(&answer);
        match reader.signature().as_deref() {
            Some("s") => {
                reader.text().ok_or_else(|| Failure::Broken(format!("the property {name} is cut off")))
            }
            other => Err(Failure::Broken(format!("the property {name} is no text but {other:?}"))),
        }
    }

    /// Calls a method that starts a job and waits for the job's end. Its result: `done`, if all is well.
    pub fn job(&mut self, method: &str, body: &Body) -> std::result::Result<String, Failure> {
        self.subscribe()?;
        let answer = self.call(method, body)?;
        let job = Reader::new(&answer).text().ok_or("systemd named no job".to_owned())?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(index) = self.ended.iter().position(|(ended, _)| *ended == job) {
                return Ok(self.ended.swap_remove(index).1);
            }
            if Instant::now() > deadline {
                return Err(Failure::Broken(format!(
                    "systemd did not end its job {job} within {PATIENCE:?}"
                )));
            }
            self.receive()?;
        }
    }

    /// Asks to be told of jobs' ends.
    fn subscribe(&mut self) -> std::result::Result<(), Failure> {
        if self.subscribed {
            return Ok(());
        }
        if self.is_bus {
            let rule = format!("type='signal',sender='{NAME}',interface='{MANAGER}',member='JobRemoved'");
            let at = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus");
            self.call_at(at, "AddMatch", &Body::default().text(&rule))?;
            self.call("Subscribe", &Body::default())?;
        }
        self.subscribed = true;
        Ok(())
    }

    fn call_at(
        &mut self,
        (destination, path, interface): (&str, &str, &str),
        method: &str,
        body: &Body,
    ) -> std::result::Result<Vec<u8>, Failure> {
        self.serial = self.serial.wrapping_add(1).max(1);
        let header = Header {
            kind: wire::METHOD_CALL,
            serial: self.serial,
            path: path.into(),
            interface: interface.into(),
            member: method.into(),
            // systemd's own socket has one receiver only.
            destination: if self.is_bus { destination.into() } else { String::new() },
            signature: body.signature.clone(),
            ..Header::default()
        };
        let message = wire::encode(&header, &body.bytes);
        (&self.stream).write_all(&message).context(|| "cannot write to systemd's socket".into())?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (header, body) = self.receive()?;
            if header.reply_to == self.serial {
                return match header.kind {
                    wire::ERROR => {
                        let text = Reader::new(&body).text().filter(|_| header.signature.starts_with('s'));
                        Err(Failure::Answered(header.error_name, text.unwrap_or_default()))
                    }
                    _ => Ok(body),
                };
            }
            if Instant::now() > deadline {
                return Err(Failure::Broken(format!("systemd did not answer to {method}")));
            }
        }
    }

    /// The next message. Ends of jobs are noted besides.
    fn receive(&mut self) -> Result<(Header, Vec<u8>)> {
        let failed = || "cannot read from systemd's socket".to_owned();
        let mut start = [0; 16];
        (&self.stream).read_exact(&mut start).context(failed)?;
        let (header, body) = wire::message_length(&start)?;
        let mut message = start.to_vec();
        message.resize(header.saturating_add(body), 0);
        let rest = message.get_mut(16..).ok_or_else(failed)?;
        (&self.stream).read_exact(rest).context(failed)?;
        let (header, body) = wire::decode(&message)?;
        if header.kind == wire::SIGNAL && header.member == "JobRemoved" && header.interface == MANAGER {
            // Number, job, unit, result.
            let mut reader = Reader::new(&body);
            if let (Some(_), Some(job), Some(_), Some(result)) =
                (reader.u32(), reader.text(), reader.text(), reader.text())
            {
                self.ended.push((job, result));
            }
        }
        Ok((header, body))
    }
}

/// SASL's EXTERNAL: the socket itself says who we are. In a user namespace we do not know the number that it says, and name
/// none. All is said at once, as by systemd's own library: where a message is read together with BEGIN, systemd's socket
/// lets it lie until another one comes.
fn authenticate(stream: &UnixStream) -> std::io::Result<()> {
    let uid: String = nix::unistd::geteuid().to_string().bytes().map(|b| format!("{b:02x}")).collect();
    let (said, expected) = match in_user_namespace() {
        false => (format!("\0AUTH EXTERNAL {uid}\r\nBEGIN\r\n"), &["OK "][..]),
        true => ("\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n".to_owned(), &["DATA", "OK "][..]),
    };
    let mut writer = stream;
    writer.write_all(said.as_bytes())?;
    // Nothing but these lines comes before our first message, so no byte of one is lost in the buffer.
    let mut reader = BufReader::new(stream.take(4096));
    for start in expected {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if !line.starts_with(start) {
            return Err(std::io::Error::other(format!("refused: {:?}", line.trim_end())));
        }
    }
    Ok(())
}
