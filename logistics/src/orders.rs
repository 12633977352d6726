//! From `orders:events` to deliveries.
//!
//! In order, for every batch: **read** or claimed by [`platform::stream::follow`] → **decoded** →
//! **applied** with its dead letters in one transaction → **acknowledged**. What an event means is
//! decided by [`hear`](crate::deliveries::hear), which takes events twice and in any order; two
//! workers may follow at a time.
//!
//! An event that PostgreSQL refuses is a dead letter as well as one that cannot be read, so that no
//! order stops the others.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use contracts::{
    events::{EVENT_FIELD, EVENT_VERSION, OrderEvent},
    ids::OrderId,
    streams::{DELIVERIES_GROUP, ORDER_EVENTS_STREAM},
};
use platform::{
    dead_letters::{self, Letter},
    postgres::{is_unavailable, within},
    stream::{Apply, Entry, Later, Options},
};
use sqlx::PgPool;
use tokio::sync::Notify;

use crate::deliveries::store::batch;

/// How long a read waits, and with it how late a stop is noticed.
const BLOCK: Duration = Duration::from_millis(250);
/// Events in one transaction.
const COUNT: usize = 500;
/// A transaction takes milliseconds; one that takes this long is lost.
const APPLY_MAX: Duration = Duration::from_secs(5);
/// A worker silent for this long is gone.
const CLAIM_IDLE: Duration = Duration::from_secs(10);

/// What [`platform::stream::follow`] is to read.
pub fn options() -> Options {
    Options {
        streams: vec![ORDER_EVENTS_STREAM.to_owned()],
        group: DELIVERIES_GROUP,
        field: EVENT_FIELD,
        block: BLOCK,
        count: COUNT,
        claim_idle: CLAIM_IDLE,
    }
}

/// Makes deliveries of orders' events.
pub struct Orders {
    /// The service's database.
    pub db: PgPool,
    /// Told when other services are to be told something.
    pub wake: Arc<Notify>,
}

impl Apply for Orders {
    async fn apply(&self, entries: &[Entry]) -> Result<(), Later> {
        let (mut events, mut dead) = (Vec::with_capacity(entries.len()), Vec::new());
        for entry in entries {
            match read(entry.payload.as_deref()) {
                Ok(event) => events.push((entry, event)),
                Err(reason) => dead.push(letter(entry, reason)),
            }
        }
        let whole: Vec<OrderEvent> = events.iter().map(|(_, event)| event.clone()).collect();
        match within(APPLY_MAX, batch::apply(&self.db, &whole, &dead)).await {
            Ok(_) => {}
            Err(error) if is_unavailable(&error) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "a batch of orders' events is refused, applied one by one");
                self.apply_each(events, &mut dead).await?;
            }
        }
        if !dead.is_empty() {
            tracing::warn!(dead = dead.len(), "orders' events are dead letters");
            metrics::counter!("order_event_dead_letters_total").increment(dead.len() as u64);
        }
        self.wake.notify_one();
        Ok(())
    }
}

impl Orders {
    /// Applies each order's events by themselves and puts those aside that are refused.
    async fn apply_each(
        &self,
        events: Vec<(&Entry, OrderEvent)>,
        dead: &mut Vec<Letter>,
    ) -> Result<(), sqlx::Error> {
        let mut by_order: BTreeMap<OrderId, Vec<(&Entry, OrderEvent)>> = BTreeMap::new();
        for (entry, event) in events {
            by_order.entry(event.order_id).or_default().push((entry, event));
        }
        for events in by_order.into_values() {
            let (entries, events): (Vec<_>, Vec<_>) = events.into_iter().unzip();
            match within(APPLY_MAX, batch::apply(&self.db, &events, &[])).await {
                Ok(_) => {}
                Err(error) if is_unavailable(&error) => return Err(error),
                Err(error) => {
                    dead.extend(entries.iter().map(|entry| letter(entry, error.to_string())));
                }
            }
        }
        within(APPLY_MAX, batch::apply(&self.db, &[], dead)).await?;
        Ok(())
    }
}

/// Applies the event of a dead letter once more; the reason why it never will be, when it is
/// refused.
pub async fn redrive(
    db: &PgPool,
    payload: Option<&[u8]>,
) -> Result<Result<(), String>, sqlx::Error> {
    let event = match read(payload) {
        Ok(event) => event,
        Err(reason) => return Ok(Err(reason)),
    };
    match batch::apply(db, &[event], &[]).await {
        Ok(_) => Ok(Ok(())),
        Err(error) if is_unavailable(&error) => Err(error),
        Err(error) => Ok(Err(error.to_string())),
    }
}

fn read(payload: Option<&[u8]>) -> Result<OrderEvent, String> {
    let payload = payload.ok_or("the entry has no event")?;
    let event: OrderEvent = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    if event.v != EVENT_VERSION {
        return Err(format!("version {} of events is not known here", event.v));
    }
    Ok(batch::kept(event))
}

fn letter(entry: &Entry, reason: String) -> Letter {
    Letter {
        stream: ORDER_EVENTS_STREAM.to_owned(),
        entry_id: entry.id.to_string(),
        payload: entry.payload.clone(),
        reason,
        deliveries: entry.deliveries,
        driver_id: None,
        order_id: entry.payload.as_deref().and_then(dead_letters::order_of),
    }
}

#[cfg(test)]
mod tests;
