//! Which security modules the host runs.

/// As runc asks: enabled, and with its files in sight.
pub fn apparmor() -> bool {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    enabled.is_ok_and(|text| text.starts_with('Y'))
}

/// selinuxfs is mounted where a policy is in force.
pub fn selinux() -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().filter_map(|line| line.split_once(" - ")).any(|(_, rest)| rest.starts_with("selinuxfs "))
}
