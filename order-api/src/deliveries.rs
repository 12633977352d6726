//! What couriers do moves orders: `deliveries:events` from logistics.

use std::{sync::Arc, time::Duration};

use contracts::{
    events::{DeliveryEvent, DeliveryEventType, EVENT_FIELD},
    streams::{DELIVERY_EVENTS_STREAM, ORDERS_GROUP},
};
use platform::{
    postgres,
    stream::{Apply, Entry, Later, Options},
};
use sqlx::{PgConnection, PgPool};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::{advance::Held, dead_letters, order::Command};

/// Who moves an order, in its history.
const ACTOR: &str = "service:logistics";
/// A transaction takes milliseconds; one that takes this long is lost.
const APPLY_MAX: Duration = Duration::from_secs(5);

/// Applies deliveries to orders, in any order and any number of times: what an order already is, or
/// can no longer become, changes nothing.
pub struct Deliveries {
    /// The orders' database.
    pub db: PgPool,
    /// Told of new rows in the outbox.
    pub wake: Arc<Notify>,
}

/// How the stream is read.
pub fn options() -> Options {
    Options {
        streams: vec![DELIVERY_EVENTS_STREAM.to_owned()],
        group: ORDERS_GROUP,
        field: EVENT_FIELD,
        block: Duration::from_millis(500),
        count: 128,
        claim_idle: Duration::from_secs(30),
    }
}

fn command(event: &DeliveryEvent) -> Option<Command> {
    match event.kind {
        DeliveryEventType::PickedUp => Some(Command::PickUp(event.driver_id)),
        DeliveryEventType::Delivered => Some(Command::Deliver(event.driver_id)),
        // A delivery that is given up is somebody's to look at; the order is not over by that.
        DeliveryEventType::Assigned | DeliveryEventType::Cancelled | DeliveryEventType::Unknown => {
            None
        }
    }
}

impl Deliveries {
    /// Applies the event of a dead letter once more; the reason why it never will be, when it is
    /// refused.
    ///
    /// # Errors
    /// PostgreSQL is away.
    pub async fn redrive(&self, payload: &[u8]) -> Result<Result<(), String>, sqlx::Error> {
        let event: DeliveryEvent = match serde_json::from_slice(payload) {
            Ok(event) => event,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let events: Vec<_> = command(&event).map(|command| (event, command)).into_iter().collect();
        let applied = async {
            let mut tx = self.db.begin().await?;
            advance(&mut tx, &events).await?;
            tx.commit().await
        };
        match applied.await {
            Ok(()) => {
                self.wake.notify_one();
                Ok(Ok(()))
            }
            Err(error) if postgres::is_unavailable(&error) => Err(error),
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    async fn try_apply(&self, entries: &[Entry]) -> Result<(), sqlx::Error> {
        let mut events = Vec::with_capacity(entries.len());
        let mut tx = self.db.begin().await?;
        for entry in entries {
            let payload = entry.payload.as_deref().unwrap_or_default();
            match serde_json::from_slice::<DeliveryEvent>(payload) {
                Ok(event) => events.extend(command(&event).map(|command| (event, command))),
                Err(error) => {
                    let reason = error.to_string();
                    dead_letters::bury(&mut tx, DELIVERY_EVENTS_STREAM, entry, &reason).await?;
                }
            }
        }
        advance(&mut tx, &events).await?;
        tx.commit().await?;
        self.wake.notify_one();
        Ok(())
    }
}

/// Moves orders by what happened to their deliveries.
async fn advance(
    tx: &mut PgConnection,
    events: &[(DeliveryEvent, Command)],
) -> Result<(), sqlx::Error> {
    let orders: Vec<Uuid> = events.iter().map(|(event, _)| event.order_id.0).collect();
    let mut held = Held::take(tx, &orders).await?;
    for (event, command) in events {
        if held.get(event.order_id).is_none() {
            // A delivery that was made without an order: by hand, in logistics.
            continue;
        }
        if let Err(error) = held.apply(event.order_id, command, ACTOR) {
            metrics::counter!("delivery_events_refused_total").increment(1);
            tracing::info!(order_id = %event.order_id, %error, "a delivery's news came too late");
        }
    }
    held.write(tx).await?;
    Ok(())
}

impl Apply for Deliveries {
    async fn apply(&self, entries: &[Entry]) -> Result<(), Later> {
        match postgres::within(APPLY_MAX, self.try_apply(entries)).await {
            Ok(()) => return Ok(()),
            Err(error) if postgres::is_unavailable(&error) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "deliveries are refused together, applied one by one");
            }
        }
        for entry in entries {
            let one = self.try_apply(std::slice::from_ref(entry));
            match postgres::within(APPLY_MAX, one).await {
                Ok(()) => {}
                Err(error) if postgres::is_unavailable(&error) => return Err(error.into()),
                Err(error) => {
                    let reason = error.to_string();
                    let burying = async {
                        let mut db = self.db.acquire().await?;
                        dead_letters::bury(&mut db, DELIVERY_EVENTS_STREAM, entry, &reason).await
                    };
                    postgres::within(APPLY_MAX, burying).await?;
                }
            }
        }
        Ok(())
    }
}
