//! kill -9 of one process, again and again.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;

use super::{Plan, random_ms};
use crate::{report::Round, service::Service, world::World};

/// Between two kills; and how long the victim stays away, milliseconds.
const BETWEEN_MS: (u64, u64) = (4_000, 6_000);
const AWAY_MS: (u64, u64) = (0, 1_000);

/// Who is killed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Victim {
    Logistics,
    Queue,
    Live,
    Postgres,
}

impl Victim {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Logistics => "kill-logistics",
            Self::Queue => "kill-queue-redis",
            Self::Live => "kill-live-redis",
            Self::Postgres => "kill-postgres",
        }
    }

    async fn kill(self, world: &World, service: &Service) {
        match self {
            Self::Logistics => service.kill().await,
            Self::Queue => world.stack.queue.kill(),
            Self::Live => world.stack.live.kill(),
            Self::Postgres => world.stack.postgres.kill(),
        }
    }

    async fn start(self, world: &World, service: &mut Service) -> anyhow::Result<()> {
        match self {
            Self::Logistics => service.start_again(),
            Self::Queue => world.stack.queue.restart().await,
            Self::Live => world.stack.live.restart().await,
            Self::Postgres => world.stack.postgres.restart().await,
        }
    }
}

pub(super) async fn run(
    plan: &Plan,
    victim: Victim,
    round: &mut Round,
    rng: &mut StdRng,
) -> anyhow::Result<()> {
    let mut service = plan.service(round, "", "all").await?;
    let files_before = service.metric("process_open_fds").await?;
    let load = plan.load(round, service.port).await?;
    let mut next = Instant::now();
    for _ in 0..plan.kills {
        tokio::time::sleep_until(next.into()).await;
        // Drawn before anything happens, so that a seed gives the same moments.
        let (between, away) =
            (random_ms(rng, BETWEEN_MS.0, BETWEEN_MS.1), random_ms(rng, AWAY_MS.0, AWAY_MS.1));
        next = Instant::now() + between;
        let killed = Instant::now();
        victim.kill(&plan.world, &service).await;
        tokio::time::sleep(away).await;
        victim.start(&plan.world, &mut service).await?;
        plan.fault(round, service.port, killed).await?;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    if !matches!(victim, Victim::Logistics) && !service.runs() {
        round.failures.push("logistics ended".to_owned());
    }
    let files = service.metric("process_open_fds").await?;
    let memory = service.metric("process_resident_memory_bytes").await? / 1e6;
    round.notes.push(format!(
        "descriptors {files_before:.0} before, {files:.0} under load; memory {memory:.0} MB"
    ));
    plan.conclude(round, load, &[&service], &[], rng).await
}
