//! PostgreSQL's binary COPY format for rows of `gps_positions`.
//!
//! Source: PostgreSQL documentation, COPY, "Binary Format": an 11-byte signature, flags and an
//! extension length, then for each row the number of fields and for each field its length and its
//! bytes as the type's `send` function writes them, −1 for NULL; −1 ends the data. Big-endian.

use sqlx::PgConnection;

use super::Row;

const STATEMENT: &str = "COPY gps_positions (driver_id, recorded_at, event_id, seq, lat_e7, lon_e7, \
                         speed_mps, heading_deg, accuracy_m, order_id, received_at) \
                         FROM STDIN (FORMAT binary)";
const FIELDS: i16 = 11;
/// An encoded row without NULLs.
const ROW_LEN_MAX: usize = 2 + 11 * 4 + 8 + 8 + 8 + 4 + 4 + 4 + 4 + 4 + 4 + 16 + 8;
/// Microseconds from 1970-01-01 to 2000-01-01, where PostgreSQL's timestamps begin.
const EPOCH_US: i64 = 946_684_800_000_000;

/// Copies rows whose keys differ; answers how many.
pub async fn copy(connection: &mut PgConnection, rows: &[Row]) -> Result<u64, sqlx::Error> {
    let data = encode(rows);
    let mut copy = connection.copy_in_raw(STATEMENT).await?;
    match copy.send(data).await {
        Ok(_) => copy.finish().await,
        Err(error) => {
            // What counts is why sending failed; the connection may well be gone.
            let _ = copy.abort("sending failed").await;
            Err(error)
        }
    }
}

fn encode(rows: &[Row]) -> Vec<u8> {
    let mut out = Vec::with_capacity(21 + rows.len() * ROW_LEN_MAX);
    out.extend_from_slice(b"PGCOPY\n\xff\r\n\0");
    out.extend_from_slice(&[0; 8]);
    for Row { position, received_at_ms } in rows {
        out.extend_from_slice(&FIELDS.to_be_bytes());
        field(&mut out, position.driver_id.get().to_be_bytes());
        field(&mut out, (position.recorded_at_us - EPOCH_US).to_be_bytes());
        field(&mut out, position.event_id.0.to_be_bytes());
        field(&mut out, position.seq.to_be_bytes());
        field(&mut out, position.lat_e7.to_be_bytes());
        field(&mut out, position.lon_e7.to_be_bytes());
        for value in [position.speed_mps, position.heading_deg, position.accuracy_m] {
            match value {
                Some(value) => field(&mut out, value.to_be_bytes()),
                None => null(&mut out),
            }
        }
        match position.order_id {
            Some(order_id) => field(&mut out, order_id.0.into_bytes()),
            None => null(&mut out),
        }
        field(&mut out, (*received_at_ms as i64 * 1_000 - EPOCH_US).to_be_bytes());
    }
    out.extend_from_slice(&(-1_i16).to_be_bytes());
    out
}

fn field<const N: usize>(out: &mut Vec<u8>, bytes: [u8; N]) {
    out.extend_from_slice(&(N as i32).to_be_bytes());
    out.extend_from_slice(&bytes);
}

fn null(out: &mut Vec<u8>) {
    out.extend_from_slice(&(-1_i32).to_be_bytes());
}
