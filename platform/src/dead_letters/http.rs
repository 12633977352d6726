//! Dead letters in the API: one form for all services.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{Filter, Kept, Kind, Table};
use crate::{postgres, problem::Problem};

const PAGE_MAX: i64 = 10_000;
const PAGE_SIZE_MAX: i64 = 100;
const PAGE_SIZE_DEFAULT: i64 = 20;
const REASON_LEN_MAX: usize = 200;
/// Letters that one call redrives at most,
const MANY_MAX: i64 = 500;
const MANY_DEFAULT: i64 = 100;
/// and for how long it goes on: below the time limit of requests.
const MANY_FOR: Duration = Duration::from_secs(5);

/// Which dead letters to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Search {
    /// From 1.
    #[param(minimum = 1, maximum = 10_000)]
    page: Option<i64>,
    /// Up to 100; 20 when absent.
    #[param(minimum = 1, maximum = 100)]
    page_size: Option<i64>,
    /// Only letters about this.
    #[param(inline)]
    kind: Option<Kind>,
    /// Only letters whose reason contains this, in upper or lower case.
    #[param(min_length = 1, max_length = 200)]
    reason: Option<String>,
    /// Only letters kept at this time or later.
    start_time: Option<DateTime<Utc>>,
    /// Only letters kept before this time.
    end_time: Option<DateTime<Utc>>,
    /// Only letters of this driver.
    driver_id: Option<i64>,
    /// Only letters about this order.
    order_id: Option<Uuid>,
    /// `true`: only those that were redriven; `false`: only the others.
    redriven: Option<bool>,
}

/// An entry that could neither be stored nor applied.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadLetter {
    /// Names the letter in its service.
    pub id: String,
    /// What it is about.
    pub kind: Kind,
    /// The stream it was in.
    pub stream: String,
    /// Its id there.
    pub entry_id: String,
    /// What it held, hexadecimal.
    pub payload: Option<String>,
    /// What it held, where that is text.
    pub text: Option<String>,
    /// Why it is here.
    pub reason: String,
    /// How often it was delivered; of a payment, how often the gateway was called.
    pub deliveries: i32,
    /// Whose position it is, where that can be read.
    pub driver_id: Option<i64>,
    /// The order that it is about, where that can be read.
    pub order_id: Option<Uuid>,
    /// Since when it is here.
    pub created_at: DateTime<Utc>,
    /// When it was redriven the last time.
    pub redriven_at: Option<DateTime<Utc>>,
}

/// A page of dead letters.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadLetters {
    /// Newest first.
    pub dead_letters: Vec<DeadLetter>,
    /// On all pages.
    pub total: i64,
    /// From 1.
    pub page: i64,
    /// Letters of a page.
    pub page_size: i64,
}

impl From<Kept> for DeadLetter {
    fn from(kept: Kept) -> Self {
        let hex = |bytes: &Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = |bytes: &Vec<u8>| {
            let is_text = |text: &String| !text.contains(char::is_control);
            String::from_utf8(bytes.clone()).ok().filter(is_text)
        };
        Self {
            payload: kept.payload.as_ref().map(hex),
            text: kept.payload.as_ref().and_then(text),
            id: kept.id,
            kind: kept.kind,
            stream: kept.stream,
            entry_id: kept.entry_id,
            reason: kept.reason,
            deliveries: kept.deliveries,
            driver_id: kept.driver_id,
            order_id: kept.order_id,
            created_at: kept.created_at,
            redriven_at: kept.redriven_at,
        }
    }
}

impl Search {
    /// Lists what was asked for.
    ///
    /// # Errors
    /// A value that is out of range, or PostgreSQL is away.
    pub async fn list(self, db: &PgPool, table: &Table) -> Result<DeadLetters, Problem> {
        let page = within("page", self.page.unwrap_or(1), PAGE_MAX)?;
        let page_size =
            within("page_size", self.page_size.unwrap_or(PAGE_SIZE_DEFAULT), PAGE_SIZE_MAX)?;
        let filter = Filter {
            kind: self.kind,
            reason: checked_reason(self.reason)?,
            from: checked_time("start_time", self.start_time)?,
            to: checked_time("end_time", self.end_time)?,
            driver_id: self.driver_id,
            order_id: self.order_id,
            is_redriven: self.redriven,
        };
        let (letters, total) = table
            .list(db, &filter, page_size, (page - 1) * page_size)
            .await
            .map_err(|error| postgres::problem(&error))?;
        let dead_letters = letters.into_iter().map(DeadLetter::from).collect();
        Ok(DeadLetters { dead_letters, total, page, page_size })
    }
}

/// Which dead letters to redrive: those for which all that is given holds, and which were not
/// redriven before; oldest first.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RedriveMany {
    /// Only letters about this.
    kind: Option<Kind>,
    /// Only letters whose reason contains this, in upper or lower case.
    #[schema(min_length = 1, max_length = 200)]
    reason: Option<String>,
    /// Only letters kept at this time or later.
    start_time: Option<DateTime<Utc>>,
    /// Only letters kept before this time.
    end_time: Option<DateTime<Utc>>,
    /// Only letters of this driver.
    driver_id: Option<i64>,
    /// Only letters about this order.
    order_id: Option<Uuid>,
    /// So many at most; 100 when absent.
    #[schema(minimum = 1, maximum = 500)]
    limit: Option<i64>,
    /// `next` of the call before, to go on behind its last letter.
    #[schema(max_length = 100)]
    after: Option<String>,
}

/// A dead letter that is done with.
#[derive(Debug, Serialize, ToSchema)]
pub struct Redriven {
    /// The letter.
    pub id: String,
    /// Of a position: names the message that holds it now.
    pub message_id: Option<String>,
}

/// A dead letter that cannot be redriven.
#[derive(Debug, Serialize, ToSchema)]
pub struct Refusal {
    /// The letter.
    pub id: String,
    /// Why not.
    pub reason: String,
}

/// The outcome of redriving many letters.
#[derive(Debug, Serialize, ToSchema)]
pub struct RedriveReport {
    /// How many were redriven.
    pub redriven: usize,
    /// Those that stay where they are.
    pub refused: Vec<Refusal>,
    /// There may be more: the next call's `after`.
    pub next: Option<String>,
}

/// The outcome of redriving one letter.
#[derive(Debug)]
pub enum Outcome {
    /// It was stored or applied, or is on its way again; under this message id, if it has one.
    Redriven(Option<String>),
    /// It never will be, for this reason.
    Refused(String),
}

impl Outcome {
    /// The answer for one letter.
    ///
    /// # Errors
    /// It was refused: 409.
    pub fn answer(self, letter: &Kept) -> Result<Redriven, Problem> {
        match self {
            Self::Redriven(message_id) => Ok(Redriven { id: letter.id.clone(), message_id }),
            Self::Refused(reason) => Err(Problem::conflict(reason)),
        }
    }
}

/// Redrives letter after letter by `redrive`, which also notes it. A store that goes away ends it
/// with what was done before; to repeat it does no harm.
///
/// # Errors
/// A value that is out of range, or a store is away from the start.
pub async fn redrive_many<F>(
    db: &PgPool,
    table: &Table,
    many: RedriveMany,
    redrive: impl Fn(Kept) -> F,
) -> Result<RedriveReport, Problem>
where
    F: Future<Output = Result<Outcome, Problem>>,
{
    let until = Instant::now() + MANY_FOR;
    let limit = within("limit", many.limit.unwrap_or(MANY_DEFAULT), MANY_MAX)?;
    let after = many.after.as_deref().map(cursor).transpose()?;
    let filter = Filter {
        kind: many.kind,
        reason: checked_reason(many.reason)?,
        from: checked_time("start_time", many.start_time)?,
        to: checked_time("end_time", many.end_time)?,
        driver_id: many.driver_id,
        order_id: many.order_id,
        is_redriven: Some(false),
    };
    let letters = table
        .next(db, &filter, after.as_ref(), limit)
        .await
        .map_err(|error| postgres::problem(&error))?;
    let is_full = letters.len() as i64 == limit;
    let mut report = RedriveReport { redriven: 0, refused: Vec::new(), next: None };
    let mut last = many.after;
    for letter in letters {
        let (id, created_at) = (letter.id.clone(), letter.created_at);
        let outcome = match redrive(letter).await {
            Ok(outcome) => outcome,
            Err(problem) if report.redriven + report.refused.len() == 0 => return Err(problem),
            Err(_) => return Ok(RedriveReport { next: last, ..report }),
        };
        match outcome {
            Outcome::Redriven(_) => report.redriven += 1,
            Outcome::Refused(reason) => {
                report.refused.push(Refusal { id: id.clone(), reason });
            }
        }
        last = Some(format!("{}.{id}", created_at.timestamp_micros()));
        if Instant::now() >= until {
            return Ok(RedriveReport { next: last, ..report });
        }
    }
    report.next = if is_full { last } else { None };
    Ok(report)
}

fn cursor(text: &str) -> Result<(DateTime<Utc>, String), Problem> {
    let parsed = text.split_once('.').and_then(|(at, id)| {
        let at = DateTime::from_timestamp_micros(at.parse().ok()?)?;
        let is_plain = id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        (is_plain && checked_time("after", Some(at)).is_ok()).then(|| (at, id.to_owned()))
    });
    parsed.ok_or_else(|| Problem::unprocessable().field("after", "is not the `next` of an answer"))
}

fn within(field: &'static str, value: i64, max: i64) -> Result<i64, Problem> {
    if (1..=max).contains(&value) {
        Ok(value)
    } else {
        Err(Problem::unprocessable().field(field, format!("must be between 1 and {max}")))
    }
}

/// PostgreSQL knows fewer times than chrono.
fn checked_time(
    field: &'static str,
    time: Option<DateTime<Utc>>,
) -> Result<Option<DateTime<Utc>>, Problem> {
    // 9999-12-31T23:59:59Z
    if time.is_some_and(|time| !(0..=253_402_300_799).contains(&time.timestamp())) {
        return Err(Problem::unprocessable().field(field, "must be between 1970 and 9999"));
    }
    Ok(time)
}

fn checked_reason(reason: Option<String>) -> Result<Option<String>, Problem> {
    // PostgreSQL keeps no NUL in texts.
    let is_bad = |reason: &String| {
        reason.is_empty() || reason.chars().count() > REASON_LEN_MAX || reason.contains('\0')
    };
    if reason.as_ref().is_some_and(is_bad) {
        return Err(Problem::unprocessable()
            .field("reason", format!("must have 1 to {REASON_LEN_MAX} characters")));
    }
    Ok(reason)
}
