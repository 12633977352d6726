//! `chaos menu`: rounds of one kind of fault each, on two nodes that share a Redis, under load all
//! the time.
//!
//! A round starts the nodes, has every document read once, and starts two callers. `loadtest menu`
//! sends most of the requests and checks I10 on the restaurants that it writes. The witness
//! (`witness.rs`) does the same more slowly on restaurants of its own, and remembers when; so what
//! it saw can be judged by what was broken at that moment (`windows.rs`): how much is answered and
//! how soon while a store is away, when a cache is used again, and that nobody is shown anything
//! old but a node that could not be told. What hangs instead of dying is in `hung.rs`.

mod client;
mod faults;
mod hung;
mod ledger;
mod load;
pub(crate) mod sabotage;
mod site;
mod table;
mod windows;
mod witness;

use std::time::{Duration, Instant};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use self::{
    faults::Fault,
    load::{Load, Summary},
    site::Site,
    table::Round,
    windows::{BACK_FOR, BACK_WITHIN, Judgement, Span},
    witness::{Targets, Witness},
};
use crate::{
    load::Running,
    report,
    service::{STOP_MAX, Service},
    watch::{self, Vigil},
    world::Programs,
};

/// No round takes longer, whatever hangs.
const ROUND_MAX: Duration = Duration::from_secs(420);
/// The callers are at work for this long before the first fault.
const WARM_UP: Duration = Duration::from_secs(3);
/// Between the end of a fault and the next one: until it is judged.
const SETTLE: Duration = BACK_WITHIN.saturating_add(BACK_FOR).saturating_add(WARM_UP);
/// What the load found may be of the time when nodes could not be told; another load begins when
/// that is over, and runs for this long.
const AFTER: Duration = Duration::from_secs(8);

/// Settings of `chaos menu`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Requests per second, the witness's included
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(200..))]
    rate: u32,
    /// How many restaurants there are
    #[arg(long, default_value_t = 500)]
    restaurants: usize,
    /// How many items each has
    #[arg(long, default_value_t = 30)]
    items: usize,
    /// Makes the faults of an earlier run again
    #[arg(long)]
    seed: Option<u64>,
    /// One fault of most kinds
    #[arg(long)]
    quick: bool,
    /// Only rounds whose name contains this; may be repeated
    #[arg(long)]
    only: Vec<String>,
}

/// A round under way.
struct Run<'a> {
    site: &'a Site,
    nodes: [Service; 2],
    targets: Targets,
    witness: Witness,
    load: Running,
}

/// Runs the rounds; `true` when everything held.
pub(crate) async fn run(args: Args) -> anyhow::Result<bool> {
    let seed = args.seed.unwrap_or_else(rand::random);
    report::say(&format!("chaos menu --seed {seed}"));
    let wanted = |fault: &Fault| {
        args.only.is_empty() || args.only.iter().any(|part| fault.name().contains(part.as_str()))
    };
    let programs = Programs::find()?;
    let node = programs.menu_api.clone();
    let site = Box::pin(Site::start(programs, node, &[], args.restaurants, args.items)).await?;
    let started = Instant::now();
    let mut rounds = Vec::new();
    for (number, fault) in (0_u64..).zip(Fault::ALL) {
        if !wanted(&fault) {
            continue;
        }
        // A seed of its own, so that a round alone is the same as among the others.
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add(number));
        rounds.push(one(&site, &args, fault, &mut rng).await?);
    }
    let took = started.elapsed().as_secs();
    let title = format!("chaos menu --seed {seed}: {took} s (worst of each while broken)");
    Ok(table::print(&title, &rounds))
}

async fn one(site: &Site, args: &Args, fault: Fault, rng: &mut StdRng) -> anyhow::Result<Round> {
    let mut round = Round::new(fault.name());
    let started = Instant::now();
    eprintln!("{} …", round.name);
    let work = Box::pin(faults_of(site, args, fault, &mut round, rng));
    match tokio::time::timeout(ROUND_MAX, work).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => round.failures.push(format!("{error:#}")),
        Err(_) => round.failures.push(format!("not over after {ROUND_MAX:?}")),
    }
    site.heal().await?;
    let result = if round.failures.is_empty() { "held" } else { "FAILED" };
    if result != "held" {
        round.notes.push(format!("logs are kept in {}", site.world.keep_logs()?.display()));
    }
    eprintln!("{} {result} after {:.0} s", round.name, started.elapsed().as_secs_f64());
    Ok(round)
}

async fn faults_of(
    site: &Site,
    args: &Args,
    fault: Fault,
    round: &mut Round,
    rng: &mut StdRng,
) -> anyhow::Result<()> {
    let load = Load {
        rate: args.rate - witness::RATE,
        // Without PostgreSQL every write fails, and that is not what is looked at then.
        writes_percent: u32::from(fault.lets_write()),
    };
    let mut run = Run::start(site, round.name, load, Some(fault), rng).await?;
    let ports = (0..2).filter(|node| Some(*node) != fault.victim());
    let ports: Vec<u16> = ports.map(|node| run.nodes[node].port).collect();
    let vigil = Vigil::start(&ports);
    let mut spans = Vec::new();
    for number in 0..fault.times(args.quick) {
        let (pause, lasts) = (rng.random_range(0..1_000), fault.lasts(args.quick, rng));
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let span = fault.strike(&mut run, number, lasts).await?;
        tokio::time::sleep(SETTLE).await;
        if let Fault::Hung(hung) = fault {
            let fault = watch::Fault { name: round.name, from: span.from, healed: span.healed };
            round.failures.extend(vigil.judge(&fault, &ports, hung.shown_as()));
        }
        spans.push(span);
    }
    drop(vigil);
    round.faults = spans.len();
    run.conclude(round, load, &spans).await
}

impl<'a> Run<'a> {
    /// Starts everything that a round needs. A load that cannot go elsewhere is not sent to a node
    /// that will be away.
    async fn start(
        site: &'a Site,
        name: &str,
        load: Load,
        fault: Option<Fault>,
        rng: &mut StdRng,
    ) -> anyhow::Result<Self> {
        let (mut databases, victim) = ([None, None], fault.and_then(Fault::victim));
        if let Some(Fault::Hung(hung)) = fault {
            databases = [hung.database(site, 0).await?, hung.database(site, 1).await?];
        }
        let [first, second] = databases;
        let nodes = [site.node(name, 0, first).await?, site.node(name, 1, second).await?];
        let targets = site.targets(&nodes[0]).await?;
        site.warm(&nodes, &targets).await?;
        let ports = [nodes[0].port, nodes[1].port];
        let loaded = (0..2).filter(|node| Some(*node) != victim).map(|node| ports[node]);
        let load = site.load(name, &loaded.collect::<Vec<_>>(), load)?;
        let witness = Witness::start(ports, site.token(), targets.clone(), rng);
        tokio::time::sleep(WARM_UP).await;
        Ok(Self { site, nodes, targets, witness, load })
    }

    /// Ends the callers, judges what they saw, compares with the database, stops the nodes.
    async fn conclude(self, round: &mut Round, load: Load, spans: &[Span]) -> anyhow::Result<()> {
        let Self { site, nodes, targets, witness, load: running } = self;
        if !running.runs() {
            round.failures.push("the load ended early".to_owned());
        }
        let testimony = witness.conclude().await?;
        running.stop();
        let (_, summary) = running.ended::<Summary>().await?;
        round.failures.extend(summary.failures());
        // What it found broken has no moment.
        let mut broken = summary.broken();
        if spans.iter().any(|span| span.is_cut) {
            let ports = [nodes[0].port, nodes[1].port];
            let after = site.load(&format!("{}-after", round.name), &ports, load)?;
            tokio::time::sleep(AFTER).await;
            after.stop();
            let (_, after) = after.ended::<Summary>().await?;
            round.failures.extend(after.failures());
            round.notes.extend(broken.map(|broken| format!("{broken}, which may be excused")));
            broken = after.broken();
        }
        round.failures.extend(broken);
        round.failures.extend(site.quiet(&nodes, &targets).await?);

        let judgement = Judgement::of(&testimony.seen, spans, &testimony.violations);
        round.failures.extend(testimony.odd);
        let untold = untold(&nodes).await?;
        if untold > 0.0 {
            round.notes.push(format!("{untold:.0} announcements found no Redis"));
        }
        round.judged(judgement, summary);
        for node in &nodes {
            let (status, took) = node.terminate().await?;
            if !status.success() || took > STOP_MAX {
                round.failures.push(format!("after SIGTERM: {status} in {took:.1?}"));
            }
            round.failures.extend(node.bad_log_lines());
        }
        Ok(())
    }
}

/// How many announcements these nodes had to put off because Redis did not answer: what was written
/// then may be seen late.
async fn untold(nodes: &[Service]) -> anyhow::Result<f64> {
    let mut untold = 0.0;
    for node in nodes {
        untold += node.metric("menu_announcements_failed_total").await?;
    }
    Ok(untold)
}
