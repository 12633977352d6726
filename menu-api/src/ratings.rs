//! What customers think of restaurants, from `orders:events`.
//!
//! In order, for every batch: **read** or claimed by [`platform::stream::follow`] → the **newest**
//! aggregate of each restaurant, which is the one with the greatest count → **published** as every
//! other write, with a version and an announcement → **acknowledged**. An aggregate that is not
//! newer than the one shown changes nothing, so events may come twice and in any order.
//!
//! Each publication makes all nodes drop their lists; a restaurant's ratings therefore wait for each
//! other, [`GATHER`] at most.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use contracts::{
    events::{EVENT_FIELD, OrderEventType, RatingSum},
    ids::RestaurantId,
    streams::{ORDER_EVENTS_STREAM, RATINGS_GROUP},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use platform::{
    auth::{Caller, Role},
    postgres::is_unavailable,
    stream::{Apply, Entry, Later, Options},
};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::{
    publish::{Publisher, Write},
    store::write::WriteError,
};

/// How long a read waits, and with it how late a stop is noticed.
const BLOCK: Duration = Duration::from_millis(250);
/// Events in one batch, of which few are ratings.
const COUNT: usize = 5_000;
/// A node silent for this long is gone.
const CLAIM_IDLE: Duration = Duration::from_secs(30);
/// After a batch with ratings more are let gather for this long.
const GATHER: Duration = Duration::from_secs(1);
/// The most that a customer can give.
const STARS_MAX: i64 = 5;
/// Restaurants that are written at a time.
const WRITES: usize = 4;

/// What [`platform::stream::follow`] is to read.
pub fn options() -> Options {
    Options {
        streams: vec![ORDER_EVENTS_STREAM.to_owned()],
        group: RATINGS_GROUP,
        field: EVENT_FIELD,
        block: BLOCK,
        count: COUNT,
        claim_idle: CLAIM_IDLE,
    }
}

/// Shows ratings.
pub struct Ratings {
    publisher: Publisher,
    caller: Arc<Caller>,
    stop: CancellationToken,
}

impl Ratings {
    /// Publishes until `stop`.
    pub fn new(publisher: Publisher, stop: CancellationToken) -> Self {
        let caller = Caller {
            role: Role::Admin,
            subject: 1,
            restaurants: Box::default(),
            expires_at: i64::MAX,
        };
        Self { publisher, caller: Arc::new(caller), stop }
    }

    async fn show(&self, restaurant: RestaurantId, rating: RatingSum) -> Result<(), Later> {
        let caller = Arc::clone(&self.caller);
        match self.publisher.publish(caller, restaurant, Write::Rating(rating)).await {
            // One that is shown already, or whose restaurant is gone, is done with too.
            Ok(_) | Err(WriteError::Conflict(_) | WriteError::NotFound) => Ok(()),
            Err(WriteError::Busy(busy)) => Err(busy.into()),
            Err(WriteError::Database(error)) if is_unavailable(&error) => Err(error.into()),
            Err(error) => {
                // It would never work; the next rating brings all of it again.
                tracing::error!(%error, %restaurant, "a rating cannot be shown");
                metrics::counter!("ratings_refused_total").increment(1);
                Ok(())
            }
        }
    }
}

impl Apply for Ratings {
    async fn apply(&self, entries: &[Entry]) -> Result<(), Later> {
        let newest = newest(entries.iter().filter_map(|entry| entry.payload.as_deref()));
        let is_any = !newest.is_empty();
        let writes = newest.into_iter().map(|(restaurant, rating)| self.show(restaurant, rating));
        stream::iter(writes).buffer_unordered(WRITES).try_collect::<()>().await?;
        if is_any && entries.len() < COUNT {
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(GATHER) => {}
            }
        }
        Ok(())
    }
}

/// The parts of an event that matter here.
#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: OrderEventType,
    restaurant_id: RestaurantId,
    #[serde(default)]
    data: Data,
}

#[derive(Default, Deserialize)]
struct Data {
    restaurant_rating: Option<RatingSum>,
}

/// The newest aggregate of each restaurant that is rated. What cannot be read is left out:
/// logistics, which reads the same stream, keeps it as a dead letter.
fn newest<'a>(events: impl Iterator<Item = &'a [u8]>) -> BTreeMap<RestaurantId, RatingSum> {
    let mut newest: BTreeMap<RestaurantId, RatingSum> = BTreeMap::new();
    for event in events.filter_map(|event| serde_json::from_slice::<Event>(event).ok()) {
        let (OrderEventType::Rated, Some(rating)) = (event.kind, event.data.restaurant_rating)
        else {
            continue;
        };
        let most = rating.count.saturating_mul(STARS_MAX);
        if rating.count <= 0 || !(rating.count..=most).contains(&rating.sum) {
            continue;
        }
        let known = newest.entry(event.restaurant_id).or_insert(rating);
        if rating.count > known.count {
            *known = rating;
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_count_of_each_restaurant_is_shown() {
        let rated = |restaurant: i64, rating: &str| {
            let data = format!(r#"{{"restaurant_rating":{rating}}}"#);
            format!(r#"{{"type":"order.rated","restaurant_id":{restaurant},"data":{data}}}"#)
        };
        let events = [
            rated(1, r#"{"sum":9,"count":2}"#),
            rated(1, r#"{"sum":14,"count":3}"#),
            rated(2, r#"{"sum":5,"count":1}"#),
            rated(1, r#"{"sum":4,"count":1}"#),
            // Not an average of 1 to 5.
            rated(3, r#"{"sum":6,"count":1}"#),
            rated(3, r#"{"sum":0,"count":0}"#),
            rated(3, r#"{"sum":1,"count":9223372036854775807}"#),
            rated(3, "null"),
            r#"{"type":"order.accepted","restaurant_id":4}"#.to_owned(),
            "not JSON".to_owned(),
        ];
        let shown = newest(events.iter().map(|event| event.as_bytes()));
        let shown: Vec<_> = shown.iter().map(|(id, r)| (id.get(), r.sum, r.count)).collect();
        assert_eq!(shown, [(1, 14, 3), (2, 5, 1)]);
    }
}
