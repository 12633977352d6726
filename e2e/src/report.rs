//! The table at the end.

use std::{fmt::Write as _, io::Write as _, time::Duration};

use crate::{
    load::Verdict,
    probe::{RECOVERY_MAX, Recovery},
};

/// What a round showed.
#[derive(Debug, Default)]
pub(crate) struct Round {
    pub(crate) name: String,
    pub(crate) faults: usize,
    pub(crate) recoveries: Vec<Recovery>,
    pub(crate) load: Option<Verdict>,
    /// What else is worth telling.
    pub(crate) notes: Vec<String>,
    pub(crate) failures: Vec<String>,
    pub(crate) took: Duration,
}

impl Round {
    /// Notes a recovery, and fails the round when it took too long: until ready and accepting
    /// counted from the fault, until shown and stored from `healed`, when a store that was away
    /// answered again.
    pub(crate) fn recovered(&mut self, recovery: Recovery, healed: Duration) {
        let accepting = recovery.ready.max(recovery.accepted);
        let whole = recovery.shown.max(recovery.stored).saturating_sub(healed);
        if accepting.max(whole) > RECOVERY_MAX {
            self.failures.push(format!(
                "recovery took over {RECOVERY_MAX:?}: {recovery:?}, the store's part {healed:?}"
            ));
        }
        self.recoveries.push(recovery);
    }

    /// Everything that failed, the load's findings included.
    pub(crate) fn all_failures(&self) -> Vec<&String> {
        let load = self.load.iter().flat_map(|load| &load.failures);
        self.failures.iter().chain(load).collect()
    }

    fn worst(&self, of: fn(&Recovery) -> Duration) -> String {
        match self.recoveries.iter().map(of).max() {
            Some(worst) => format!("{:.2}", worst.as_secs_f64()),
            None => "-".to_owned(),
        }
    }
}

const HEADS: [&str; 12] = [
    "round", "faults", "ready s", "accept s", "shown s", "stored s", "accepted", "lost", "twice",
    "wrong", "drain s", "result",
];

/// Prints rounds as a table, with what else is known of them below.
pub(crate) fn print(title: &str, rounds: &[Round]) -> bool {
    let mut rows = vec![HEADS.map(str::to_owned).to_vec()];
    for round in rounds {
        let summary = round.load.as_ref().map(|load| &load.summary);
        let count = |count: Option<u64>| count.map_or("-".to_owned(), |count| count.to_string());
        rows.push(vec![
            round.name.clone(),
            round.faults.to_string(),
            round.worst(|recovery| recovery.ready),
            round.worst(|recovery| recovery.accepted),
            round.worst(|recovery| recovery.shown),
            round.worst(|recovery| recovery.stored),
            count(summary.map(|summary| summary.accepted)),
            count(summary.and_then(|summary| summary.lost)),
            count(summary.and_then(|summary| summary.duplicated)),
            count(summary.and_then(|summary| Some(summary.check.as_ref()?.current_wrong))),
            summary.and_then(|s| s.drain_s).map_or("-".to_owned(), |drain| format!("{drain:.1}")),
            if round.all_failures().is_empty() { "held" } else { "FAILED" }.to_owned(),
        ]);
    }
    let mut text = format!("\n{title}\n{}", table(&rows));
    for round in rounds {
        for note in &round.notes {
            let _infallible = writeln!(text, "  {}: {note}", round.name);
        }
        for failure in round.all_failures() {
            let _infallible = writeln!(text, "  FAILED {}: {failure}", round.name);
        }
    }
    say(&text);
    rounds.iter().all(|round| round.all_failures().is_empty())
}

/// Rows of one length below each other, the first cell to the left.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let _infallible = match column {
                0 => write!(text, "  {cell:<width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
        text.push('\n');
    }
    text
}

/// Writes to standard output; whoever closed it still gets the exit code.
pub(crate) fn say(text: &str) {
    let _closed = writeln!(std::io::stdout(), "{text}");
}
