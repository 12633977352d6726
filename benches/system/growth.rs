//! Whether a fix costs the same with more drivers and with more stored rows, and how long the route
//! of a day takes among many rows.
//!
//! The same load of batches again and again, in one run on the same stores: with 1,000, 10,000 and
//! 100,000 drivers, then on the history as it is, and with the rows.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use chrono::{SecondsFormat, TimeDelta, Utc};
use loadtest::{
    client::{Caller, Target},
    pace::{parse_duration, parse_rate},
};
use platform::postgres::{self, Limits};
use platform::stores::{Launch, Process};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::{
    fill::{DAYS, Filled, POINTS_A_DAY, fill},
    observe::var,
    print,
    row::thousands,
    service::admin,
};

/// Routes that are read, each of another driver and day.
const ROUTES: usize = 300;

/// Settings of `bench-system growth`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rows that are stored
    #[arg(long, default_value_t = 50_000_000)]
    rows: u64,
    /// Fixes per second of each load, in batches of 100
    #[arg(long, default_value = "40000", value_parser = parse_rate)]
    rate: f64,
    /// How long each load lasts
    #[arg(long, default_value = "20s", value_parser = parse_duration)]
    duration: Duration,
    /// The part of it before CPU time is counted
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    warm_up: Duration,
    /// Write the summary as JSON to this file
    #[arg(long)]
    summary: Option<PathBuf>,
}

/// Answers 1, as an exit code, when a check failed.
pub(crate) async fn run(args: Args) -> anyhow::Result<bool> {
    let url = SecretString::from(var("LOGISTICS_DATABASE_URL")?);
    let db = postgres::pool(&url, "bench-system", 2, Limits::TOOL)?;
    let mut passed = true;
    let mut load = async |name: &str, drivers: u32| {
        let summary = load(&args, drivers).await?;
        passed &= summary["passed"] == true;
        let us = summary.pointer("/cpu_us_per_event/total").and_then(Value::as_f64);
        let us = us.context("CPU time was not measured")?;
        let part = |part: &str| summary["cpu_us_per_event"][part].as_f64().unwrap_or_default();
        print(&format!(
            "  {name:<22}{us:.1} µs an event: service {:.1}, Redis {:.1}, PostgreSQL {:.1}\n",
            part("service"),
            part("redis"),
            part("postgres")
        ));
        anyhow::Ok(us)
    };
    let few = load("1,000 drivers", 1_000).await?;
    let some = load("10,000 drivers", 10_000).await?;
    let many = load("100,000 drivers", 100_000).await?;
    let empty = load("10,000 again", 10_000).await?;
    let since = Instant::now();
    // Nothing of it is younger than what the loads have sent.
    let filled = fill(&db, args.rows, Utc::now() - TimeDelta::minutes(10)).await?;
    print(&format!(
        "  stored                {} rows of {} drivers in {:.0} s, {:.0} bytes each with indexes\n",
        thousands(filled.rows as f64),
        filled.drivers,
        since.elapsed().as_secs_f64(),
        filled.bytes as f64 / filled.rows.max(1) as f64,
    ));
    let full = load("10,000 with the rows", 10_000).await?;
    let (routes, wrong) = routes(&filled).await?;
    print(&format!(
        "  route of a day        p50 {:.1} ms, p99 {:.1}, max {:.1}: {ROUTES} of {POINTS_A_DAY} points, {wrong} wrong\n",
        routes[0], routes[1], routes[2]
    ));
    passed &= wrong == 0;
    let percent = |from: f64, to: f64| (to / from - 1.0) * 100.0;
    // The worst of the steps; what got cheaper is no growth.
    let drivers_percent = percent(few, some).max(percent(few, many));
    if let Some(file) = &args.summary {
        let summary = json!({
            "scenario": "growth",
            "rows": filled.rows,
            "bytes": filled.bytes,
            "cpu_us_1k": few,
            "cpu_us_10k": some,
            "cpu_us_100k": many,
            "cpu_us_empty": empty,
            "cpu_us_full": full,
            "drivers_percent": drivers_percent,
            "rows_percent": percent(empty, full),
            "route_ms": { "p50": routes[0], "p99": routes[1], "max": routes[2] },
            "passed": passed,
        });
        std::fs::write(file, summary.to_string())?;
    }
    Ok(!passed)
}

/// One load of batches; answers its summary.
async fn load(args: &Args, drivers: u32) -> anyhow::Result<Value> {
    let file = tempfile::NamedTempFile::new()?;
    let ms = |time: Duration| format!("{}ms", time.as_millis());
    let words = ["gps", "--batch", "100", "--rate"].map(str::to_owned).into_iter().chain([
        args.rate.to_string(),
        "--drivers".to_owned(),
        drivers.to_string(),
        "--duration".to_owned(),
        ms(args.duration),
        "--warm-up".to_owned(),
        ms(args.warm_up),
        "--summary".to_owned(),
        file.path().display().to_string(),
    ]);
    // Its text would hide the few lines that count.
    let launch = Launch::new("loadtest").args(words).server(log()?);
    let status = Process::spawn(&launch)?.wait().await;
    let summary = std::fs::read(file.path())?;
    anyhow::ensure!(!summary.is_empty(), "loadtest failed: {status}");
    Ok(serde_json::from_slice(&summary)?)
}

fn log() -> anyhow::Result<PathBuf> {
    let folder = std::env::var_os(crate::observe::FILES).map(PathBuf::from);
    Ok(folder.unwrap_or(std::env::current_dir()?).join("growth-loads.log"))
}

/// Reads whole days of drivers through the API; answers p50, p99 and the largest time in ms, and
/// how many answers did not have all points.
async fn routes(filled: &Filled) -> anyhow::Result<([f64; 3], usize)> {
    let token = admin()?;
    let mut caller = Caller::new(Target::parse(&var("LOGISTICS_URL")?)?);
    let mut rng = StdRng::seed_from_u64(1);
    let (mut times_ms, mut wrong) = (Vec::with_capacity(ROUTES), 0);
    for _ in 0..ROUTES {
        let driver = rng.random_range(1..=filled.drivers);
        let day = filled.from + TimeDelta::days(rng.random_range(0..DAYS));
        let text = |at: chrono::DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let path = format!(
            "/drivers/{driver}/route?start_time={}&end_time={}&limit=10000",
            text(day),
            text(day + TimeDelta::days(1))
        );
        let since = Instant::now();
        let (status, body) = caller.call("GET", &path, &token, b"").await?;
        times_ms.push(since.elapsed().as_secs_f64() * 1e3);
        anyhow::ensure!(status == 200, "status {status}: {}", String::from_utf8_lossy(body));
        let route: Value = serde_json::from_slice(body)?;
        let points = route["locations"].as_array().map_or(0, Vec::len) as u64;
        wrong += usize::from(points != POINTS_A_DAY);
    }
    times_ms.sort_by(f64::total_cmp);
    let at = |share: f64| times_ms[((ROUTES as f64 * share) as usize).min(ROUTES - 1)];
    Ok(([at(0.5), at(0.99), times_ms[ROUTES - 1]], wrong))
}
