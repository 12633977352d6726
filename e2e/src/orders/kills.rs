//! kill -9 of the worker, the API, the relay, Redis and PostgreSQL, again and again under load.

use std::time::{Duration, Instant};

use rand::{
    Rng as _,
    distr::{Distribution as _, weighted::WeightedIndex},
    rngs::StdRng,
};

use super::{
    FATES, FAULTY, HASTY, Plan, Round, SETTLED_MAX,
    buy::Shop,
    load::Load,
    site::{Lane, Site},
};
use crate::service::Service;

/// Orders per second.
const RATE: u32 = 50;
const KILLS_QUICK: usize = 20;
/// Between two kills; and how long the victim stays away, milliseconds.
const BETWEEN_MS: std::ops::Range<u64> = 400..1_600;
const AWAY_MS: std::ops::Range<u64> = 0..400;

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Worker,
    Api,
    Relay,
    Queue,
    Postgres,
}

impl Victim {
    const ALL: [Self; 5] = [Self::Worker, Self::Api, Self::Relay, Self::Queue, Self::Postgres];
    /// In ten kills. PostgreSQL needs seconds to come back, in which nothing else can go wrong.
    const WEIGHTS: [u32; 5] = [3, 2, 2, 2, 1];
}

/// The processes of a round, one of each role.
struct Nodes {
    api: Service,
    worker: Service,
    relay: Service,
}

impl Nodes {
    async fn strike(
        &mut self,
        victim: Victim,
        site: &Site,
        lane: &Lane,
        away: Duration,
    ) -> anyhow::Result<()> {
        let node = match victim {
            Victim::Worker => &mut self.worker,
            Victim::Api => &mut self.api,
            Victim::Relay => &mut self.relay,
            Victim::Queue => {
                lane.queue.kill();
                tokio::time::sleep(away).await;
                return lane.queue.restart().await;
            }
            Victim::Postgres => {
                let postgres = &site.world.stack.postgres;
                postgres.kill();
                tokio::time::sleep(away).await;
                return postgres.restart().await;
            }
        };
        node.kill().await;
        tokio::time::sleep(away).await;
        node.start_again()
    }

    fn all(&self) -> [&Service; 3] {
        [&self.api, &self.worker, &self.relay]
    }
}

pub(super) async fn run(plan: &Plan, round: &mut Round, rng: &mut StdRng) -> anyhow::Result<()> {
    let site = &plan.site;
    let lane = site.lane("kills", HASTY, FAULTY).await?;
    let mut nodes = Nodes {
        api: site.node(&lane, "api", "api").await?,
        worker: site.node(&lane, "worker", "worker").await?,
        relay: site.node(&lane, "relay", "relay").await?,
    };
    let shop = Shop::new(&lane, &site.restaurants, &[nodes.api.port]);
    let customers = lane.new_customers();
    let load = Load::start(shop.clone(), customers.clone(), RATE, FATES, rng.random());
    let kills = if plan.args.quick { KILLS_QUICK } else { plan.args.kills };
    let weights = WeightedIndex::new(Victim::WEIGHTS)?;
    let mut counts = [0_usize; Victim::ALL.len()];
    let mut longest = [Duration::ZERO; Victim::ALL.len()];
    let mut next = Instant::now() + Duration::from_secs(2);
    for _ in 0..kills {
        tokio::time::sleep_until(next.into()).await;
        // Drawn before anything happens, so that a seed gives the same moments.
        let victim = Victim::ALL[weights.sample(rng)];
        let between = Duration::from_millis(rng.random_range(BETWEEN_MS));
        let away = Duration::from_millis(rng.random_range(AWAY_MS));
        let struck = Instant::now();
        nodes.strike(victim, site, &lane, away).await?;
        counts[victim as usize] += 1;
        longest[victim as usize] = longest[victim as usize].max(struck.elapsed());
        next = Instant::now() + between;
    }
    round.faults = kills;
    let counted = Victim::ALL.iter().zip(counts).zip(longest).map(|((who, count), longest)| {
        format!("{who:?} {count} times for up to {:.1} s", longest.as_secs_f64())
    });
    round.notes.push(format!("killed: {}", counted.collect::<Vec<_>>().join(", ")));
    for node in nodes.all() {
        node.until_ready().await?;
    }
    let orders = load.conclude().await?;
    round.conclude(&lane, &shop, &orders, &customers, SETTLED_MAX, &nodes.all()).await
}
