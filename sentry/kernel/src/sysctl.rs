//! Tunables of /proc/sys that can be changed: the values, by their dotted name. Those of /proc/sys/net are the network's
//! ([`crate::inspect::NetFiles`]).
//!
//! `fs-proc` shows and changes them, the runtime sets those of the container's configuration, and whoever acts on one
//! asks [`Sysctls::number`]. The sandbox has one, as an extension of the kernel.

use crate::Kernel;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Values that differ from their defaults.
#[derive(Default)]
pub struct Sysctls {
    values: RwLock<BTreeMap<&'static str, Vec<u8>>>,
}

impl Sysctls {
    /// The sandbox's, made on first use.
    pub fn of(kernel: &Kernel) -> Arc<Sysctls> {
        if let Some(known) = kernel.extension::<Sysctls>() {
            return known;
        }
        kernel.extend(Arc::new(Sysctls::default()));
        // Of two made at the same time the first one found counts.
        kernel.extension::<Sysctls>().unwrap_or_default()
    }

    /// The text set for a name ("kernel.msgmax"), if any.
    pub fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.values.read().get(name).cloned()
    }

    /// A number, or the default of whoever asks.
    pub fn number(&self, name: &str, default: i64) -> i64 {
        let values = self.values.read();
        let text = values.get(name).and_then(|value| std::str::from_utf8(value).ok());
        text.and_then(|text| text.trim().parse().ok()).unwrap_or(default)
    }

    /// Stores a checked value.
    pub fn set(&self, name: &'static str, value: Vec<u8>) {
        self.values.write().insert(name, value);
    }
}
