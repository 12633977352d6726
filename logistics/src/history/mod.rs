//! The history of all positions: each event once, for as long as the retention says.
//!
//! **Write.** One transaction a batch, rows and dead letters together. Duplicates are rare, so the
//! batch is written for the common case, by binary COPY, and only a violated key makes it go again
//! as `INSERT … ON CONFLICT DO NOTHING`: 340,000 rows/s with 5 % of batches redelivered, against
//! 184,000 for always asking about conflicts.

pub mod copy;
mod frozen;
mod newest;
pub mod partitions;
mod probe;
pub mod retention;
pub mod storage;

use std::{collections::HashSet, fmt, str::FromStr, time::Duration};

use chrono::{DateTime, Utc};
use contracts::{
    ids::{DriverId, EventId, OrderId},
    position::Position,
    received::Received,
};
use parking_lot::Mutex;
use platform::{
    dead_letters::Letter,
    extract::is_storable,
    postgres::{self, within},
};
use rustc_hash::FxBuildHasher;
use sqlx::{Connection as _, PgConnection};

pub use self::{newest::Seen, storage::Storage};
use crate::{database::Database, dead_letters};

/// A plan for any span covers every hour that is stored. PostgreSQL tries one at a connection's
/// sixth route: 200 to 300 ms with 193 hours stored, where a plan for the 24 of a day takes 10.
const PLANNED_FOR_ITS_SPAN: &str = "BEGIN READ ONLY; SET LOCAL plan_cache_mode = force_custom_plan";

/// A batch takes milliseconds. One that takes this long is tried again: the server is frozen, or
/// the connection dead, and neither says so.
const WRITE_MAX: Duration = Duration::from_secs(8);
/// Partitions for a batch with positions of many hours.
const ROOM_MAX: Duration = Duration::from_secs(60);

/// One row of `gps_positions`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// The fix.
    pub position: Position,
    /// When it was accepted, milliseconds since 1970: the time part of its stream entry.
    pub received_at_ms: u64,
}

impl Row {
    /// The fix, and when we got it.
    pub fn received(&self) -> Received {
        newest::received(self.position, self.received_at_ms as i64)
    }

    fn key(&self) -> (DriverId, i64, EventId) {
        (self.position.driver_id, self.position.recorded_at_us, self.position.event_id)
    }
}

/// What a written batch came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows that were not there before.
    pub stored: u64,
    /// Rows that were there already, or twice in the batch.
    pub duplicates: u64,
}

/// Why a batch was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The server is away or busy: the same batch may work later.
    #[error("history is unavailable: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// The server has reached a limit of memory, locks, decompression or time: the same batch may
    /// work later, or only in smaller pieces.
    #[error("the batch is more than history takes: {0}")]
    Limited(#[source] sqlx::Error),
    /// The server refuses something in the batch: it never works as it is.
    #[error("history refuses the batch: {0}")]
    Refused(#[source] sqlx::Error),
}

/// How rows travel to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Binary COPY.
    Copy,
    /// Arrays of columns. sqlx 0.9.0 does not set TCP_NODELAY, and a COPY over TCP then stalls
    /// about 44 ms a batch, so this is the way when the server is not on a unix socket.
    Unnest,
}

/// A handle to the history; clones share it.
#[derive(Debug)]
pub struct History {
    db: Database,
    storage: Storage,
    transport: Transport,
    /// Drivers known to be in `seen_drivers`.
    seen: Mutex<HashSet<DriverId, FxBuildHasher>>,
}

impl History {
    /// Makes the tables that are missing, and takes the faster way to the server.
    pub async fn open(db: Database) -> Result<Self, sqlx::Error> {
        let options = db.background.connect_options();
        let transport = match options.get_socket() {
            Some(_) => Transport::Copy,
            None if options.get_host().starts_with('/') => Transport::Copy,
            None => Transport::Unnest,
        };
        Self::open_with(db, transport).await
    }

    /// [`Self::open`] with a way of one's own choice, to compare them.
    pub async fn open_with(db: Database, transport: Transport) -> Result<Self, sqlx::Error> {
        let storage = storage::prepare(&db.maintenance).await?;
        Ok(Self { db, storage, transport, seen: Mutex::default() })
    }

    /// How it is stored.
    pub fn storage(&self) -> Storage {
        self.storage
    }

    /// The pools it uses.
    pub fn db(&self) -> &Database {
        &self.db
    }

    /// Writes rows and dead letters in one transaction; all or nothing.
    ///
    /// `rows` is sorted by key, so that neighbours land on the same index pages, and loses its own
    /// duplicates, of which the first stays.
    pub async fn write(&self, rows: &mut Vec<Row>, dead: &[Letter]) -> Result<Written, WriteError> {
        let offered = rows.len() as u64;
        rows.sort_by_key(Row::key);
        rows.dedup_by_key(|row| row.key());
        let mut room_made = false;
        let mut transport = self.transport;
        loop {
            match self.try_write(rows, dead, transport).await {
                Ok(stored) => return Ok(Written { stored, duplicates: offered - stored }),
                Err(error) => match (code(&error).as_deref(), transport) {
                    // unique_violation
                    (Some("23505"), Transport::Copy) => transport = Transport::Unnest,
                    // check_violation: no partition for one of the rows
                    (Some("23514"), _) if self.storage == Storage::Partitions && !room_made => {
                        room_made = true;
                        let times = rows.iter().map(|row| row.position.recorded_at());
                        let making = partitions::make_room(&self.db.background, times);
                        within(ROOM_MAX, making).await.map_err(classify)?;
                    }
                    // lock_not_available: another process holds rows of ours.
                    (Some("55P03"), _) => {
                        frozen::free_rows(&self.db.maintenance).await;
                        return Err(classify(error));
                    }
                    _ => return Err(classify(error)),
                },
            }
        }
    }

    async fn try_write(
        &self,
        rows: &[Row],
        dead: &[Letter],
        transport: Transport,
    ) -> Result<u64, sqlx::Error> {
        let mut connection = postgres::take(&self.db.background).await?;
        let writing = self.write_on(&mut connection, rows, dead, transport);
        let written = within(WRITE_MAX, writing).await;
        connection.give_back_after(&written);
        written
    }

    async fn write_on(
        &self,
        connection: &mut PgConnection,
        rows: &[Row],
        dead: &[Letter],
        transport: Transport,
    ) -> Result<u64, sqlx::Error> {
        let mut transaction = connection.begin().await?;
        let new_drivers = self.unseen(rows);
        if !new_drivers.is_empty() {
            sqlx::query!(
                "INSERT INTO seen_drivers (driver_id) SELECT unnest($1::bigint[])
                 ON CONFLICT DO NOTHING",
                &new_drivers,
            )
            .execute(&mut *transaction)
            .await?;
        }
        let stored = match (rows, transport) {
            ([], _) => 0,
            (_, Transport::Copy) => copy::copy(&mut transaction, rows).await?,
            (_, Transport::Unnest) => insert_missing(&mut transaction, rows).await?,
        };
        dead_letters::TABLE.bury(&mut transaction, dead).await?;
        transaction.commit().await?;
        if !new_drivers.is_empty() {
            let mut seen = self.seen.lock();
            seen.extend(new_drivers.iter().filter_map(|id| DriverId::new(*id).ok()));
        }
        Ok(stored)
    }

    /// Drivers of these rows, sorted by driver, that this process has not yet noted as seen.
    fn unseen(&self, rows: &[Row]) -> Vec<i64> {
        let seen = self.seen.lock();
        let mut new: Vec<i64> = rows
            .iter()
            .map(|row| row.position.driver_id)
            .filter(|driver_id| !seen.contains(driver_id))
            .map(DriverId::get)
            .collect();
        new.dedup();
        new
    }

    /// One driver's positions from `from` to `end` (not included), oldest first.
    pub async fn route(
        &self,
        driver_id: DriverId,
        from: RouteCursor,
        end: DateTime<Utc>,
        limit: i64,
    ) -> Result<Vec<Position>, sqlx::Error> {
        let mut transaction = self.db.reports.begin_with(PLANNED_FOR_ITS_SPAN).await?;
        let stored = sqlx::query_as!(
            Stored,
            "SELECT driver_id, recorded_at, event_id, seq, lat_e7, lon_e7,
                    speed_mps, heading_deg, accuracy_m, order_id
             FROM gps_positions
             WHERE driver_id = $1 AND recorded_at >= $2 AND recorded_at < $3
               AND (recorded_at > $2 OR (seq, event_id::bit(64)) > ($5, $6::bigint::bit(64)))
             ORDER BY recorded_at, seq, event_id::bit(64) LIMIT $4",
            driver_id.get(),
            from.recorded_at,
            end,
            limit,
            from.seq,
            from.event_id.0 as i64,
        )
        .fetch_all(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(stored.into_iter().filter_map(Stored::position).collect())
    }

    /// Points and metres of one driver by hour, oldest first.
    pub async fn hours(
        &self,
        driver_id: DriverId,
        start: DateTime<Utc>,
        end: DateTime<Utc>,
    ) -> Result<Vec<DriverHour>, sqlx::Error> {
        sqlx::query_as!(
            DriverHour,
            r#"SELECT hour AS "hour!", points AS "points!", distance_m AS "distance_m!"
               FROM driver_hours WHERE driver_id = $1 AND hour >= $2 AND hour < $3 ORDER BY hour"#,
            driver_id.get(),
            start,
            end,
        )
        .fetch_all(&self.db.reports)
        .await
    }
}

/// Where a page of a route begins: behind a position in the order of routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteCursor {
    recorded_at: DateTime<Utc>,
    seq: i32,
    event_id: EventId,
}

impl RouteCursor {
    /// Before everything recorded at `start` or later.
    pub fn start(start: DateTime<Utc>) -> Self {
        Self { recorded_at: start, seq: -1, event_id: EventId(0) }
    }

    /// Behind this position.
    pub fn behind(position: &Position) -> Self {
        Self {
            recorded_at: position.recorded_at(),
            seq: position.seq as i32,
            event_id: position.event_id,
        }
    }
}

impl fmt::Display for RouteCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.recorded_at.timestamp_micros(), self.seq, self.event_id)
    }
}

impl FromStr for RouteCursor {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('.');
        let mut part = || parts.next().ok_or(());
        let recorded_at_us = part()?.parse().map_err(drop)?;
        let seq = part()?.parse().map_err(drop)?;
        let event_id = u64::from_str_radix(part()?, 16).map_err(drop)?;
        let recorded_at = DateTime::from_timestamp_micros(recorded_at_us)
            .filter(|at| is_storable(*at))
            .ok_or(())?;
        Ok(Self { recorded_at, seq, event_id: EventId(event_id) })
    }
}

/// One driver's hour.
#[derive(Debug, Clone, PartialEq, serde::Serialize, utoipa::ToSchema)]
pub struct DriverHour {
    /// The hour's begin, UTC.
    pub hour: DateTime<Utc>,
    /// Stored positions in it.
    pub points: i64,
    /// Metres between consecutive positions within the hour.
    pub distance_m: f64,
}

/// A row as PostgreSQL gives it.
struct Stored {
    driver_id: i64,
    recorded_at: DateTime<Utc>,
    event_id: i64,
    seq: i32,
    lat_e7: i32,
    lon_e7: i32,
    speed_mps: Option<f32>,
    heading_deg: Option<f32>,
    accuracy_m: Option<f32>,
    order_id: Option<uuid::Uuid>,
}

impl Stored {
    /// `None` for a driver id that the writer never writes.
    fn position(self) -> Option<Position> {
        Some(Position {
            driver_id: DriverId::new(self.driver_id).ok()?,
            recorded_at_us: self.recorded_at.timestamp_micros(),
            seq: self.seq as u32,
            event_id: EventId(self.event_id as u64),
            lat_e7: self.lat_e7,
            lon_e7: self.lon_e7,
            speed_mps: self.speed_mps,
            heading_deg: self.heading_deg,
            accuracy_m: self.accuracy_m,
            order_id: self.order_id.map(OrderId),
        })
    }
}

async fn insert_missing(connection: &mut PgConnection, rows: &[Row]) -> Result<u64, sqlx::Error> {
    fn column<T>(rows: &[Row], value: impl Fn(&Position) -> T) -> Vec<T> {
        rows.iter().map(|row| value(&row.position)).collect()
    }
    let done = sqlx::query!(
        "INSERT INTO gps_positions (driver_id, recorded_at, event_id, seq, lat_e7, lon_e7,
                                    speed_mps, heading_deg, accuracy_m, order_id, received_at)
         SELECT * FROM unnest($1::bigint[], $2::timestamptz[], $3::bigint[], $4::int[], $5::int[],
                              $6::int[], $7::real[], $8::real[], $9::real[], $10::uuid[],
                              $11::timestamptz[])
         ON CONFLICT DO NOTHING",
        &column(rows, |p| p.driver_id.get()),
        &column(rows, Position::recorded_at),
        &column(rows, |p| p.event_id.0 as i64),
        &column(rows, |p| p.seq as i32),
        &column(rows, |p| p.lat_e7),
        &column(rows, |p| p.lon_e7),
        &column(rows, |p| p.speed_mps) as &[Option<f32>],
        &column(rows, |p| p.heading_deg) as &[Option<f32>],
        &column(rows, |p| p.accuracy_m) as &[Option<f32>],
        &column(rows, |p| p.order_id.map(|id| id.0)) as &[Option<uuid::Uuid>],
        &rows
            .iter()
            .map(|row| DateTime::from_timestamp_millis(row.received_at_ms as i64)
                .unwrap_or_default())
            .collect::<Vec<_>>(),
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(|code| code.into_owned())
}

fn classify(error: sqlx::Error) -> WriteError {
    let is_too_slow = matches!(
        &error,
        sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::TimedOut
    );
    // Out of memory or of locks, a configured limit, a statement that has taken too long.
    if is_too_slow || matches!(code(&error).as_deref(), Some("53200" | "53400" | "57014")) {
        WriteError::Limited(error)
    } else if platform::postgres::is_unavailable(&error) {
        WriteError::Unavailable(error)
    } else {
        WriteError::Refused(error)
    }
}
