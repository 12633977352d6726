//! Two workers share the load; one is stopped past its lease and comes back.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use contracts::streams::{HISTORY_GROUP, gps_stream};
use platform::stores::Signal;
use rand::rngs::StdRng;

use super::{Plan, random_ms};
use crate::{
    probe::{RECOVERY_MAX, recovery},
    report::Round,
    service::Service,
};

/// Entries are claimed after 10 s, looked for every 2 s.
const CLAIMED_WITHIN: Duration = Duration::from_secs(20);
/// An entry that is not acknowledged after this long is held by the one that is stopped.
const HELD_FOR: Duration = Duration::from_millis(500);
/// How often a moment is looked for at which a worker holds entries.
const TRIES_MAX: usize = 10;
/// What each of two workers stores of the load at least, in per cent.
const SHARE_MIN: f64 = 20.0;

pub(super) async fn run(plan: &Plan, round: &mut Round, rng: &mut StdRng) -> anyhow::Result<()> {
    let api = plan.service(round, "-api", "api").await?;
    let zombie = plan.service(round, "-worker-1", "worker").await?;
    let other = plan.service(round, "-worker-2", "worker").await?;
    let load = plan.load(round, api.port).await?;
    share(round, &zombie, &other, "before").await?;

    let stopped = stop_with_entries(plan, &zombie, rng).await?;
    // The other one goes on alone at once.
    round.faults += 1;
    let alone = recovery(&plan.world, api.port, stopped).await?;
    round.recovered(alone, Duration::ZERO);
    while other.metric("gps_claimed_total").await? == 0.0 {
        ensure!(stopped.elapsed() < CLAIMED_WITHIN, "nothing was claimed from a stopped worker");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let claimed = stopped.elapsed();
    tokio::time::sleep(random_ms(rng, 500, 2_000)).await;
    zombie.signal(Signal::CONT);
    let resumed = Instant::now();
    round.faults += 1;
    zombie.until_ready().await?;
    ensure!(resumed.elapsed() < RECOVERY_MAX, "the zombie took {:?}", resumed.elapsed());
    round.recovered(recovery(&plan.world, api.port, resumed).await?, Duration::ZERO);
    share(round, &zombie, &other, "after").await?;
    let twice =
        zombie.metric("gps_duplicates_total").await? + other.metric("gps_duplicates_total").await?;
    round.notes.push(format!(
        "claimed after {:.1} s; {twice:.0} entries were written by both, one row each",
        claimed.as_secs_f64()
    ));
    plan.conclude(round, load, &[&api], &[&zombie, &other], rng).await
}

/// Stops a worker at a moment at which it holds entries, which most moments are.
async fn stop_with_entries(
    plan: &Plan,
    worker: &Service,
    rng: &mut StdRng,
) -> anyhow::Result<Instant> {
    let mut queue = plan.world.queue().await?;
    for _ in 0..TRIES_MAX {
        tokio::time::sleep(random_ms(rng, 0, 1_000)).await;
        worker.signal(Signal::STOP);
        let stopped = Instant::now();
        tokio::time::sleep(HELD_FOR * 2).await;
        for shard in 0..plan.world.shards {
            let mut pending = redis::cmd("XPENDING");
            pending.arg(gps_stream(shard)).arg(HISTORY_GROUP);
            pending.arg("IDLE").arg(HELD_FOR.as_millis() as u64).arg("-").arg("+").arg(1);
            let held: Vec<redis::Value> = pending.query_async(&mut queue).await?;
            if !held.is_empty() {
                return Ok(stopped);
            }
        }
        worker.signal(Signal::CONT);
    }
    bail!("a worker under load never holds an entry")
}

/// Both workers store a good part of the load.
async fn share(
    round: &mut Round,
    one: &Service,
    other: &Service,
    when: &str,
) -> anyhow::Result<()> {
    let stored = async || -> anyhow::Result<[f64; 2]> {
        let metric = "gps_stored_total";
        Ok([one.metric(metric).await?, other.metric(metric).await?])
    };
    let before = stored().await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let after = stored().await?;
    let both = (after[0] - before[0]) + (after[1] - before[1]);
    let share = 100.0 * (after[0] - before[0]) / both.max(1.0);
    round.notes.push(format!("{when}: worker 1 stored {share:.0} %"));
    if !(SHARE_MIN..=100.0 - SHARE_MIN).contains(&share) {
        round
            .failures
            .push(format!("{when}: two workers share {share:.0} to {:.0}", 100.0 - share));
    }
    Ok(())
}
