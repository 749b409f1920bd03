//! The container's file systems: root, the configuration's mounts, devices, masked and read-only paths.

use crate::copyup;
use crate::exec;
use crate::factory::Types;
use crate::mount_options::{propagation, split};
use chitin_abi::Errno;
use chitin_abi::mount::*;
use chitin_abi::num::low32;
use chitin_control::{ContainerConfig, DeviceConfig, DeviceKind, MountConfig, OverlayMode};
use chitin_fs_dev::DevNode;
use chitin_fs_gofer::{Cache, GoferFs, GoferOptions};
use chitin_fs_overlay::{OverlayFs, OverlayOptions};
use chitin_fs_tmpfs::{Storage, TmpFs};
use chitin_gofer_protocol::Client;
use chitin_kernel::Kernel;
use chitin_vfs::walk::Walk;
use chitin_vfs::{
    Context, Creds, FileKind, FileSystem, Inode, Mount, MountNs, NewKind, Path, SetAttr, UserNs,
};
use std::sync::Arc;

/// What mounting needs.
pub struct Mounter<'a> {
    pub kernel: &'a Arc<Kernel>,
    pub overlay: OverlayMode,
    pub container: &'a ContainerConfig,
    pub client: Arc<Client>,
    pub storage: Storage,
    pub types: &'a Types,
    /// Who has power over the mounts.
    pub user_ns: &'a Arc<UserNs>,
}

/// Access times are kept as Linux keeps them where nothing is said (do_mount()).
fn with_atime(flags: u64) -> u64 {
    match flags {
        _ if flags & MS_STRICTATIME != 0 => flags & !(MS_RELATIME | MS_NOATIME),
        _ if flags & MS_NOATIME == 0 => flags | MS_RELATIME,
        _ => flags,
    }
}

impl Mounter<'_> {
    /// Builds the namespace.
    pub fn build(&self) -> Result<Arc<MountNs>, String> {
        let root = self.root_fs()?;
        // Read-only only once everything is in place.
        let mount = Mount::new(root, b"overlay", low32(MS_RELATIME));
        let ns = MountNs::new_in(mount.clone(), self.user_ns);
        let ctx = self.context(&ns);
        for config in &self.container.mounts {
            self.mount(&ctx, config)
                .map_err(|error| format!("mounts: {} at {}: {error}", config.fstype, config.destination))?;
        }
        self.devices(&ctx)?;
        for device in self.container.devices.iter().filter(|device| !device.path.starts_with("/dev/")) {
            self.device(&ctx, device)
                .map_err(|errno| format!("linux.devices: {}: {}", device.path, errno.message()))?;
        }
        for path in &self.container.masked_paths {
            self.mask(&ctx, path)
                .map_err(|errno| format!("linux.maskedPaths: {path}: {}", errno.message()))?;
        }
        for path in &self.container.readonly_paths {
            self.make_readonly(&ctx, path)
                .map_err(|errno| format!("linux.readonlyPaths: {path}: {}", errno.message()))?;
        }
        if self.container.root_readonly {
            mount.set_flags(mount.flags() | low32(MS_RDONLY));
        }
        Ok(ns)
    }

    /// A context of the kernel's own, with all rights.
    fn context(&self, ns: &Arc<MountNs>) -> Context {
        exec::context(self.kernel, ns, Creds::root(), 0)
    }

    fn overlay(&self, lower: Arc<dyn FileSystem>) -> Arc<dyn FileSystem> {
        // Inodes are the sentry's own memory, about a kilobyte each: an eighth of all for them.
        let memory = self.kernel.machine.memory_bytes;
        let nr_inodes = (memory / 8 / 1024).clamp(1 << 17, 1 << 20);
        let options = OverlayOptions { size: memory, nr_inodes };
        OverlayFs::new(lower, self.storage.clone(), options)
    }

    fn root_fs(&self) -> Result<Arc<dyn FileSystem>, String> {
        // A read-only root gets a layer, too: for the mount points that it lacks.
        let overlaid = self.overlay != OverlayMode::None || self.container.root_readonly;
        let options = GoferOptions { cache: Cache::Exclusive, readonly: overlaid, ..GoferOptions::default() };
        let lower = GoferFs::attach(self.client.clone(), self.container.root_gofer_root, options).map_err(
            |error| format!("root: the gofer does not serve it: {error}; see the gofer's messages"),
        )?;
        Ok(if overlaid { self.overlay(lower) } else { lower })
    }

    fn mount(&self, ctx: &Context, config: &MountConfig) -> Result<(), String> {
        let (flags, data) = split(&config.options);
        if config.options.iter().any(|option| option == "remount") {
            return self.remount(ctx, &config.destination, flags);
        }
        let (fs, is_file): (Arc<dyn FileSystem>, bool) = match config.gofer_root {
            Some(index) => {
                let overlaid = self.overlay == OverlayMode::All && flags & MS_RDONLY == 0;
                let options = GoferOptions {
                    cache: if overlaid { Cache::Exclusive } else { Cache::Shared },
                    readonly: overlaid || flags & MS_RDONLY != 0,
                    ..GoferOptions::default()
                };
                let fs = GoferFs::attach(self.client.clone(), index, options)
                    .map_err(|error| format!("the gofer does not serve the source: {error}"))?;
                (if overlaid { self.overlay(fs) } else { fs }, config.is_file)
            }
            None => {
                // There is one hierarchy, whatever the host has.
                let fstype = if config.fstype == "cgroup" { "cgroup2" } else { &config.fstype };
                let fs = self.types.make(fstype, &data).map_err(|errno| match errno {
                    Errno::ENODEV => {
                        "the type is not supported; remove the mount or use bind, tmpfs, proc, sysfs, \
                                      devpts, mqueue, devtmpfs or cgroup"
                            .to_string()
                    }
                    errno => format!("{} (options: {})", errno.message(), String::from_utf8_lossy(&data)),
                })?;
                (fs, false)
            }
        };
        let point = mountpoint(ctx, config.destination.as_bytes(), is_file)
            .map_err(|errno| format!("cannot make the mount point: {}", errno.message()))?;
        if is_dev(&config.destination) && config.gofer_root.is_none() {
            self.populate(&fs.root()).map_err(|errno| format!("linux.devices: {}", errno.message()))?;
        }
        if config.fstype == "tmpfs" && config.options.iter().any(|option| option == "tmpcopyup") {
            copyup::copy(ctx, point.inode(), &fs.root())
                .map_err(|errno| format!("tmpcopyup: {}", errno.message()))?;
        }
        let mount = Mount::new(fs, config.source.as_bytes(), low32(with_atime(flags)));
        let top = Path { dentry: mount.root().clone(), mount: mount.clone() };
        ctx.ns.attach(mount, point).map_err(|errno| errno.message().to_string())?;
        for (kind, recursive) in config.options.iter().filter_map(|option| propagation(option)) {
            ctx.ns
                .set_propagation(&top, kind, recursive)
                .map_err(|errno| format!("propagation: {}", errno.message()))?;
        }
        Ok(())
    }

    /// Other flags for what is mounted there already, as by mount(2) with MS_REMOUNT.
    fn remount(&self, ctx: &Context, destination: &str, flags: u64) -> Result<(), String> {
        let found = ctx.walk(&ctx.root, destination.as_bytes(), Walk::FOLLOW);
        let top = ctx.ns.follow(found.map_err(|errno| format!("remount: {}", errno.message()))?);
        if !Arc::ptr_eq(&top.dentry, top.mount.root()) {
            return Err("remount: nothing is mounted there".into());
        }
        top.mount.set_flags(low32(with_atime(flags)));
        Ok(())
    }

    /// The configured devices that lie in the directory or file system that is /dev, and the devices every container has (OCI
    /// runtime spec, config-linux: default devices), as far as they are not among them.
    fn populate(&self, dev: &Arc<dyn Inode>) -> Result<(), Errno> {
        for device in &self.container.devices {
            let Some(path) = device.path.strip_prefix("/dev/") else { continue };
            let node = dev_node(device, path);
            let made = chitin_fs_dev::make_node(dev, &node)?;
            same(&made, &node)?;
        }
        chitin_fs_dev::populate(dev, &chitin_fs_dev::default_nodes(self.container.process.terminal))
    }

    /// A configured device that lies elsewhere.
    fn device(&self, ctx: &Context, device: &DeviceConfig) -> Result<(), Errno> {
        let (parent, name) = device.path.rsplit_once('/').ok_or(Errno::EINVAL)?;
        let parent = mountpoint(ctx, parent.as_bytes(), false)?;
        let node = dev_node(device, name);
        let place = match ctx.walk(&parent, name.as_bytes(), Walk::NOFOLLOW) {
            // From an earlier run of a container with this root.
            Ok(found) if is_placeholder(found.inode())? => found,
            Ok(found) => return same(found.inode(), &node),
            Err(Errno::ENOENT) => {
                let kind = match node.kind {
                    FileKind::Fifo => NewKind::Fifo,
                    kind => NewKind::Device { kind, rdev: node.rdev },
                };
                match ctx.make(&parent, name.as_bytes(), kind, node.mode) {
                    // The host's own directory, in which nobody makes devices.
                    Err(Errno::EPERM) => ctx.make(&parent, name.as_bytes(), NewKind::Regular, 0)?,
                    made => {
                        let owner =
                            SetAttr { uid: Some(node.uid), gid: Some(node.gid), ..SetAttr::default() };
                        return made?.inode().set_attr(&owner);
                    }
                }
            }
            Err(errno) => return Err(errno),
        };
        let fs = TmpFs::new(Storage::Memory, b"mode=0755", self.kernel.machine.memory_bytes)?;
        chitin_fs_dev::make_node(&fs.root(), &node)?;
        let mount = Mount::new(fs, b"tmpfs", low32(MS_NOSUID));
        let top = Path { dentry: mount.root().clone(), mount };
        ctx.ns.bind(&ctx.walk(&top, name.as_bytes(), Walk::NOFOLLOW)?, place, false)
    }

    /// Without a file system of its own, /dev is filled where it lies in the root.
    fn devices(&self, ctx: &Context) -> Result<(), String> {
        if self.container.mounts.iter().any(|mount| is_dev(&mount.destination)) {
            return Ok(());
        }
        let failed = |errno: Errno| format!("linux.devices: {}", errno.message());
        let dev = match mountpoint(ctx, b"/dev", false) {
            // A read-only root without the directory goes without.
            Err(Errno::EROFS) => return Ok(()),
            dev => dev.map_err(failed)?,
        };
        match self.populate(dev.inode()) {
            Ok(()) => Ok(()),
            // The host's own directory, in which nobody makes devices: they come above it.
            Err(Errno::EPERM | Errno::EROFS) => {
                let above = TmpFs::new(Storage::Memory, b"mode=0755", self.kernel.machine.memory_bytes)
                    .map_err(failed)?;
                self.populate(&above.root()).map_err(failed)?;
                let flags = low32(MS_NOSUID | MS_STRICTATIME);
                ctx.ns.attach(Mount::new(above, b"tmpfs", flags), dev).map_err(failed)
            }
            Err(errno) => Err(failed(errno)),
        }
    }

    fn mask(&self, ctx: &Context, path: &str) -> Result<(), Errno> {
        let found = match ctx.walk(&ctx.root, path.as_bytes(), Walk::FOLLOW) {
            Ok(found) => found,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        if found.inode().kind() == FileKind::Directory {
            let empty = TmpFs::new(Storage::Memory, b"size=0k,mode=0755", self.kernel.machine.memory_bytes)?;
            return ctx.ns.attach(Mount::new(empty, b"tmpfs", low32(MS_RDONLY)), found);
        }
        let null = ctx.walk(&ctx.root, b"/dev/null", Walk::FOLLOW)?;
        ctx.ns.bind(&null, found, false)
    }

    fn make_readonly(&self, ctx: &Context, path: &str) -> Result<(), Errno> {
        let found = match ctx.walk(&ctx.root, path.as_bytes(), Walk::FOLLOW) {
            Ok(found) => found,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        ctx.ns.bind(&found.clone(), found.clone(), true)?;
        let top = ctx.ns.follow(found);
        top.mount.set_flags(top.mount.flags() | low32(MS_RDONLY));
        Ok(())
    }
}

fn dev_node(device: &DeviceConfig, path: &str) -> DevNode {
    DevNode {
        path: path.into(),
        kind: match device.kind {
            DeviceKind::Char => FileKind::CharDevice,
            DeviceKind::Block => FileKind::BlockDevice,
            DeviceKind::Fifo => FileKind::Fifo,
        },
        rdev: chitin_abi::stat::makedev(device.major, device.minor),
        mode: device.mode,
        uid: device.uid,
        gid: device.gid,
    }
}

/// Whether a file is there for a device to lie above: an empty one that nobody may touch.
fn is_placeholder(found: &Arc<dyn Inode>) -> Result<bool, Errno> {
    let attr = found.attr()?;
    Ok(attr.kind == FileKind::Regular && attr.size == 0 && attr.perm == 0)
}

/// EEXIST if a file that was there is another one than is asked for.
fn same(found: &Arc<dyn Inode>, node: &DevNode) -> Result<(), Errno> {
    let attr = found.attr()?;
    let matches = attr.kind == node.kind && (node.kind == FileKind::Fifo || attr.rdev == node.rdev);
    if matches { Ok(()) } else { Err(Errno::EEXIST) }
}

fn is_dev(destination: &str) -> bool {
    destination.trim_end_matches('/') == "/dev"
}

/// Finds the place of a mount, making what is missing of the path (a file or directories).
fn mountpoint(ctx: &Context, destination: &[u8], is_file: bool) -> Result<Path, Errno> {
    let mut at = ctx.root.clone();
    let names: Vec<&[u8]> = destination.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).collect();
    for (index, name) in names.iter().enumerate() {
        let last = index + 1 == names.len();
        at = match ctx.walk(&at, name, Walk::FOLLOW) {
            Ok(found) => found,
            Err(Errno::ENOENT) => {
                let kind = if last && is_file { NewKind::Regular } else { NewKind::Directory };
                let perm = if last && is_file { 0o644 } else { 0o755 };
                ctx.make(&at, name, kind, perm)?
            }
            Err(errno) => return Err(errno),
        };
    }
    Ok(at)
}

/// The working directory; made if it is missing, as runc does.
pub fn working_directory(ctx: &Context, path: &str) -> Result<Path, Errno> {
    let path = if path.is_empty() { "/" } else { path };
    let found = mountpoint(ctx, path.as_bytes(), false)?;
    if found.inode().kind() != FileKind::Directory {
        return Err(Errno::ENOTDIR);
    }
    Ok(found)
}
