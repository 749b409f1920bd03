//! `chitin state`: what is known of a container.

use clap::Args;

use super::print;
use crate::container::Directory;
use crate::sandbox::Options;
use crate::util::{Context, Result};

#[derive(Debug, Args)]
pub struct Show {
    /// The container's name
    id: String,
}

impl Show {
    pub fn run(self, options: &Options) -> Result<()> {
        crate::container::sweep(&options.root);
        let state = Directory::find(&options.root, &self.id)?.state()?;
        let text =
            serde_json::to_string_pretty(&state.shown()).context(|| "cannot encode the state".into())?;
        print(&format!("{text}\n"))
    }
}
