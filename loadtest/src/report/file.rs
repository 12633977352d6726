//! Files that a run leaves.

use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

/// Writes a summary as JSON where it is wanted.
pub(crate) fn write_summary(path: Option<&Path>, summary: &impl Serialize) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    write(path, &(serde_json::to_string_pretty(summary)? + "\n"))
}

/// Writes a file, or names it in the error.
pub(crate) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
