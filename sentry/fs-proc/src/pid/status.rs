//! status (proc_pid_status()).

use super::Subject;
use super::stat::{dispositions, memory, state};
use crate::format::{bit_list, bit_mask, escape, put};
use chitin_abi::Errno;
use chitin_abi::resource::RLIMIT_SIGPENDING;
use chitin_abi::signal::SigSet;
use chitin_mm::{HostVmaKind, Mm};
use chitin_vfs::Caller;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(super) fn status(subject: &Subject, opener: &Caller, out: &mut Vec<u8>) -> Result<(), Errno> {
    let process = &subject.process;
    let task = subject.task.as_ref();
    out.extend_from_slice(b"Name:\t");
    escape(out, &subject.name(), b"\n\\");
    out.push(b'\n');
    if let Some(task) = task {
        put!(out, "Umask:\t{:04o}\n", task.fs().umask());
    }
    let (letter, text) = state(subject);
    let (pid, tid, ppid) = (subject.pid(), subject.id, process.ppid_in(&subject.shared.ns));
    put!(out, "State:\t{letter} ({text})\nTgid:\t{pid}\nNgid:\t0\nPid:\t{tid}\nPPid:\t{ppid}\n");
    put!(out, "TracerPid:\t0\n");
    let creds = subject.creds();
    let ns = &opener.creds.user_ns;
    let [uid, euid, suid, fsuid] = [creds.uid, creds.euid, creds.suid, creds.fsuid].map(|id| ns.show_uid(id));
    put!(out, "Uid:\t{uid}\t{euid}\t{suid}\t{fsuid}\n");
    let [gid, egid, sgid, fsgid] = [creds.gid, creds.egid, creds.sgid, creds.fsgid].map(|id| ns.show_gid(id));
    put!(out, "Gid:\t{gid}\t{egid}\t{sgid}\t{fsgid}\n");
    put!(out, "FDSize:\t{}\nGroups:\t", task.map_or(0, |task| task.files().capacity()));
    for group in &creds.groups {
        put!(out, "{} ", ns.show_gid(*group));
    }
    if creds.groups.is_empty() {
        out.push(b' ');
    }
    out.push(b'\n');
    let thread = task.filter(|_| subject.single).map_or_else(|| process.id.clone(), |task| task.id());
    let lines = [
        ("NStgid", process.id.clone()),
        ("NSpid", thread),
        ("NSpgid", process.pgrp()),
        ("NSsid", process.session()),
    ];
    // On each level from the instance's down to that of the process itself.
    let levels = process.pid_ns().and_above(&subject.shared.ns);
    for (name, id) in lines {
        put!(out, "{name}:");
        levels.iter().for_each(|ns| put!(out, "\t{}", id.nr_in(ns)));
        out.push(b'\n');
    }
    put!(out, "Kthread:\t0\n");
    if let Some(mm) = memory(subject) {
        sizes(&mm, out);
    }
    put!(out, "Threads:\t{}\n", process.threads().len().max(1));
    signals(subject, out);
    for (name, set) in [
        ("CapInh", creds.inheritable),
        ("CapPrm", creds.permitted),
        ("CapEff", creds.effective),
        ("CapBnd", creds.bounding),
        ("CapAmb", creds.ambient),
    ] {
        put!(out, "{name}:\t{:016x}\n", set.0);
    }
    put!(out, "NoNewPrivs:\t{}\n", u8::from(creds.no_new_privs));
    let (mode, filters) = task.map_or((0, 0), |task| (task.seccomp.mode(), task.seccomp.filters()));
    put!(out, "Seccomp:\t{mode}\nSeccomp_filters:\t{filters}\n");
    put!(out, "Speculation_Store_Bypass:\tunknown\nSpeculationIndirectBranch:\tunknown\n");
    cpus(subject, out);
    let switches: u64 =
        subject.task.iter().map(|task| task.counters.voluntary_switches.load(Ordering::Relaxed)).sum();
    let preempted = subject.task.as_ref().map_or(0, |task| task.platform().preemptions());
    put!(out, "voluntary_ctxt_switches:\t{switches}\nnonvoluntary_ctxt_switches:\t{preempted}\n");
    Ok(())
}

/// The Vm* lines. Peaks are what is there now: nobody counts them.
fn sizes(mm: &Arc<Mm>, out: &mut Vec<u8>) {
    let usage = mm.space().usage();
    let layout = mm.layout();
    let (mut stack, mut code, mut library) = (0, 0, 0);
    for vma in mm.space().mappings(false).unwrap_or_default() {
        let len = vma.range.end.saturating_sub(vma.range.start);
        if vma.range.contains(&layout.start_stack) {
            stack = len;
        } else if vma.prot & 4 != 0 && vma.kind == HostVmaKind::File {
            if vma.range.contains(&layout.start_code) {
                code = len;
            } else {
                library += len;
            }
        }
    }
    let file = usage.shared.min(usage.resident);
    let lines = [
        ("VmPeak", usage.virt),
        ("VmSize", usage.virt),
        ("VmLck", 0),
        ("VmPin", 0),
        ("VmHWM", usage.resident),
        ("VmRSS", usage.resident),
        ("RssAnon", usage.resident - file),
        ("RssFile", file),
        ("RssShmem", 0),
        ("VmData", usage.data),
        ("VmStk", stack),
        ("VmExe", code),
        ("VmLib", library),
        // One table page per 2 MiB in use, and the upper levels.
        ("VmPTE", (usage.resident >> 21).saturating_add(8) << 12),
        ("VmSwap", 0),
        ("HugetlbPages", 0),
    ];
    for (name, bytes) in lines {
        put!(out, "{name}:\t{:8} kB\n", bytes >> 10);
    }
    put!(out, "CoreDumping:\t0\nTHP_enabled:\t1\nuntag_mask:\t0xffffffffffffffff\n");
}

fn signals(subject: &Subject, out: &mut Vec<u8>) {
    let (own, shared) =
        subject.task.as_ref().map_or((SigSet::EMPTY, SigSet::EMPTY), |task| task.pending_split());
    let blocked = subject.task.as_ref().map_or(SigSet::EMPTY, |task| task.signal_mask());
    let queued = own.0.count_ones().saturating_add(shared.0.count_ones());
    let (ignored, caught) = dispositions(subject);
    put!(out, "SigQ:\t{queued}/{}\n", subject.process.rlimit(RLIMIT_SIGPENDING).rlim_cur);
    for (name, set) in
        [("SigPnd", own), ("ShdPnd", shared), ("SigBlk", blocked), ("SigIgn", ignored), ("SigCgt", caught)]
    {
        put!(out, "{name}:\t{:016x}\n", set.0);
    }
}

fn cpus(subject: &Subject, out: &mut Vec<u8>) {
    let count = subject.shared.container.cpus() as usize;
    let all = crate::system::cpu_mask(&subject.shared);
    let mut mask = match subject.task.as_ref().map(|task| task.platform().affinity(None)) {
        Some(Ok(mask)) => mask,
        _ => all.clone(),
    };
    mask.resize(all.len(), 0);
    mask.iter_mut().zip(&all).for_each(|(byte, known)| *byte &= known);
    put!(out, "Cpus_allowed:\t{}\nCpus_allowed_list:\t{}\n", bit_mask(&mask, count), bit_list(&mask));
    put!(out, "Mems_allowed:\t1\nMems_allowed_list:\t0\n");
}
