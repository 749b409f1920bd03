//! The files `cgroup.*`.

use crate::files::View;
use chitin_abi::Errno;
use chitin_kernel::cgroup::Moved;
use chitin_kernel::{Process, Task};
use chitin_vfs::Caller;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

type Text = Result<String, Errno>;

/// What the container's own cgroup has; below it there is only what can be enforced there.
const CONTROLLERS: &str = "cpuset cpu io memory pids";

pub(crate) fn controllers(view: &View<'_>, _: &Caller) -> Text {
    let below = view.cgroup.parent().map(|parent| parent.pids_below.load(Ordering::Relaxed));
    Ok(match below {
        None => format!("{CONTROLLERS}\n"),
        Some(true) => "pids\n".to_owned(),
        Some(false) => "\n".to_owned(),
    })
}

pub(crate) fn subtree_control(view: &View<'_>, _: &Caller) -> Text {
    Ok(if view.cgroup.pids_below.load(Ordering::Relaxed) { "pids\n" } else { "\n" }.to_owned())
}

/// `+name` and `-name`, all or none.
pub(crate) fn set_subtree_control(view: &View<'_>, caller: &Caller, text: &str) -> Result<(), Errno> {
    let available = controllers(view, caller)?;
    let mut wanted = None;
    for word in text.split_ascii_whitespace() {
        let (on, name) = match (word.strip_prefix('+'), word.strip_prefix('-')) {
            (Some(name), _) => (true, name),
            (_, Some(name)) => (false, name),
            _ => return Err(Errno::EINVAL),
        };
        if !CONTROLLERS.split(' ').any(|known| known == name) {
            return Err(Errno::EINVAL);
        }
        match (name, on) {
            ("pids", on) => wanted = Some(on),
            // They are not on.
            (_, false) => {}
            (name, true) if available.split_ascii_whitespace().all(|known| known != name) => {
                return Err(Errno::ENOENT);
            }
            // They act on the container as a whole, from outside.
            (_, true) => return Err(Errno::EOPNOTSUPP),
        }
    }
    match wanted {
        Some(true) if !available.contains("pids") => Err(Errno::ENOENT),
        Some(true) if view.cgroup.has_own() => Err(Errno::EBUSY),
        Some(false) if view.cgroup.children().iter().any(|(_, c)| c.pids_below.load(Ordering::Relaxed)) => {
            Err(Errno::EBUSY)
        }
        Some(on) => {
            view.cgroup.pids_below.store(on, Ordering::Relaxed);
            if !on {
                for (_, child) in view.cgroup.children() {
                    child.pids_max.store(u64::MAX, Ordering::Relaxed);
                }
            }
            Ok(())
        }
        None => Ok(()),
    }
}

pub(crate) fn events(view: &View<'_>, _: &Caller) -> Text {
    let frozen = view.cgroup.is_frozen() && view.shared.kernel.cgroup_has_stopped(view.cgroup);
    Ok(format!("populated {}\nfrozen {}\n", u8::from(view.cgroup.populated()), u8::from(frozen)))
}

pub(crate) fn freeze(view: &View<'_>, _: &Caller) -> Text {
    Ok(format!("{}\n", u8::from(view.cgroup.freezes())))
}

pub(crate) fn set_freeze(view: &View<'_>, _: &Caller, text: &str) -> Result<(), Errno> {
    let frozen = match text {
        "0" => false,
        "1" => true,
        text if text.parse::<i64>().is_ok() => return Err(Errno::ERANGE),
        _ => return Err(Errno::EINVAL),
    };
    view.shared.kernel.freeze_cgroup(view.cgroup, frozen);
    Ok(())
}

pub(crate) fn kill(view: &View<'_>, _: &Caller, text: &str) -> Result<(), Errno> {
    match text {
        "1" => view.shared.kernel.kill_cgroup(view.cgroup),
        text if text.parse::<i64>().is_ok() => return Err(Errno::ERANGE),
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

fn limit(value: &AtomicU32) -> Text {
    Ok(match value.load(Ordering::Relaxed) {
        u32::MAX => "max\n".to_owned(),
        number => format!("{number}\n"),
    })
}

fn set_limit(value: &AtomicU32, text: &str) -> Result<(), Errno> {
    let number = match text {
        "max" => u32::MAX,
        text => match text.parse::<i64>().map_err(|_| Errno::EINVAL)? {
            number @ 0..=0x7fff_ffff => u32::try_from(number).map_err(|_| Errno::ERANGE)?,
            _ => return Err(Errno::ERANGE),
        },
    };
    value.store(number, Ordering::Relaxed);
    Ok(())
}

pub(crate) fn max_depth(view: &View<'_>, _: &Caller) -> Text {
    limit(&view.cgroup.max_depth)
}
pub(crate) fn set_max_depth(view: &View<'_>, _: &Caller, text: &str) -> Result<(), Errno> {
    set_limit(&view.cgroup.max_depth, text)
}
pub(crate) fn max_descendants(view: &View<'_>, _: &Caller) -> Text {
    limit(&view.cgroup.max_descendants)
}
pub(crate) fn set_max_descendants(view: &View<'_>, _: &Caller, text: &str) -> Result<(), Errno> {
    set_limit(&view.cgroup.max_descendants, text)
}

pub(crate) fn stat(view: &View<'_>, _: &Caller) -> Text {
    Ok(format!("nr_descendants {}\nnr_dying_descendants 0\n", view.cgroup.descendants()))
}

/// Who opened a file, which says how numbers of processes are to be read.
fn opener(view: &View<'_>, caller: &Caller) -> Result<Arc<Task>, Errno> {
    view.shared.kernel.task_by_kid(caller.tid).ok_or(Errno::ESRCH)
}

fn numbers(view: &View<'_>, caller: &Caller, of: fn(&Process, &mut Vec<i32>, &Task)) -> Text {
    let reader = opener(view, caller)?;
    let mut all = Vec::new();
    for process in view.shared.kernel.processes_in_cgroup(view.cgroup, false) {
        of(&process, &mut all, &reader);
    }
    all.sort_unstable();
    let mut text = String::new();
    for number in all {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{number}");
    }
    Ok(text)
}

pub(crate) fn procs(view: &View<'_>, caller: &Caller) -> Text {
    numbers(view, caller, |process, all, reader| all.push(process.pid_in(reader.pid_ns())))
}

pub(crate) fn threads(view: &View<'_>, caller: &Caller) -> Text {
    numbers(view, caller, |process, all, reader| {
        all.extend(process.threads().iter().map(|thread| thread.tid_in(reader.pid_ns())));
    })
}

pub(crate) fn move_process(view: &View<'_>, caller: &Caller, text: &str) -> Result<(), Errno> {
    let number: i32 = text.parse().map_err(|_| Errno::EINVAL)?;
    let opener = opener(view, caller)?;
    let process = match number {
        0 => opener.process.clone(),
        // A thread's number stands for its process.
        number => opener.find_task(number).map(|task| task.process.clone()).ok_or(Errno::ESRCH)?,
    };
    // Nobody pulls in what is outside its namespace.
    if !view.shared.root.holds(&process.cgroup()) {
        return Err(Errno::ENOENT);
    }
    match view.shared.kernel.move_to_cgroup(&process, view.cgroup) {
        Moved::Done => Ok(()),
        Moved::Internal => Err(Errno::EBUSY),
        Moved::Removed => Err(Errno::ENODEV),
        Moved::Foreign => Err(Errno::ENOENT),
    }
}

/// In domains, threads go where their process is.
pub(crate) fn move_thread(view: &View<'_>, caller: &Caller, text: &str) -> Result<(), Errno> {
    let number: i32 = text.parse().map_err(|_| Errno::EINVAL)?;
    let opener = opener(view, caller)?;
    let task = if number == 0 { Some(opener) } else { opener.find_task(number) };
    let task = task.ok_or(Errno::ESRCH)?;
    if Arc::ptr_eq(&task.process.cgroup(), view.cgroup) { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
}

pub(crate) fn kind(_: &View<'_>, _: &Caller) -> Text {
    Ok("domain\n".to_owned())
}

pub(crate) fn set_kind(_: &View<'_>, _: &Caller, text: &str) -> Result<(), Errno> {
    Err(if text == "threaded" { Errno::EOPNOTSUPP } else { Errno::EINVAL })
}
