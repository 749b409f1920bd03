//! User namespaces and time offsets of a configuration: checks, and what sentry and gofer are told of them.

use chitin_control::{IdMapping, IdMappings, TimeOffsets};
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Mount, Spec};

use super::check::Findings;

/// The most ranges that the host takes (UID_GID_MAP_MAX_EXTENTS).
const MOST: usize = 340;

fn ranges(mappings: Option<&Vec<LinuxIdMapping>>) -> Vec<IdMapping> {
    let range =
        |m: &LinuxIdMapping| IdMapping { container: m.container_id(), host: m.host_id(), size: m.size() };
    mappings.into_iter().flatten().map(range).collect()
}

/// A container's own ids; none without mappings.
pub fn of_container(linux: &Linux) -> Option<IdMappings> {
    let uids = ranges(linux.uid_mappings().as_ref());
    let gids = ranges(linux.gid_mappings().as_ref());
    (!uids.is_empty() && !gids.is_empty()).then_some(IdMappings { uids, gids })
}

/// Those of an id-mapped mount, and whether they are for the mounts below, too. Without some of its own: the container's.
pub fn of_mount(mount: &Mount, linux: Option<&Linux>) -> Option<(IdMappings, bool)> {
    let option = |name: &str| mount.options().iter().flatten().any(|o| o == name);
    let (uids, gids) = (ranges(mount.uid_mappings().as_ref()), ranges(mount.gid_mappings().as_ref()));
    let recursive = option("ridmap");
    let maps = if !uids.is_empty() || !gids.is_empty() {
        Some(IdMappings { uids, gids })
    } else if recursive || option("idmap") {
        linux.and_then(of_container)
    } else {
        None
    };
    maps.map(|maps| (maps, recursive))
}

fn check_ranges(path: &str, ranges: &[IdMapping], f: &mut Findings) {
    if ranges.len() > MOST {
        f.error(path, format!("must not have more than {MOST} ranges"));
    }
    let overlaps = |a: u32, a_size: u32, b: u32, b_size: u32| {
        u64::from(a) < u64::from(b) + u64::from(b_size) && u64::from(b) < u64::from(a) + u64::from(a_size)
    };
    for (index, range) in ranges.iter().enumerate() {
        let at = format!("{path}[{index}]");
        if range.size == 0 {
            f.error(format!("{at}.size"), "must be greater than zero");
        }
        if range.container.checked_add(range.size).is_none() || range.host.checked_add(range.size).is_none() {
            f.error(&at, "goes beyond the last id");
        }
        let clash = |other: &IdMapping| {
            overlaps(range.container, range.size, other.container, other.size)
                || overlaps(range.host, range.size, other.host, other.size)
        };
        if let Some(other) = ranges[..index].iter().position(clash) {
            f.error(&at, format!("overlaps {path}[{other}]"));
        }
    }
}

/// The ids of a configuration's user namespace.
pub fn check(spec: &Spec, f: &mut Findings) {
    let Some(linux) = spec.linux() else { return };
    let uids = ranges(linux.uid_mappings().as_ref());
    let gids = ranges(linux.gid_mappings().as_ref());
    check_ranges("linux.uidMappings", &uids, f);
    check_ranges("linux.gidMappings", &gids, f);
    let has = |kind| linux.namespaces().iter().flatten().any(|n| n.typ() == kind);
    if uids.is_empty() != gids.is_empty() {
        let missing = if uids.is_empty() { "linux.uidMappings" } else { "linux.gidMappings" };
        f.error(missing, "must be set where the other kind of ids is mapped");
    } else if !uids.is_empty() {
        if !has(LinuxNamespaceType::User) {
            f.error("linux.uidMappings", "needs a namespace of type user in linux.namespaces");
        }
        let known = |ranges: &[IdMapping], id: u32| ranges.iter().any(|r| r.contains(id));
        for (name, ranges) in [("linux.uidMappings", &uids), ("linux.gidMappings", &gids)] {
            if !known(ranges, 0) {
                f.error(name, "must map containerID 0, to which the root file system is made ready");
            }
        }
        if let Some(process) = spec.process() {
            let user = process.user();
            let mut unknown = |field: &str, ranges: &[IdMapping], id: u32, name: &str| {
                if !known(ranges, id) {
                    f.error(format!("process.user.{field}"), format!("{id} is not mapped by {name}"));
                }
            };
            unknown("uid", &uids, user.uid(), "linux.uidMappings");
            unknown("gid", &gids, user.gid(), "linux.gidMappings");
            for gid in user.additional_gids().iter().flatten() {
                unknown("additionalGids", &gids, *gid, "linux.gidMappings");
            }
        }
    }
    let offsets = linux.time_offsets().as_ref().filter(|o| !o.is_empty());
    if let Some(offsets) = offsets {
        if !has(LinuxNamespaceType::Time) {
            f.error("linux.timeOffsets", "needs a namespace of type time in linux.namespaces");
        }
        for (clock, offset) in offsets {
            let path = format!("linux.timeOffsets.{clock}");
            if !matches!(clock.as_str(), "monotonic" | "boottime") {
                f.error(&path, "is no clock that has an offset (there are monotonic and boottime)");
            }
            if offset.nanosecs().is_some_and(|n| n >= 1_000_000_000) {
                f.error(format!("{path}.nanosecs"), "must be less than 1000000000");
            }
        }
    }
}

/// The ids of an id-mapped mount.
pub fn check_mount(path: &str, mount: &Mount, linux: Option<&Linux>, bind: bool, f: &mut Findings) {
    let option = |name: &str| mount.options().iter().flatten().any(|o| o == name);
    let uids = ranges(mount.uid_mappings().as_ref());
    let gids = ranges(mount.gid_mappings().as_ref());
    check_ranges(&format!("{path}.uidMappings"), &uids, f);
    check_ranges(&format!("{path}.gidMappings"), &gids, f);
    let asked = !uids.is_empty() || !gids.is_empty();
    if uids.is_empty() != gids.is_empty() {
        f.error(format!("{path}.uidMappings"), "and gidMappings must both be set, or neither");
    }
    if (asked || option("idmap") || option("ridmap")) && !bind {
        f.error(format!("{path}.options"), "only bind mounts can be id-mapped");
    } else if !asked && (option("idmap") || option("ridmap")) && linux.and_then(of_container).is_none() {
        f.error(
            format!("{path}.options"),
            "idmap needs mappings: the mount's own, or a user namespace of the container's",
        );
    }
}

/// What a container's clocks are ahead by.
pub fn time_offsets(linux: &Linux) -> TimeOffsets {
    let of = |name: &str| {
        let offset = linux.time_offsets().as_ref().and_then(|all| all.get(name));
        offset.map_or((0, 0), |o| (o.secs().unwrap_or(0), o.nanosecs().unwrap_or(0)))
    };
    TimeOffsets { monotonic: of("monotonic"), boottime: of("boottime") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn complaints(linux: Value, uid: u32) -> Vec<String> {
        let spec: Spec = serde_json::from_value(json!({
            "ociVersion": "1.0.2", "linux": linux,
            "process": {"user": {"uid": uid, "gid": 0}, "args": ["true"], "cwd": "/"},
        }))
        .unwrap();
        let mut found = Findings::default();
        check(&spec, &mut found);
        found.into_parts().0
    }

    #[test]
    fn ids_must_make_sense() {
        let user = json!([{"type": "user"}]);
        let map =
            |first: u32, host: u32, size: u32| json!([{"containerID": first, "hostID": host, "size": size}]);
        let with = |uids: &Value, gids: &Value| json!({"namespaces": user, "uidMappings": uids, "gidMappings": gids});
        let good = map(0, 100_000, 65536);
        assert!(complaints(with(&good, &good), 1000).is_empty());
        for (linux, uid, expected) in [
            (with(&good, &good), 70_000, "process.user.uid"),
            (with(&good, &json!([])), 0, "linux.gidMappings"),
            (with(&map(1, 100_000, 10), &good), 1, "linux.uidMappings: must map containerID 0"),
            (with(&map(0, 1, 0), &good), 0, "linux.uidMappings[0].size"),
            (with(&map(0, u32::MAX, 2), &good), 0, "linux.uidMappings[0]"),
            (json!({"uidMappings": good, "gidMappings": good}), 0, "linux.uidMappings: needs a namespace"),
        ] {
            let found = complaints(linux, uid);
            assert!(found.iter().any(|c| c.starts_with(expected)), "{expected}: {found:?}");
        }
        let twice =
            json!([{"containerID": 0, "hostID": 0, "size": 10}, {"containerID": 5, "hostID": 20, "size": 1}]);
        assert!(complaints(with(&twice, &good), 0)[0].starts_with("linux.uidMappings[1]: overlaps"));
    }

    #[test]
    fn offsets_need_their_namespace() {
        let offsets = json!({"boottime": {"secs": 5, "nanosecs": 7}});
        assert!(complaints(json!({"namespaces": [{"type": "time"}], "timeOffsets": offsets}), 0).is_empty());
        assert_eq!(complaints(json!({"timeOffsets": offsets}), 0).len(), 1);
        let odd = json!({"realtime": {"secs": 5}});
        assert_eq!(complaints(json!({"namespaces": [{"type": "time"}], "timeOffsets": odd}), 0).len(), 1);
    }
}
