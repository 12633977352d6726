//! Whether what was promised is kept, once things are quiet: invariants I1 to I3.
//!
//! - **I1** Every acknowledged event is in the history or in the dead letters, exactly once and
//!   unaltered, and nothing of the run's drivers and time is there that was not sent.
//! - **I2** No entry of the queue waits or is pending.
//! - **I3** The current position of every driver is its newest event in the history.
//!
//! The check is exact: every row of the run's drivers and time is compared with what was sent.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use contracts::{
    ids::{DriverId, EventId},
    position::Position,
    streams::positions_key,
};
use platform::postgres::{self, Limits};
use platform::redis::Connection;
use rustc_hash::FxHashMap;
use secrecy::SecretString;
use sqlx::PgPool;

mod backlog;
mod rows;

pub use backlog::Backlog;

/// How many findings are spelled out.
const EXAMPLES_MAX: usize = 5;
/// [`Stores::current_within`] of a system that is to keep its promises.
const CURRENT_WITHIN: Duration = Duration::from_secs(10);

/// The stores that a check looks into.
#[derive(Clone)]
pub struct Stores {
    /// The logistics database.
    pub history: PgPool,
    /// The `queue` Redis.
    pub queue: Connection,
    /// The `live` Redis.
    pub live: Connection,
    /// How many shards the system has.
    pub shards: u16,
    /// The live lane is not transactional with the history: it gets this long to agree with it.
    pub current_within: Duration,
}

impl Stores {
    /// Connects when first used.
    pub fn new(
        database_url: &SecretString,
        queue_url: &SecretString,
        live_url: &SecretString,
        shards: u16,
    ) -> anyhow::Result<Self> {
        let redis = |url| platform::redis::Redis::open(url)?.connection();
        Ok(Self {
            history: postgres::pool(database_url, "loadtest", 2, Limits::TOOL)?,
            queue: redis(queue_url)?,
            live: redis(live_url)?,
            shards,
            current_within: CURRENT_WITHIN,
        })
    }

    /// Waits until nothing of the queue waits or is pending, at most until the deadline; answers
    /// the last state seen. Errors of the stores are waited out.
    pub async fn drained(&self, deadline: Duration) -> anyhow::Result<Backlog> {
        let started = Instant::now();
        loop {
            let seen = backlog::read(&mut self.queue.clone(), self.shards).await;
            match seen {
                Ok(backlog) if backlog.is_empty() || started.elapsed() > deadline => {
                    return Ok(backlog);
                }
                Err(error) if started.elapsed() > deadline => {
                    return Err(error).context("the queue cannot be read");
                }
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

/// What names one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    driver_id: i64,
    recorded_at_us: i64,
    event_id: u64,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = chrono::DateTime::from_timestamp_micros(self.recorded_at_us).unwrap_or_default();
        let at = at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        write!(f, "driver {} at {at}, event {}", self.driver_id, EventId(self.event_id))
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    key: Key,
    place: (i32, i32),
    accepted: bool,
    stored: bool,
    dead: bool,
}

/// Every event that may be in the history.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: Vec<Entry>,
    acknowledgements: u64,
}

impl Ledger {
    /// An acknowledged event.
    pub fn accepted(&mut self, position: &Position) {
        self.acknowledgements += 1;
        self.add(position, true);
    }

    /// An event that was sent, but whose acknowledgement never came: it may be there, once.
    pub fn unsure(&mut self, position: &Position) {
        self.add(position, false);
    }

    fn add(&mut self, position: &Position, accepted: bool) {
        self.entries.push(Entry {
            key: Key {
                driver_id: position.driver_id.get(),
                recorded_at_us: position.recorded_at_us,
                event_id: position.event_id.0,
            },
            place: (position.lat_e7, position.lon_e7),
            accepted,
            stored: false,
            dead: false,
        });
    }

    /// Sorts, and makes one entry of repeats, which is accepted when one of them was.
    fn settle(&mut self) {
        self.entries.sort_unstable_by(|a, b| a.key.cmp(&b.key).then(b.accepted.cmp(&a.accepted)));
        self.entries.dedup_by_key(|entry| entry.key);
    }

    fn find(&mut self, key: &Key) -> Option<&mut Entry> {
        let at = self.entries.binary_search_by(|entry| entry.key.cmp(key)).ok()?;
        self.entries.get_mut(at)
    }
}

/// Whose rows belong to the run.
#[derive(Debug, Clone, Copy)]
pub struct Scope {
    /// The lowest driver id.
    pub first_driver: i64,
    /// The highest.
    pub last_driver: i64,
    /// The earliest `recorded_at`, µs since 1970.
    pub from_us: i64,
    /// The latest.
    pub to_us: i64,
}

/// What the check found. Good is: `lost`, `duplicated`, `foreign`, `altered` and `current_wrong`
/// are 0, and the backlog is empty.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Findings {
    /// Distinct events that were acknowledged; a repeat of the same content is the same event.
    pub distinct: u64,
    /// Acknowledgements beyond the first of an event: repeats in the input.
    pub repeats: u64,
    /// Events of the run in the history, each counted once.
    pub stored: u64,
    /// Events of the run in the dead letters, not redriven.
    pub dead_lettered: u64,
    /// Acknowledged and in neither.
    pub lost: u64,
    /// Rows beyond the first of an event, in the history and the dead letters together.
    pub duplicated: u64,
    /// Rows of the run's drivers and time that nobody sent, or that were refused.
    pub foreign: u64,
    /// Rows whose place is not the one that was sent.
    pub altered: u64,
    /// Stored although the acknowledgement never arrived; allowed.
    pub stored_unacknowledged: u64,
    /// Drivers whose current position is not their newest event in the history.
    pub current_wrong: u64,
    /// The first few findings in words.
    pub examples: Vec<String>,
}

impl Findings {
    /// Whether I1 and I3 hold.
    pub fn is_good(&self) -> bool {
        self.lost + self.duplicated + self.foreign + self.altered + self.current_wrong == 0
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(what());
        }
    }
}

/// A driver's newest event: order key and place.
type Newest = ((i64, u32, u64), (i32, i32));

/// The comparison while it goes on.
#[derive(Debug)]
struct Comparison {
    ledger: Ledger,
    scope: Scope,
    newest: FxHashMap<i64, Newest>,
    findings: Findings,
}

/// Compares what was sent with the stores. Wait for [`Stores::drained`] first: what is still in
/// the queue counts as lost here.
pub async fn verify(stores: &Stores, ledger: Ledger, scope: Scope) -> anyhow::Result<Verdict> {
    let mut comparison = Comparison::new(ledger, scope);
    rows::history(&stores.history, scope, |row| comparison.history_row(&row))
        .await
        .context("the history cannot be read")?;
    rows::dead_letters(&stores.history, scope, |position| comparison.dead_letter(&position))
        .await
        .context("the dead letters cannot be read")?;
    let (mut findings, newest) = comparison.finish();
    let started = Instant::now();
    let wrong = loop {
        let wrong = current_wrong(stores, scope, &newest).await;
        match wrong {
            Ok(wrong) if wrong.is_empty() => break wrong,
            Ok(wrong) if started.elapsed() > stores.current_within => break wrong,
            Err(error) if started.elapsed() > stores.current_within => {
                return Err(error).context("the current positions cannot be read");
            }
            _ => tokio::time::sleep(Duration::from_millis(250)).await,
        }
    };
    findings.current_wrong = wrong.len() as u64;
    for example in wrong {
        findings.note(|| example);
    }
    let newest_us = newest.into_iter().map(|(driver, (key, _))| (driver, key.0)).collect();
    Ok(Verdict { findings, newest_us })
}

/// The findings, and the time of each driver's newest event in the history, µs since 1970.
#[derive(Debug)]
pub struct Verdict {
    /// What was found.
    pub findings: Findings,
    /// By driver id.
    pub newest_us: FxHashMap<i64, i64>,
}

impl Comparison {
    fn new(mut ledger: Ledger, scope: Scope) -> Self {
        ledger.settle();
        Self { ledger, scope, newest: FxHashMap::default(), findings: Findings::default() }
    }

    fn history_row(&mut self, row: &rows::Row) {
        let key = Key {
            driver_id: row.driver_id,
            recorded_at_us: row.recorded_at_us,
            event_id: row.event_id,
        };
        let (order, place) =
            ((row.recorded_at_us, row.seq, row.event_id), (row.lat_e7, row.lon_e7));
        let newest = self.newest.entry(row.driver_id).or_insert((order, place));
        if order > newest.0 {
            *newest = (order, place);
        }
        let Some(entry) = self.ledger.find(&key) else {
            // Later rows are read only for the newest position; they belong to somebody else.
            if row.recorded_at_us <= self.scope.to_us {
                self.findings.foreign += 1;
                self.findings.note(|| format!("stored but never sent: {key}"));
            }
            return;
        };
        if std::mem::replace(&mut entry.stored, true) {
            self.findings.duplicated += 1;
            self.findings.note(|| format!("stored twice: {key}"));
            return;
        }
        self.findings.stored += 1;
        self.findings.stored_unacknowledged += u64::from(!entry.accepted);
        if entry.place != place {
            self.findings.altered += 1;
            let sent = entry.place;
            self.findings.note(|| format!("sent at {sent:?}, stored at {place:?}: {key}"));
        }
    }

    fn dead_letter(&mut self, position: &Position) {
        let key = Key {
            driver_id: position.driver_id.get(),
            recorded_at_us: position.recorded_at_us,
            event_id: position.event_id.0,
        };
        let Some(entry) = self.ledger.find(&key) else { return };
        let twice = entry.stored || entry.dead;
        entry.dead = true;
        self.findings.dead_lettered += 1;
        if twice {
            self.findings.duplicated += 1;
            self.findings.note(|| format!("a dead letter besides another copy: {key}"));
        }
    }

    fn finish(mut self) -> (Findings, FxHashMap<i64, Newest>) {
        let findings = &mut self.findings;
        for entry in self.ledger.entries.iter().filter(|entry| entry.accepted) {
            findings.distinct += 1;
            if !entry.stored && !entry.dead {
                findings.lost += 1;
                findings.note(|| format!("acknowledged and lost: {}", entry.key));
            }
        }
        findings.repeats = self.ledger.acknowledgements.saturating_sub(findings.distinct);
        (self.findings, self.newest)
    }
}

/// Drivers whose current position is not `newest`, in words.
async fn current_wrong(
    stores: &Stores,
    scope: Scope,
    newest: &FxHashMap<i64, Newest>,
) -> anyhow::Result<Vec<String>> {
    let mut live = stores.live.clone();
    let mut current = FxHashMap::<i64, Newest>::default();
    for shard in 0..stores.shards {
        let packed: Vec<Vec<u8>> =
            redis::cmd("HVALS").arg(positions_key(shard)).query_async(&mut live).await?;
        for bytes in packed {
            let position = Position::decode(&bytes)?;
            let place = (position.lat_e7, position.lon_e7);
            current.insert(position.driver_id.get(), (position.order_key(), place));
        }
    }
    Ok(differences(scope, newest, &current))
}

fn differences(
    scope: Scope,
    newest: &FxHashMap<i64, Newest>,
    current: &FxHashMap<i64, Newest>,
) -> Vec<String> {
    let behind = newest.iter().filter(|(driver, newest)| current.get(driver) != Some(newest)).map(
        |(driver, newest)| match current.get(driver) {
            Some(current) => format!("driver {driver} is at {current:?}, newest is {newest:?}"),
            None => format!("driver {driver} has no current position"),
        },
    );
    // A current position of the run's time without any row: published but never stored.
    let unstored = current.iter().filter(|(driver, (key, _))| {
        DriverId::new(**driver).is_ok()
            && (scope.first_driver..=scope.last_driver).contains(driver)
            && (scope.from_us..=scope.to_us).contains(&key.0)
            && !newest.contains_key(driver)
    });
    behind
        .chain(unstored.map(|(driver, _)| format!("driver {driver} is current but not in history")))
        .collect()
}

#[cfg(test)]
mod tests;
