//! A container's state directory and its lock.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::NOT_FOUND;
use super::state::State;
use crate::cgroup::Cgroups;
use crate::util::{Context, Result, acts_for_user};

/// The file with the cgroups that are made for a container.
const CGROUPS: &str = "cgroups";

/// Where containers are kept unless `--root` says otherwise.
pub fn default_root() -> PathBuf {
    if !acts_for_user() {
        return "/run/chitin".into();
    }
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty()) {
        Some(dir) => Path::new(&dir).join("chitin"),
        None => format!("/tmp/chitin-{}", nix::unistd::geteuid()).into(),
    }
}

/// Ids are file names: word characters, `+`, `-`, `.`; engines use up to 64 of them.
pub fn valid_id(id: &str) -> Result<()> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'+' | b'-' | b'.' | b',');
    if id.is_empty() || id.len() > 255 || id == "." || id == ".." || !id.bytes().all(legal) {
        return Err(format!(
            "invalid container ID format: {id:?} (letters, digits and _ + - . are allowed, at most 255)"
        ));
    }
    Ok(())
}

/// A state directory, locked until this is dropped or unlocked (unless it was only found).
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    file: File,
}

impl Directory {
    /// Makes the directory of a new container.
    pub fn create(root: &Path, id: &str) -> Result<Self> {
        valid_id(id)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(root)
            .context(|| format!("cannot make the state directory {} (see --root)", root.display()))?;
        // In a directory that anybody may have made in /tmp, somebody else's processes would be ours to kill.
        let owner = fs::metadata(root).context(|| format!("cannot look at {}", root.display()))?.uid();
        if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
            return Err(format!(
                "the state directory {} belongs to user {owner}: choose another (--root)",
                root.display()
            ));
        }
        let path = root.join(id);
        // Further rounds, if a directory without a container in it is in the way, or a sweep is.
        for _ in 0..10 {
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => match Self::lock(path.clone())? {
                    Some(directory) => return Ok(directory),
                    None => continue,
                },
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(format!("cannot make {}: {e}", path.display())),
            }
            if !Self::remove_leftover(&path)? {
                break;
            }
        }
        Err("container with given ID already exists".into())
    }

    /// Removes the directory if it has no state and nobody holds its lock: a command was killed in the middle. True
    /// when there is no such directory any more.
    pub fn remove_leftover(path: &Path) -> Result<bool> {
        match Self::try_lock(path)? {
            Some(left) if matches!(State::load(path), Ok(None)) => left.remove().map(|()| true),
            _ => Ok(!path.exists()),
        }
    }

    /// Locks the directory of an existing container.
    pub fn open(root: &Path, id: &str) -> Result<Self> {
        valid_id(id)?;
        Self::lock(root.join(id))?.ok_or_else(|| NOT_FOUND.to_owned())
    }

    /// The directory of an existing container, not locked: for looking at it and talking to its sentry.
    pub fn find(root: &Path, id: &str) -> Result<Self> {
        valid_id(id)?;
        Self::unlocked(root.join(id))?.ok_or_else(|| NOT_FOUND.to_owned())
    }

    /// The state in it; a directory without one is no container (yet).
    pub fn state(&self) -> Result<State> {
        State::load(&self.path)?.ok_or_else(|| NOT_FOUND.to_owned())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory as a descriptor, through which its socket can be named however long its path is.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Notes cgroups that are about to be made, so that they are found should this command be killed in the middle.
    pub fn note_cgroups(&self, lines: &str) -> Result<()> {
        let path = self.path.join(CGROUPS);
        let file = File::options().append(true).create(true).open(&path);
        file.and_then(|mut f| f.write_all(lines.as_bytes()))
            .context(|| format!("cannot write {}", path.display()))
    }

    /// The container's cgroups; it may have none.
    pub fn cgroups(&self) -> Result<Cgroups> {
        let path = self.path.join(CGROUPS);
        match fs::read_to_string(&path) {
            Ok(lines) => Cgroups::open(&lines),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Cgroups::default()),
            Err(e) => Err(format!("cannot read {}: {e}", path.display())),
        }
    }

    /// Removes the directory and what is in it, and the cgroups that were noted; the network goes back to its namespace.
    pub fn remove(self) -> Result<()> {
        if let Ok(Some(state)) = State::load(&self.path) {
            crate::network::claim::give_back(&state);
        }
        match self.cgroups() {
            Ok(cgroups) => {
                for left in cgroups.remove() {
                    let left = left.display();
                    crate::log::warn(&format!("the cgroup {left} could not be removed: it is in use"));
                }
            }
            // The directory must go all the same.
            Err(e) => crate::log::warn(&format!("the cgroups are left: {e}")),
        }
        match fs::remove_dir_all(&self.path) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(format!("cannot remove {}: {e}", self.path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Lets others have the lock.
    pub fn unlock(&self) -> Result<()> {
        self.file.unlock().context(|| format!("cannot unlock {}", self.path.display()))
    }

    /// `None` when there is no such directory.
    fn lock(path: PathBuf) -> Result<Option<Self>> {
        let Some(directory) = Self::unlocked(path)? else { return Ok(None) };
        directory.file.lock().context(|| format!("cannot lock {}", directory.path.display()))?;
        Ok(directory.is_current().then_some(directory))
    }

    /// `None` also when somebody else holds the lock.
    fn try_lock(path: &Path) -> Result<Option<Self>> {
        let Some(directory) = Self::unlocked(path.to_owned())? else { return Ok(None) };
        match directory.file.try_lock() {
            Ok(()) => Ok(directory.is_current().then_some(directory)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(format!("cannot lock {}: {e}", path.display())),
        }
    }

    fn unlocked(path: PathBuf) -> Result<Option<Self>> {
        match File::open(&path) {
            Ok(file) => Ok(Some(Self { path, file })),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(format!("cannot open {}: {e}", path.display())),
        }
    }

    /// Whoever held the lock before may have removed the directory, and a new one may have taken its name.
    fn is_current(&self) -> bool {
        match (fs::metadata(&self.path), self.file.metadata()) {
            (Ok(named), Ok(held)) => named.dev() == held.dev() && named.ino() == held.ino(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(name: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("chitin-directory-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        root
    }

    #[test]
    fn ids() {
        for id in ["a", "A-b_c.d+1", "..."] {
            assert!(valid_id(id).is_ok(), "{id}");
        }
        for id in ["", ".", "..", "a/b", "a b", "é", "a\n", "$x"] {
            assert!(valid_id(id).is_err(), "{id}");
        }
        assert!(valid_id(&"x".repeat(256)).is_err());
    }

    #[test]
    fn a_directory_is_made_once_and_removed() {
        let root = root("once");
        let directory = Directory::create(&root, "c").unwrap();
        // Held by us, so it is no leftover.
        assert!(Directory::create(&root, "c").unwrap_err().contains("already exists"));
        directory.remove().unwrap();
        assert_eq!(Directory::open(&root, "c").unwrap_err(), NOT_FOUND);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_cut_off_creation_does_not_block_the_id() {
        let root = root("cut");
        drop(Directory::create(&root, "c").unwrap());
        let again = Directory::create(&root, "c").unwrap();
        again.remove().unwrap();
        fs::remove_dir_all(&root).unwrap();
    }
}
