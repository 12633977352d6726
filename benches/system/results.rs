//! `RESULTS.md`: the head, the table, and below it what each row's commands told.

use std::{fmt::Write as _, path::PathBuf, process::Command};

use anyhow::Context as _;

use crate::{
    print,
    row::{Met, Row, cpu},
    run::{Outcome, Settings},
};

/// The file, written again after each row: what was measured stays when the rest is broken off.
pub(crate) struct Results {
    out: PathBuf,
    head: String,
    rows: Vec<(&'static Row, Outcome)>,
}

impl Results {
    pub(crate) fn begin(settings: &Settings, out: PathBuf) -> anyhow::Result<Self> {
        print(&format!("bench-system: writes {}\n", out.display()));
        let results = Self { out, head: head(settings)?, rows: Vec::new() };
        results.write()?;
        Ok(results)
    }

    /// Adds a row, and shows its line.
    pub(crate) fn add(&mut self, row: &'static Row, outcome: Outcome) -> anyhow::Result<()> {
        print(&line(row, &outcome));
        self.rows.push((row, outcome));
        self.write()
    }

    /// Whether the checks of all rows held.
    pub(crate) fn all_correct(&self) -> bool {
        self.rows.iter().all(|(_, outcome)| outcome.is_correct)
    }

    fn write(&self) -> anyhow::Result<()> {
        let mut text = self.head.clone();
        text.push_str(
            "\n| path | bar | aim | measured | CPU | machine | met? |\n|---|---|---|---|---|---|---|\n",
        );
        for (row, outcome) in &self.rows {
            text.push_str(&line(row, outcome));
        }
        for (row, outcome) in &self.rows {
            let _infallible = write!(text, "\n## {}\n", row.name);
            for (command, told) in &outcome.texts {
                let _infallible = write!(text, "\n```\n{command}\n{told}```\n");
            }
        }
        std::fs::write(&self.out, text)
            .with_context(|| format!("cannot write {}", self.out.display()))
    }
}

fn line(row: &Row, outcome: &Outcome) -> String {
    let met = match (outcome.is_correct, row.met(&outcome.summaries)) {
        (false, _) => "**check failed**",
        (true, met @ (Met::Nothing | Met::Aim | Met::Bar | Met::No)) => met.text(),
    };
    format!(
        "| {} | {} | {} | {} | {} | {} | {met} |\n",
        row.path,
        row.bounds(|figure| figure.bar),
        row.bounds(|figure| figure.aim),
        row.measured(&outcome.summaries),
        cpu(&outcome.summaries),
        outcome.machine,
    )
}

/// When, what and where.
fn head(settings: &Settings) -> anyhow::Result<String> {
    let versions =
        settings.devstack()?.args(["exec", "--", "bench-system", "versions"]).output()?;
    anyhow::ensure!(
        versions.status.success(),
        "the stores do not start: {}",
        String::from_utf8_lossy(&versions.stderr)
    );
    let versions = String::from_utf8_lossy(&versions.stdout).trim().to_owned();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let quick = if settings.quick { "\n**A trial of seconds: no figure counts.**\n" } else { "" };
    Ok(format!(
        "# Results of `make bench-system`\n\n\
         {}, commit {}.\n{}, generator on the same machine. {versions}.\n\
         Load average before: {}.\n{quick}\n\
         \"bar\" is what must be reached and \"aim\" what we are after; CPU is that of all services, \
         Redis and PostgreSQL for each event, request, order or message, one figure a run. Of a row \
         with two runs the better rate counts. \"machine\" is how fast it was just before the row, as \
         machines differ, and shared ones from hour to hour: CPU of a byte's round trip between two \
         threads over loopback, and the time to hash a megabyte by FNV-1a. Divide by the first before \
         comparing rows of other days. The commands below repeat each row with the programs of \
         `make build` on the path: `PATH=$PWD/target/release:$PATH`.\n",
        chrono::Utc::now().format("%Y-%m-%d %H:%M UTC"),
        commit(),
        machine(),
        load.split(' ').next().unwrap_or("unknown"),
    ))
}

/// The commit, and whether the tree is that commit's; the results themselves do not count.
fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else { return "unknown".to_owned() };
    match git(&["status", "--porcelain", "--", ".", ":!benches/RESULTS.md", ":!benches/flame"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => format!("{commit} with changes"),
    }
}

fn machine() -> String {
    let value = |file: &str, name: &str| {
        let text = std::fs::read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let model = value("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown CPU".to_owned());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kilobytes = value("/proc/meminfo", "MemTotal")
        .and_then(|total| total.trim_end_matches(" kB").parse::<f64>().ok());
    let memory = kilobytes.map_or(String::new(), |kb| format!(", {:.0} GB", kb / 1_048_576.0));
    format!("{cores} cores of {model}{memory}")
}
