//! Customers who order and pay; every order is followed to the end of its payment, and compared
//! with the gateway's ledger.
//!
//! - Arrivals come at an even rate, whatever the answers. Customers and restaurants are equally
//!   likely; restaurants are made, or found again, through menu-api.
//! - Each arrival has a key of its own. What has no answer, or is refused for now, is sent again
//!   under the same key. Keys that were sent more than once, and some others, are used once more
//!   after their answer, which must come again byte for byte.
//! - When all is quiet, orders and ledger are read and compared (see [`mod@crate::orders::judge`]).

use std::{
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use platform::auth::{Role, Signer};
use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    BadUsage, Meter, Reading,
    common::{System, TOKEN_TTL},
};
use crate::{
    client::{Caller, Target},
    menu::report::CpuSplit,
    orders::{
        basket::{Baskets, Customers, Keys},
        books::Reader,
        judge::judge,
        kitchens,
        report::Summary,
        send::{self, Fate, Outcome, Settings},
        settle::{self, Follower, Payments, Settlement},
    },
    pace::{Clock, even_due_us, even_total, parse_duration, parse_rate, parse_share, wall_us},
    progress::Progress,
    report::{Percentiles, Threshold, write_summary},
    send::{Live, histogram},
};

/// Customers of one run; the next second's run has others.
const CUSTOMERS_MAX: i64 = 1_000_000;
/// How often is looked whether all payments have ended, and how often that is told.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Settings of `loadtest orders`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Orders per second
    #[arg(long, default_value = "100", value_parser = parse_rate)]
    rate: f64,
    /// How long
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    duration: Duration,
    /// Lines of each order
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    lines: u8,
    /// How many customers order
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=CUSTOMERS_MAX))]
    customers: u32,
    /// How many restaurants are ordered from; they are made where they are missing
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    restaurants: u32,
    /// Base address of a node of order-api, such as <http://127.0.0.1:8000>; may be repeated
    #[arg(long, env = "ORDER_URL", required = true, value_delimiter = ',', value_parser = |url: &str| Target::parse(url).map_err(|e| e.to_string()))]
    url: Vec<Target>,
    /// Base address of menu-api
    #[arg(long, env = "MENU_URL", value_parser = |url: &str| Target::parse(url).map_err(|e| e.to_string()))]
    menu_url: Target,
    /// Base address of the payment gateway, whose ledger is compared; without it nothing is
    #[arg(long, env = "PAYMENT_GATEWAY_URL", requires = "gateway_key", value_parser = |url: &str| Target::parse(url).map_err(|e| e.to_string()))]
    gateway_url: Option<Target>,
    /// The gateway's key
    #[arg(long, env = "PAYMENT_GATEWAY_KEY", hide_env_values = true)]
    gateway_key: Option<SecretString>,
    /// The Redis that holds the events of orders; without it orders are asked for
    #[arg(long, env = "REDIS_QUEUE_URL", hide_env_values = true)]
    queue_url: Option<SecretString>,
    /// Most connections to all nodes together; orders wait while all are busy, and the wait counts
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// How long after the end requests are still repeated, and after that payments waited for
    #[arg(long, default_value = "120s", value_parser = parse_duration)]
    payment_wait: Duration,
    /// Send what has no answer again, under its key
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    retry: bool,
    /// The share of orders whose key is used again after the answer
    #[arg(long, default_value = "1%", value_parser = parse_share)]
    replays: f64,
    /// Send for this long before measuring; the check covers these orders too
    #[arg(long, default_value = "0s", value_parser = parse_duration)]
    warm_up: Duration,
    /// Every random choice but ids and keys follows from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the summary as JSON to this file
    #[arg(long)]
    summary: Option<PathBuf>,
    /// Fail unless this holds, such as latency_p99_ms<500; may be repeated
    #[arg(long = "threshold", value_parser = |text: &str| Threshold::parse_for(&Summary::full(), text))]
    thresholds: Vec<Threshold>,
    #[command(flatten)]
    system: System,
}

/// Runs it; `stop` ends the load early, and what was sent is checked all the same.
///
/// # Errors
/// The call cannot work, or the run could not be made or checked.
pub async fn start(args: &Args, stop: CancellationToken) -> anyhow::Result<Summary> {
    let signer = args.system.signer()?;
    let processes = args.system.processes()?;
    let total = even_total(args.duration, args.rate);
    if total == 0 || args.warm_up >= args.duration {
        return Err(BadUsage("there must be orders after the warm-up".into()).into());
    }
    let admin = signer.access(Role::Admin, 1, &[], TOKEN_TTL);
    let mut menus = Caller::new(args.menu_url.clone());
    let customers =
        Customers { first: wall_us() / 1_000_000 * CUSTOMERS_MAX, count: args.customers };
    let baskets = Arc::new(Baskets {
        kitchens: kitchens::open(&mut menus, &admin, args.restaurants).await?,
        customers,
        lines: usize::from(args.lines),
        seed: args.seed,
        keys: Keys::new(),
    });
    let settings = settings(args, &signer, customers, total);
    let follower = match &args.queue_url {
        Some(url) => Some(Follower::new(platform::redis::Redis::open(url)?).await),
        None => None,
    };

    let payments = Arc::new(Payments::default());
    let meter = Meter { processes, probe_pid: None };
    let live = Arc::new(Live::default());
    let clock = Clock::start();
    let (seen, watching) = (CancellationToken::new(), TaskTracker::new());
    if let Some(follower) = follower {
        watching.spawn(follower.run(Arc::clone(&payments), customers, clock, seen.clone()));
    }
    watching.spawn(settle::ask(
        Caller::new(args.url[0].clone()),
        admin.clone(),
        Arc::clone(&payments),
        clock,
        seen.clone(),
    ));
    watching.close();
    let sending = tokio::spawn(send::run(
        settings,
        Arc::clone(&baskets),
        Arc::clone(&payments),
        clock,
        Arc::clone(&live),
        stop.clone(),
    ));
    let progress = Progress::of(total, Arc::clone(&live));
    // A run that is stopped within its warm-up has nothing to measure.
    let warmed = stop.run_until_cancelled(tokio::time::sleep(args.warm_up)).await.is_some();
    let (before, accepted_before) = (meter.read(), live.accepted.load(Ordering::Relaxed));
    let outcome = sending.await.context("the sending task failed")?;
    progress.finish();
    let outcome = outcome?;
    let since = Instant::now();
    until_settled(&payments, args.payment_wait).await;
    let settle_s = since.elapsed().as_secs_f64();
    let used = meter.read();
    seen.cancel();
    watching.wait().await;

    let mut summary = Summary {
        requested_rate: args.rate,
        paid_ms: paid(args, &outcome, &payments),
        settled_by_asking: payments.asked(),
        contradicted: payments.contradicted(),
        settle_s,
        restaurants: baskets.kitchens.len(),
        customers: args.customers,
        lines: baskets.lines,
        nodes: args.url.len(),
        seed: args.seed,
        warm_up_s: args.warm_up.as_secs_f64(),
        ..Summary::of(&outcome, live.measured.load(Ordering::Relaxed))
    };
    if warmed {
        let orders = live.accepted.load(Ordering::Relaxed) - accepted_before;
        cost(&mut summary, orders, &before, &used);
    }
    check(args, admin, &baskets, &outcome, clock, &mut summary).await?;
    summary.judge(&args.thresholds);
    write_summary(args.summary.as_deref(), &summary)?;
    Ok(summary)
}

fn settings(args: &Args, signer: &Signer, customers: Customers, total: u64) -> Settings {
    let token = |index| signer.access(Role::Customer, customers.id(index), &[], TOKEN_TTL);
    Settings {
        nodes: args.url.clone(),
        connections: usize::from(args.connections),
        tokens: (0..customers.count).map(token).collect(),
        rate: args.rate,
        total,
        warm_up: args.warm_up,
        wait: args.payment_wait,
        retry: args.retry,
        replays: args.replays,
    }
}

/// Waits for the end of every payment, and tells how many are left.
async fn until_settled(payments: &Payments, wait: Duration) {
    payments.ask_anyway.store(true, Ordering::Relaxed);
    let since = Instant::now();
    let mut told = Instant::now();
    loop {
        let left = payments.unsettled();
        if left == 0 || since.elapsed() > wait {
            return;
        }
        if told.elapsed() >= TELL_EVERY && !std::io::stderr().is_terminal() {
            told = Instant::now();
            let _nobody_reads = writeln!(std::io::stderr(), "{left} payments have no end yet");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Due times to the ends of payments.
fn paid(args: &Args, outcome: &Outcome, payments: &Payments) -> Option<Percentiles> {
    let mut paid_us = histogram();
    let warm_up_us = args.warm_up.as_micros() as u64;
    for (n, fate) in (0..).zip(&outcome.fates) {
        let due_us = even_due_us(n, args.rate);
        if let Fate::Accepted { order, .. } = fate
            && due_us >= warm_up_us
            && let Some(Settlement { at_us, .. }) = payments.of(*order)
        {
            paid_us.saturating_record(at_us.saturating_sub(due_us));
        }
    }
    Percentiles::of_us(&paid_us)
}

fn cost(summary: &mut Summary, orders: u64, before: &Reading, used: &Reading) {
    let per_order = |us: u64| us as f64 / orders.max(1) as f64;
    let split = used.since(before).map(|used| CpuSplit {
        service: per_order(used.service_us),
        redis: per_order(used.redis_us),
        postgres: per_order(used.postgres_us),
    });
    summary.cpu_split_us = split;
    summary.cpu_us_per_order = split.map(|cpu| cpu.service + cpu.redis + cpu.postgres);
    let own = used.own.zip(before.own);
    summary.generator_cpu_us_per_order =
        own.map(|(after, before)| per_order(after.saturating_sub(before).as_micros() as u64));
}

/// Reads what the service and the gateway have, and compares it with what was answered.
async fn check(
    args: &Args,
    admin: String,
    baskets: &Baskets,
    outcome: &Outcome,
    clock: Clock,
    summary: &mut Summary,
) -> anyhow::Result<()> {
    let start_ms = clock.wall_us(0).max(0) as u64 / 1_000;
    let accepted = outcome.fates.iter().filter_map(|fate| match fate {
        Fate::Accepted { order, .. } => Some(*order),
        _ => None,
    });
    let mut service = Reader::new(args.url[0].clone(), admin);
    let orders = service
        .orders(baskets.customers, start_ms, accepted)
        .await
        .context("the orders cannot be read back")?;
    let ledger = match (&args.gateway_url, &args.gateway_key) {
        (Some(url), Some(key)) => {
            let mut gateway = Reader::new(url.clone(), key.expose_secret().to_owned());
            Some(gateway.ledger(start_ms).await.context("the ledger cannot be read")?)
        }
        _ => None,
    };
    let findings = judge(baskets, &outcome.fates, &orders, ledger.as_ref(), start_ms);
    summary.check(findings, ledger.is_some());
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn settings_are_read_or_refused() {
        let parse = |flags: &[&str]| {
            let fixed = ["loadtest", "--signing-key-file", "k.pem", "--menu-url", "http://m:1"];
            Cli::<Args>::try_parse_from(fixed.iter().chain(flags))
        };
        let url = ["--url", "http://a:1,http://b:2"];
        let args = parse(&[&url[..], &["--retry", "--payment-wait", "2m"]].concat()).unwrap().args;
        assert_eq!((args.url.len(), args.retry), (2, true));
        assert_eq!(args.payment_wait, Duration::from_secs(120));
        let args = parse(&[&url[..], &["--retry=false", "--replays", "5%"]].concat()).unwrap().args;
        assert_eq!((args.retry, args.replays), (false, 0.05));
        for bad in [
            ["--lines", "0"],
            ["--customers", "0"],
            ["--restaurants", "0"],
            ["--rate", "0"],
            ["--threshold", "accept_p99_ms<1"],
        ] {
            assert!(parse(&[&url[..], &bad].concat()).is_err(), "{bad:?}");
        }
    }
}
