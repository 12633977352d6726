//! Every stream, key, channel and group name that two processes share.
//!
//! | Redis | name | what |
//! |---|---|---|
//! | queue | `gps:{s}` | streams that take turns; an entry holds fixes that came together, field `p`, [`crate::position`] |
//! | queue | `orders:payments` | payments that are to be made, field `payment_id`; a bell, the truth is in PostgreSQL |
//! | queue | `orders:events`, `deliveries:events` | what happened, [`crate::events`] |
//! | live | `pos:{s}` | hash, driver id (8 bytes) → newest position (64 bytes) |
//! | live | `heard:{s}` | hash, driver id → when that position was received (12 bytes), [`crate::received`] |
//! | live | `epoch:{s}`, `frame:{s}` | the shard's epoch, and the number of its last frame |
//! | live | channel `live:{s}` | frames, [`crate::frame`] |
//!
//! The braces are written as they stand: Redis Cluster keeps what shares a hash tag together, and
//! one script touches all of a shard's keys.

use crate::ids::{DriverId, mix};

/// How many shards a new system has; every process of one system must agree.
pub const SHARDS_DEFAULT: u16 = 16;
/// The consumer group that writes history and current positions.
pub const HISTORY_GROUP: &str = "history";
/// The one field of a `gps:{s}` entry: a version byte and one or more positions.
pub const POSITION_FIELD: &str = "p";

/// Payments that are to be made: one entry for each, at least once.
pub const PAYMENTS_STREAM: &str = "orders:payments";
/// The one field of a [`PAYMENTS_STREAM`] entry: the payment's UUID as text.
pub const PAYMENT_FIELD: &str = "payment_id";
/// The consumer group of payment workers.
pub const PAYMENTS_GROUP: &str = "payments";
/// Everything that happens to orders.
pub const ORDER_EVENTS_STREAM: &str = "orders:events";
/// What happens to deliveries.
pub const DELIVERY_EVENTS_STREAM: &str = "deliveries:events";
/// Of [`ORDER_EVENTS_STREAM`]: logistics, which makes deliveries of paid orders.
pub const DELIVERIES_GROUP: &str = "deliveries";
/// Of [`ORDER_EVENTS_STREAM`]: menu-api, which shows what customers think of restaurants.
pub const RATINGS_GROUP: &str = "ratings";
/// Of [`DELIVERY_EVENTS_STREAM`]: order-api, whose orders move with their deliveries.
pub const ORDERS_GROUP: &str = "orders";

/// The shard of a driver: which hash holds its current position, and which channel announces it.
///
/// Stored data depends on it: the hash must never change.
pub const fn shard_of(driver_id: DriverId, shards: u16) -> u16 {
    // The cast loses nothing: ids are positive, and the remainder is below `shards`.
    (mix(driver_id.get() as u64) % shards as u64) as u16
}

/// One of the streams of fixes; which of them a fix goes through says nothing.
pub fn gps_stream(shard: u16) -> String {
    format!("gps:{{{shard}}}")
}

/// The hash of current positions of one shard.
pub fn positions_key(shard: u16) -> String {
    format!("pos:{{{shard}}}")
}

/// The hash of when the current positions of one shard were received.
pub fn heard_key(shard: u16) -> String {
    format!("heard:{{{shard}}}")
}

/// The key of one shard's epoch: a random number that is new whenever `live` has lost its data.
pub fn epoch_key(shard: u16) -> String {
    format!("epoch:{{{shard}}}")
}

/// The counter of one shard's frames.
pub fn frame_key(shard: u16) -> String {
    format!("frame:{{{shard}}}")
}

/// The channel of one shard's frames.
pub fn live_channel(shard: u16) -> String {
    format!("live:{{{shard}}}")
}

/// The shard of a channel that [`live_channel`] named.
pub fn shard_of_channel(channel: &str) -> Option<u16> {
    channel.strip_prefix("live:{")?.strip_suffix('}')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_even() {
        let mut counts = [0_u32; 16];
        for id in 1..=16_000 {
            counts[usize::from(shard_of(DriverId::new(id).unwrap(), 16))] += 1;
        }
        assert!(counts.iter().all(|n| (850..1_150).contains(n)), "{counts:?}");
    }

    #[test]
    fn a_drivers_shard_never_changes() {
        let shard = |id| shard_of(DriverId::new(id).unwrap(), 16);
        assert_eq!([shard(1), shard(2), shard(10_000)], [12, 7, 15]);
    }

    #[test]
    fn a_channel_names_its_shard() {
        assert_eq!(shard_of_channel(&live_channel(12)), Some(12));
        assert_eq!(shard_of_channel("live:{x}"), None);
    }
}
