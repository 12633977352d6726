//! A Redis Cluster that loses one master after the other, and what workers get out of it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use platform::stores::{RedisCluster, Standing};
use rand::{Rng as _, rngs::StdRng};

use super::{Plan, random_ms};
use crate::{
    balance::Balancer,
    load::{self, Summary},
    probe::until,
    report::Round,
    service::Service,
};

/// Between two faults, and how long the victim stays away, milliseconds. A failover takes 3 to 5 s
/// and should be over by then most of the time.
const BETWEEN_MS: (u64, u64) = (4_000, 6_000);
const AWAY_MS: (u64, u64) = (2_000, 8_000);
/// A replica takes over within this time.
const FAILOVER_MAX: Duration = Duration::from_secs(15);
const STEP: Duration = Duration::from_millis(20);
/// What workers find in the streams when they are measured.
const BACKLOG: &str = "20s";
const BACKLOG_RATE: u32 = 20_000;
const BATCH: u32 = 100;

/// What happens to a master.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    Kill,
    /// Its connections stay open, and nothing answers.
    Freeze,
}

impl Fault {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill-master",
            Self::Freeze => "freeze-master",
        }
    }
}

/// Brings back every node.
pub(super) async fn heal(cluster: &RedisCluster) -> anyhow::Result<()> {
    for node in cluster.nodes() {
        node.resume();
        if node.pid() == 0 {
            node.restart().await?;
        }
    }
    cluster.until_well().await
}

/// Two processes behind a balancer, and one master after the other.
pub(super) async fn run(
    plan: &Plan,
    fault: Fault,
    round: &mut Round,
    rng: &mut StdRng,
) -> anyhow::Result<()> {
    let cluster = plan.world.stack.cluster.as_ref().context("there is a cluster")?;
    let first = plan.service(round, "-1", "all").await?;
    let second = plan.service(round, "-2", "all").await?;
    let balancer = Balancer::start(vec![first.port, second.port]).await?;
    let load = plan.load(round, balancer.port).await?;
    let mut failovers = Vec::new();
    for _ in 0..plan.kills {
        let (between, away, which) = (
            random_ms(rng, BETWEEN_MS.0, BETWEEN_MS.1),
            random_ms(rng, AWAY_MS.0, AWAY_MS.1),
            rng.random_range(0..3_usize),
        );
        tokio::time::sleep(between).await;
        let masters = cluster.masters().await;
        let victim = masters[which % masters.len()];
        let hit = Instant::now();
        match fault {
            Fault::Kill => cluster.nodes()[victim].kill(),
            Fault::Freeze => cluster.nodes()[victim].suspend(),
        }
        let (failover, ()) = tokio::try_join!(
            taken_over(cluster, victim, &masters, hit),
            plan.fault(round, balancer.port, hit),
        )?;
        failovers.push(failover);
        tokio::time::sleep_until((hit + away).into()).await;
        heal(cluster).await?;
    }
    failovers.sort_unstable();
    if let (Some(least), Some(most)) = (failovers.first(), failovers.last()) {
        let median = failovers[failovers.len() / 2].as_secs_f64();
        round.notes.push(format!(
            "a replica was master after {:.1} to {:.1} s, median {median:.1}",
            least.as_secs_f64(),
            most.as_secs_f64()
        ));
    }
    let mut detours = 0.0;
    for service in [&first, &second] {
        detours += service.metric("gps_append_detours_total").await?;
    }
    round.notes.push(format!("{detours:.0} entries went to another stream"));
    plan.conclude(round, load, &[&first, &second], &[], rng).await
}

/// How long it took until another node than the victim was the third master.
async fn taken_over(
    cluster: &RedisCluster,
    victim: usize,
    before: &[usize],
    since: Instant,
) -> anyhow::Result<Duration> {
    let replicas =
        (0..cluster.nodes().len()).filter(|node| *node != victim && !before.contains(node));
    let replicas: Vec<usize> = replicas.collect();
    loop {
        for node in &replicas {
            if cluster.standing(*node).await == Standing::Master {
                return Ok(since.elapsed());
            }
        }
        ensure!(since.elapsed() < FAILOVER_MAX, "no replica takes over within {FAILOVER_MAX:?}");
        tokio::time::sleep(STEP).await;
    }
}

/// How fast one worker and two workers empty the streams.
pub(super) async fn measure_workers(plan: &Plan, round: &mut Round) -> anyhow::Result<()> {
    let api = plan.service(round, "-api", "api").await?;
    for count in [1, 2] {
        let args = [
            "gps".to_owned(),
            format!("--url=http://127.0.0.1:{}", api.port),
            format!("--rate={BACKLOG_RATE}"),
            format!("--batch={BATCH}"),
            format!("--duration={BACKLOG}"),
            "--no-check".to_owned(),
        ];
        let load = load::launch(&plan.world, &format!("{}-{count}", round.name), args)?;
        let (_, summary) = load.ended::<Summary>().await?;
        let started = Instant::now();
        let mut workers = Vec::with_capacity(count);
        for worker in 0..count {
            let part = format!("-{count}-{worker}");
            workers.push(plan.service(round, &part, "worker").await?);
        }
        let accepted = summary.accepted as f64;
        until("everything is stored", started, async || stored(&workers).await >= accepted).await?;
        let took = started.elapsed().as_secs_f64();
        round.notes.push(format!(
            "workers: {count}, {accepted:.0} fixes stored in {took:.1} s, {:.0}/s",
            accepted / took
        ));
        for worker in workers {
            super::stop(round, &worker).await?;
        }
    }
    super::stop(round, &api).await?;
    Ok(())
}

async fn stored(workers: &[Service]) -> f64 {
    let mut stored = 0.0;
    for worker in workers {
        stored += worker.metric("gps_stored_total").await.unwrap_or_default();
    }
    stored
}
