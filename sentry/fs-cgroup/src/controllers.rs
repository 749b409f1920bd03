//! The files of the controllers. But for `pids` they tell what the host enforces on the container.

use crate::files::View;
use chitin_abi::Errno;
use chitin_vfs::Caller;
use std::sync::atomic::Ordering;

type Text = Result<String, Errno>;

pub(crate) fn empty(_: &View<'_>, _: &Caller) -> Text {
    Ok("\n".to_owned())
}
pub(crate) fn zero(_: &View<'_>, _: &Caller) -> Text {
    Ok("0\n".to_owned())
}
pub(crate) fn hundred(_: &View<'_>, _: &Caller) -> Text {
    Ok("100\n".to_owned())
}
pub(crate) fn unlimited(_: &View<'_>, _: &Caller) -> Text {
    Ok("max\n".to_owned())
}

/// `max` where nothing is said.
fn limit(value: Option<u64>) -> String {
    value.map_or_else(|| "max\n".to_owned(), |value| format!("{value}\n"))
}

pub(crate) fn cpu_max(view: &View<'_>, _: &Caller) -> Text {
    Ok(match view.shared.container.told.lock().quota {
        Some((quota, period)) => format!("{quota} {period}\n"),
        None => "max 100000\n".to_owned(),
    })
}

pub(crate) fn cpu_stat(view: &View<'_>, _: &Caller) -> Text {
    let times = view.shared.kernel.cgroup_cpu(view.cgroup);
    let (user, system) = (times.user_ns / 1000, times.system_ns / 1000);
    Ok(format!("usage_usec {}\nuser_usec {user}\nsystem_usec {system}\n", user.saturating_add(system)))
}

pub(crate) fn cpus(view: &View<'_>, _: &Caller) -> Text {
    Ok(match view.shared.container.cpus() {
        0 | 1 => "0\n".to_owned(),
        count => format!("0-{}\n", count.saturating_sub(1)),
    })
}

pub(crate) fn mems(_: &View<'_>, _: &Caller) -> Text {
    Ok("0\n".to_owned())
}

fn used(view: &View<'_>) -> u64 {
    view.shared.kernel.memory_in_cgroup(view.cgroup)
}

pub(crate) fn memory_current(view: &View<'_>, _: &Caller) -> Text {
    Ok(format!("{}\n", used(view)))
}

pub(crate) fn memory_max(view: &View<'_>, _: &Caller) -> Text {
    let memory = view.shared.container.memory();
    Ok(limit((memory < view.shared.kernel.machine.memory_bytes).then_some(memory)))
}

/// What the host says of its own cgroup's limits does not come in here; its kills do.
pub(crate) fn memory_events(view: &View<'_>, _: &Caller) -> Text {
    let kills = view.shared.container.oom_kills.load(Ordering::Relaxed);
    Ok(format!("low 0\nhigh 0\nmax 0\noom {kills}\noom_kill {kills}\noom_group_kill 0\n"))
}

/// The resident memory of processes, which is all that is told apart.
pub(crate) fn memory_stat(view: &View<'_>, _: &Caller) -> Text {
    let used = used(view);
    Ok(format!(
        "anon {used}\nfile 0\nkernel 0\nsock 0\nshmem 0\ninactive_anon {used}\nactive_anon 0\ninactive_file 0\nactive_file 0\nunevictable 0\n"
    ))
}

pub(crate) fn pids_current(view: &View<'_>, _: &Caller) -> Text {
    Ok(format!("{}\n", view.cgroup.threads()))
}

pub(crate) fn pids_peak(view: &View<'_>, _: &Caller) -> Text {
    Ok(format!("{}\n", view.cgroup.peak()))
}

pub(crate) fn pids_events(view: &View<'_>, _: &Caller) -> Text {
    Ok(format!("max {}\n", view.cgroup.pids_failures.load(Ordering::Relaxed)))
}

pub(crate) fn pids_max(view: &View<'_>, _: &Caller) -> Text {
    let told = if view.is_top() { view.shared.container.told.lock().pids } else { None };
    Ok(limit(told.or_else(|| view.cgroup.pids_limit())))
}

pub(crate) fn set_pids_max(view: &View<'_>, _: &Caller, text: &str) -> Result<(), Errno> {
    let value = match text {
        "max" => u64::MAX,
        // PIDS_MAX.
        text => match text.parse::<i64>().map_err(|_| Errno::EINVAL)? {
            value @ 0..=0x40_0000 => value.cast_unsigned(),
            _ => return Err(Errno::EINVAL),
        },
    };
    view.cgroup.pids_max.store(value, Ordering::Relaxed);
    Ok(())
}
