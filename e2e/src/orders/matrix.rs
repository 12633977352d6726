//! The crash matrix: in each of the gateway's modes, a process that does everything dies at each of
//! the places where it matters.

use std::{
    collections::BTreeMap,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use payment_sim::mode::Mode;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;
use tokio::task::JoinSet;

use super::{
    Plan, Round,
    books::Seen,
    buy::{Fate, Shop},
    check::Findings,
    judge,
    load::Orders,
    site::{Lane, Settings, Site},
};
use crate::report;

/// Where a process dies; `order-api` has these names.
const PLACES: [&str; 9] = [
    "order-commit",
    "relay",
    "read",
    "sent",
    "call",
    "called",
    "result-commit",
    "before-ack",
    "refund",
];
/// Cells that run at a time, each on a lane of its own.
const LANES: usize = 3;
/// Share of calls that meet the mode: below that at which the breaker opens.
const RATE: f64 = 0.4;
/// Orders of a cell at first, and how many more come at a time until the process is dead.
const ORDERS: usize = 8;
const MORE: usize = 2;
/// It dies when it comes to its place for the first, second or third time.
const TIMES: u64 = 3;
const DEAD_WITHIN: Duration = Duration::from_secs(30);
/// A little more than what is promised, as the last fault is the end of the last call.
const QUIET_WITHIN: Duration = Duration::from_secs(120);
const SETTINGS: Settings<'static> =
    &[("PAYMENT_TIMEOUT", "500ms"), ("PAYMENT_LEASE", "2s"), ("PAYMENT_SWEEP_AFTER", "1s")];
/// Long enough for the call to be under way when the process dies in it.
const GATEWAY: Settings<'static> = &[
    ("PAYMENT_SIM_LATENCY", "20ms-60ms"),
    ("PAYMENT_SIM_DECLINE_RATE", "0"),
    ("PAYMENT_SIM_HANG", "1500ms"),
    ("PAYMENT_SIM_SLOW", "800ms"),
];

/// One cell with one seed.
#[derive(Debug, Clone, Copy)]
struct Cell {
    mode: Mode,
    place: &'static str,
    seed: u64,
}

/// What all seeds of a cell came to.
#[derive(Debug, Default)]
struct Outcome {
    found: Findings,
    slowest: Duration,
    quiet: Duration,
    failures: Vec<String>,
}

/// By mode and place.
type Outcomes = BTreeMap<(Mode, &'static str), Outcome>;

pub(super) async fn run(
    plan: &Plan,
    program: Option<&Path>,
    round: &mut Round,
    seed: u64,
) -> anyhow::Result<()> {
    let program = program.context("nothing that dies was built")?;
    let cells = cells(plan, seed);
    ensure!(!cells.is_empty(), "there is no such cell");
    round.faults = cells.len();
    // Each lane takes the next cell when it is free.
    let (since, cells) = (Instant::now(), Mutex::new(cells.into_iter()));
    let lanes = (0..LANES).map(|lane| work(&plan.site, program, lane, &cells));
    let done: Vec<Vec<(Cell, Outcome)>> =
        stream::iter(lanes).buffer_unordered(LANES).try_collect().await?;
    let mut outcomes: Outcomes = BTreeMap::new();
    for (cell, outcome) in done.into_iter().flatten() {
        round.found.join(&outcome.found);
        round.slowest = round.slowest.max(outcome.slowest);
        round.quiet = round.quiet.max(outcome.quiet);
        let Cell { mode, place, seed } = cell;
        let failed = |why: &String| format!("{mode}/{place} (--seed {seed} --seeds 1): {why}");
        round.failures.extend(outcome.failures.iter().map(failed));
        let all = outcomes.entry((mode, place)).or_default();
        all.found.join(&outcome.found);
        all.failures.extend(outcome.failures);
    }
    let cell_s = since.elapsed().as_secs_f64() / round.faults as f64;
    round.notes.push(format!("{cell_s:.1} s a cell, {LANES} at a time"));
    print(&outcomes);
    Ok(())
}

/// All cells, those of the first seed first.
fn cells(plan: &Plan, seed: u64) -> Vec<Cell> {
    let mut cells = Vec::new();
    let seeds = if plan.args.quick { 1 } else { plan.args.seeds };
    for number in 0..seeds {
        for (m, mode) in Mode::ALL.into_iter().enumerate() {
            for (p, place) in PLACES.into_iter().enumerate() {
                let name = format!("{mode}/{place}");
                let wanted = &plan.args.cell;
                let is_wanted = wanted.is_empty() || wanted.iter().any(|part| name.contains(part));
                // A diagonal has every mode and every place.
                let is_quick = m % PLACES.len() == p;
                if is_wanted && (is_quick || !plan.args.quick || !wanted.is_empty()) {
                    cells.push(Cell { mode, place, seed: seed.wrapping_add(number) });
                }
            }
        }
    }
    cells
}

async fn work(
    site: &Site,
    program: &Path,
    number: usize,
    cells: &Mutex<std::vec::IntoIter<Cell>>,
) -> anyhow::Result<Vec<(Cell, Outcome)>> {
    let lane = site.lane(&format!("matrix-{number}"), SETTINGS, GATEWAY).await?;
    let (mut seen, mut done) = (Seen::default(), Vec::new());
    loop {
        let next = cells.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some(cell) = next else { return Ok(done) };
        let ran = Box::pin(one(site, program, &lane, cell, &mut seen)).await;
        let outcome = ran.unwrap_or_else(|error| Outcome {
            failures: vec![format!("{error:#}")],
            ..Outcome::default()
        });
        let Cell { mode, place, seed } = cell;
        let result = if outcome.failures.is_empty() { "held" } else { "FAILED" };
        eprintln!("  {mode}/{place} {seed}: {result} {}", outcome.failures.join("; "));
        done.push((cell, outcome));
    }
}

/// One cell: orders come, the process dies at its place, another one goes on.
async fn one(
    site: &Site,
    program: &Path,
    lane: &Lane,
    cell: Cell,
    seen: &mut Seen,
) -> anyhow::Result<Outcome> {
    let Cell { mode, place, seed } = cell;
    let mut rng = StdRng::seed_from_u64(seed ^ hash(&format!("{mode}/{place}")));
    let modes = match mode {
        Mode::Ok => json!({"modes": {}, "decline_rate": 0.0}),
        Mode::Decline => json!({"modes": {"decline": RATE}}),
        _ => json!({"modes": {mode.name(): RATE}, "decline_rate": 0.0}),
    };
    lane.gateway(&modes).await?;
    let dies_at = format!("{place}:{}", rng.random_range(1..=TIMES));
    let settings = [("DIE_AT", dies_at.clone())];
    let name = format!("{mode}-{place}-{seed}");
    let mut node = site.node_of(program, lane, &name, "all", &settings).await?;
    let shop = Shop::new(lane, &site.restaurants, &[node.port]);
    let customers = lane.new_customers();
    let mut next = customers.clone();
    let mut orders = Orders::default();
    let mut under_way = JoinSet::new();
    let mut order = |count: usize, rng: &mut StdRng, under_way: &mut JoinSet<_>| {
        for customer in next.by_ref().take(count) {
            let fate = match place {
                "refund" => Fate::CancelledPaid,
                _ if customer % 3 == 0 => Fate::CancelledPaid,
                _ => Fate::Stays,
            };
            let (shop, seed) = (shop.clone(), rng.random());
            under_way.spawn(async move { shop.buy(customer, fate, seed).await });
        }
    };
    order(ORDERS, &mut rng, &mut under_way);
    let since = Instant::now();
    let status = loop {
        if let Some(status) = node.ended(Duration::from_millis(500)).await {
            break status;
        }
        ensure!(since.elapsed() < DEAD_WITHIN, "it does not die at {dies_at}");
        order(MORE, &mut rng, &mut under_way);
    };
    if status.signal() != Some(9) {
        bail!("it did not die at {dies_at} but ended: {status}");
    }
    node.forget("DIE_AT");
    node.start_again()?;
    node.until_ready().await?;
    while let Some(ended) = under_way.join_next().await {
        orders.add(ended?);
    }
    let judged = judge(lane, &orders, &customers, seen, QUIET_WITHIN).await?;
    let mut failures = judged.failures;
    failures.extend(node.bad_log_lines());
    node.kill().await;
    Ok(Outcome { found: judged.found, slowest: orders.slowest, quiet: judged.quiet, failures })
}

/// Another sequence for each cell.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn print(outcomes: &Outcomes) {
    let mut rows = vec![vec!["mode".to_owned()]];
    rows[0].extend(PLACES.map(str::to_owned));
    for mode in Mode::ALL {
        let mut row = vec![mode.name().to_owned()];
        for place in PLACES {
            row.push(match outcomes.get(&(mode, place)) {
                None => "-".to_owned(),
                Some(Outcome { found, failures, .. }) => {
                    let Findings { orders, charges, double, lost, stuck, .. } = found;
                    let mark = if failures.is_empty() { "" } else { "!" };
                    format!("{orders}/{charges}/{double}/{lost}/{stuck}{mark}")
                }
            });
        }
        rows.push(row);
    }
    report::say(&format!(
        "\ncrash matrix: orders/charges/double/lost/stuck of all seeds; ! is a failure\n{}",
        report::table(&rows)
    ));
}
