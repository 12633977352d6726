//! What a check found, counted by kind.

use serde::Serialize;

/// How many violations of each kind are spelled out.
const EXAMPLES_MAX: usize = 5;

/// What must not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// A read answered less than was established before it started.
    Older,
    /// A version that no write can have made, or not of this document.
    NeverWritten,
    /// A write made no version of its own that is greater than those known before it started.
    WriteNotNewer,
    /// A document does not show what was written by its version.
    Content,
    /// Two different bodies of one version.
    Altered,
    /// An answer that names no version, or two, or another restaurant.
    Unreadable,
}

/// What the check found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Findings {
    /// Answers to reads whose version was checked.
    pub reads: u64,
    /// Of these, answers whose content was compared with what was written.
    pub contents: u64,
    /// Of these, answers marked as old copies.
    pub stale: u64,
    /// Writes that ended.
    pub writes: u64,
    /// All of the following.
    pub violations: u64,
    /// Reads that answered less than was established before they started.
    pub older: u64,
    /// Versions that no write can have made.
    pub never_written: u64,
    /// Writes whose version is not greater than those known before, or not their own.
    pub writes_not_newer: u64,
    /// Values that are not those of the version.
    pub wrong_content: u64,
    /// Two bodies of one version.
    pub altered: u64,
    /// Answers that name no version, or two, or another restaurant.
    pub unreadable: u64,
    /// The first few of each kind in words.
    pub examples: Vec<String>,
}

impl Findings {
    /// Counts one, and spells it out while that is still news.
    pub(super) fn add(&mut self, kind: Violation, what: impl FnOnce() -> String) {
        let (count, name) = match kind {
            Violation::Older => (&mut self.older, "older"),
            Violation::NeverWritten => (&mut self.never_written, "never written"),
            Violation::WriteNotNewer => (&mut self.writes_not_newer, "write not newer"),
            Violation::Content => (&mut self.wrong_content, "wrong content"),
            Violation::Altered => (&mut self.altered, "altered"),
            Violation::Unreadable => (&mut self.unreadable, "unreadable"),
        };
        *count += 1;
        self.violations += 1;
        if *count <= EXAMPLES_MAX as u64 {
            self.examples.push(format!("{name}: {}", what()));
        }
    }
}
