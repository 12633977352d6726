//! All Redis away, and empty when they are back.

use std::time::Duration;

use anyhow::ensure;
use rand::{Rng as _, rngs::StdRng};
use redis::AsyncCommands as _;

use super::{FATES, HASTY, Plan, Round, books::Books, buy::Shop, check, load::Load};
use crate::world::connect;

const RATE: u32 = 20;
const AWAY: Duration = Duration::from_secs(60);
const AWAY_QUICK: Duration = Duration::from_secs(10);
/// The load runs for this long before and after.
const AROUND: Duration = Duration::from_secs(4);
/// All is settled so soon after Redis is back.
const SETTLED_MAX: Duration = Duration::from_secs(60);

pub(super) async fn redis(plan: &Plan, round: &mut Round, rng: &mut StdRng) -> anyhow::Result<()> {
    let (site, stack) = (&plan.site, &plan.site.world.stack);
    let lane = site.lane("redis-away", HASTY, &[]).await?;
    let node = site.node(&lane, "all", "all").await?;
    let shop = Shop::new(&lane, &site.restaurants, &[node.port]);
    let customers = lane.new_customers();
    let load = Load::start(shop.clone(), customers.clone(), RATE, FATES, rng.random());
    tokio::time::sleep(AROUND).await;
    let all = [&lane.queue, &stack.queue, &stack.live, &stack.cache];
    all.iter().for_each(|redis| redis.kill());
    round.faults += 1;
    tokio::time::sleep(if plan.args.quick { AWAY_QUICK } else { AWAY }).await;
    let (taken,): (i64,) =
        sqlx::query_as("SELECT count(*) FROM orders").fetch_one(&lane.db).await?;
    for redis in all {
        redis.restart().await?;
        let () = connect(redis).await?.flushall().await?;
        round.faults += 1;
    }
    tokio::time::sleep(AROUND).await;
    let orders = load.conclude().await?;
    ensure!(!orders.placed.is_empty(), "nothing was ordered");
    if !orders.refused.is_empty() {
        round.failures.push(format!("not every order was taken at once: {}", orders.repeats()));
    }
    round.notes.push(format!("{taken} orders were taken before Redis was back"));

    let (quiet, left) = lane.until_quiet(SETTLED_MAX).await?;
    (round.quiet, round.slowest) = (AROUND + quiet, orders.slowest);
    if left != super::Left::default() || round.quiet > SETTLED_MAX {
        round.failures.push(format!("I4 not quiet {:.0?} after healing: {left:?}", round.quiet));
    }
    let mut books =
        Books::read(&lane, &customers, orders.placed.clone(), &mut Default::default()).await?;
    // Redis was told to forget.
    books.stream = None;
    round.found = check::judge(&books);
    round.failures.extend(orders.odd.iter().take(3).cloned());
    round.failures.extend(round.found.failures());
    round.failures.extend(super::again(&shop, node.port, &orders).await);
    round.failures.extend(node.bad_log_lines());
    node.terminate().await.map(drop)
}
