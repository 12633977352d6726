//! An even stream of fixes from many drivers.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{BadUsage, Common, run};
use crate::{
    pace::{even_total, parse_duration, parse_rate},
    plan::Circles,
    report::Summary,
};

/// Settings of `loadtest gps`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Fixes per second, all drivers together
    #[arg(long, default_value = "2000", value_parser = parse_rate)]
    rate: f64,
    /// How many drivers send
    #[arg(long, default_value_t = 10_000)]
    drivers: u32,
    /// How long
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    duration: Duration,
    #[command(flatten)]
    common: Common,
}

/// Runs it.
pub async fn start(args: &Args, stop: CancellationToken) -> anyhow::Result<Summary> {
    let common = &args.common;
    let total = even_total(args.duration, args.rate);
    if total == 0 || total >= 1 << 40 {
        return Err(BadUsage(format!("{total} events make no run")).into());
    }
    let plan = Circles::new(common.drivers(args.drivers)?, args.rate, total, rand::random());
    let finished = run(common, "gps", args.rate, Arc::new(plan), stop).await?;
    common.conclude(finished.summary)
}
