//! The committed JSON Schema of the settings file is the one that the binary prints.

use crate::paths::Paths;
use crate::shell::Shell;
use anyhow::{Context, Result, ensure};

const COMMITTED: &str = "docs/schema/settings.json";

/// Compares the two, or writes the committed one anew.
pub(crate) fn check(paths: &Paths, write: bool) -> Result<()> {
    let printed = Shell::new(&paths.root, paths.binary(), &["schema"]).read()?;
    let committed = paths.root.join(COMMITTED);
    if write {
        return std::fs::write(&committed, printed).context(COMMITTED);
    }
    let text = std::fs::read_to_string(&committed).context(COMMITTED)?;
    ensure!(
        text == printed,
        "{COMMITTED} differs from `portcullis schema`: run `cargo xtask schema --write`"
    );
    println!("{COMMITTED} is what `portcullis schema` prints, {} bytes", text.len());
    Ok(())
}
