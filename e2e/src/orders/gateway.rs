//! The gateway away: it is left alone, orders are taken all the same, and paid when it is back.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use platform::auth::Role;
use rand::{Rng as _, rngs::StdRng};
use serde_json::{Value, json};

use super::{
    FATES, Plan, Round,
    buy::Shop,
    client::{Client, Request},
    load::Load,
    site::{Lane, Settings},
};

const RATE: u32 = 20;
const AWAY: Duration = Duration::from_secs(300);
const AWAY_QUICK: Duration = Duration::from_secs(20);
/// The load runs for this long before and after.
const AROUND: Duration = Duration::from_secs(4);
/// It is noticed that the gateway is away within this time.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks at how often the gateway is called; it remembers a minute.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// In any second, while it is left alone.
const CALLS_MAX: u64 = 1;
/// What waited is paid so soon after it is back.
const PAID_WITHIN: Duration = Duration::from_secs(120);
/// Reading the gateway's books calls it too, and is not what is counted here.
const SETTINGS: Settings<'static> = &[("PAYMENT_RECONCILE_EVERY", "1h")];

pub(super) async fn run(plan: &Plan, round: &mut Round, rng: &mut StdRng) -> anyhow::Result<()> {
    let site = &plan.site;
    let lane = site.lane("gateway-away", SETTINGS, &[]).await?;
    let node = site.node(&lane, "all", "all").await?;
    let shop = Shop::new(&lane, &site.restaurants, &[node.port]);
    let customers = lane.new_customers();
    let fates = &FATES[..1];
    let load = Load::start(shop.clone(), customers.clone(), RATE, fates, rng.random());
    tokio::time::sleep(AROUND).await;
    lane.gateway(&json!({"down": true})).await?;
    let (since, away) = (Instant::now(), if plan.args.quick { AWAY_QUICK } else { AWAY });
    round.faults += 1;
    while breaker(&lane, node.port).await? != "open" {
        ensure!(since.elapsed() < NOTICED_WITHIN, "the breaker does not open");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    round.notes.push(format!("open after {:.1} s", since.elapsed().as_secs_f64()));
    // The second in which it opened still has the calls before.
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    let (mut looked, mut most, mut calls) = (Instant::now(), 0, 0);
    while since.elapsed() < away {
        tokio::time::sleep(LOOK_EVERY).await;
        let stats = lane.ask_gateway("GET", "/admin/stats", &Value::Null).await?;
        let seconds = stats["calls_per_second"].as_array().context("calls per second")?;
        let recent = usize::try_from(looked.elapsed().as_secs()).unwrap_or_default();
        looked = Instant::now();
        let recent = seconds.iter().rev().take(recent).filter_map(Value::as_u64);
        let recent: Vec<u64> = recent.collect();
        most = most.max(recent.iter().copied().max().unwrap_or_default());
        calls += recent.iter().sum::<u64>();
        let state = breaker(&lane, node.port).await?;
        ensure!(state != "closed", "the breaker is {state} while the gateway is away");
    }
    round.notes.push(format!("while open {calls} calls, at most {most} in a second"));
    if most > CALLS_MAX {
        round.failures.push(format!("{most} calls in a second while the breaker is open"));
    }
    if calls == 0 {
        round.failures.push("nobody looks whether the gateway is back".to_owned());
    }
    lane.gateway(&json!({"down": false})).await?;
    let back = Instant::now();
    tokio::time::sleep(AROUND).await;
    let orders = load.conclude().await?;
    if !orders.refused.is_empty() {
        round.failures.push(format!("not every order was taken at once: {}", orders.repeats()));
    }
    let limit = PAID_WITHIN.saturating_sub(back.elapsed());
    round.conclude(&lane, &shop, &orders, &customers, limit, &[&node]).await?;
    round.notes.push(format!("all paid {:.0} s after it is back", back.elapsed().as_secs_f64()));
    Ok(())
}

/// `closed`, `open` or `half_open`.
async fn breaker(lane: &Lane, port: u16) -> anyhow::Result<String> {
    let (token, path) = (lane.token(Role::Admin, 1), "/api/v1/admin/payments");
    let request = Request { method: "GET", path, token: &token, key: None, body: b"" };
    let answer = Client::new(port).once(&request).await?;
    let json = answer.json();
    Ok(json["breaker"].as_str().context("no breaker is shown")?.to_owned())
}
