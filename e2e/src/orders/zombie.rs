//! A worker is stopped in the middle of its calls, past its leases; another one goes on; then the
//! first one comes back with what it believes to know.

use std::time::Duration;

use anyhow::ensure;
use platform::stores::Signal;
use rand::{Rng as _, rngs::StdRng};

use super::{FATES, Plan, Round, SETTLED_MAX, buy::Shop, load::Load, site::Settings};

const RATE: u32 = 30;
const TIMES: usize = 5;
const TIMES_QUICK: usize = 2;
const SETTINGS: Settings<'static> =
    &[("PAYMENT_TIMEOUT", "1s"), ("PAYMENT_LEASE", "2s"), ("PAYMENT_SWEEP_AFTER", "2s")];
/// Calls take long, so that a worker mostly is in some.
const GATEWAY: Settings<'static> = &[("PAYMENT_SIM_LATENCY", "300ms-900ms")];
/// How long it is stopped: the leases are over, and what it had is called for again.
const STOPPED_MS: std::ops::Range<u64> = 2_500..4_500;

pub(super) async fn run(plan: &Plan, round: &mut Round, rng: &mut StdRng) -> anyhow::Result<()> {
    let site = &plan.site;
    let lane = site.lane("zombie", SETTINGS, GATEWAY).await?;
    let api = site.node(&lane, "api", "api").await?;
    let relay = site.node(&lane, "relay", "relay").await?;
    let zombie = site.node(&lane, "worker-1", "worker").await?;
    let other = site.node(&lane, "worker-2", "worker").await?;
    let shop = Shop::new(&lane, &site.restaurants, &[api.port]);
    let customers = lane.new_customers();
    let load = Load::start(shop.clone(), customers.clone(), RATE, FATES, rng.random());
    for _ in 0..if plan.args.quick { TIMES_QUICK } else { TIMES } {
        let (before, stopped) = (rng.random_range(1_500..2_500), rng.random_range(STOPPED_MS));
        tokio::time::sleep(Duration::from_millis(before)).await;
        zombie.signal(Signal::STOP);
        round.faults += 1;
        tokio::time::sleep(Duration::from_millis(stopped)).await;
        zombie.signal(Signal::CONT);
    }
    zombie.until_ready().await?;
    let orders = load.conclude().await?;
    lane.until_quiet(SETTLED_MAX).await?;
    let late = zombie.metric("payment_results_late_total").await?;
    round.notes.push(format!("{late:.0} results came too late and were not written"));
    ensure!(late > 0.0, "the worker was never stopped in the middle of a call");
    let nodes = [&api, &relay, &zombie, &other];
    round.conclude(&lane, &shop, &orders, &customers, SETTLED_MAX, &nodes).await
}
