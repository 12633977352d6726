//! The rows of a run as a stream: millions of them pass, none is kept.

use bytes::{Buf as _, BytesMut};
use chrono::{DateTime, SecondsFormat};
use contracts::position::Position;
use futures_util::TryStreamExt as _;
use sqlx::{PgPool, postgres::PgPoolCopyExt as _};

use super::Scope;

/// PostgreSQL counts microseconds from 2000-01-01.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;
/// "PGCOPY\n\xff\r\n\0", flags and the length of an extension that nobody uses.
const COPY_HEADER_LEN: usize = 19;
/// Column count, six lengths, and the values below.
const ROW_LEN: usize = 2 + 6 * 4 + 3 * 8 + 3 * 4;

/// A row of `gps_positions`, as far as it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) driver_id: i64,
    pub(super) recorded_at_us: i64,
    pub(super) event_id: u64,
    pub(super) seq: u32,
    pub(super) lat_e7: i32,
    pub(super) lon_e7: i32,
}

/// Calls `each` with every row of the scope's drivers from its start on, in no order.
///
/// There is no upper bound on the time: the newest row decides what is current.
pub(super) async fn history(
    pool: &PgPool,
    scope: Scope,
    mut each: impl FnMut(Row),
) -> anyhow::Result<()> {
    // COPY takes no parameters; these are numbers and a date of our own.
    let statement = format!(
        "COPY (SELECT driver_id, recorded_at, event_id, seq, lat_e7, lon_e7 FROM gps_positions \
         WHERE driver_id BETWEEN {} AND {} AND recorded_at >= '{}') TO STDOUT (FORMAT binary)",
        scope.first_driver,
        scope.last_driver,
        DateTime::from_timestamp_micros(scope.from_us)
            .unwrap_or_default()
            .to_rfc3339_opts(SecondsFormat::Micros, true),
    );
    let mut copy = pool.copy_out_raw(&statement).await?;
    let mut buffer = BytesMut::new();
    let mut header = COPY_HEADER_LEN;
    while let Some(bytes) = copy.try_next().await? {
        buffer.extend_from_slice(&bytes);
        if header > 0 && buffer.len() >= header {
            buffer.advance(header);
            header = 0;
        }
        while header == 0 && buffer.len() >= ROW_LEN {
            each(read(&mut buffer)?);
        }
    }
    // What remains is the trailer: a column count of −1.
    anyhow::ensure!(buffer.chunk() == [0xff, 0xff], "the copy ended in the middle of a row");
    Ok(())
}

fn read(buffer: &mut BytesMut) -> anyhow::Result<Row> {
    let mut row = buffer.split_to(ROW_LEN);
    anyhow::ensure!(row.get_i16() == 6, "a row with other columns than were asked for");
    let long = |row: &mut BytesMut| {
        anyhow::ensure!(row.get_i32() == 8, "a column that is not a bigint");
        Ok(row.get_i64())
    };
    let (driver_id, recorded_at, event_id) = (long(&mut row)?, long(&mut row)?, long(&mut row)?);
    let int = |row: &mut BytesMut| {
        anyhow::ensure!(row.get_i32() == 4, "a column that is not an integer");
        Ok(row.get_i32())
    };
    Ok(Row {
        driver_id,
        recorded_at_us: recorded_at + POSTGRES_EPOCH_US,
        event_id: event_id as u64,
        seq: int(&mut row)? as u32,
        lat_e7: int(&mut row)?,
        lon_e7: int(&mut row)?,
    })
}

/// Calls `each` with every dead letter since the scope's start that is not redriven and holds a
/// position.
pub(super) async fn dead_letters(
    pool: &PgPool,
    scope: Scope,
    mut each: impl FnMut(Position),
) -> sqlx::Result<()> {
    let mut payloads = sqlx::query_scalar::<_, Vec<u8>>(
        // An entry that was gone when it was read left none.
        "SELECT payload FROM dead_letters
         WHERE created_at >= $1 AND redriven_at IS NULL AND payload IS NOT NULL",
    )
    .bind(DateTime::from_timestamp_micros(scope.from_us).unwrap_or_default())
    .fetch(pool);
    while let Some(payload) = payloads.try_next().await? {
        if let Ok(position) = Position::decode_entry(&payload) {
            each(position);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::BufMut as _;

    use super::*;

    #[test]
    fn a_copied_row_is_read() {
        let mut buffer = BytesMut::new();
        buffer.put_i16(6);
        for value in [7, 1, -1] {
            buffer.put_i32(8);
            buffer.put_i64(value);
        }
        for value in [3, -5, 9] {
            buffer.put_i32(4);
            buffer.put_i32(value);
        }
        assert_eq!(buffer.len(), ROW_LEN);
        let row = read(&mut buffer).unwrap();
        let expected = Row {
            driver_id: 7,
            recorded_at_us: POSTGRES_EPOCH_US + 1,
            event_id: u64::MAX,
            seq: 3,
            lat_e7: -5,
            lon_e7: 9,
        };
        assert_eq!(row, expected);
        buffer.put_i16(5);
        buffer.put_bytes(0, ROW_LEN);
        assert!(read(&mut buffer).is_err());
    }
}
