//! Orders' events, one a second, and the deliveries that workers make of them.

use std::time::{Duration, Instant};

use chrono::Utc;
use contracts::{
    events::{EVENT_FIELD, EVENT_VERSION, OrderEvent, OrderEventData, OrderEventType},
    ids::{CustomerId, OrderId, RestaurantId},
    order::{OrderStatus, PaymentStatus},
    streams::ORDER_EVENTS_STREAM,
};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{watch::Course, world::World};

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Tells of a new order and follows it until it has a delivery, or is given up.
pub(super) async fn course(world: &World, mut given_up: watch::Receiver<bool>) -> Course {
    let (began, mut made, order) = (Instant::now(), None, Uuid::now_v7());
    let whole = async {
        while announce(world, order).await.is_err() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        while !has_delivery(world, order).await.unwrap_or(false) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        made = Some(Instant::now());
    };
    tokio::select! {
        () = whole => {}
        _ = given_up.wait_for(|given_up| *given_up) => {}
    }
    Course { began, reached: vec![made] }
}

async fn announce(world: &World, order: Uuid) -> anyhow::Result<()> {
    let event = OrderEvent {
        v: EVENT_VERSION,
        kind: OrderEventType::Confirmed,
        order_id: OrderId(order),
        seq: 2,
        at: Utc::now(),
        customer_id: CustomerId::new(1)?,
        restaurant_id: RestaurantId::new(1)?,
        status: OrderStatus::Confirmed,
        payment_status: PaymentStatus::Paid,
        actor: "service:payments".to_owned(),
        data: OrderEventData::default(),
    };
    let mut add = redis::cmd("XADD");
    add.arg(ORDER_EVENTS_STREAM).arg("*").arg(EVENT_FIELD).arg(serde_json::to_string(&event)?);
    add.query_async::<()>(&mut world.queue().await?).await?;
    Ok(())
}

async fn has_delivery(world: &World, order: Uuid) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM deliveries WHERE order_id = $1)")
        .bind(order)
        .fetch_one(&world.db)
        .await
}
