//! Many deliveries at once, as their orders' events change them.

use std::collections::BTreeMap;

use contracts::{events::OrderEvent, ids::OrderId};
use platform::{dead_letters::Letter, postgres};
use sqlx::{Connection as _, PgConnection, PgPool};

use super::{Delivery, Row, now};
use crate::{
    dead_letters,
    deliveries::{Event, Heard, hear},
};

/// How often a batch is decided again because somebody else created a delivery of it meanwhile.
const ATTEMPTS: usize = 5;

/// What a batch changes.
#[derive(Default)]
struct Changes {
    created: Vec<Delivery>,
    changed: Vec<Delivery>,
    events: Vec<(OrderId, Event, String)>,
}

/// Applies orders' events, given in the order they came in, and keeps dead letters, all in one
/// transaction. Answers how many of the events changed a delivery.
pub async fn apply(
    db: &PgPool,
    events: &[OrderEvent],
    dead: &[Letter],
) -> Result<usize, sqlx::Error> {
    // By id, so that all who lock several deliveries lock them in one order.
    let mut by_order: BTreeMap<OrderId, Vec<&OrderEvent>> = BTreeMap::new();
    for event in events {
        by_order.entry(event.order_id).or_default().push(event);
    }
    let mut connection = postgres::take(db).await?;
    let applied = apply_on(&mut connection, &by_order, dead).await;
    connection.give_back_after(&applied);
    applied
}

async fn apply_on(
    connection: &mut PgConnection,
    by_order: &BTreeMap<OrderId, Vec<&OrderEvent>>,
    dead: &[Letter],
) -> Result<usize, sqlx::Error> {
    for _ in 0..ATTEMPTS {
        let mut tx = connection.begin().await?;
        let known = lock(&mut tx, by_order).await?;
        let changes = decide(by_order, known);
        if !write(&mut tx, &changes).await? {
            tx.rollback().await?;
            continue;
        }
        dead_letters::TABLE.bury(&mut tx, dead).await?;
        tx.commit().await?;
        return Ok(changes.events.len());
    }
    Err(sqlx::Error::Protocol("deliveries are created faster than they can be locked".to_owned()))
}

fn decide(
    by_order: &BTreeMap<OrderId, Vec<&OrderEvent>>,
    mut known: BTreeMap<OrderId, Delivery>,
) -> Changes {
    let mut changes = Changes::default();
    for (order_id, events) in by_order {
        let before = known.remove(order_id);
        let is_new = before.is_none();
        let (mut delivery, mut is_changed) = (before, false);
        for event in events {
            delivery = Some(match hear(delivery.as_ref(), event) {
                Heard::Nothing => continue,
                Heard::Noted(noted) => noted,
                Heard::Changed(next) => {
                    changes.events.push((*order_id, next.last_event(), event.actor.clone()));
                    next
                }
            });
            is_changed = true;
        }
        match delivery {
            Some(created) if is_new => changes.created.push(created),
            Some(changed) if is_changed => changes.changed.push(changed),
            _ => {}
        }
    }
    changes
}

/// Those of the orders' deliveries that exist, held until the end of the transaction.
async fn lock(
    connection: &mut PgConnection,
    by_order: &BTreeMap<OrderId, Vec<&OrderEvent>>,
) -> Result<BTreeMap<OrderId, Delivery>, sqlx::Error> {
    let orders: Vec<uuid::Uuid> = by_order.keys().map(|OrderId(id)| *id).collect();
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT order_id, customer_id, restaurant_id, driver_id, requested_driver_id,
                  status AS "status: _", order_status, order_seq, version, created_at, assigned_at,
                  picked_up_at, ended_at, updated_at
           FROM deliveries WHERE order_id = ANY($1) ORDER BY order_id FOR NO KEY UPDATE"#,
        &orders,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(|row| Ok((OrderId(row.order_id), row.try_into()?))).collect()
}

/// Writes all changes; false when a delivery is there by now that was to be created.
async fn write(connection: &mut PgConnection, changes: &Changes) -> Result<bool, sqlx::Error> {
    fn column<T>(deliveries: &[Delivery], value: impl Fn(&Delivery) -> T) -> Vec<T> {
        deliveries.iter().map(value).collect()
    }
    let created = &changes.created;
    if !created.is_empty() {
        let done = sqlx::query!(
            "INSERT INTO deliveries (order_id, customer_id, restaurant_id, status, order_status,
                                     order_seq, version, created_at, ended_at, updated_at)
             SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[], $5::text[],
                                  $6::bigint[], $7::bigint[], $8::timestamptz[],
                                  $9::timestamptz[], $10::timestamptz[])
             ON CONFLICT (order_id) DO NOTHING",
            &column(created, |d| d.order_id.0),
            &column(created, |d| d.customer_id.get()),
            &column(created, |d| d.restaurant_id.map(|id| id.get())) as &[Option<i64>],
            &column(created, |d| d.status.as_str()) as &[&str],
            &column(created, |d| d.order_status.map(|s| s.as_str())) as &[Option<&str>],
            &column(created, |d| d.order_seq),
            &column(created, |d| d.version),
            &column(created, |d| d.created_at),
            &column(created, |d| d.ended_at) as &[Option<chrono::DateTime<chrono::Utc>>],
            &column(created, |d| d.updated_at),
        )
        .execute(&mut *connection)
        .await?;
        if done.rows_affected() != created.len() as u64 {
            return Ok(false);
        }
    }
    let changed = &changes.changed;
    if !changed.is_empty() {
        sqlx::query!(
            "UPDATE deliveries AS d
             SET status = n.status, order_status = n.order_status, order_seq = n.order_seq,
                 version = n.version, ended_at = n.ended_at, updated_at = n.updated_at
             FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::bigint[],
                         $6::timestamptz[], $7::timestamptz[])
                 AS n (order_id, status, order_status, order_seq, version, ended_at, updated_at)
             WHERE d.order_id = n.order_id",
            &column(changed, |d| d.order_id.0),
            &column(changed, |d| d.status.as_str()) as &[&str],
            &column(changed, |d| d.order_status.map(|s| s.as_str())) as &[Option<&str>],
            &column(changed, |d| d.order_seq),
            &column(changed, |d| d.version),
            &column(changed, |d| d.ended_at) as &[Option<chrono::DateTime<chrono::Utc>>],
            &column(changed, |d| d.updated_at),
        )
        .execute(&mut *connection)
        .await?;
    }
    write_events(connection, &changes.events).await?;
    Ok(true)
}

async fn write_events(
    connection: &mut PgConnection,
    events: &[(OrderId, Event, String)],
) -> Result<(), sqlx::Error> {
    fn column<'a, T>(
        events: &'a [(OrderId, Event, String)],
        value: impl Fn(&'a (OrderId, Event, String)) -> T,
    ) -> Vec<T> {
        events.iter().map(value).collect()
    }
    if events.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO delivery_events (order_id, seq, status, order_status, driver_id, actor, at)
         SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::bigint[],
                              $6::text[], $7::timestamptz[])",
        &column(events, |(order_id, ..)| order_id.0),
        &column(events, |(_, event, _)| event.seq),
        &column(events, |(_, event, _)| event.status.as_str()) as &[&str],
        &column(events, |(_, event, _)| event.order_status.map(|s| s.as_str()))
            as &[Option<&str>],
        &column(events, |(_, event, _)| event.driver_id.map(|id| id.get())) as &[Option<i64>],
        &column(events, |(.., actor)| actor.as_str()) as &[&str],
        &column(events, |(_, event, _)| event.at),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// An event's time as it can be kept: no finer than PostgreSQL's, and not ahead of our own clock,
/// since a delivery's times never go back.
pub fn kept(mut event: OrderEvent) -> OrderEvent {
    use chrono::SubsecRound as _;
    event.at = event.at.trunc_subsecs(6).min(now());
    event
}
