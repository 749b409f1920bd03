//! `chitin spec`: a config.json to start from.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use clap::Args;
use oci_spec::runtime::Spec;
use serde::Serialize;

use crate::util::{Context, Result};

#[derive(Debug, Args)]
pub struct Template {
    /// Where to write it
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Its name (relative to the bundle)
    #[arg(short, long, value_name = "FILE", default_value = "config.json")]
    file: PathBuf,
    /// For a container without privileges on the host
    #[arg(long = "rootless")]
    for_rootless: bool,
}

impl Template {
    pub fn run(self, _rootless: bool) -> Result<()> {
        let path = self.bundle.join(&self.file);
        // Through the types, for the usual order of fields.
        let spec: Spec = serde_json::from_value(crate::spec::template(self.for_rootless))
            .context(|| "cannot build the configuration".into())?;
        let mut text = Vec::new();
        let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        spec.serialize(&mut serde_json::Serializer::with_formatter(&mut text, tabs))
            .context(|| "cannot encode the configuration".into())?;
        text.push(b'\n');
        let mut file = match OpenOptions::new().write(true).create_new(true).open(&path) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                return Err(format!("File {} exists. Remove it first", self.file.display()));
            }
            other => other.context(|| format!("cannot write {}", path.display()))?,
        };
        file.write_all(&text).context(|| format!("cannot write {}", path.display()))
    }
}
