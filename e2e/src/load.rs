//! `loadtest` as a process; of `loadtest gps` the load, and its verdict on I1 to I3.

use std::{collections::BTreeMap, path::PathBuf, process::ExitStatus, time::Duration};

use anyhow::{Context as _, ensure};
use platform::stores::{Launch, Process, Signal};
use serde::{Deserialize, de::DeserializeOwned};

use crate::world::{World, tail};

/// Repeating what was refused, draining and checking take no longer.
const CONCLUDE_MAX: Duration = Duration::from_secs(180);

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Fixes per second.
    pub(crate) rate: u32,
    /// From so many drivers, 1 and up.
    pub(crate) drivers: u32,
    /// For so long, unless it is ended before.
    pub(crate) duration: Duration,
}

/// A load under way.
pub(crate) struct Running {
    process: Process,
    summary: PathBuf,
    log: PathBuf,
}

/// What `loadtest` says at its end, as far as it is judged here.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Summary {
    pub(crate) issued: u64,
    pub(crate) accepted: u64,
    pub(crate) lost: Option<u64>,
    pub(crate) duplicated: Option<u64>,
    pub(crate) rejected: BTreeMap<String, u64>,
    pub(crate) repeated: BTreeMap<String, u64>,
    pub(crate) dropped: u64,
    pub(crate) unsure: u64,
    pub(crate) drain_s: Option<f64>,
    pub(crate) backlog: Option<Backlog>,
    pub(crate) check: Option<Check>,
    pub(crate) passed: bool,
}

/// Findings of its check.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Check {
    pub(crate) dead_lettered: u64,
    pub(crate) current_wrong: u64,
    foreign: u64,
    altered: u64,
    examples: Vec<String>,
}

/// The queue at the end.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(crate) struct Backlog {
    waiting: u64,
    pending: u64,
}

/// Starts the load on a port.
pub(crate) fn start(world: &World, name: &str, port: u16, load: Load) -> anyhow::Result<Running> {
    let args = [
        "gps".to_owned(),
        format!("--url=http://127.0.0.1:{port}"),
        format!("--rate={}", load.rate),
        format!("--drivers={}", load.drivers),
        format!("--duration={}ms", load.duration.as_millis()),
        "--grace=30s".to_owned(),
    ];
    launch(world, name, args)
}

/// Starts `loadtest` with these arguments and a file for its summary.
pub(crate) fn launch(
    world: &World,
    name: &str,
    args: impl IntoIterator<Item = String>,
) -> anyhow::Result<Running> {
    let log = world.log(&format!("{name}-load"));
    let summary = world.dir().join(format!("{name}-load.json"));
    let launch = Launch::new(&world.programs.loadtest)
        .args(args)
        .args([format!("--summary={}", summary.display())])
        .envs(world.env().iter().cloned())
        .server(log.clone());
    Ok(Running { process: Process::spawn(&launch)?, summary, log })
}

impl Drop for Running {
    /// A round that ends with an error must not send into the next one.
    fn drop(&mut self) {
        self.process.signal(Signal::KILL);
    }
}

impl Running {
    /// Whether it still sends or checks.
    pub(crate) fn runs(&self) -> bool {
        self.process.exited().is_none()
    }

    /// Sends no more, and answers with what its check found.
    pub(crate) async fn conclude(self) -> anyhow::Result<Verdict> {
        self.stop();
        self.verdict().await
    }

    /// Waits for its own end.
    pub(crate) async fn verdict(self) -> anyhow::Result<Verdict> {
        let (status, summary) = self.ended::<Summary>().await?;
        let mut failures = summary.failures();
        if !status.success() || !summary.passed {
            failures.push(format!("loadtest: {status}, {}", summary.findings()));
        }
        Ok(Verdict { summary, failures })
    }

    /// Sends no more.
    pub(crate) fn stop(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Waits for its own end: how it ended, and its summary.
    pub(crate) async fn ended<S: DeserializeOwned>(&self) -> anyhow::Result<(ExitStatus, S)> {
        ensure!(
            self.process.wait_for(CONCLUDE_MAX).await,
            "the load does not end:\n    {}",
            tail(&self.log, 10)
        );
        let status = self.process.wait().await;
        let text = std::fs::read(&self.summary).with_context(|| {
            format!("loadtest gave no summary ({status}):\n    {}", tail(&self.log, 10))
        })?;
        Ok((status, serde_json::from_slice(&text)?))
    }
}

/// The summary, and what of it must not be.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) summary: Summary,
    pub(crate) failures: Vec<String>,
}

impl Summary {
    fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        let (dropped, unsure) = (self.dropped, self.unsure);
        if self.accepted != self.issued || dropped + unsure > 0 || !self.rejected.is_empty() {
            failures.push(format!(
                "{} of {} issued fixes were accepted, {dropped} given up, {unsure} unsure, refused: {:?}",
                self.accepted, self.issued, self.rejected
            ));
        }
        // I13: what is not possible just now is 503 or 504, never another 5xx.
        let wrong = |why: &&String| {
            why.parse::<u16>().is_ok_and(|status| status >= 500 && !matches!(status, 503 | 504))
        };
        failures.extend(self.repeated.keys().filter(wrong).map(|why| format!("answers of {why}")));
        match &self.check {
            Some(check) if check.dead_lettered > 0 => {
                failures.push(format!("{} good fixes are dead letters", check.dead_lettered));
            }
            Some(_) => {}
            None => failures.push("loadtest has not checked".to_owned()),
        }
        failures
    }

    /// What its check found, in a line.
    fn findings(&self) -> String {
        let (lost, twice) = (self.lost.unwrap_or(0), self.duplicated.unwrap_or(0));
        let Backlog { waiting, pending } = self.backlog.unwrap_or_default();
        let check = self.check.clone().unwrap_or_default();
        let Check { current_wrong, foreign, altered, .. } = check;
        let example = check.examples.first().map_or("", String::as_str);
        format!(
            "{lost} lost, {twice} twice, {foreign} foreign, {altered} altered, {current_wrong} \
             current wrong, {waiting} waiting, {pending} pending; {example}"
        )
    }

    /// Why fixes were sent again, and how often.
    pub(crate) fn repeats(&self) -> String {
        let all = self.repeated.iter().map(|(why, count)| format!("{why} {count}"));
        all.collect::<Vec<_>>().join(", ")
    }
}
