//! How long a start of logistics takes until every current position is there again: from the live
//! Redis, and, when that has lost everything, from the history.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use loadtest::client::{Caller, Target};
use platform::stores::{Launch, Process};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::{
    observe::var,
    print,
    service::{admin, start_logistics},
};

/// Fixes per second that make the positions.
const FILL_RATE: u32 = 5_000;
/// Drivers that are asked for again and again until all of them are there.
const SAMPLE: u32 = 100;
const COMPLETE_WITHIN: Duration = Duration::from_secs(30);
/// Most that one question about a place answers, and where the load's drivers are.
const NEARBY: &str = "/drivers/nearby?lat=37.76&lng=-122.45&radius=100000&limit=500";
const NEARBY_MAX: u32 = 500;

/// Settings of `bench-system start`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Drivers with a position
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    drivers: u32,
    /// Write the summary as JSON to this file
    #[arg(long)]
    summary: Option<PathBuf>,
}

/// One start.
struct Start {
    /// From exec to the first 200 of `/readyz`.
    ready: Duration,
    /// From exec until the sample and the nearest drivers were complete.
    complete: Duration,
    /// Drivers without a position, looked for after that.
    missing: u32,
}

/// Answers 1, as an exit code, when a position was missing.
pub(crate) async fn run(args: Args) -> anyhow::Result<bool> {
    let token = admin()?;

    let service = start_logistics().await?;
    service.ready().await?;
    fill(&args, service.url()).await?;
    service.stop().await?;
    let intact = start(&args, &token).await?;
    let url = SecretString::from(var("REDIS_LIVE_URL")?);
    let mut live = platform::redis::client(&url)?.get_multiplexed_async_connection().await?;
    let _: () = redis::cmd("FLUSHALL").query_async(&mut live).await?;
    let flushed = start(&args, &token).await?;

    let mut failed = false;
    for (name, start) in [("live Redis intact", &intact), ("live Redis flushed", &flushed)] {
        print(&format!(
            "  {name:<22}ready after {:.3} s, complete after {:.3} s, {} of {} missing\n",
            start.ready.as_secs_f64(),
            start.complete.as_secs_f64(),
            start.missing,
            args.drivers,
        ));
        failed |= start.missing > 0;
    }
    if let Some(file) = &args.summary {
        let summary = json!({
            "scenario": "start",
            "drivers": args.drivers,
            "intact_s": intact.complete.as_secs_f64(),
            "intact_ready_s": intact.ready.as_secs_f64(),
            "flushed_s": flushed.complete.as_secs_f64(),
            "flushed_ready_s": flushed.ready.as_secs_f64(),
            "missing": intact.missing + flushed.missing,
            "passed": !failed,
        });
        std::fs::write(file, summary.to_string())?;
    }
    Ok(failed)
}

/// One fix of each driver.
async fn fill(args: &Args, url: String) -> anyhow::Result<()> {
    let words = [
        "gps".to_owned(),
        "--rate".to_owned(),
        FILL_RATE.to_string(),
        "--drivers".to_owned(),
        args.drivers.to_string(),
        "--duration".to_owned(),
        format!("{}s", args.drivers.div_ceil(FILL_RATE)),
    ];
    let launch = Launch::new("loadtest").args(words).envs([("LOGISTICS_URL", url)]);
    let status = Process::spawn(&launch)?.wait().await;
    anyhow::ensure!(status.success(), "the positions were not all stored: {status}");
    Ok(())
}

async fn start(args: &Args, token: &str) -> anyhow::Result<Start> {
    let since = Instant::now();
    let service = start_logistics().await?;
    service.ready().await?;
    let ready = since.elapsed();
    tokio::time::timeout(COMPLETE_WITHIN, complete(args, &service.target, token))
        .await
        .context("the positions are not there")??;
    let complete = since.elapsed();
    let mut caller = Caller::new(service.target.clone());
    let mut missing = 0;
    for driver in 1..=args.drivers {
        missing += u32::from(!has_position(&mut caller, driver, token).await?);
    }
    service.stop().await?;
    Ok(Start { ready, complete, missing })
}

/// Waits until the sample is there, and as many drivers near as one answer holds.
async fn complete(args: &Args, target: &Target, token: &str) -> anyhow::Result<()> {
    let mut caller = Caller::new(target.clone());
    let step = (args.drivers / SAMPLE).max(1) as usize;
    for driver in (1..=args.drivers).step_by(step) {
        while !has_position(&mut caller, driver, token).await? {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    loop {
        let (status, body) = caller.call("GET", NEARBY, token, b"").await?;
        anyhow::ensure!(status == 200, "status {status}: {}", String::from_utf8_lossy(body));
        let answer: Value = serde_json::from_slice(body)?;
        let found = answer["drivers"].as_array().map_or(0, Vec::len);
        if found >= args.drivers.min(NEARBY_MAX) as usize {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn has_position(caller: &mut Caller, driver: u32, token: &str) -> anyhow::Result<bool> {
    let (status, _) =
        caller.call("GET", &format!("/drivers/{driver}/location"), token, b"").await?;
    anyhow::ensure!(matches!(status, 200 | 404), "status {status}");
    Ok(status == 200)
}
