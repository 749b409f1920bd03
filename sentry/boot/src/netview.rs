//! What /proc/net, /sys/class/net and /proc/sys/net have to do with the network stack: the kernel's side asks and tells,
//! the stack's answers and obeys, and neither crate knows the other.

use chitin_abi::Errno;
use chitin_kernel::Kernel;
use chitin_kernel::inspect::{NetFiles, NetLink, ProcNet, Tunable, TunableValue};
use chitin_kernel::ns::Stack;
use chitin_net::NetNs;
use chitin_netstack::config::LinkStats;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

struct View;

impl NetFiles for View {
    fn text(&self, stack: &Stack, name: &str) -> Option<Vec<u8>> {
        chitin_net::proc::text(&*of(stack)?, name)
    }

    fn links(&self, stack: &Stack) -> Vec<NetLink> {
        let links = of(stack).map(|net| net.stack().config.links()).unwrap_or_default();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = |stats: &LinkStats| {
            vec![
                ("rx_packets", count(&stats.rx_packets)),
                ("rx_bytes", count(&stats.rx_bytes)),
                ("rx_errors", count(&stats.rx_errors)),
                ("rx_dropped", count(&stats.rx_dropped)),
                ("multicast", count(&stats.rx_multicast)),
                ("tx_packets", count(&stats.tx_packets)),
                ("tx_bytes", count(&stats.tx_bytes)),
                ("tx_errors", count(&stats.tx_errors)),
                ("tx_dropped", count(&stats.tx_dropped)),
            ]
        };
        let shown = links.into_iter().map(|link| NetLink {
            state: link.operstate(),
            counters: counters(&link.stats),
            name: link.name,
            index: link.index,
            peer: link.peer.unwrap_or(link.index),
            mtu: link.mtu,
            kind: u32::from(link.hw_type),
            flags: link.flags,
            address: link.hw_addr,
            broadcast: link.broadcast,
            tx_queue_len: link.tx_queue_len,
            group: link.group,
        });
        shown.collect()
    }

    fn tunables_in(&self, stack: &Stack, dir: &str) -> BTreeMap<String, bool> {
        of(stack).map(|net| net.stack().tunables_in(dir)).unwrap_or_default()
    }

    fn tunable(&self, stack: &Stack, path: &str) -> Option<Tunable> {
        let net = of(stack)?;
        if let Some((words, writable)) = net.stack().words(path) {
            return Some(Tunable { value: TunableValue::Words(words), writable });
        }
        let chitin_netstack::sysctl::Tunable { values, min, max, writable } = net.stack().tunable(path)?;
        Some(Tunable { value: TunableValue::Numbers { values, min, max }, writable })
    }

    fn tune(&self, stack: &Stack, path: &str, numbers: &[i64]) -> Result<(), Errno> {
        of(stack).ok_or(Errno::ENOENT)?.stack().tune(path, numbers)
    }

    fn tune_words(&self, stack: &Stack, path: &str, words: &str) -> Result<(), Errno> {
        of(stack).ok_or(Errno::ENOENT)?.stack().set_words(path, words)
    }
}

/// What the kernel knows without a type.
fn of(stack: &Stack) -> Option<Arc<NetNs>> {
    stack.clone().downcast::<NetNs>().ok()
}

/// Connects the two.
pub fn connect(kernel: &Kernel) {
    kernel.extend(Arc::new(ProcNet(Box::new(View))));
}
