//! The vDSO: the host's own image and data pages, as they are mapped in this process, shown to the VM read-only.
//!
//! They tell the time by the time stamp counter, so the VM's must be the host's own, without an offset. Where that cannot be
//! had, guests get no vDSO and ask by system calls.

use crate::host;
use crate::phys::{PAGE, Phys};
use crate::vcpu::Vcpu;
use std::io::Read;
use std::ops::Range;

/// Data pages and image, in a row.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pub gpa: u64,
    pub hva: u64,
    pub len: u64,
    /// Where the image begins.
    pub image: u64,
}

/// Our own data pages and image in the text of /proc/self/maps.
fn find(maps: &str) -> Option<(Range<u64>, u64)> {
    let mut whole: Option<Range<u64>> = None;
    for line in maps.lines() {
        let name = line.split_ascii_whitespace().nth(5).unwrap_or_default();
        if !name.starts_with("[vvar") && name != "[vdso]" {
            continue;
        }
        let (start, end) = line.split_ascii_whitespace().next()?.split_once('-')?;
        let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        let whole = whole.get_or_insert(start..start);
        if whole.end != start {
            return None;
        }
        whole.end = end;
        if name == "[vdso]" {
            return Some((whole.clone(), start));
        }
    }
    None
}

impl Clock {
    /// `maps`: /proc/self/maps of this process.
    pub fn new(phys: &Phys, vcpus: &[Vcpu], mut maps: impl Read) -> Result<Clock, String> {
        let mut text = String::new();
        maps.read_to_string(&mut text).map_err(|e| format!("/proc/self/maps: {e}"))?;
        let (whole, image) = find(&text).ok_or("this process has no vDSO")?;
        for vcpu in vcpus {
            vcpu.handle.use_host_tsc().map_err(|errno| {
                format!("the time stamp counter's offset cannot be set (errno {errno}); Linux 5.16 can")
            })?;
        }
        let len = whole.end - whole.start;
        let (gpa, _) = phys
            .show_window(whole.start, len, true)
            .map_err(|errno| format!("the host's KVM did not take the pages (errno {errno})"))?;
        Ok(Clock { gpa, hva: whole.start, len, image: image - whole.start })
    }

    pub fn page(&self, off: u64) -> Option<u64> {
        (off < self.len).then_some(self.gpa + off / PAGE * PAGE)
    }

    pub fn hva_of(&self, gpa: u64) -> Option<u64> {
        gpa.checked_sub(self.gpa).filter(|off| *off < self.len).map(|off| self.hva + off)
    }
}

/// Reads the maps of this process where /proc is.
pub fn own_maps() -> std::io::Result<std::fs::File> {
    std::fs::File::open("/proc/self/maps").inspect_err(|_| tracing::debug!(errno = host::errno(), "no /proc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_found() {
        let text = "\
555555554000-555555556000 r--p 00000000 00:15 247030 /usr/bin/cat
7f55c7f63000-7f55c7f67000 r--p 00000000 00:00 0                          [vvar]
7f55c7f67000-7f55c7f69000 r--p 00000000 00:00 0                          [vvar_vclock]
7f55c7f69000-7f55c7f6b000 r-xp 00000000 00:00 0                          [vdso]
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]\n";
        assert_eq!(find(text), Some((0x7f55_c7f6_3000..0x7f55_c7f6_b000, 0x7f55_c7f6_9000)));
        assert_eq!(find(&text.replace("[vdso]", "")), None);
        assert_eq!(find(&text.replace("7f55c7f67000-7f55c7f69000", "7f55c7f68000-7f55c7f69000")), None);
    }
}
