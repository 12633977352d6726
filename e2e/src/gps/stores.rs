//! What stores do to us besides dying: forgetting, refusing, being away for long.

use std::time::{Duration, Instant};

use anyhow::ensure;
use contracts::streams::{HISTORY_GROUP, gps_stream};
use platform::redis::Connection;
use rand::rngs::StdRng;

use super::{Plan, random_ms};
use crate::{
    check::target,
    probe::{Probe, until},
    report::Round,
};

/// Between two faults, milliseconds.
const BETWEEN_MS: (u64, u64) = (3_000, 5_000);
/// What the full queue had left, bytes: some seconds of the load.
const ROOM: u64 = 1_500_000;
/// How long PostgreSQL is away.
const OUTAGE: Duration = Duration::from_secs(60);
/// How long a fix may take meanwhile; a busy disk is no reason to fail, a dependency is.
const ACCEPTED_WITHIN_S: f64 = 10.0;
const OUTAGE_QUICK: Duration = Duration::from_secs(15);

/// FLUSHALL of `live`.
pub(super) async fn flush(plan: &Plan, round: &mut Round, rng: &mut StdRng) -> anyhow::Result<()> {
    let service = plan.service(round, "", "all").await?;
    let load = plan.load(round, service.port).await?;
    let mut live = plan.world.live().await?;
    for _ in 0..plan.kills.div_ceil(4) {
        tokio::time::sleep(random_ms(rng, BETWEEN_MS.0, BETWEEN_MS.1)).await;
        let flushed = Instant::now();
        redis::cmd("FLUSHALL").query_async::<()>(&mut live).await?;
        plan.fault(round, service.port, flushed).await?;
    }
    plan.conclude(round, load, &[&service], &[], rng).await
}

/// XGROUP DESTROY of every shard's group.
pub(super) async fn destroy_group(
    plan: &Plan,
    round: &mut Round,
    rng: &mut StdRng,
) -> anyhow::Result<()> {
    let service = plan.service(round, "", "all").await?;
    let load = plan.load(round, service.port).await?;
    for _ in 0..plan.kills.div_ceil(4) {
        tokio::time::sleep(random_ms(rng, BETWEEN_MS.0, BETWEEN_MS.1)).await;
        let destroyed = Instant::now();
        destroy_groups(plan.world.queue().await?, plan.world.shards).await?;
        plan.fault(round, service.port, destroyed).await?;
    }
    plan.conclude(round, load, &[&service], &[], rng).await
}

/// Destroys the group of every shard.
pub(crate) async fn destroy_groups(mut queue: Connection, shards: u16) -> anyhow::Result<()> {
    let mut pipeline = redis::pipe();
    for shard in 0..shards {
        pipeline.cmd("XGROUP").arg("DESTROY").arg(gps_stream(shard)).arg(HISTORY_GROUP).ignore();
    }
    pipeline.query_async::<()>(&mut queue).await?;
    Ok(())
}

/// The queue at its limit of memory: fixes are refused, never lost, and what is there drains
/// without anybody making room.
pub(super) async fn fill_queue(
    plan: &Plan,
    round: &mut Round,
    rng: &mut StdRng,
) -> anyhow::Result<()> {
    let world = &plan.world;
    let service = plan.service(round, "", "all").await?;
    let load = plan.load(round, service.port).await?;
    let mut queue = world.queue().await?;
    let info: String = redis::cmd("INFO").arg("memory").query_async(&mut queue).await?;
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse().ok());
    let used: u64 = used.ok_or_else(|| anyhow::anyhow!("INFO memory has no used_memory"))?;
    limit_memory(&mut queue, used + ROOM).await?;
    world.stack.postgres.suspend();
    let suspended = Instant::now();
    let mut probe = Probe::new(world, target(service.port));
    until("the full queue refuses a fix", suspended, async || probe.send().await == Some(503))
        .await?;
    round.notes.push(format!("full after {:.1} s", suspended.elapsed().as_secs_f64()));
    tokio::time::sleep(random_ms(rng, 2_000, 4_000)).await;
    world.stack.postgres.resume();
    plan.fault(round, service.port, Instant::now()).await?;
    tokio::time::sleep(random_ms(rng, 2_000, 4_000)).await;
    limit_memory(&mut queue, 1 << 30).await?;
    plan.conclude(round, load, &[&service], &[], rng).await
}

async fn limit_memory(queue: &mut Connection, bytes: u64) -> anyhow::Result<()> {
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).query_async::<()>(queue).await?;
    Ok(())
}

/// PostgreSQL away for a minute: fixes are accepted and shown all the while.
pub(super) async fn outage(plan: &Plan, round: &mut Round, rng: &mut StdRng) -> anyhow::Result<()> {
    let world = &plan.world;
    let service = plan.service(round, "", "all").await?;
    let load = plan.load(round, service.port).await?;
    let outage = if plan.quick { OUTAGE_QUICK } else { OUTAGE };
    world.stack.postgres.kill();
    let (killed, mut slowest, mut shown, mut asked_for) = (Instant::now(), Duration::ZERO, 0, 0);
    while killed.elapsed() < outage {
        let mut probe = Probe::new(world, target(service.port));
        let asked = Instant::now();
        until("a fix is accepted without PostgreSQL", asked, async || {
            probe.send().await == Some(202)
        })
        .await?;
        slowest = slowest.max(asked.elapsed());
        tokio::time::sleep(Duration::from_secs(2)).await;
        asked_for += 1;
        shown += u32::from(probe.is_shown().await);
    }
    let slowest = slowest.as_secs_f64();
    round.notes.push(format!(
        "without PostgreSQL a fix is accepted within {slowest:.2} s, and {shown} of {asked_for} are shown within 2 s"
    ));
    ensure!(slowest < ACCEPTED_WITHIN_S, "without PostgreSQL a fix takes {slowest:.1} s");
    world.stack.postgres.restart().await?;
    plan.fault(round, service.port, Instant::now()).await?;
    plan.conclude(round, load, &[&service], &[], rng).await
}
