//! Capabilities: what handling other people's files takes, and nothing else.

use nix::errno::Errno;
use nix::sys::prctl::{set_dumpable, set_no_new_privs};

use crate::error::Error;
use crate::host;

/// Kept, as far as the gofer has them: rootless, they are those of its user namespace.
const KEPT: [(u32, &str); 6] = [
    (0, "CHOWN: files get the owners guests give them"),
    (1, "DAC_OVERRIDE: the sentry has checked permissions"),
    (2, "DAC_READ_SEARCH: the same for reading and searching"),
    (3, "FOWNER: changing files that belong to guest users"),
    (4, "FSETID: set-id bits survive changes, as the sentry decides"),
    (27, "MKNOD: overlay whiteouts; the server makes no other device"),
];

/// No capability has a higher number in any kernel so far.
const LAST: u32 = 63;

/// Gives up everything else, for good.
pub fn drop_privileges() -> Result<(), Error> {
    set_no_new_privs()
        .map_err(|e| Error::host("renounce new privileges (prctl)", "PR_SET_NO_NEW_PRIVS", e))?;
    host::clear_ambient_capabilities()
        .map_err(|e| Error::host("clear the ambient capabilities", "PR_CAP_AMBIENT", e))?;
    let kept = KEPT.iter().fold(0_u64, |set, (number, _)| set | (1_u64 << number));
    for capability in (0..=LAST).filter(|number| kept & (1_u64 << number) == 0) {
        match host::drop_bounding_capability(capability) {
            Ok(()) => {}
            // Beyond the last one this kernel knows.
            Err(Errno::EINVAL) => break,
            // Without CAP_SETPCAP the bounding set stays; no_new_privs makes it void.
            Err(Errno::EPERM) => break,
            Err(e) => {
                return Err(Error::host("drop from the bounding set capability", &capability.to_string(), e));
            }
        }
    }
    let permitted =
        host::permitted_capabilities().map_err(|e| Error::host("read its capabilities", "(capget)", e))?;
    host::set_capabilities(permitted & kept)
        .map_err(|e| Error::host("give up capabilities", "(capset)", e))?;
    // Other processes of the same user must not look into this one.
    set_dumpable(false).map_err(|e| Error::host("become undumpable (prctl)", "PR_SET_DUMPABLE", e))
}
