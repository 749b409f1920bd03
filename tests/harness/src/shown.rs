//! What a program shows on its terminal, as another thread reads it.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct Shown {
    bytes: Receiver<Vec<u8>>,
    seen: String,
}

impl Shown {
    pub fn new(bytes: Receiver<Vec<u8>>) -> Shown {
        Shown { bytes, seen: String::new() }
    }

    /// What has come and was not waited for.
    pub fn seen(&self) -> &str {
        &self.seen
    }

    /// Waits until this is shown, behind what was waited for before.
    pub fn until(&mut self, what: &str, limit: Duration) {
        let end = Instant::now() + limit;
        loop {
            if let Some(at) = self.seen.find(what) {
                self.seen.drain(..at + what.len());
                return;
            }
            match self.bytes.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(e) => {
                    let last: String =
                        self.seen.chars().rev().take(200).collect::<Vec<_>>().into_iter().rev().collect();
                    panic!("{what:?} is not shown ({e}), but …{last:?}")
                }
            }
        }
    }
}
