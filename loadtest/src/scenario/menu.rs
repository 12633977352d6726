//! Readers of menus and operators who change them; every answer is checked.
//!
//! - Restaurants are asked for by Zipf popularity (exponent 1). With `--cold` all caches are
//!   dropped before the run and whenever every restaurant was asked for once, and restaurants are
//!   asked for in turn: so nearly every read is a miss, as `hit_ratio` shows.
//! - With `--writes` operators toggle one item, several items, and the status, in turn. Popular
//!   restaurants are written to more; every third has two operators who write at the same time.
//!   Reads follow the writes (see [`crate::menu::choose`]), and once all is quiet every document
//!   that was written to is read again from every node.
//! - With `--readers` a burst comes first: one restaurant is dropped from the caches, and so many
//!   connections ask for it at once.
//! - A request is sent at most once.
//!
//! [`crate::menu::check`] says what is checked. Nobody else may write meanwhile.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::ValueEnum as _;
use platform::auth::{Role, Signer};
use rand::{SeedableRng as _, rngs::SmallRng};
use tokio_util::sync::CancellationToken;

use super::{
    BadUsage, Meter,
    common::{System, TOKEN_TTL},
};
use crate::{
    client::{Caller, Target},
    menu::{
        Encoding, What, catalogue,
        check::Start,
        choose::{Chooser, Habits},
        lists,
        report::{CpuSplit, Summary},
        send::{self, Settings, Signals, World},
        write::{Operators, Place},
    },
    pace::{even_total, parse_duration, parse_rate, parse_share},
    progress::Progress,
    report::{Threshold, write_summary},
    send::Live,
};

/// Items of a restaurant that are written to.
const ITEMS: usize = 8;
/// Operators of load runs; far from those of other uses.
const FIRST_OPERATOR: i64 = 7_000_000_000;

/// Settings of `loadtest menu`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Operations per second, reads and writes together
    #[arg(long, default_value = "2000", value_parser = parse_rate)]
    rate: f64,
    /// How long
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    duration: Duration,
    /// How many restaurants are read, of those that the service lists first
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    restaurants: u32,
    /// The share of operations that are operators' writes
    #[arg(long, default_value = "0%", value_parser = parse_share)]
    writes: f64,
    /// How many restaurants are written to: half of them the most popular, half spread evenly
    #[arg(long, default_value_t = 200)]
    written: u32,
    /// Drop all caches first, and again whenever every restaurant was asked for; ask in turn
    #[arg(long)]
    cold: bool,
    /// Base address of a node, such as <http://127.0.0.1:8001>; may be repeated
    #[arg(long, env = "MENU_URL", required = true, value_delimiter = ',', value_parser = |url: &str| Target::parse(url).map_err(|e| e.to_string()))]
    url: Vec<Target>,
    /// Most connections to all nodes together; requests wait while all are busy, and the wait counts
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// What readers accept
    #[arg(long, value_enum, default_value = "identity")]
    encoding: Encoding,
    /// Before the run, drop the most popular restaurant and let this many ask for it at once
    #[arg(long, default_value_t = 0)]
    readers: u16,
    /// Send for this long before measuring; the check covers these operations too
    #[arg(long, default_value = "0s", value_parser = parse_duration)]
    warm_up: Duration,
    /// What readers ask for
    #[arg(long, value_enum, default_value = "mix")]
    what: What,
    /// The share of reads that send the newest ETag seen and may be answered 304
    #[arg(long, default_value = "0%", value_parser = parse_share)]
    revalidate: f64,
    /// The share of answers about restaurants that are written to whose content is checked; without
    /// an encoding, all are for two seconds after each write
    #[arg(long, default_value = "2%", value_parser = parse_share)]
    check_content: f64,
    /// Every random choice follows from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the summary as JSON to this file
    #[arg(long)]
    summary: Option<PathBuf>,
    /// Fail unless this holds, such as latency_p99_ms<5; may be repeated
    #[arg(long = "threshold", value_parser = |text: &str| Threshold::parse_for(&Summary::full(), text))]
    thresholds: Vec<Threshold>,
    #[command(flatten)]
    system: System,
}

/// Runs it.
pub async fn start(args: &Args, stop: CancellationToken) -> anyhow::Result<Summary> {
    let signer = args.system.signer()?;
    let processes = args.system.processes()?;
    let total = even_total(args.duration, args.rate);
    if total == 0 || args.warm_up >= args.duration {
        return Err(BadUsage("there must be operations after the warm-up".into()).into());
    }
    let admin = signer.access(Role::Admin, 1, &[], TOKEN_TTL);
    let world = world(args, &signer, &admin).await?;
    let (restaurants, written) = (world.ids.len(), world.starts.len());

    let settings = Settings {
        nodes: args.url.clone(),
        connections: usize::from(args.connections),
        encoding: args.encoding,
        rate: args.rate,
        total,
        warm_up: args.warm_up,
        habits: habits(args),
        sampled: args.check_content,
        readers: usize::from(args.readers),
        admin,
    };
    let live = Arc::new(Live::default());
    let meter = Meter { processes, probe_pid: None };
    let (started, clock) = tokio::sync::oneshot::channel();
    let (quiet, mut is_quiet) = tokio::sync::oneshot::channel();
    let signals = Signals { live: Arc::clone(&live), started, quiet };
    let sending = tokio::spawn(send::run(settings, world, signals, stop));
    // Without a clock the sender has failed, and says why below.
    let cpu = match clock.await {
        Ok(clock) => {
            let progress = Progress::of(total, live);
            let warm_us = args.warm_up.as_micros() as u64;
            let left = Duration::from_micros(warm_us.saturating_sub(clock.now_us()));
            let measured = match tokio::time::timeout(left, &mut is_quiet).await {
                // It was stopped before there was anything to measure, or has failed.
                Ok(_) => None,
                Err(_) => {
                    let before = meter.read();
                    let is_over = is_quiet.await.is_ok();
                    is_over.then(|| (before, meter.read()))
                }
            };
            progress.finish();
            measured
        }
        Err(_) => None,
    };
    let outcome = sending.await.context("the sending task failed")??;

    let mut summary = Summary {
        requested_rate: args.rate,
        what: args.what.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned()),
        encoding: args.encoding.name(),
        restaurants,
        written,
        nodes: args.url.len(),
        seed: args.seed,
        warm_up_s: args.warm_up.as_secs_f64(),
        ..Summary::of(outcome)
    };
    if let Some((before, used)) = cpu {
        let requests = (summary.ok + summary.failed).max(1) as f64;
        let per_request = |us: u64| us as f64 / requests;
        let split = used.since(&before).map(|used| CpuSplit {
            service: per_request(used.service_us),
            redis: per_request(used.redis_us),
            postgres: per_request(used.postgres_us),
        });
        summary.cpu_split_us = split;
        summary.cpu_us_per_request = split.map(|cpu| cpu.service + cpu.redis + cpu.postgres);
        summary.generator_cpu_us_per_request = used
            .own
            .zip(before.own)
            .map(|(after, before)| per_request(after.saturating_sub(before).as_micros() as u64));
    }
    summary.judge(&args.thresholds);
    write_summary(args.summary.as_deref(), &summary)?;
    Ok(summary)
}

fn habits(args: &Args) -> Habits {
    Habits {
        what: args.what,
        writes: args.writes,
        revalidate: args.revalidate,
        cold: args.cold,
        seed: args.seed,
    }
}

/// Asks the service what there is, and decides who writes to what.
async fn world(args: &Args, signer: &Signer, admin: &str) -> anyhow::Result<World> {
    let mut caller = Caller::new(args.url[0].clone());
    let count = args.restaurants as usize;
    let listed = catalogue::restaurants(&mut caller, admin, count)
        .await
        .context("the restaurants cannot be listed")?;
    if listed.len() < count {
        let there = listed.len();
        return Err(BadUsage(format!(
            "{count} restaurants are wanted, and there are {there}; --restaurants takes fewer"
        ))
        .into());
    }
    let ids: Vec<i64> = listed.iter().map(|one| one.restaurant_id).collect();
    let queries = match args.what {
        What::List => lists::queries(&listed, count, args.seed),
        _ => Vec::new(),
    };
    let chooser = Chooser::new(habits(args), args.restaurants, args.url.len());
    let (mut starts, mut places) = (Vec::<(u32, Start)>::new(), Vec::new());
    if args.writes > 0.0 {
        for restaurant in spread(chooser.ranks(), args.written as usize) {
            let id = ids[restaurant as usize];
            let start = catalogue::start(&mut caller, admin, id, ITEMS).await?;
            // A restaurant without a menu has nothing to toggle.
            if start.items.is_empty() {
                continue;
            }
            let operator = FIRST_OPERATOR + i64::from(restaurant);
            places.push(Place {
                restaurant,
                id,
                items: start.items.iter().map(|(id, _)| *id).collect(),
                tokens: [
                    signer.access(Role::Operator, operator, &[id], TOKEN_TTL),
                    admin.to_owned(),
                ],
            });
            starts.push((restaurant, start));
        }
        if places.is_empty() {
            return Err(BadUsage("no restaurant has a menu that can be written to".into()).into());
        }
    }
    let operators = Operators::new(places, SmallRng::seed_from_u64(args.seed));
    Ok(World { ids, queries, starts, operators, chooser })
}

/// Up to `count` of the ranks: half of them the first, half at even distances among the others.
fn spread(ranks: &[u32], count: usize) -> Vec<u32> {
    let count = count.min(ranks.len());
    let (first, others) = ranks.split_at(count.div_ceil(2));
    let left = count - first.len();
    let step = (others.len() / left.max(1)).max(1);
    first.iter().chain(others.iter().step_by(step).take(left)).copied().collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn settings_are_read_or_refused() {
        let parse = |flags: &[&str]| {
            let fixed = ["loadtest", "--signing-key-file", "k.pem", "--url", "http://a:1"];
            Cli::<Args>::try_parse_from(fixed.iter().chain(flags))
        };
        let args = parse(&["--url", "http://b:2,http://c:3", "--what", "menu-with-status"]);
        let args = args.unwrap().args;
        assert_eq!(args.url.len(), 3);
        assert_eq!(args.what, What::MenuWithStatus);
        let args = parse(&["--writes", "1%", "--encoding", "br", "--threshold", "hit_ratio>0.9"]);
        assert_eq!(args.unwrap().args.writes, 0.01);
        for bad in [
            ["--url", "x"],
            ["--writes", "2"],
            ["--encoding", "deflate"],
            ["--what", "all"],
            ["--threshold", "accept_p99_ms<1"],
            ["--restaurants", "0"],
        ] {
            assert!(parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn writes_go_to_the_popular_and_to_others() {
        let ranks: Vec<u32> = (0..100).collect();
        assert_eq!(spread(&ranks, 6), [0, 1, 2, 3, 35, 67]);
        assert_eq!(spread(&ranks, 1), [0]);
        assert_eq!(spread(&ranks, 0), [0_u32; 0]);
        let all = spread(&ranks[..7], 50);
        assert_eq!(all, ranks[..7]);
    }
}
