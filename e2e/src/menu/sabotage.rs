//! The checks of menus can fail: many writes on few restaurants, through two nodes that break a
//! promise or keep all.

use std::{path::PathBuf, time::Duration};

use anyhow::ensure;
use rand::{SeedableRng as _, rngs::StdRng};

use super::{
    Run,
    load::{Load, Summary},
    site::Site,
    untold,
    windows::ANSWERED_MIN,
};
use crate::world::Programs;

/// Four more than the witness has for itself.
const RESTAURANTS: usize = 24;
const ITEMS: usize = 10;
const LOAD: Load = Load { rate: 150, writes_percent: 30 };
const LASTS: Duration = Duration::from_secs(15);

/// How often I10 was broken, in words, by nodes that run the program `node` and break the promise
/// of that name; empty when it held.
pub(crate) async fn round(
    programs: Programs,
    node: PathBuf,
    sabotage: &str,
    seed: u64,
) -> anyhow::Result<Vec<String>> {
    let site = Box::pin(Site::start(programs, node, &[("SABOTAGE", sabotage)], RESTAURANTS, ITEMS))
        .await?;
    let mut rng = StdRng::seed_from_u64(seed);
    let run = Run::start(&site, "sabotage", LOAD, None, &mut rng).await?;
    tokio::time::sleep(LASTS).await;
    let untold = untold(&run.nodes).await?;
    let testimony = run.witness.conclude().await?;
    run.load.stop();
    let (_, summary) = run.load.ended::<Summary>().await?;
    // Then nothing was promised.
    ensure!(untold == 0.0, "Redis did not answer {untold:.0} announcements in time");
    // A service that does not answer would break nothing.
    ensure!(summary.answered() >= ANSWERED_MIN, "the load failed: {:?}", summary.statuses);
    ensure!(testimony.odd.is_empty(), "odd answers: {:?}", testimony.odd);
    let mut failures = Vec::from_iter(summary.broken());
    if let Some(first) = testimony.violations.first() {
        let (count, what) = (testimony.violations.len(), &first.what);
        failures.push(format!("the witness {count} times: {what}"));
    }
    Ok(failures)
}
