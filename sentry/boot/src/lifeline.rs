//! The pipe that ties the sandbox to the command that made it (`run`, `do`).

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

/// Watches from where the boot may have other threads on, which is soon: the end of the stream ends the sandbox, one byte sets it free.
pub fn watch(pipe: OwnedFd) -> Result<(), String> {
    let watcher = move || {
        let mut byte = [0u8];
        match File::from(pipe).read(&mut byte) {
            Ok(1) => {}
            _ => {
                crate::last_words("the command that made the sandbox was killed; the container was ended");
                // We are the init of our PID namespace: all guest processes end with us.
                std::process::exit(137);
            }
        }
    };
    std::thread::Builder::new()
        .name("lifeline".into())
        .stack_size(64 << 10)
        .spawn(watcher)
        .map(|_| ())
        .map_err(|error| format!("cannot start the lifeline thread: {error}; raise the limit on processes"))
}
