//! `menu-api import FILE`: restaurants and their menus from a file.
//!
//! Restaurants are told apart by `external_id`, their name in the system that they come from, which
//! every restaurant of a file must have. One that is new is created; of one that is known, what the
//! file says takes the place of what is stored. A restaurant that is stored just so is left alone
//! and keeps its version. Items are found again by the name of their category and their own, and
//! keep their `item_id`; those that the file does not have are deleted.
//!
//! A restaurant is imported as a whole or not at all. Whatever is wrong is reported with its line,
//! the other restaurants are imported, and the exit code is 1. With `--dry-run` all is read, checked
//! and compared, and nothing is written.
//!
//! The form of the file follows from its ending, `.json`, `.jsonl` or `.ndjson`, `.csv`, each also
//! with `.gz`, or from `--format`. All text is UTF-8. Amounts are whole minor units: 1250 is $12.50.
//!
//! # JSON
//! An array of restaurants, or one restaurant per line:
//! ```json
//! {"restaurant": {"external_id": "sf-17", "name": "Golden Wok", "cuisines": ["chinese"],
//!                 "address": "1 Clement Street", "city": "San Francisco", "country": "US",
//!                 "latitude": 37.7826, "longitude": -122.4611,
//!                 "time_zone": "America/Los_Angeles", "opening_hours": "Tu-Su 11:00-22:00; PH off",
//!                 "currency": "USD"},
//!  "status": "open",
//!  "menu": {"categories": [{"name": "Soups", "items": [
//!      {"name": "Hot and Sour Soup", "price": 650, "allergens": ["soy", "eggs"],
//!       "options": [{"name": "Size", "min": 1, "max": 1,
//!                    "choices": [{"name": "Cup"}, {"name": "Bowl", "price": 400}]}]}]}]}}
//! ```
//! (`restaurant` is what `POST /api/v1/restaurants` takes, `menu` what `PUT …/menu` takes, without
//! ids; fields that may be absent there may be absent here.) Without `status` a known restaurant
//! keeps its own and a new one is closed; without `menu` a known restaurant keeps its own.
//!
//! # CSV
//! A line of column names, in any order, then one row per item, with commas between and double
//! quotes around cells that need them. Rows of one restaurant follow one another; its columns are
//! repeated on them, or are empty after the first. Lists within a cell are separated by `|`.
//!
//! | column | |
//! |---|---|
//! | `external_id` | on every row |
//! | `name`, `address`, `city`, `country`, `latitude`, `longitude`, `time_zone`, `opening_hours`, `currency` | as in JSON |
//! | `cuisines` | a list: `thai\|chinese` |
//! | `description`, `postal_code`, `phone`, `price_level`, `delivery_fee`, `minimum_order`, `tax_basis_points` | as in JSON; may be empty or missing |
//! | `photos` | a list of `https://` addresses; may be empty or missing |
//! | `status` | may be empty or missing, as in JSON |
//! | `category` | the category's name; a row without it has no item, and a file without this column leaves menus alone |
//! | `category_description` | taken from the first row of the category that has it |
//! | `item` | the item's name; a row with a category alone makes an empty category |
//! | `price` | needed where there is an item |
//! | `item_description`, `photo`, `preparation_minutes` | as in JSON; may be empty or missing |
//! | `allergens`, `dietary` | lists; may be empty or missing |
//! | `available`, `in_stock` | `true` or `false`; `true` when empty or missing |
//!
//! Options can only be given in JSON; an item that is imported from CSV has none.

mod csv;
mod diff;
mod json;
mod read;
mod stored;
mod write;

use std::{fmt, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use chrono::Utc;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::sync::mpsc;

use self::{
    read::{Described, Found, Sink},
    write::write,
};
use crate::{
    menu::NewMenu,
    restaurant::{Profile, Status},
};

/// Restaurants of one transaction.
const BATCH: usize = 100;
/// Items of one transaction, unless a single restaurant has more.
const BATCH_ITEMS: usize = 20_000;

/// What to import.
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    /// File to read: .json, .jsonl, .ndjson or .csv, each also with .gz; - is the standard input
    pub file: PathBuf,
    /// Form of the file; follows from its ending when absent
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Read, check and compare, but write nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Form of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One row per item.
    Csv,
    /// An array, or one restaurant per line.
    Json,
}

/// A restaurant of a JSON file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// With its `external_id`.
    pub restaurant: Profile,
    /// Absent: as it is, or closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// Absent: as it is, or empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub menu: Option<NewMenu>,
}

/// What became of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Restaurants that were new.
    pub created: u64,
    /// Restaurants that were known and are different now.
    pub updated: u64,
    /// Restaurants that were stored just so.
    pub unchanged: u64,
    /// Restaurants that were not imported.
    pub failed: u64,
    /// Why not, in the order of their lines; a restaurant of a CSV file can have several.
    pub failures: Vec<Failure>,
    /// Nothing was written.
    pub dry_run: bool,
}

/// Something that is wrong with the file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Failure {
    /// Counted from 1; where the array's element, the line or the row begins.
    pub line: u64,
    /// Whose, as far as it is known.
    pub external_id: Option<String>,
    /// Path of the field in JSON, name of the column in CSV; empty when it is about all of it.
    pub field: String,
    /// What was expected instead.
    pub message: String,
}

impl Report {
    /// 0 when everything was imported, else 1.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(u8::from(self.failed > 0))
    }

    fn fail(&mut self, failures: Vec<Failure>) {
        self.failed += 1;
        self.failures.extend(failures);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in &self.failures {
            writeln!(f, "{failure}")?;
        }
        let Self { created, updated, unchanged, failed, .. } = self;
        write!(f, "{created} created, {updated} updated, {unchanged} unchanged, {failed} failed")?;
        if self.dry_run { f.write_str("; nothing was written") } else { Ok(()) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if let Some(id) = &self.external_id {
            write!(f, ", {id}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Imports a file. Shows how far it is on a terminal's standard error; prints nothing else.
///
/// # Errors
/// When the file cannot be opened or the database is away; what was imported until then stays. What
/// is wrong with single restaurants is in the report.
pub async fn import(db: &PgPool, args: &ImportArgs) -> anyhow::Result<Report> {
    let format = read::format(args)?;
    let (input, bar) = read::open(&args.file)
        .with_context(|| format!("{} cannot be opened", args.file.display()))?;
    let (send, mut found) = mpsc::channel(2 * BATCH);
    // Reading and checking keeps a core busy while the database writes.
    let reader = tokio::task::spawn_blocking(move || {
        let mut sink = Sink::new(send);
        match format {
            Format::Csv => csv::read(input, &mut sink),
            Format::Json => json::read(input, &mut sink),
        }
    });
    let mut report = Report { dry_run: args.dry_run, ..Report::default() };
    loop {
        let batch = next_batch(&mut found, &mut report).await;
        if batch.is_empty() {
            break;
        }
        write_all(db, &batch, &mut report)
            .await
            .with_context(|| format!("the database cannot be written to; until then: {report}"))?;
    }
    reader.await.context("the file's reader broke down")?;
    bar.finish_and_clear();
    report.failures.sort_unstable();
    Ok(report)
}

/// Up to [`BATCH`] restaurants; none at the end of the file.
async fn next_batch(found: &mut mpsc::Receiver<Found>, report: &mut Report) -> Vec<Described> {
    let (mut batch, mut items) = (Vec::new(), 0);
    while batch.len() < BATCH && items < BATCH_ITEMS {
        match found.recv().await {
            Some(Found::Restaurant(described)) => {
                items += described.items();
                batch.push(*described);
            }
            Some(Found::Failed(failures)) => report.fail(failures),
            None => break,
        }
    }
    batch
}

/// Writes a batch at once, or, when the database refuses that, one after the other.
async fn write_all(
    db: &PgPool,
    batch: &[Described],
    report: &mut Report,
) -> Result<(), sqlx::Error> {
    let now = Utc::now();
    match write(db, now, report.dry_run, batch).await {
        Ok(counts) => report.add(counts),
        Err(sqlx::Error::Database(_)) => {
            for one in batch {
                match write(db, now, report.dry_run, std::slice::from_ref(one)).await {
                    Ok(counts) => report.add(counts),
                    Err(sqlx::Error::Database(error)) => {
                        report.fail(vec![one.failure("", error.message())]);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

impl Report {
    fn add(&mut self, counts: write::Counts) {
        self.created += counts.created;
        self.updated += counts.updated;
        self.unchanged += counts.unchanged;
    }
}

#[cfg(test)]
mod tests;
