//! Making the VM: what the host must have, and what guests get of it.

use crate::clock::{self, Clock};
use crate::cpuid;
use crate::cpus;
use crate::host::{self, SetupError};
use crate::machine::Machine;
use crate::phys::Phys;
use crate::ring0;
use crate::space::World;
use crate::vcpu::{self, Vcpu};
use kvm_ioctls::Kvm;
use std::fs::File;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;

#[derive(Debug)]
pub struct Config {
    /// /dev/kvm, open for reading and writing.
    pub device: OwnedFd,
    /// Processors to make: no more than CPUs.
    pub cpus: u32,
    /// The most memory that guests may have together.
    pub memory: u64,
    /// The host keeps shadow page tables; found out if unset.
    pub shadow: Option<bool>,
    /// /proc/self/maps, if it cannot be opened by path; for the vDSO.
    pub maps: Option<File>,
}

/// Opens /dev/kvm.
pub fn open() -> Result<OwnedFd, SetupError> {
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(file) => Ok(file.into()),
        Err(e) => {
            let remedy = match e.raw_os_error() {
                Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => {
                    "load kvm_intel or kvm_amd, switch on virtualisation in the firmware (nested, if this is a VM), or use --platform=seccomp"
                }
                Some(libc::EACCES | libc::EPERM) => {
                    "join the group that owns it (usually kvm), run as root, or use --platform=seccomp"
                }
                _ => "use --platform=seccomp",
            };
            Err(SetupError(format!("platform kvm: cannot open /dev/kvm: {e}; {remedy}")))
        }
    }
}

/// The ioctls that the platform makes after its start, for the sentry's filter.
pub fn seccomp_ioctls() -> &'static [u32] {
    &[
        0xae80,      // KVM_RUN
        0x4020_ae46, // KVM_SET_USER_MEMORY_REGION
        0x9000_aea4, // KVM_GET_XSAVE
        0x5000_aea5, // KVM_SET_XSAVE
    ]
}

/// Whether the host's KVM translates guest addresses by shadow page tables. Yes where nothing says no.
pub fn has_shadow_tables() -> bool {
    let on = |path: &str| std::fs::read_to_string(path).is_ok_and(|s| matches!(s.trim(), "Y" | "1"));
    !(on("/sys/module/kvm_intel/parameters/ept") || on("/sys/module/kvm_amd/parameters/npt"))
}

pub fn machine(config: Config) -> Result<Arc<Machine>, SetupError> {
    host::install_kick()?;
    // SAFETY: the descriptor is ours, and nobody else's from here on.
    let kvm = unsafe { Kvm::from_raw_fd(config.device.into_raw_fd()) };
    vcpu::check(&kvm)?;
    let (list, features) = cpuid::supported(&kvm)?;
    let vm = kvm.create_vm().map_err(|e| {
        SetupError(format!("platform kvm: KVM_CREATE_VM: {e}; is another hypervisor using the processor?"))
    })?;
    // Out of our memory's way, where processors without unrestricted guests want it.
    let _ = vm.set_identity_map_address(0xfffb_c000);
    let _ = vm.set_tss_address(0xfffb_d000);
    let vm = Arc::new(vm);
    let slots = u32::try_from(kvm.get_nr_memslots()).unwrap_or(509);
    let phys = Arc::new(Phys::new(Some(vm.clone()), config.memory, features.phys_bits, slots)?);
    let count = (config.cpus.max(1) as usize).min(kvm.get_max_vcpus()).min(ring0::MAX_VCPUS);
    ring0::build(&phys, count);
    if host::read_mapping(phys.hva(0), &mut [0]) != 1 {
        return Err(SetupError(format!(
            "platform kvm: process_vm_readv of our own memory: {}; the seccomp profile of an outer container must allow \
             process_vm_readv and process_vm_writev",
            std::io::Error::last_os_error()
        )));
    }
    let numbers = cpus::numbers(&host::affinity(), count);
    let vcpus = numbers.iter().enumerate().map(|(i, number)| Vcpu::new(&vm, i, *number, &list, &features));
    let vcpus = vcpus.collect::<Result<Vec<_>, _>>()?;
    let mask = vcpus.first().and_then(|v| v.handle.get_xsave().ok());
    let mask = mask.and_then(|area| area.region.get(7).copied()).unwrap_or(0);
    let shadow = config.shadow.unwrap_or_else(has_shadow_tables);
    tracing::info!(processors = count, shadow, ?features, "virtual machine made");
    let maps = config.maps.map_or_else(clock::own_maps, Ok).map_err(|e| format!("/proc/self/maps: {e}"));
    let clock = maps.and_then(|maps| Clock::new(&phys, &vcpus, maps));
    let clock = clock.inspect_err(|why| tracing::warn!(why, "guests get no vDSO")).ok();
    let world = World::new(phys, ring0::root_entry(), clock, shadow);
    Ok(Machine::new(world, features, mask, vcpus))
}
