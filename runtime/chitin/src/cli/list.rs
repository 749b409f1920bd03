//! `chitin list`: all containers of the state directory.

use std::fmt::Write;

use clap::{Args, ValueEnum};

use super::print;
use crate::container;
use crate::container::Shown;
use crate::sandbox::Options;
use crate::util::{Context, Result};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub struct List {
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
    /// How to show them
    #[arg(short, long, value_enum, default_value = "table")]
    format: Format,
}

impl List {
    pub fn run(self, options: &Options) -> Result<()> {
        container::sweep(&options.root);
        let states = container::list(&options.root)?;
        if self.quiet {
            return print(&states.iter().map(|s| format!("{}\n", s.id)).collect::<String>());
        }
        let shown: Vec<Shown<'_>> = states.iter().map(|s| s.shown()).collect();
        match self.format {
            // What Go makes of no list.
            Format::Json if shown.is_empty() => print("null\n"),
            Format::Json => {
                let text = serde_json::to_string(&shown).context(|| "cannot encode the list".into())?;
                print(&format!("{text}\n"))
            }
            Format::Table => print(&table(&shown)),
        }
    }
}

/// Columns at least 12 wide, with 3 spaces between them, as runc has them.
fn table(containers: &[Shown<'_>]) -> String {
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    for c in containers {
        rows.push([
            c.id.to_owned(),
            c.pid.to_string(),
            c.status.to_string(),
            c.bundle.display().to_string(),
            c.created.to_owned(),
            c.owner.clone(),
        ]);
    }
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count() + 3).max().unwrap_or(0).max(12);
    let widths: Vec<usize> = (0..5).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "{cell:width$}");
        }
        let _ = writeln!(text, "{}", row[5]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::path::Path;

    #[test]
    fn an_empty_table_is_its_head() {
        let head = "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n";
        assert_eq!(table(&[]), head);
        let annotations = BTreeMap::new();
        let one = Shown {
            oci_version: "1",
            id: "a-long-container-id",
            pid: 7,
            status: chitin_control::Status::Running,
            bundle: Path::new("/b"),
            rootfs: Path::new("/b/r"),
            created: "now",
            annotations: &annotations,
            owner: "root".into(),
        };
        let text = table(&[one]);
        assert_eq!(
            text.lines().nth(1),
            Some("a-long-container-id   7           running     /b          now         root")
        );
    }
}
