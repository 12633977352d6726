//! `chaos gps`: rounds of one kind of fault each, under load all the time.
//!
//! A round starts its services, starts the load, makes its faults at seeded random moments and
//! measures after each how long the whole way is interrupted. Then it ends the load, waits until
//! things are quiet, runs every check, and stops the services in order.
//!
//! Rounds of what hangs instead of dying (`frozen.rs`, `silent.rs`, `reader.rs`) send a probe every
//! second and look at `/readyz` all the time; what went on and what was shown is judged afterwards
//! (`watch.rs`).
//!
//! `chaos gps --cluster` has rounds of its own, on a Redis Cluster whose replicas confirm.

mod deliveries;
mod descriptors;
mod frozen;
mod kills;
mod masters;
mod reader;
mod rolling;
mod silent;
mod stores;
mod zombie;

use std::time::{Duration, Instant};

pub(crate) use self::stores::destroy_groups;
use anyhow::Context as _;

use devstack::stack::StackArgs;
use platform::stores::RedisServer;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::{
    check,
    load::{self, Load, Running},
    probe::recovery,
    report::{self, Round},
    service::{STOP_MAX, Service},
    world::{Programs, World},
};

/// No round takes longer, whatever hangs.
const ROUND_MAX: Duration = Duration::from_secs(900);
/// A load that nothing ends.
const LOAD_MAX: Duration = Duration::from_secs(1_800);
/// The load runs for this long before the first fault.
const WARM_UP: Duration = Duration::from_secs(2);

/// Settings of `chaos gps`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// How often each process is killed
    #[arg(long, default_value_t = 20)]
    kills: usize,
    /// Fixes per second
    #[arg(long, default_value_t = 2_000)]
    rate: u32,
    /// How many drivers send
    #[arg(long, default_value_t = 10_000)]
    drivers: u32,
    /// Makes the faults of an earlier run again
    #[arg(long)]
    seed: Option<u64>,
    /// Three kills each, and shorter outages
    #[arg(long)]
    quick: bool,
    /// On a Redis Cluster with two processes: kill masters, and measure workers
    #[arg(long)]
    cluster: bool,
    /// Only rounds whose name contains this; may be repeated
    #[arg(long)]
    only: Vec<String>,
}

/// What every round works with.
pub(crate) struct Plan {
    world: World,
    load: Load,
    kills: usize,
    quick: bool,
}

/// The kinds of fault.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Kill(kills::Victim),
    Flush,
    Group,
    Memory,
    Outage,
    Descriptors,
    Term,
    Zombie,
    FrozenStores,
    FrozenWorkers,
    Silent,
    LongReader,
    Master(masters::Fault),
    Workers,
}

impl Kind {
    const ALL: [Self; 15] = [
        Self::Kill(kills::Victim::Logistics),
        Self::Kill(kills::Victim::Queue),
        Self::Kill(kills::Victim::Live),
        Self::Kill(kills::Victim::Postgres),
        Self::Flush,
        Self::Group,
        Self::Memory,
        Self::Outage,
        Self::Term,
        Self::Zombie,
        Self::FrozenStores,
        Self::FrozenWorkers,
        Self::Silent,
        Self::LongReader,
        Self::Descriptors,
    ];

    const ON_CLUSTER: [Self; 5] = [
        Self::Master(masters::Fault::Kill),
        Self::Master(masters::Fault::Freeze),
        Self::Kill(kills::Victim::Logistics),
        Self::Term,
        Self::Workers,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Master(fault) => fault.name(),
            Self::Workers => "workers",
            Self::Kill(victim) => victim.name(),
            Self::Flush => "flush-live",
            Self::Group => "destroy-group",
            Self::Memory => "queue-full",
            Self::Outage => "postgres-away",
            Self::Term => "sigterm-rolling",
            Self::Descriptors => "few-descriptors",
            Self::Zombie => "zombie-worker",
            Self::FrozenStores => "frozen-stores",
            Self::FrozenWorkers => "frozen-workers",
            Self::Silent => "silent-links",
            Self::LongReader => "long-reader",
        }
    }

    async fn run(self, plan: &Plan, round: &mut Round, rng: &mut StdRng) -> anyhow::Result<()> {
        match self {
            Self::Master(fault) => masters::run(plan, fault, round, rng).await,
            Self::Workers => masters::measure_workers(plan, round).await,
            Self::Kill(victim) => kills::run(plan, victim, round, rng).await,
            Self::Flush => stores::flush(plan, round, rng).await,
            Self::Group => stores::destroy_group(plan, round, rng).await,
            Self::Memory => stores::fill_queue(plan, round, rng).await,
            Self::Outage => stores::outage(plan, round, rng).await,
            Self::Term => rolling::run(plan, round, rng).await,
            Self::Descriptors => descriptors::run(plan, round).await,
            Self::Zombie => zombie::run(plan, round, rng).await,
            Self::FrozenStores => frozen::stores(plan, round, rng).await,
            Self::FrozenWorkers => frozen::workers(plan, round, rng).await,
            Self::Silent => silent::run(plan, round, rng).await,
            Self::LongReader => reader::run(plan, round, rng).await,
        }
    }
}

/// Runs the rounds; `true` when everything held.
pub(crate) async fn run(args: Args) -> anyhow::Result<bool> {
    let seed = args.seed.unwrap_or_else(rand::random);
    report::say(&format!("chaos gps --seed {seed}"));
    let wanted = |kind: &Kind| {
        args.only.is_empty() || args.only.iter().any(|part| kind.name().contains(part.as_str()))
    };
    let (kinds, settings) = match args.cluster {
        true => (&Kind::ON_CLUSTER[..], &[("REDIS_QUEUE_REPLICAS_MIN", "1")][..]),
        false => (&Kind::ALL[..], &[][..]),
    };
    let stores = StackArgs { cluster: args.cluster, ..StackArgs::default() };
    let shards = contracts::streams::SHARDS_DEFAULT;
    let world = World::start_on(&stores, Programs::find()?, shards, settings).await?;
    let plan = Plan {
        world,
        load: Load { rate: args.rate, drivers: args.drivers, duration: LOAD_MAX },
        kills: if args.quick { 3 } else { args.kills },
        quick: args.quick,
    };
    let started = Instant::now();
    let mut rounds = Vec::new();
    for (number, kind) in (0_u64..).zip(kinds.iter().copied()) {
        if !wanted(&kind) {
            continue;
        }
        // A seed of its own, so that a round alone is the same as among the others.
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add(number));
        rounds.push(plan.round(kind, &mut rng).await?);
    }
    let took = started.elapsed().as_secs();
    let title =
        format!("chaos gps --seed {seed}: {took} s (worst of each; seconds since the fault)");
    Ok(report::print(&title, &rounds))
}

impl Plan {
    async fn round(&self, kind: Kind, rng: &mut StdRng) -> anyhow::Result<Round> {
        let mut round = Round { name: kind.name().to_owned(), ..Round::default() };
        let started = Instant::now();
        eprintln!("{} …", round.name);
        let ran = tokio::time::timeout(ROUND_MAX, Box::pin(kind.run(self, &mut round, rng))).await;
        match ran {
            Ok(Ok(())) => {}
            Ok(Err(error)) => round.failures.push(format!("{error:#}")),
            Err(_) => round.failures.push(format!("not over after {ROUND_MAX:?}")),
        }
        round.took = started.elapsed();
        // Whatever a round left behind must not spoil the next one.
        self.heal().await?;
        let result = if round.all_failures().is_empty() { "held" } else { "FAILED" };
        if result != "held" {
            round.notes.push(format!("logs are kept in {}", self.world.keep_logs()?.display()));
        }
        eprintln!("{} {result} after {:.0} s", round.name, round.took.as_secs_f64());
        Ok(round)
    }

    async fn heal(&self) -> anyhow::Result<()> {
        let stack = &self.world.stack;
        stack.postgres.resume();
        [&stack.queue, &stack.live].into_iter().for_each(RedisServer::resume);
        if let Some(cluster) = &stack.cluster {
            masters::heal(cluster).await?;
        }
        for redis in [&stack.queue, &stack.live] {
            if redis.pid() == 0 {
                redis.restart().await?;
            }
        }
        if stack.postgres.pid() == 0 {
            stack.postgres.restart().await?;
        }
        Ok(())
    }

    async fn service(
        &self,
        round: &Round,
        part: &str,
        role: &'static str,
    ) -> anyhow::Result<Service> {
        self.service_with(round, part, role, &[]).await
    }

    /// Starts a process whose `settings` win over those of the world.
    async fn service_with(
        &self,
        round: &Round,
        part: &str,
        role: &'static str,
        settings: &[(&'static str, String)],
    ) -> anyhow::Result<Service> {
        let (world, name) = (&self.world, format!("{}{part}", round.name));
        Service::start_program(world, &world.programs.logistics, &name, role, settings).await
    }

    /// Starts the load and lets it get going.
    async fn load(&self, round: &Round, port: u16) -> anyhow::Result<Running> {
        let load = load::start(&self.world, &round.name, port, self.load)?;
        tokio::time::sleep(WARM_UP).await;
        Ok(load)
    }

    /// Notes one fault and how long the way was interrupted by it.
    async fn fault(&self, round: &mut Round, port: u16, since: Instant) -> anyhow::Result<()> {
        round.faults += 1;
        let healed = since.elapsed();
        let recovery = recovery(&self.world, port, since).await;
        round.recovered(recovery.with_context(|| format!("after fault {}", round.faults))?, healed);
        Ok(())
    }

    /// Ends the load, checks everything, stops the services. `apis` is what answers clients.
    async fn conclude(
        &self,
        round: &mut Round,
        load: Running,
        apis: &[&Service],
        workers: &[&Service],
        rng: &mut StdRng,
    ) -> anyhow::Result<()> {
        if !load.runs() {
            round.failures.push("the load ended early".to_owned());
        }
        let verdict = load.conclude().await?;
        if !verdict.summary.repeated.is_empty() {
            round.notes.push(format!("sent again: {}", verdict.summary.repeats()));
        }
        round.load = Some(verdict);
        round.failures.extend(check::quiet(&self.world, apis, rng).await?);
        for service in apis.iter().chain(workers) {
            stop(round, service).await?;
        }
        Ok(())
    }
}

/// SIGTERM, which must end a service in order and in time, with nothing bad in its log.
async fn stop(round: &mut Round, service: &Service) -> anyhow::Result<Duration> {
    let (status, took) = service.terminate().await?;
    if !status.success() || took > STOP_MAX {
        round.failures.push(format!("after SIGTERM: {status} in {took:.1?}"));
    }
    round.failures.extend(service.bad_log_lines());
    Ok(took)
}

/// A random time between two bounds in milliseconds.
fn random_ms(rng: &mut StdRng, from: u64, to: u64) -> Duration {
    Duration::from_millis(rng.random_range(from..to))
}
