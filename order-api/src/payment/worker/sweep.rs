//! What is due, whether or not the stream knows of it.

use std::time::{Duration, Instant};

use platform::{
    breaker::State,
    health::{Dependency, Heartbeat},
    postgres::within,
};
use sqlx::PgPool;

use super::{BATCH_MAX, calls::Calls};
use crate::payment::{
    Provider,
    claim::{self, First},
};

/// Due payments are looked for this often.
const DUE_EVERY: Duration = Duration::from_millis(200);
/// A look that takes longer is lost.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// Takes payments whose time has come, until it is time to stop.
pub(super) async fn run<P: Provider>(calls: Calls<P>, database: Dependency, heartbeat: Heartbeat) {
    let mut tick = tokio::time::interval(DUE_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut is_failing = false;
    let mut first = First::Oldest;
    loop {
        heartbeat.beat();
        tokio::select! {
            () = calls.stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        if calls.breaker.state(Instant::now()) == State::Open {
            continue;
        }
        // Looking costs less than asking for leave that nobody needs.
        let looking = within(LOOK_MAX, is_any_due(&calls.db));
        match heartbeat.waiting_for(&database, looking).await {
            Ok(true) => {}
            Ok(false) => continue,
            Err(error) => {
                database.down(&error);
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!(%error, "due payments cannot be looked for");
                }
                continue;
            }
        }
        is_failing = false;
        let leave = tokio::select! {
            leave = calls.leave(BATCH_MAX) => leave,
            () = tokio::time::sleep(Duration::from_secs(1)) => continue,
        };
        // From both ends in turn: many old ones that come due again and again, as those that the
        // gateway is processing for days, keep nobody from the other end.
        first = if first == First::Oldest { First::Newest } else { First::Oldest };
        let claiming = claim::due(&calls.db, first, leave.len() as i64, calls.lease);
        match heartbeat.waiting_for(&database, claiming).await {
            Ok(jobs) => {
                metrics::counter!("payments_swept_total").increment(jobs.len() as u64);
                if jobs.len() == BATCH_MAX {
                    // There are probably more.
                    tick.reset_immediately();
                }
                calls.begin(jobs.into_iter().map(|job| (job, None)).collect(), leave);
            }
            Err(error) => {
                Calls::<P>::give_back(leave);
                tracing::warn!(%error, "due payments could not be taken");
            }
        }
    }
}

/// By the index of what is due; EXISTS may look through the table.
async fn is_any_due(db: &PgPool) -> Result<bool, sqlx::Error> {
    let first = sqlx::query_scalar!(
        "SELECT payment_id FROM payments
         WHERE status = 'due' AND next_at <= now() ORDER BY payment_id LIMIT 1"
    )
    .fetch_optional(db)
    .await?;
    Ok(first.is_some())
}
