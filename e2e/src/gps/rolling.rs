//! SIGTERM under load: alone, and as a rolling restart behind a balancer.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;

use super::{Plan, random_ms, stop};
use crate::{balance::Balancer, report::Round};

pub(super) async fn run(plan: &Plan, round: &mut Round, rng: &mut StdRng) -> anyhow::Result<()> {
    let turns = plan.kills.div_ceil(5).max(2);
    let mut old = plan.service(round, "-0", "all").await?;
    let balancer = Balancer::start(vec![old.port]).await?;
    let load = plan.load(round, balancer.port).await?;
    let mut longest = Duration::ZERO;
    for turn in 1..=turns {
        tokio::time::sleep(random_ms(rng, 2_000, 4_000)).await;
        let new = plan.service(round, &format!("-{turn}"), "all").await?;
        balancer.set(vec![old.port, new.port]);
        tokio::time::sleep(random_ms(rng, 1_000, 2_000)).await;
        let asked = Instant::now();
        longest = longest.max(stop(round, &old).await?);
        balancer.set(vec![new.port]);
        old = new;
        plan.fault(round, balancer.port, asked).await?;
    }
    // Without a second process: away while it stops and starts.
    tokio::time::sleep(random_ms(rng, 2_000, 4_000)).await;
    let asked = Instant::now();
    longest = longest.max(stop(round, &old).await?);
    old.start_again()?;
    plan.fault(round, balancer.port, asked).await?;
    round.notes.push(format!("the longest stop took {:.2} s", longest.as_secs_f64()));
    plan.conclude(round, load, &[&old], &[], rng).await
}
