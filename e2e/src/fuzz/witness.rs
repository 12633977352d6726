//! Sees every appended entry through a consumer group of its own.
//!
//! Streams are trimmed only behind what every group has read, so nothing passes it by.

use std::time::Duration;

use contracts::{
    position::{Position, read_entry},
    streams::{POSITION_FIELD, gps_stream},
};
use futures_util::TryStreamExt as _;
use redis::{aio::MultiplexedConnection, streams::StreamReadReply};
use rustc_hash::FxHashMap;
use sqlx::Row as _;

use crate::world::World;

const GROUP: &str = "witness";
/// Waits this long for entries.
const BLOCK_MS: u64 = 200;

/// Driver, time, event.
type Key = (i64, i64, u64);

/// What was appended so far.
pub(super) struct Witness {
    queue: MultiplexedConnection,
    streams: Vec<String>,
    fixes: u64,
    unreadable: u64,
    events: FxHashMap<Key, Vec<Position>>,
}

impl Witness {
    /// From here on every entry is seen.
    pub(super) async fn start(world: &World) -> anyhow::Result<Self> {
        let client = redis::Client::open(world.stack.queue.url())?;
        let mut queue = platform::redis::blocking(&client, Duration::from_secs(5)).await?;
        let streams: Vec<String> = (0..world.shards).map(gps_stream).collect();
        for stream in &streams {
            let mut create = redis::cmd("XGROUP");
            create.arg("CREATE").arg(stream).arg(GROUP).arg("0").arg("MKSTREAM");
            create.query_async::<()>(&mut queue).await?;
        }
        Ok(Self { queue, streams, fixes: 0, unreadable: 0, events: FxHashMap::default() })
    }

    /// Reads what there is; answers how much.
    pub(super) async fn read(&mut self) -> anyhow::Result<u64> {
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(GROUP).arg(GROUP).arg("COUNT").arg(1_000);
        command.arg("BLOCK").arg(BLOCK_MS).arg("NOACK").arg("STREAMS").arg(&self.streams);
        for _ in &self.streams {
            command.arg(">");
        }
        let reply: Option<StreamReadReply> = command.query_async(&mut self.queue).await?;
        let before = self.fixes + self.unreadable;
        for entry in reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids) {
            let payload: Option<Vec<u8>> = entry.get(POSITION_FIELD);
            let payload = payload.unwrap_or_default();
            let Ok(positions) = read_entry(&payload) else {
                self.unreadable += 1;
                continue;
            };
            for position in positions {
                let Ok(position) = position else {
                    self.unreadable += 1;
                    continue;
                };
                self.fixes += 1;
                let (driver, at) = (position.driver_id.get(), position.recorded_at_us);
                let key = (driver, at, position.event_id.0);
                self.events.entry(key).or_default().push(position);
            }
        }
        Ok(self.fixes + self.unreadable - before)
    }

    /// Reads the rest, waits until the history has as many events, and compares them all; answers
    /// how many there are.
    pub(super) async fn settle(
        &mut self,
        world: &World,
        accepted: u64,
        failures: &mut Vec<String>,
    ) -> anyhow::Result<u64> {
        while self.read().await? > 0 {}
        let (fixes, unreadable) = (self.fixes, self.unreadable);
        if fixes != accepted || unreadable > 0 {
            failures.push(format!(
                "{accepted} fixes were answered with \"accepted\", {fixes} were appended, and {unreadable} that cannot be read"
            ));
        }
        let expected = self.events.len() as u64;
        let mut rows = self.rows(world).await?;
        while rows.len() as u64 != expected {
            tokio::time::sleep(Duration::from_millis(500)).await;
            rows = self.rows(world).await?;
        }
        for (key, row) in &rows {
            let known = self.events.get(key).is_some_and(|sent| sent.contains(row));
            if !known {
                failures.push(format!("the history holds {row:?}, which was not accepted"));
                break;
            }
        }
        let (dead,): (i64,) =
            sqlx::query_as("SELECT count(*) FROM dead_letters").fetch_one(&world.db).await?;
        if dead > 0 {
            failures.push(format!("{dead} dead letters"));
        }
        Ok(expected)
    }

    async fn rows(&self, world: &World) -> anyhow::Result<Vec<(Key, Position)>> {
        let mut found = sqlx::query(
            "SELECT driver_id, recorded_at, event_id, seq, lat_e7, lon_e7, speed_mps,
                    heading_deg, accuracy_m, order_id FROM gps_positions",
        )
        .fetch(&world.db);
        let mut rows = Vec::with_capacity(self.events.len());
        while let Some(row) = found.try_next().await? {
            let recorded_at: chrono::DateTime<chrono::Utc> = row.try_get(1)?;
            let order: Option<uuid::Uuid> = row.try_get(9)?;
            let position = Position {
                driver_id: row.try_get::<i64, _>(0)?.try_into()?,
                recorded_at_us: recorded_at.timestamp_micros(),
                seq: row.try_get::<i32, _>(3)? as u32,
                event_id: contracts::ids::EventId(row.try_get::<i64, _>(2)? as u64),
                lat_e7: row.try_get(4)?,
                lon_e7: row.try_get(5)?,
                speed_mps: row.try_get(6)?,
                heading_deg: row.try_get(7)?,
                accuracy_m: row.try_get(8)?,
                order_id: order.map(contracts::ids::OrderId),
            };
            let key = (position.driver_id.get(), position.recorded_at_us, position.event_id.0);
            rows.push((key, position));
        }
        Ok(rows)
    }
}
