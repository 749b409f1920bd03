//! The sentry's log: structured lines to an inherited descriptor, or nothing.

use chitin_control::{BootConfig, LogFormat, LogLevel};
use std::fs::File;
use std::sync::{Arc, Mutex};
use tracing::level_filters::LevelFilter;

fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Starts logging; answers the log itself for `--strace` lines.
pub fn start(config: &BootConfig) -> Result<Option<Arc<File>>, String> {
    let Some(number) = config.debug_log_fd else { return Ok(None) };
    let fd = chitin_host::inherit::take(number).map_err(|error| {
        format!(
            "cannot use the debug log, descriptor {number}: {error}; check the file given with --debug-log"
        )
    })?;
    let file = Arc::new(File::from(fd));
    let writer = Mutex::new(file.clone());
    let builder = tracing_subscriber::fmt().with_max_level(level(config.log_level)).with_ansi(false);
    let installed = match config.log_format {
        LogFormat::Text => builder.with_writer(writer).try_init(),
        LogFormat::Json => builder.json().with_writer(writer).try_init(),
    };
    installed.map_err(|error| format!("cannot start the log: {error}"))?;
    Ok(Some(file))
}
