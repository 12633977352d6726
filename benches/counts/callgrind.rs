//! Starts this program under callgrind and reads what it wrote.
//!
//! Source of the format: Valgrind User Manual, "Callgrind Format Specification". Each dump is a
//! file `NAME.PID.N`, N from 1, whose line `totals:` has the instructions since the dump before.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};

/// Begins a line of the child that has a function's calls and its name.
pub(crate) const CASE: &str = "case ";
/// Begins the line of the child that has the CPU's features.
pub(crate) const CPU: &str = "cpu ";

/// The one function that is counted, as valgrind names it.
const MEASURED: &str = "counts::measured";
const ABSENT: &str = "counts: valgrind is missing; install it, then start again:
  Debian, Ubuntu   sudo apt-get install valgrind
  Fedora, RHEL     sudo dnf install valgrind
On macOS it is not to be had.";

/// What a run came to.
pub(crate) struct Counted {
    /// What the CPU can do.
    pub(crate) cpu: String,
    /// Name and instructions a call.
    pub(crate) functions: Vec<(String, u64)>,
}

/// Counts all functions; `None` when there is no valgrind, which was said.
///
/// # Errors
/// Valgrind failed, or wrote something else than is expected.
pub(crate) fn count() -> anyhow::Result<Option<Counted>> {
    let installed = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status();
    if !installed.is_ok_and(|status| status.success()) {
        eprintln!("{ABSENT}");
        return Ok(None);
    }
    let dir = tempfile::tempdir()?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet"])
        .arg(format!("--toggle-collect={MEASURED}"))
        .arg(format!("--dump-after={MEASURED}"))
        .arg(format!("--callgrind-out-file={}/out", dir.path().display()))
        .arg(std::env::current_exe()?)
        .arg("--run")
        .stdout(Stdio::null())
        .output()
        .context("valgrind does not start")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind ended with {}:\n{said}", output.status);

    let lines = |start: &'static str| said.lines().filter_map(move |line| line.strip_prefix(start));
    let cpu = lines(CPU).next().context("the child has not told its CPU")?.to_owned();
    let mut functions = Vec::new();
    for (n, case) in lines(CASE).enumerate() {
        let (calls, name) = case.split_once(' ').context("a case without a name")?;
        let total = total(&dir.path().join(format!("out.{}", n + 1)))?;
        functions.push((name.to_owned(), total / calls.parse::<u64>()?));
    }
    ensure!(!functions.is_empty(), "nothing was counted");
    Ok(Some(Counted { cpu, functions }))
}

fn total(dump: &Path) -> anyhow::Result<u64> {
    let text = fs::read_to_string(dump).context("callgrind has written fewer dumps than calls")?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    Ok(total.context("a dump without a total")?.trim().parse()?)
}
