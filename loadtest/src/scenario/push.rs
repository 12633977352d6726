//! Tracking sockets alone: what one costs that rests, and what a position costs on its way from
//! Redis to a client.
//!
//! Each socket watches a driver of its own. With a rate, frames of one position each are published
//! on the `live` channels, as the services' worker does it, and nothing goes through ingest, streams
//! and history. `push_ms` is from the writing of the PUBLISH to the receipt by the client. Memory is
//! read after the customers have their orders, and again when all sockets are open and have rested.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use contracts::{
    ids::EventId,
    position::Position,
    streams::{SHARDS_DEFAULT, epoch_key, frame_key, live_channel, shard_of},
};
use redis::{Script, aio::MultiplexedConnection};
use secrecy::SecretString;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{BadUsage, Meter, common::System};
use crate::{
    client::Target,
    menu::report::{CpuSplit, percentiles},
    pace::{Clock, Ticker, even_due_us, parse_duration, parse_rate, wall_us},
    plan::{Drivers, on_circle},
    report::{Percentiles, Threshold, ThresholdResult, judge, write_summary},
    sockets::{self, Watchers},
};

/// Sockets rest so long before their memory is read, and before anything is published.
const REST: Duration = Duration::from_secs(3);
/// How long the last positions may take to arrive.
const ARRIVE_WITHIN: Duration = Duration::from_secs(10);

/// A frame that goes on where the worker's last one ended: heartbeats of the worker repeat the
/// number, and a gap would make readers load everything again.
const PUBLISH: &str = "local epoch = redis.call('GET', KEYS[1])
if not epoch then return redis.error_reply('no worker has begun an epoch') end
local number = redis.call('INCR', KEYS[2])
return redis.call('PUBLISH', ARGV[1],
  struct.pack('>B', 1) .. epoch .. struct.pack('>I8', number) .. ARGV[2])";

/// Settings of `loadtest push`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Sockets, each of a customer and with a driver of its own
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    sockets: u32,
    /// Positions published per second; without it the sockets only rest
    #[arg(long, value_parser = parse_rate)]
    rate: Option<f64>,
    /// How long
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    duration: Duration,
    /// Publish for this long before measuring
    #[arg(long, default_value = "0s", value_parser = parse_duration)]
    warm_up: Duration,
    /// Base address of logistics
    #[arg(long, env = "LOGISTICS_URL", value_parser = |url: &str| Target::parse(url).map_err(|e| e.to_string()))]
    url: Target,
    /// The Redis that holds current positions
    #[arg(long, env = "REDIS_LIVE_URL", hide_env_values = true)]
    live_url: SecretString,
    /// The lowest driver id
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i64).range(1..=i64::MAX / 2))]
    first_driver: i64,
    /// How many shards the system has
    #[arg(long, default_value_t = SHARDS_DEFAULT, env = "GPS_SHARDS")]
    shards: u16,
    /// Write the summary as JSON to this file
    #[arg(long)]
    summary: Option<PathBuf>,
    /// Fail unless this holds, such as push_p99_ms<2; may be repeated
    #[arg(long = "threshold", value_parser = |text: &str| Threshold::parse_for(&Summary::full(), text))]
    thresholds: Vec<Threshold>,
    #[command(flatten)]
    system: System,
}

/// What a run showed. `null` means that it was not measured.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// `push`
    pub scenario: &'static str,
    /// Sockets.
    pub sockets: usize,
    /// Positions per second that were published; 0 when the sockets only rested.
    pub rate: f64,
    /// Positions published, the warm-up's included.
    pub published: u64,
    /// Location updates received.
    pub received: u64,
    /// Sockets whose last update is not their driver's newest position.
    pub behind: usize,
    /// Sockets opened again.
    pub reopened: u64,
    /// PUBLISH to receipt.
    pub push_ms: Option<Percentiles>,
    /// CPU time of the services per position, Redis and PostgreSQL left out.
    pub cpu_us_per_message: Option<f64>,
    /// The same with everybody's part.
    pub cpu_split_us: Option<CpuSplit>,
    /// CPU time of the generator per position: publishing and all clients.
    pub generator_cpu_us_per_message: Option<f64>,
    /// Resident memory of the services before the first socket, MB.
    pub memory_before_mb: Option<f64>,
    /// And with all of them at rest.
    pub memory_with_sockets_mb: Option<f64>,
    /// The difference for each socket, KB of 1,000 bytes.
    pub kb_per_socket: Option<f64>,
    /// Seconds that the figures are taken over.
    pub measured_s: f64,
    /// Every threshold and whether it held.
    pub thresholds: Vec<ThresholdResult>,
    /// Whether every position arrived and every threshold held.
    pub passed: bool,
}

/// Runs it; `stop` ends the publishing early.
///
/// # Errors
/// The call cannot work, or the run could not be made.
pub async fn start(args: &Args, stop: CancellationToken) -> anyhow::Result<Summary> {
    if args.rate.is_some() && args.warm_up >= args.duration {
        return Err(BadUsage("there must be positions after the warm-up".into()).into());
    }
    let (signer, tracker) = (args.system.signer()?, Arc::new(args.system.tracking_signer()?));
    let processes = args.system.processes()?;
    let drivers = Drivers { first: args.first_driver, count: args.sockets };
    let orders = sockets::order(&args.url, &signer, drivers, args.sockets).await?;
    let resident = || Some(processes.as_ref()?.service_memory()?.resident as f64 / 1e6);
    tokio::time::sleep(REST).await;
    let memory_before_mb = resident();
    let watchers = sockets::open(&args.url, tracker, orders, 0.0).await?;
    tokio::time::sleep(REST).await;
    let mut summary = Summary {
        scenario: "push",
        sockets: watchers.len(),
        rate: args.rate.unwrap_or(0.0),
        memory_before_mb,
        memory_with_sockets_mb: resident(),
        ..Summary::default()
    };
    let meter = Meter { processes: processes.clone(), probe_pid: None };
    let newest_us = match args.rate {
        Some(rate) => publish(args, rate, drivers, &watchers, &meter, &stop, &mut summary).await?,
        None => {
            stop.run_until_cancelled(tokio::time::sleep(args.duration)).await;
            // The greater: memory for what comes with time, such as pings, belongs to a socket too.
            let rested = resident();
            summary.memory_with_sockets_mb = summary
                .memory_with_sockets_mb
                .zip(rested)
                .map(|(at_once, rested)| at_once.max(rested));
            Vec::new()
        }
    };
    summary.kb_per_socket = summary
        .memory_before_mb
        .zip(summary.memory_with_sockets_mb)
        .map(|(before, with)| (with - before) * 1e3 / summary.sockets.max(1) as f64);
    let newest = |index: usize| newest_us.get(index).copied().filter(|at| *at > 0);
    watchers.settle(newest, ARRIVE_WITHIN).await;
    let pushes = watchers.close().await;
    summary.push_ms = Percentiles::of_us(&pushes.push_us);
    (summary.received, summary.reopened) = (pushes.updates, pushes.reopened);
    let behind = |(index, seen): (usize, &Option<i64>)| {
        newest(index).is_some_and(|newest| *seen != Some(newest))
    };
    summary.behind = pushes.newest_us.iter().enumerate().filter(|one| behind(*one)).count();
    summary.judge(&args.thresholds);
    write_summary(args.summary.as_deref(), &summary)?;
    Ok(summary)
}

/// Publishes at the rate, driver after driver; answers the newest timestamp of each.
async fn publish(
    args: &Args,
    rate: f64,
    drivers: Drivers,
    watchers: &Watchers,
    meter: &Meter,
    stop: &CancellationToken,
    summary: &mut Summary,
) -> anyhow::Result<Vec<i64>> {
    let client = platform::redis::client(&args.live_url)?;
    let mut redis = client.get_multiplexed_async_connection().await?;
    let script = Script::new(PUBLISH);
    script.load_async(&mut redis).await?;
    let (warm_us, end_us) = (args.warm_up.as_micros() as u64, args.duration.as_micros() as u64);
    let (clock, ticker) = (Clock::start(), Ticker::start()?);
    let mut newest_us = vec![0; drivers.count as usize];
    let (mut n, mut before, mut from) = (0, None, (0, 0));
    while even_due_us(n, rate) < end_us && !stop.is_cancelled() {
        ticker.next().await;
        let now_us = clock.now_us();
        if before.is_none() && now_us >= warm_us {
            before = Some(meter.read());
            from = (n, now_us);
            watchers.measure_from(wall_us());
        }
        let mut due = Vec::new();
        while even_due_us(n, rate) <= now_us.min(end_us - 1) {
            let index = (n % u64::from(drivers.count)) as u32;
            let at_us = wall_us();
            newest_us[index as usize] = at_us;
            due.push(on_circle(drivers.id(index), EventId(n), even_due_us(n, rate), at_us));
            n += 1;
        }
        send(&mut redis, &script, args.shards, &due).await.context("frames were not published")?;
    }
    watchers
        .settle(|index| newest_us.get(index).copied().filter(|at| *at > 0), ARRIVE_WITHIN)
        .await;
    summary.published = n;
    summary.measured_s = clock.now_us().saturating_sub(from.1) as f64 / 1e6;
    let (before, used) = (before.unwrap_or_default(), meter.read());
    let per_message = |us: u64| us as f64 / (n - from.0).max(1) as f64;
    summary.cpu_split_us = used.since(&before).map(|used| CpuSplit {
        service: per_message(used.service_us),
        redis: per_message(used.redis_us),
        postgres: per_message(used.postgres_us),
    });
    summary.cpu_us_per_message = summary.cpu_split_us.map(|split| split.service);
    summary.generator_cpu_us_per_message = used
        .own
        .zip(before.own)
        .map(|(after, before)| per_message(after.saturating_sub(before).as_micros() as u64));
    Ok(newest_us)
}

/// One frame for each position, all in one round trip.
async fn send(
    redis: &mut MultiplexedConnection,
    script: &Script,
    shards: u16,
    positions: &[Position],
) -> redis::RedisResult<()> {
    if positions.is_empty() {
        return Ok(());
    }
    let mut pipeline = redis::pipe();
    for position in positions {
        let shard = shard_of(position.driver_id, shards);
        let mut call = script.key(epoch_key(shard));
        call.key(frame_key(shard)).arg(live_channel(shard)).arg(&position.encode()[..]);
        pipeline.invoke_script(&call).ignore();
    }
    pipeline.exec_async(redis).await
}

impl Summary {
    /// One with every part, to know the names of all figures.
    fn full() -> Self {
        Self {
            push_ms: Some(Percentiles::default()),
            cpu_us_per_message: Some(0.0),
            cpu_split_us: Some(CpuSplit::default()),
            generator_cpu_us_per_message: Some(0.0),
            memory_before_mb: Some(0.0),
            memory_with_sockets_mb: Some(0.0),
            kb_per_socket: Some(0.0),
            ..Self::default()
        }
    }

    fn judge(&mut self, thresholds: &[Threshold]) {
        self.thresholds = judge(self, thresholds);
        self.passed = self.failures().is_empty();
    }

    /// What failed, in words.
    fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        if self.rate > 0.0 && self.published == 0 {
            failures.push("nothing was published".to_owned());
        }
        if self.behind > 0 {
            failures.push(format!("{} sockets did not get the newest position", self.behind));
        }
        failures.extend(self.thresholds.iter().filter_map(ThresholdResult::lapse));
        failures
    }

    /// The summary for people.
    pub fn to_text(&self) -> String {
        let mut lines = vec![(
            "sockets",
            format!("{}, {} opened again, {} behind", self.sockets, self.reopened, self.behind),
        )];
        if let (Some(before), Some(with), Some(each)) =
            (self.memory_before_mb, self.memory_with_sockets_mb, self.kb_per_socket)
        {
            lines.push((
                "memory at rest",
                format!("{each:.1} KB a socket: {before:.1} MB before, {with:.1} MB with them"),
            ));
        }
        if self.rate > 0.0 {
            lines.push((
                "positions",
                format!(
                    "{} published at {:.0}/s, {} received",
                    self.published, self.rate, self.received
                ),
            ));
        }
        if let Some(p) = &self.push_ms {
            lines.push(("published to socket", percentiles(p)));
        }
        if let Some(split) = self.cpu_split_us {
            let CpuSplit { service, redis, postgres } = split;
            lines.push((
                "CPU per position",
                format!("service {service:.1} µs, Redis {redis:.1}, PostgreSQL {postgres:.1}"),
            ));
        }
        if let Some(own) = self.generator_cpu_us_per_message {
            lines.push(("  the generator's", format!("{own:.1} µs")));
        }
        lines.extend(self.failures().into_iter().map(|failure| ("FAILED", failure)));
        let result = if self.passed { "passed" } else { "FAILED" };
        lines.push(("result", result.to_owned()));
        lines.iter().map(|(name, value)| format!("  {name:<22}{value}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_is_behind_fails_the_run_and_figures_have_names() {
        let mut summary = Summary { sockets: 2, rate: 1.0, published: 5, ..Summary::full() };
        summary.judge(&[Threshold::parse_for(&Summary::full(), "push_p99_ms<2").unwrap()]);
        assert!(summary.passed, "{}", summary.to_text());
        summary.behind = 1;
        summary.judge(&[]);
        assert!(!summary.passed && summary.to_text().contains("did not get"));
        assert!(Threshold::parse_for(&Summary::full(), "kb_per_socket<12").is_ok());
    }
}
