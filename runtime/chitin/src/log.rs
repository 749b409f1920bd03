//! What the command line says to its caller: runc's formats, because engines parse them.
//!
//! With `--log FILE` lines go there (`text` or `json`, one object with level, msg and time per line), and errors
//! also to standard error; without it everything goes to standard error. The sentry's and gofer's own logs are
//! another matter (`--debug-log`).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;

use chitin_control::LogFormat;

use crate::util::{Context, Result, now_rfc3339};

/// What a line is about, the gravest first. There is nothing between warnings and what is only for debugging.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Error,
    Warning,
    Debug,
}

struct Logger {
    file: Option<File>,
    format: LogFormat,
    /// Lines beyond it are not written.
    level: Level,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Chooses where lines go. Called once, before anything is logged.
pub fn set_up(path: Option<&Path>, format: LogFormat, level: Level) -> Result<()> {
    let file = match path {
        None => None,
        Some(path) => Some(
            OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o644)
                .open(path)
                .context(|| format!("cannot open the log file {} (--log)", path.display()))?,
        ),
    };
    let _ = LOGGER.set(Logger { file, format, level });
    Ok(())
}

pub fn debug(message: &str) {
    if level() >= Level::Debug {
        line("debug", message);
    }
}

pub fn warn(message: &str) {
    if level() >= Level::Warning {
        line("warning", message);
    }
}

fn level() -> Level {
    LOGGER.get().map_or(Level::Warning, |l| l.level)
}

/// An error that ends the command.
pub fn error(message: &str) {
    line("error", message);
    if LOGGER.get().is_some_and(|l| l.file.is_some()) {
        eprintln!("{message}");
    }
}

fn line(level: &str, message: &str) {
    let (file, format) = LOGGER.get().map_or((None, LogFormat::Text), |l| (l.file.as_ref(), l.format));
    let time = now_rfc3339();
    // Whole seconds, as runc has it.
    let time = format!("{}Z", time.split('.').next().unwrap_or_default());
    let text = match format {
        LogFormat::Json => format!("{}\n", serde_json::json!({"level": level, "msg": message, "time": time})),
        LogFormat::Text => format!("time=\"{time}\" level={level} msg={message:?}\n"),
    };
    // Nothing can be done about a log that cannot be written.
    let _ = match file {
        Some(mut file) => file.write_all(text.as_bytes()),
        None => std::io::stderr().write_all(text.as_bytes()),
    };
}
