//! The checks of orders can fail: a fault for each promise, done to processes that break it or keep
//! all.

use std::{path::PathBuf, time::Duration};

use anyhow::ensure;
use platform::stores::Signal;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;

use super::{
    books::Seen,
    buy::{Fate, Shop},
    judge,
    load::Load,
    site::{Lane, Settings, Site},
};
use crate::{service::Service, world::Programs};

/// Orders per second.
const RATE: u32 = 30;
/// All is settled within this time when every promise is kept.
const SETTLED_MAX: Duration = Duration::from_secs(30);

/// A fault that only a service survives which keeps the promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The gateway captures and answers 500.
    Answers500,
    /// The gateway captures and does not answer.
    Hangs,
    /// A worker is stopped in a call, and comes back while another one makes the next.
    LateWorker,
    /// The worker is killed while payments wait in it.
    WorkerKilled,
    /// The API is killed again and again.
    ApiKilled,
    /// None: what is broken shows by itself.
    Prices,
}

impl Fault {
    fn settings(self) -> Settings<'static> {
        match self {
            Self::Answers500 | Self::Hangs | Self::Prices => {
                &[("PAYMENT_TIMEOUT", "500ms"), ("PAYMENT_LEASE", "2s")]
            }
            // The call of the other worker is still under way when the first one comes back.
            Self::LateWorker => &[("PAYMENT_TIMEOUT", "2s"), ("PAYMENT_LEASE", "4s")],
            // Only the stream tells of charges, and few are called for at a time.
            Self::WorkerKilled => &[
                ("PAYMENT_SWEEP_AFTER", "1h"),
                ("PAYMENT_CONCURRENCY", "4"),
                ("PAYMENT_TIMEOUT", "2s"),
                ("PAYMENT_LEASE", "4s"),
            ],
            Self::ApiKilled => &[("PAYMENT_SWEEP_AFTER", "1h")],
        }
    }

    fn gateway(self) -> Settings<'static> {
        match self {
            Self::Answers500 => &[("PAYMENT_SIM_MODES", "500_after=0.3")],
            Self::Hangs => &[("PAYMENT_SIM_MODES", "hang_after=0.2"), ("PAYMENT_SIM_HANG", "2s")],
            Self::LateWorker => &[("PAYMENT_SIM_HANG", "10s"), ("PAYMENT_SIM_LATENCY", "100ms")],
            Self::WorkerKilled => &[("PAYMENT_SIM_LATENCY", "300ms-500ms")],
            Self::ApiKilled | Self::Prices => &[],
        }
    }

    /// What becomes of orders. Where a charge may be forgotten, nobody waits for it.
    fn fates(self) -> &'static [(Fate, u32)] {
        match self {
            Self::WorkerKilled | Self::ApiKilled => &[],
            _ => &[(Fate::CancelledSoon, 10), (Fate::CancelledPaid, 10)],
        }
    }

    async fn strike(
        self,
        site: &Site,
        lane: &Lane,
        api: &mut Service,
        worker: &mut Service,
    ) -> anyhow::Result<()> {
        let pause = |ms| tokio::time::sleep(Duration::from_millis(ms));
        match self {
            Self::Answers500 | Self::Hangs | Self::Prices => pause(6_000).await,
            Self::WorkerKilled => {
                pause(3_000).await;
                worker.kill().await;
                worker.start_again()?;
                pause(1_000).await;
            }
            Self::ApiKilled => {
                for _ in 0..5 {
                    pause(700).await;
                    api.kill().await;
                    api.start_again()?;
                    api.until_ready().await?;
                }
            }
            Self::LateWorker => {
                let other = site.node(lane, "worker-2", "worker").await?;
                pause(1_000).await;
                // From now on nobody is answered, and whoever is stopped is in a call.
                lane.gateway(&json!({"modes": {"hang_before": 1.0}, "decline_rate": 0.0})).await?;
                pause(1_000).await;
                worker.signal(Signal::STOP);
                // Its leases are over in 3 to 4 s; then the other one calls, for 2 s each time.
                pause(4_200).await;
                worker.signal(Signal::CONT);
                pause(2_500).await;
                lane.gateway(&json!({"modes": {}})).await?;
                pause(1_000).await;
                // Both end calls that they have begun.
                other.terminate().await?;
            }
        }
        Ok(())
    }
}

/// What the checks found, in words, with processes that run `program` and break the promise of that
/// name; empty when all held.
pub(crate) async fn round(
    programs: Programs,
    program: PathBuf,
    sabotage: &str,
    fault: Fault,
    seed: u64,
) -> anyhow::Result<Vec<String>> {
    let site = Site::start(programs, program).await?;
    let settings = [fault.settings(), &[("SABOTAGE", sabotage)]].concat();
    let lane = site.lane("sabotage", &settings, fault.gateway()).await?;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut api = site.node(&lane, "api", "api").await?;
    let _relay = site.node(&lane, "relay", "relay").await?;
    let mut worker = site.node(&lane, "worker", "worker").await?;
    let shop = Shop::new(&lane, &site.restaurants, &[api.port]);
    let customers = lane.new_customers();
    let load = Load::start(shop, customers.clone(), RATE, fault.fates(), rng.random());
    fault.strike(&site, &lane, &mut api, &mut worker).await?;
    let orders = load.conclude().await?;
    // Without orders nothing could be broken.
    ensure!(orders.placed.len() > 50, "only {} orders were placed", orders.placed.len());
    let judged = judge(&lane, &orders, &customers, &mut Seen::default(), SETTLED_MAX).await?;
    Ok(judged.failures)
}
