//! Runs the rows: each run by `devstack exec`, what it tells kept and shown.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::Context as _;
use serde_json::Value;

use crate::{
    TableArgs, observe, print,
    row::{Around, Row, Run},
    yardstick::Yardstick,
};

const ROWS: u64 = 50_000_000;
const ROWS_QUICK: u64 = 500_000;
const SECONDS_QUICK: (u32, u32) = (4, 1);

/// What all runs share.
pub(crate) struct Settings {
    pub(crate) programs: PathBuf,
    /// Summaries and logs.
    pub(crate) raw: PathBuf,
    pub(crate) quick: bool,
    rows: u64,
    trace: Option<PathBuf>,
    perf: Option<PathBuf>,
    perf_after: u32,
}

/// What came of a row's runs.
pub(crate) struct Outcome {
    /// The machine just before.
    pub(crate) machine: Yardstick,
    /// One for each run; null for a run that has none.
    pub(crate) summaries: Vec<Value>,
    /// Commands, each with what it told.
    pub(crate) texts: Vec<(String, String)>,
    /// Whether every run could be made and its checks held.
    pub(crate) is_correct: bool,
}

impl Settings {
    pub(crate) fn new(args: &TableArgs) -> anyhow::Result<Self> {
        let own = std::env::current_exe()?;
        let folder = |path: &Path| {
            path.canonicalize().with_context(|| format!("there is no {}", path.display()))
        };
        let programs = match &args.programs {
            Some(programs) => folder(programs)?,
            None => own.parent().context("this program has no folder")?.to_owned(),
        };
        let raw = programs.parent().unwrap_or(&programs).join("bench-system");
        std::fs::create_dir_all(&raw)?;
        let perf = args.perf.as_deref().map(|dir| {
            std::fs::create_dir_all(dir)?;
            folder(dir)
        });
        Ok(Self {
            programs,
            raw,
            quick: args.quick,
            rows: args.rows.unwrap_or(if args.quick { ROWS_QUICK } else { ROWS }),
            trace: args.trace.clone(),
            perf: perf.transpose()?,
            perf_after: args.perf_after,
        })
    }

    /// `devstack` with all programs on its path.
    pub(crate) fn devstack(&self) -> anyhow::Result<Command> {
        let others = std::env::var_os("PATH").unwrap_or_default();
        let path = std::iter::once(self.programs.clone()).chain(std::env::split_paths(&others));
        let mut command = Command::new(self.programs.join("devstack"));
        command.env("PATH", std::env::join_paths(path)?);
        Ok(command)
    }

    /// What is given to devstack: everything but the summary's file.
    fn words(&self, run: &Run) -> Vec<String> {
        let mut words: Vec<String> = match run.around {
            Around::Services => vec!["exec", "--services", "--"],
            _ => vec!["exec", "--"],
        }
        .into_iter()
        .map(str::to_owned)
        .collect();
        let mut around = |wrapper: &str| {
            words.extend(wrapper.split_whitespace().map(str::to_owned));
        };
        match run.around {
            Around::Stores => {}
            // The programs of this crate look at the services themselves.
            Around::Services if run.command.starts_with("bench-system") => {}
            Around::Services => around("bench-system watch --"),
            Around::Logistics => around("bench-system logistics --"),
            Around::Menu { nodes, restaurants, items } => around(&format!(
                "bench-system menu --nodes {nodes} --restaurants {restaurants} --items {items} --"
            )),
        }
        words.extend(run.command.split_whitespace().map(|word| match (word, &self.trace) {
            ("ROWS", _) => self.rows.to_string(),
            ("TRACE", Some(trace)) => trace.display().to_string(),
            (word, _) => word.to_owned(),
        }));
        if let Some(seconds) = run.seconds {
            let (duration, warm_up) = if self.quick { SECONDS_QUICK } else { seconds };
            words.extend(["--duration".to_owned(), format!("{duration}s")]);
            words.extend(["--warm-up".to_owned(), format!("{warm_up}s")]);
        }
        words
    }
}

/// Makes all runs of a row. A run that fails is told and stops nothing.
pub(crate) fn row(settings: &Settings, row: &Row) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome {
        machine: Yardstick::take().context("the machine's speed cannot be measured")?,
        summaries: Vec::new(),
        texts: Vec::new(),
        is_correct: true,
    };
    let runs = if settings.perf.is_some() { 1 } else { row.runs.len() };
    for (at, run) in row.runs.iter().take(runs).enumerate() {
        let name = format!("{}-{}", row.name, at + 1);
        let words = settings.words(run);
        let env: String = run.env.iter().map(|(name, value)| format!("{name}={value} ")).collect();
        let command = format!("{env}devstack {}", words.join(" "));
        print(&format!("\n== {name}: {command}\n"));
        let (text, summary) = one(settings, &name, run, &words)?;
        // Thresholds are judged in the table, so what failed here is a check.
        outcome.is_correct &= summary.pointer("/passed").and_then(Value::as_bool) == Some(true);
        outcome.summaries.push(summary);
        outcome.texts.push((command, text));
    }
    Ok(outcome)
}

/// Makes one run; answers what it told and its summary, null when there is none.
fn one(
    settings: &Settings,
    name: &str,
    run: &Run,
    words: &[String],
) -> anyhow::Result<(String, Value)> {
    let file = |ending: &str| settings.raw.join(format!("{name}.{ending}"));
    let (summary, log) = (file("json"), file("log"));
    // What an earlier run left is not this one's.
    let _absent = std::fs::remove_file(&summary);
    let mut command = settings.devstack()?;
    command.args(words).arg("--summary").arg(&summary).envs(run.env.iter().copied());
    command.env(observe::FILES, &settings.raw);
    if let Some(perf) = &settings.perf {
        command.env(observe::PERF, perf.join(format!("{name}.perf")));
        command.env(observe::PERF_AFTER, settings.perf_after.to_string());
    }
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&log)?)
        .spawn()
        .context("devstack cannot be started")?;
    let mut text = String::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line? + "\n";
            print(&line);
            text.push_str(&line);
        }
    }
    let status = child.wait()?;
    if !status.success() {
        let told = format!("  FAILED: {status}; see {}\n", log.display());
        print(&told);
        text.push_str("  FAILED\n");
    }
    let summary = match std::fs::read(&summary) {
        Ok(json) => serde_json::from_slice(&json).context("a summary is not JSON")?,
        Err(_) => Value::Null,
    };
    Ok((text, summary))
}
