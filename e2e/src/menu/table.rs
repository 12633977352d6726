//! The table at the end.

use std::{fmt::Write as _, time::Duration};

use super::{load::Summary, windows::Judgement};
use crate::report::{say, table};

/// What a round showed.
#[derive(Debug, Default)]
pub(super) struct Round {
    pub(super) name: &'static str,
    pub(super) faults: usize,
    judgement: Judgement,
    load: Option<Summary>,
    /// What else is worth telling.
    pub(super) notes: Vec<String>,
    pub(super) failures: Vec<String>,
}

impl Round {
    /// One that has not begun.
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, ..Self::default() }
    }

    /// Takes what was found over.
    pub(super) fn judged(&mut self, mut judgement: Judgement, load: Summary) {
        self.failures.append(&mut judgement.failures);
        if judgement.excused > 0 {
            let (count, behind) = (judgement.excused, judgement.behind);
            self.notes.push(format!(
                "{count} reads through nodes that could not be told were up to {behind:.2?} behind"
            ));
        }
        (self.judgement, self.load) = (judgement, Some(load));
    }

    fn row(&self) -> Vec<String> {
        let Judgement { answered, p99, cached, back, written, write, .. } = &self.judgement;
        let load = self.load.as_ref();
        let share = |share: Option<f64>| share.map(|share| format!("{:.2}", share * 100.0));
        let ms =
            |time: Option<Duration>| time.map(|time| format!("{:.1}", time.as_secs_f64() * 1e3));
        let s = |time: Option<Duration>| time.map(|time| format!("{:.2}", time.as_secs_f64()));
        let cells = [
            Some(self.name.to_owned()),
            Some(self.faults.to_string()),
            share(*answered),
            ms(*p99),
            share(*cached),
            s(*back),
            share(*written),
            s(*write),
            load.map(|load| load.all().to_string()),
            share(load.map(Summary::answered)),
            load.and_then(|load| load.latency_ms).map(|latency| format!("{:.1}", latency.p99)),
            share(load.and_then(|load| load.hit_ratio)),
            load.map(|load| load.violations.to_string()),
            Some(if self.failures.is_empty() { "held" } else { "FAILED" }.to_owned()),
        ];
        cells.into_iter().map(|cell| cell.unwrap_or_else(|| "-".to_owned())).collect()
    }
}

const HEADS: [&str; 14] = [
    "round", "faults", "reads %", "p99 ms", "hot %", "back s", "writes %", "write s", "load",
    "load %", "load p99", "hits %", "old", "result",
];

/// Prints rounds as a table, with what else is known of them below.
pub(super) fn print(title: &str, rounds: &[Round]) -> bool {
    let mut rows = vec![HEADS.map(str::to_owned).to_vec()];
    rows.extend(rounds.iter().map(Round::row));
    let mut text = format!("\n{title}\n{}", table(&rows));
    for round in rounds {
        for note in &round.notes {
            let _infallible = writeln!(text, "  {}: {note}", round.name);
        }
        for failure in &round.failures {
            let _infallible = writeln!(text, "  FAILED {}: {failure}", round.name);
        }
    }
    say(&text);
    rounds.iter().all(|round| round.failures.is_empty())
}
