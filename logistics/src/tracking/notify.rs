//! Brings what changed in PostgreSQL to this process: events of orders to the hub, drivers to the
//! roster.
//!
//! The triggers of `migrations/0002_deliveries.sql` notify inside the writer's transaction. A
//! notification that is lost with its connection is made up for: after every connect, and twice a
//! minute in case a connection is dead without saying so, the watched orders' versions are read.

use std::time::Duration;

use contracts::ids::{DriverId, OrderId};
use platform::{
    health::Dependency,
    postgres::{self, within},
};
use sqlx::PgPool;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Hub, jitter};
use crate::{
    deliveries,
    drivers::{Attributes, DriverState, Roster, Vehicle},
};

/// Channel of new delivery events: `<order id> <seq>`.
const DELIVERY_EVENTS: &str = "delivery_events";
/// Channel of changed drivers: `<driver id> <vehicle> <state> <capacity>`.
const DRIVERS: &str = "drivers";

/// How often the watched orders are looked at without being told to.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// A connection that has nothing to tell proves this often that it lives,
const PROVE_EVERY: Duration = Duration::from_secs(2);
/// and has so long to do it, as has a new one to be made.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Reading all drivers and the watched orders takes no longer.
const LOAD_MAX: Duration = Duration::from_secs(30);
/// Orders asked for at once.
const ORDERS_MAX: usize = 1_000;
/// The longest pause before connecting again.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Listens until `shutdown`.
pub async fn run(
    db: PgPool,
    hub: &Hub,
    roster: &Roster,
    dependency: Dependency,
    shutdown: CancellationToken,
) {
    let mut failures = 0_u32;
    loop {
        let listening = listen(&db, hub, roster, || {
            failures = 0;
            dependency.up();
        });
        let error = tokio::select! {
            () = shutdown.cancelled() => return,
            Err(error) = listening => error,
        };
        dependency.down(&error);
        metrics::counter!("tracking_listen_failures_total").increment(1);
        if failures == 0 {
            tracing::warn!(%error, "lost the notifications of PostgreSQL; trying again");
        }
        let pause = RETRY_MAX.min(Duration::from_millis(200 << failures.min(6)));
        failures += 1;
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause / 2 + jitter(pause / 2)) => {}
        }
    }
}

async fn listen(
    db: &PgPool,
    hub: &Hub,
    roster: &Roster,
    mut connected: impl FnMut(),
) -> Result<std::convert::Infallible, sqlx::Error> {
    let mut listener = within(ANSWER_MAX, async {
        let mut listener = postgres::listener(db).await?;
        // Before anything is loaded: what changes meanwhile is then heard of.
        listener.listen_all([DELIVERY_EVENTS, DRIVERS]).await?;
        Ok::<_, sqlx::Error>(listener)
    })
    .await?;
    within(LOAD_MAX, load(db, hub, roster)).await?;
    connected();
    let hearing = async {
        loop {
            match timeout(PROVE_EVERY, listener.try_recv()).await {
                Ok(heard) => match heard? {
                    Some(heard) => hear(hub, roster, heard.channel(), heard.payload()),
                    // The connection was lost and there is another one by now.
                    None => within(LOAD_MAX, load(db, hub, roster)).await?,
                },
                // A connection that is dead is as silent as one with nothing to tell.
                Err(_) => {
                    within(ANSWER_MAX, sqlx::query("SELECT 1").execute(&mut listener)).await?;
                }
            }
        }
    };
    let looking = async {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            within(LOAD_MAX, look(db, hub)).await?;
        }
    };
    tokio::select! { end = hearing => end, end = looking => end }
}

/// Everything that may have changed unheard.
async fn load(db: &PgPool, hub: &Hub, roster: &Roster) -> Result<(), sqlx::Error> {
    roster.load(db).await?;
    look(db, hub).await
}

/// Wakes the watchers of every watched order that has moved on.
async fn look(db: &PgPool, hub: &Hub) -> Result<(), sqlx::Error> {
    let orders: Vec<_> = hub.watched_orders().into_iter().map(|OrderId(id)| id).collect();
    for orders in orders.chunks(ORDERS_MAX) {
        hub.orders_changed(deliveries::store::versions(db, orders).await?);
    }
    Ok(())
}

fn hear(hub: &Hub, roster: &Roster, channel: &str, payload: &str) {
    let is_understood = match channel {
        DELIVERY_EVENTS => event(payload).map(|(order_id, seq)| hub.order_changed(order_id, seq)),
        DRIVERS => driver(payload).map(|(driver_id, attributes)| roster.set(driver_id, attributes)),
        _ => None,
    };
    if is_understood.is_none() {
        tracing::error!(channel, payload, "a notification that this version does not understand");
    }
}

fn event(payload: &str) -> Option<(OrderId, i64)> {
    let (order_id, seq) = payload.split_once(' ')?;
    Some((order_id.parse().ok()?, seq.parse().ok()?))
}

fn driver(payload: &str) -> Option<(DriverId, Attributes)> {
    let mut words = payload.split(' ');
    let driver_id = words.next()?.parse().ok()?;
    let vehicle = match words.next()? {
        "bicycle" => Vehicle::Bicycle,
        "scooter" => Vehicle::Scooter,
        "motorcycle" => Vehicle::Motorcycle,
        "car" => Vehicle::Car,
        _ => return None,
    };
    let state = match words.next()? {
        "online" => DriverState::Online,
        "offline" => DriverState::Offline,
        _ => return None,
    };
    let capacity = words.next()?.parse().ok()?;
    words.next().is_none().then_some((driver_id, Attributes { vehicle, state, capacity }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_read_or_refused() {
        let id = OrderId::generate();
        assert_eq!(event(&format!("{id} 12")), Some((id, 12)));
        for bad in ["", "x 1", &id.to_string(), &format!("{id} x")] {
            assert_eq!(event(bad), None, "{bad}");
        }
        let attributes =
            Attributes { vehicle: Vehicle::Car, state: DriverState::Online, capacity: 2 };
        assert_eq!(driver("7 car online 2"), Some((DriverId::new(7).unwrap(), attributes)));
        for bad in ["", "7", "7 car online", "0 car online 1", "7 tank online 1", "7 car on 1 1"] {
            assert_eq!(driver(bad), None, "{bad}");
        }
    }
}
