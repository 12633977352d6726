//! The file: one effect a line, written only at its end.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{BufRead as _, BufReader},
    path::Path,
};

use anyhow::{Context as _, bail};

use super::state::State;

/// What a file says.
pub struct Contents {
    /// All whole lines.
    pub state: State,
    /// Where the last whole line ends.
    pub whole_bytes: u64,
    /// What comes after it: a line that was being written when the process was killed. Nobody was
    /// told of its effect.
    pub torn_bytes: u64,
}

/// Reads a file and changes nothing, so that it may belong to a simulator that runs.
///
/// # Errors
/// It cannot be read, or a whole line makes no sense.
pub fn read(path: &Path) -> anyhow::Result<Contents> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    contents(&file).with_context(|| format!("cannot read {}", path.display()))
}

fn contents(file: &File) -> anyhow::Result<Contents> {
    let mut contents = Contents { state: State::default(), whole_bytes: 0, torn_bytes: 0 };
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let bytes = reader.read_until(b'\n', &mut line)? as u64;
        if line.last() != Some(&b'\n') {
            contents.torn_bytes = bytes;
            break;
        }
        let entry = serde_json::from_slice(&line).with_context(|| format!("in line {number}"))?;
        contents.state.restore(entry).with_context(|| format!("in line {number}"))?;
        contents.whole_bytes += bytes;
    }
    Ok(contents)
}

/// Opens or makes the file of a simulator, for this process alone, and cuts off a torn end.
pub(super) fn open(path: &Path) -> anyhow::Result<(File, State)> {
    let opened = OpenOptions::new().read(true).append(true).create(true).open(path);
    let file = opened.with_context(|| format!("cannot open the ledger {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            bail!("the ledger {} belongs to another process", path.display());
        }
        Err(TryLockError::Error(error)) => return Err(error).context("cannot lock the ledger"),
    }
    let Contents { state, whole_bytes, torn_bytes } =
        contents(&file).with_context(|| format!("cannot read the ledger {}", path.display()))?;
    if torn_bytes > 0 {
        tracing::warn!(torn_bytes, "the ledger's last line was not finished; it is cut off");
        file.set_len(whole_bytes)?;
    }
    file.sync_all()?;
    // The name of a new file is on disk only with its directory.
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok((file, state))
}
