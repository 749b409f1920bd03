//! Labels of the host's security modules, as a thread takes them on: by a write to its own files below /proc.
//!
//! Both modules change the writing thread alone, so this is for processes that have one thread, which all later ones and
//! all children then have it from. The files must be in sight when they are opened; the write may follow when no path is
//! any more, as long as credentials and memory are the same.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// The calling thread's attributes.
pub const ATTRIBUTES: &str = "/proc/thread-self/attr";

/// A label that is to be taken on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label<'a> {
    /// The name of a loaded profile.
    AppArmor(&'a str),
    /// user:role:type:range
    Selinux(&'a str),
}

/// A label whose file is open.
#[derive(Debug)]
pub struct Pending {
    file: File,
    text: String,
}

impl Label<'_> {
    /// Opens the file below `attributes` that takes it. A kernel that stacks modules has AppArmor's in a directory of its own.
    pub fn open(self, attributes: &Path) -> io::Result<Pending> {
        let write = |file: &str| OpenOptions::new().write(true).open(attributes.join(file));
        match self {
            Label::AppArmor(profile) => {
                let file = match write("apparmor/current") {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => write("current")?,
                    other => other?,
                };
                Ok(Pending { file, text: format!("changeprofile {profile}") })
            }
            Label::Selinux(label) => Ok(Pending { file: write("current")?, text: label.to_owned() }),
        }
    }
}

impl Pending {
    /// The file, and what is to be written to it in one write.
    pub fn into_parts(self) -> (File, String) {
        (self.file, self.text)
    }

    /// Takes it on. The kernel wants it in one write.
    pub fn take_on(mut self) -> io::Result<()> {
        let count = self.file.write(self.text.as_bytes())?;
        if count == self.text.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// What stands in for the directory of attributes.
    struct Fake(PathBuf);

    impl Fake {
        fn new(name: &str, files: &[&str]) -> Fake {
            let dir = std::env::temp_dir().join(format!("chitin-attr-{name}-{}", std::process::id()));
            for file in files {
                let path = dir.join(file);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, "").unwrap();
            }
            Fake(dir)
        }

        fn read(&self, file: &str) -> String {
            std::fs::read_to_string(self.0.join(file)).unwrap()
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_profile_goes_to_apparmors_own_file() {
        let fake = Fake::new("stacked", &["current", "apparmor/current"]);
        let pending = Label::AppArmor("docker-default").open(&fake.0).unwrap();
        assert_eq!(fake.read("apparmor/current"), "", "opening alone changes nothing");
        pending.take_on().unwrap();
        assert_eq!(fake.read("apparmor/current"), "changeprofile docker-default");
        assert_eq!(fake.read("current"), "");
    }

    #[test]
    fn an_older_kernel_has_one_file() {
        let fake = Fake::new("old", &["current"]);
        Label::AppArmor("p//child").open(&fake.0).unwrap().take_on().unwrap();
        assert_eq!(fake.read("current"), "changeprofile p//child");
    }

    #[test]
    fn selinux_has_the_label_as_it_is() {
        let fake = Fake::new("selinux", &["current", "apparmor/current"]);
        let label = "system_u:system_r:container_t:s0:c124,c675";
        Label::Selinux(label).open(&fake.0).unwrap().take_on().unwrap();
        assert_eq!(fake.read("current"), label);
        assert_eq!(fake.read("apparmor/current"), "");
    }

    #[test]
    fn without_the_file_it_fails() {
        let fake = Fake::new("none", &["exec"]);
        for label in [Label::AppArmor("x"), Label::Selinux("x")] {
            assert_eq!(label.open(&fake.0).unwrap_err().kind(), io::ErrorKind::NotFound);
        }
    }

    /// The kernel's own answer where no module is there, or none that knows this name: the label is not taken for granted.
    #[test]
    fn a_label_that_nobody_knows_is_an_error() {
        let label = Label::AppArmor("no-such-profile-anywhere");
        assert!(label.open(Path::new(ATTRIBUTES)).and_then(Pending::take_on).is_err());
    }
}
