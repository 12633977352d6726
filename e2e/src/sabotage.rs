//! `chaos sabotage`: checks that can fail.
//!
//! For every promise there is a fault that only a service which keeps it survives. The same fault
//! is done to a service that breaks the promise, whose run must fail, and once to one that keeps
//! all, whose run must hold: a check that always fails shows as little as one that never does.

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use futures_util::{StreamExt as _, stream};
use platform::stores::Signal;
use rand::{SeedableRng as _, rngs::StdRng};

use crate::{
    check,
    fuzz::{self, Fuzz},
    gps::destroy_groups,
    load::{self, Load, Running},
    menu,
    orders::{self, sabotage::Fault as Orders},
    report::say,
    service::Service,
    world::{Programs, World},
};

/// Few, so that a stream gets long in seconds.
const SHARDS: u16 = 4;
const LOAD: Load = Load { rate: 1_000, drivers: 1_000, duration: Duration::from_secs(1_800) };
/// So little that a reader mostly waits, and is given an entry after it was stopped.
const LOAD_LITTLE: Load = Load { rate: 100, drivers: 50, ..LOAD };
/// Workers that are stopped; each of them waits just then with a good chance.
const LATE_WORKERS: usize = 3;
/// No round takes longer.
const ROUND_MAX: Duration = Duration::from_secs(180);
/// Bodies of the rounds that need no load.
const BODIES: u64 = 20_000;

/// Settings of `chaos sabotage`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Makes the faults of an earlier run again
    #[arg(long)]
    seed: Option<u64>,
    /// Only sabotages whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// How many rounds run at a time, each on stores of its own
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..))]
    at_once: u8,
}

/// A fault that shows whether one promise is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The history hangs, and logistics is killed while entries wait for it.
    KillBeforeWrite,
    /// The same, and the group is gone when logistics comes back.
    GroupLost,
    /// The history hangs until the streams are long.
    LongBacklog,
    /// The group is destroyed under load, so that entries come again.
    DeliveredAgain,
    /// The queue is killed and away for a moment.
    QueueKilled,
    /// A worker is stopped, and goes on when all is over.
    LateWorker,
    /// Subscribers are disconnected until the load is over.
    FramesMissed,
    /// `live` forgets everything, and no driver moves after that.
    LiveForgets,
    /// None: what is broken shows by itself.
    Nothing,
    /// Bad bodies.
    Fuzz,
    /// None, but many menus are changed.
    MenuWrites,
    /// One of orders.
    Orders(orders::sabotage::Fault),
}

/// Broken promises (`logistics/src/sabotage.rs`, `menu-api/src/sabotage.rs`, then those that
/// order-api asks `platform::sabotage` for), and the fault that shows each.
const SABOTAGES: [(&str, Fault); 20] = [
    ("ack-first", Fault::KillBeforeWrite),
    ("group-at-end", Fault::GroupLost),
    ("maxlen", Fault::LongBacklog),
    ("no-key", Fault::DeliveredAgain),
    ("reply-first", Fault::QueueKilled),
    ("live-old-wins", Fault::LateWorker),
    ("no-reload", Fault::FramesMissed),
    ("no-resend", Fault::LiveForgets),
    ("no-ack", Fault::Nothing),
    ("panic", Fault::Fuzz),
    ("set-after-del", Fault::MenuWrites),
    ("no-lease", Fault::MenuWrites),
    ("no-version", Fault::MenuWrites),
    ("no-invalidation", Fault::MenuWrites),
    ("new-key", Fault::Orders(Orders::Answers500)),
    ("no-fence", Fault::Orders(Orders::LateWorker)),
    ("ack-first", Fault::Orders(Orders::WorkerKilled)),
    ("enqueue-after-commit", Fault::Orders(Orders::ApiKilled)),
    ("float-money", Fault::Orders(Orders::Prices)),
    ("failed-on-timeout", Fault::Orders(Orders::Hangs)),
];

/// What one round showed.
struct Outcome {
    sabotage: &'static str,
    fault: Fault,
    broken: bool,
    failures: anyhow::Result<Vec<String>>,
    took: Duration,
}

/// Runs every sabotage and its control; `true` when all were noticed and no control failed.
pub(crate) async fn run(args: Args) -> anyhow::Result<bool> {
    let seed = args.seed.unwrap_or_else(rand::random);
    say(&format!("chaos sabotage --seed {seed}"));
    let [logistics, menu_node, orders] =
        build(["sabotaged", "sabotaged-menu", "sabotaged-orders"])?;
    let programs = Programs { logistics, ..Programs::find()? };
    let wanted = |name: &str| args.only.as_ref().is_none_or(|part| name.contains(part.as_str()));
    let rounds = SABOTAGES
        .into_iter()
        .filter(|(name, _)| wanted(name))
        .flat_map(|(name, fault)| [(name, fault, true), (name, fault, false)]);
    let outcomes: Vec<Outcome> = stream::iter(rounds)
        .map(|(sabotage, fault, broken)| {
            let (programs, menu_node, orders) =
                (programs.clone(), menu_node.clone(), orders.clone());
            async move {
                let started = Instant::now();
                let round = async {
                    if let Fault::Orders(fault) = fault {
                        let name = if broken { sabotage } else { "" };
                        let round = orders::sabotage::round(programs, orders, name, fault, seed);
                        return Box::pin(round).await;
                    }
                    if fault == Fault::MenuWrites {
                        let name = if broken { sabotage } else { "" };
                        let round = menu::sabotage::round(programs, menu_node, name, seed);
                        return Box::pin(round).await;
                    }
                    Box::pin(round(programs, sabotage, fault, broken, seed)).await
                };
                let ran = tokio::time::timeout(ROUND_MAX, round).await;
                let failures = ran.context("the round is not over in time").flatten();
                let outcome =
                    Outcome { sabotage, fault, broken, failures, took: started.elapsed() };
                eprintln!("{}", outcome.line());
                outcome
            }
        })
        .buffered(usize::from(args.at_once))
        .collect()
        .await;
    let lines: Vec<String> = outcomes.iter().map(Outcome::line).collect();
    say(&format!("\nchaos sabotage --seed {seed}\n{}", lines.join("\n")));
    Ok(outcomes.iter().all(Outcome::is_right))
}

impl Outcome {
    /// A broken promise is noticed, a kept one is not blamed; an error is neither.
    fn is_right(&self) -> bool {
        self.failures.as_ref().is_ok_and(|failures| failures.is_empty() != self.broken)
    }

    fn line(&self) -> String {
        let (right, took) = (self.is_right(), self.took.as_secs());
        let name = if self.broken { self.sabotage } else { "(all kept)" };
        let verdict = match (&self.failures, self.broken, right) {
            (Err(error), ..) => format!("ERROR: {}", first_line(&format!("{error:#}"))),
            (Ok(failures), true, true) => format!("noticed: {}", first_line(&failures[0])),
            (Ok(_), true, false) => "NOT NOTICED".to_owned(),
            (Ok(_), false, true) => "holds".to_owned(),
            (Ok(failures), false, false) => format!("BLAMED WRONGLY: {}", failures.join("; ")),
        };
        let fault = match self.fault {
            Fault::Orders(fault) => format!("{fault:?}"),
            fault => format!("{fault:?}"),
        };
        format!("  {name:<20} {fault:<16} {took:>4} s  {verdict}")
    }
}

fn first_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.join(" | ").chars().take(240).collect()
}

/// Builds services that break promises beside this program, and answers where they are. They share
/// the compiled dependencies of the ordinary build and replace none of its programs.
pub(crate) fn build<const N: usize>(names: [&'static str; N]) -> anyhow::Result<[PathBuf; N]> {
    let own = std::env::current_exe()?;
    let dir = own.parent().context("a program is in a folder")?;
    let target = dir.parent().context("the folder of a build is in the target folder")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--workspace", "--locked", "--quiet"]);
    command.args(names.iter().flat_map(|name| ["--bin", name]));
    command.args(["--features", "e2e/sabotage", "--target-dir"]).arg(target);
    if dir.ends_with("release") {
        command.arg("--release");
    }
    eprintln!("building …");
    ensure!(command.status().context("cargo")?.success(), "the sabotaged services do not build");
    Ok(names.map(|name| dir.join(name)))
}

/// One fault, done to a service that breaks a promise or keeps all; what the checks found.
async fn round(
    programs: Programs,
    sabotage: &'static str,
    fault: Fault,
    broken: bool,
    seed: u64,
) -> anyhow::Result<Vec<String>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut settings = fuzz::SETTINGS.to_vec();
    settings.push(("SABOTAGE", if broken { sabotage } else { "" }));
    let world = World::start(programs, SHARDS, &settings).await?;
    if fault == Fault::Fuzz {
        let found = Box::pin(Fuzz { seed, bodies: BODIES }.run(&world)).await?;
        return Ok(found.failures);
    }
    let mut service = Service::start(&world, "all", "all").await?;
    let load = if fault == Fault::LateWorker { LOAD_LITTLE } else { LOAD };
    let load = load::start(&world, "load", service.port, load)?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let verdict = fault.strike(&world, &mut service, load).await?;
    let mut failures = verdict.failures;
    failures.extend(check::quiet(&world, &[&service], &mut rng).await?);
    Ok(failures)
}

impl Fault {
    async fn strike(
        self,
        world: &World,
        service: &mut Service,
        load: Running,
    ) -> anyhow::Result<load::Verdict> {
        let stack = &world.stack;
        let pause = |ms| tokio::time::sleep(Duration::from_millis(ms));
        match self {
            Self::KillBeforeWrite | Self::GroupLost => {
                stack.postgres.suspend();
                pause(2_000).await;
                service.kill().await;
                if self == Self::GroupLost {
                    destroy_groups(world.queue().await?, world.shards).await?;
                }
                stack.postgres.resume();
                service.start_again()?;
                service.until_ready().await?;
                pause(2_000).await;
            }
            Self::LongBacklog => {
                stack.postgres.suspend();
                pause(10_000).await;
                stack.postgres.resume();
            }
            Self::DeliveredAgain => {
                for _ in 0..5 {
                    destroy_groups(world.queue().await?, world.shards).await?;
                    pause(700).await;
                }
            }
            Self::QueueKilled => {
                stack.queue.kill();
                pause(1_000).await;
                stack.queue.restart().await?;
                pause(2_000).await;
            }
            Self::LateWorker => {
                let mut late = Vec::new();
                for number in 0..LATE_WORKERS {
                    late.push(Service::start(world, &format!("late-{number}"), "worker").await?);
                }
                pause(3_000).await;
                late.iter().for_each(|worker| worker.signal(Signal::STOP));
                pause(3_000).await;
                // The load ends while they still hold what is old by then.
                let concluding = tokio::spawn(load.conclude());
                pause(1_500).await;
                late.iter().for_each(|worker| worker.signal(Signal::CONT));
                return concluding.await?;
            }
            Self::FramesMissed => {
                let mut live = world.live().await?;
                let cut = async {
                    loop {
                        let mut kill = redis::cmd("CLIENT");
                        kill.arg("KILL").arg("TYPE").arg("pubsub");
                        // A server that is busy for a moment is asked again.
                        let _ = kill.query_async::<u64>(&mut live).await;
                        pause(20).await;
                    }
                };
                let concluding = async {
                    pause(5_000).await;
                    load.conclude().await
                };
                return tokio::select! {
                    verdict = concluding => verdict,
                    never = cut => never,
                };
            }
            Self::LiveForgets => {
                redis::cmd("FLUSHALL").query_async::<()>(&mut world.live().await?).await?;
            }
            Self::Nothing | Self::Fuzz | Self::MenuWrites | Self::Orders(_) => {}
        }
        load.conclude().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_right_when_it_tells_broken_from_kept() {
        let outcome = |broken, failures: anyhow::Result<Vec<String>>| Outcome {
            sabotage: "x",
            fault: Fault::Nothing,
            broken,
            failures,
            took: Duration::ZERO,
        };
        let lost = || Ok(vec!["1 lost".to_owned()]);
        assert!(outcome(true, lost()).is_right());
        assert!(outcome(false, Ok(Vec::new())).is_right());
        assert!(!outcome(true, Ok(Vec::new())).is_right(), "not noticed");
        assert!(!outcome(false, lost()).is_right(), "blamed wrongly");
        // A suite that cannot run has shown nothing.
        assert!(!outcome(true, Err(anyhow::anyhow!("no disk"))).is_right());
    }
}
