//! A promise of this service that can be broken on demand and needs more than a word in its place.
//!
//! Compiled in only with the feature `sabotage`, which nothing but `chaos` asks for.

use std::time::Duration;

use contracts::streams::{PAYMENT_FIELD, PAYMENTS_STREAM};
use uuid::Uuid;

use crate::place::Placement;

/// As long as a busy process may take from one thing to the next.
const LATER: Duration = Duration::from_millis(200);

/// `enqueue-after-commit`: workers are told of charges by this process, once they are committed,
/// and not by the outbox. When it ends in between, nobody is.
pub(crate) fn ring_later(placements: &[&Placement], written: &[Uuid]) {
    if !platform::sabotage::is("enqueue-after-commit") {
        return;
    }
    let written = placements.iter().filter(|placement| written.contains(&placement.effect_id));
    let orders: Vec<Uuid> =
        written.flat_map(|placement| &placement.orders).map(|order| order.order_id.0).collect();
    tokio::spawn(async move {
        tokio::time::sleep(LATER).await;
        if let Err(error) = ring(&orders).await {
            tracing::warn!(error = format!("{error:#}"), "nobody was told of charges");
        }
    });
}

async fn ring(orders: &[Uuid]) -> anyhow::Result<()> {
    let url = std::env::var("REDIS_QUEUE_URL")?.into();
    let mut queue = platform::redis::Redis::open(&url)?.connection()?;
    let mut pipeline = redis::pipe();
    for order in orders {
        let add = pipeline.cmd("XADD").arg(PAYMENTS_STREAM).arg("*");
        add.arg(PAYMENT_FIELD).arg(order.to_string()).ignore();
    }
    let () = pipeline.query_async(&mut queue).await?;
    Ok(())
}
