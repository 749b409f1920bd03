//! What /proc/net, /sys/class/net and /proc/sys/net have to do with the network stack: the kernel's side asks and tells,
//! the stack's answers and obeys, and neither crate knows the other.

use chitin_kernel::Kernel;
use chitin_kernel::inspect::{NetFiles, NetLink, ProcNet};
use chitin_kernel::ns::Stack;
use chitin_kernel::sysctl::Sysctls;
use chitin_net::NetNs;
use chitin_netstack::Congestion;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

struct View(Arc<NetNs>);

impl NetFiles for View {
    fn text(&self, stack: &Stack, name: &str) -> Option<Vec<u8>> {
        let net = stack.clone().downcast::<NetNs>().ok()?;
        chitin_net::proc::text(&net, name)
    }

    fn links(&self) -> Vec<NetLink> {
        let links = self.0.stack().config.links();
        let shown = links.into_iter().map(|link| NetLink {
            name: link.name,
            index: link.index,
            mtu: link.mtu,
            kind: u32::from(link.hw_type),
            flags: link.flags,
            address: link.hw_addr,
        });
        shown.collect()
    }
}

/// Connects the two.
pub fn connect(kernel: &Arc<Kernel>, net: &Arc<NetNs>) {
    kernel.extend(Arc::new(ProcNet(Box::new(View(net.clone())))));
    let sysctls = Sysctls::of(kernel);
    // A vector (ip_local_port_range) has an entry for each of its numbers, in order.
    let mut names: BTreeMap<&'static str, usize> = BTreeMap::new();
    for (path, ..) in net.stack().sysctls.list() {
        let count = names.entry(path).or_default();
        *count = count.saturating_add(1);
    }
    for path in names.into_keys() {
        let net = net.clone();
        let set = move |text: &str| {
            let all = net.stack().sysctls.list();
            let own = all.iter().filter(|(known, ..)| *known == path);
            for ((_, setting, ..), number) in own.zip(text.split_ascii_whitespace()) {
                if let Ok(number) = number.parse() {
                    setting.set(number);
                }
            }
        };
        sysctls.watch(path.replace('/', "."), Box::new(set));
    }
    let own = net.clone();
    let congestion = move |text: &str| {
        if let Some(found) = Congestion::named(text) {
            *own.stack().sysctls.congestion.lock() = found;
        }
    };
    sysctls.watch("net.ipv4.tcp_congestion_control".to_owned(), Box::new(congestion));
    let own = net.clone();
    let dgrams = number(move |n| own.max_dgram_qlen.store(n, Ordering::Relaxed));
    sysctls.watch("net.unix.max_dgram_qlen".to_owned(), dgrams);
}

fn number(set: impl Fn(u32) + Send + Sync + 'static) -> chitin_kernel::sysctl::Watcher {
    Box::new(move |text| {
        if let Ok(number) = text.trim().parse() {
            set(number);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use chitin_fs_proc::tunable;

    /// /proc/sys shows and bounds what the stack begins with, and has a file for all of it.
    #[test]
    fn both_sides_know_the_same_settings() {
        let stack = NetNs::new(true).stack().clone();
        let mut shown: BTreeMap<&'static str, (String, i64, i64)> = BTreeMap::new();
        for (path, setting, min, max) in stack.sysctls.list() {
            let entry = shown.entry(path).or_insert_with(|| (String::new(), min, max));
            let tab = if entry.0.is_empty() { "" } else { "\t" };
            entry.0 = format!("{}{tab}{}", entry.0, setting.get());
        }
        for (path, (value, min, max)) in shown {
            let found = tunable(&path.replace('/', "."));
            assert_eq!(found, Some((value.as_str(), min, max)), "{path}");
        }
    }
}
