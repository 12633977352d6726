//! SIGSTOP for a minute: of each store, and of workers in the middle of a transaction.

use std::time::{Duration, Instant};

use devstack::stack::Stack;
use platform::stores::Signal;
use rand::rngs::StdRng;
use tokio::sync::watch;

use super::{Plan, deliveries, random_ms};
use crate::{
    probe::{self, RECOVERY_MAX},
    report::Round,
    trap::{self, At, Place, Trap},
    watch::{self as watching, Bound, Course, Fault, GO_ON_WITHIN, Vigil},
};

/// The time for which something is frozen.
const FROZEN: Duration = Duration::from_secs(60);
const FROZEN_QUICK: Duration = Duration::from_secs(15);
/// Entries of a worker that is frozen are another's after 10 s, looked for every 2 s.
pub(super) const CLAIMED_WITHIN: Duration = Duration::from_secs(15);
/// More rows than a socket has room for: the server waits in the middle of their COPY.
const BACKLOG_ROWS: u32 = 6_000;
/// Longer, the workers that are stopped for it would lose their entries to each other.
const BACKLOG_MAX: Duration = Duration::from_secs(12);

/// The time that a fault may stop each stage of a probe.
pub(super) type Bounds = [Bound; 3];
pub(super) const GOES_ON: Bound = Bound::Within(GO_ON_WITHIN);

/// A store that is frozen.
struct Victim {
    name: &'static str,
    freeze: fn(&Stack),
    thaw: fn(&Stack),
    dependencies: &'static [&'static str],
    bounds: Bounds,
}

const VICTIMS: [Victim; 3] = [
    Victim {
        name: "queue frozen",
        freeze: |stack| stack.queue.suspend(),
        thaw: |stack| stack.queue.resume(),
        dependencies: &["queue", "streams"],
        bounds: [Bound::Healed; 3],
    },
    Victim {
        name: "live frozen",
        freeze: |stack| stack.live.suspend(),
        thaw: |stack| stack.live.resume(),
        dependencies: &["live"],
        bounds: [GOES_ON, Bound::Healed, GOES_ON],
    },
    Victim {
        name: "PostgreSQL frozen",
        freeze: |stack| stack.postgres.suspend(),
        thaw: |stack| stack.postgres.resume(),
        dependencies: &["database", "history"],
        bounds: [GOES_ON, GOES_ON, Bound::Healed],
    },
];

/// Each store in turn.
pub(super) async fn stores(plan: &Plan, round: &mut Round, rng: &mut StdRng) -> anyhow::Result<()> {
    let stack = &plan.world.stack;
    let service = plan.service(round, "", "all").await?;
    let load = plan.load(round, service.port).await?;
    let mut plays = Vec::new();
    let watched = Watched::start(&[service.port]);
    let faults = async {
        for Victim { name, freeze, thaw, dependencies, bounds } in VICTIMS {
            tokio::time::sleep(random_ms(rng, 0, 1_000)).await;
            let from = Instant::now();
            freeze(stack);
            tokio::time::sleep(plan.frozen_for()).await;
            thaw(stack);
            let fault = Fault { name, from, healed: Instant::now() };
            plays.push(Play { fault, dependencies, bounds });
            tokio::time::sleep(RECOVERY_MAX + GO_ON_WITHIN).await;
        }
        anyhow::Ok(())
    };
    let courses = watched.during(plan, service.port, faults).await?;
    watched.judge(round, &plays, &courses, &[service.port]);
    plan.conclude(round, load, &[&service], &[], rng).await
}

/// The places at which workers are frozen.
const PLACES: [(&str, At); 3] = [
    ("gps_positions", At::FirstRow),
    ("gps_positions", At::BeforeCommit),
    ("deliveries", At::FirstRow),
];

/// Three workers at once: before the first row and before the COMMIT of positions, and before the
/// first row of deliveries; another one goes on.
pub(super) async fn workers(
    plan: &Plan,
    round: &mut Round,
    rng: &mut StdRng,
) -> anyhow::Result<()> {
    let (world, url) = (&plan.world, plan.world.stack.logistics_database_url());
    let api = plan.service(round, "-api", "api").await?;
    let mut victims = Vec::new();
    for (number, _) in (1..).zip(PLACES) {
        let url = trap::connect_as(&world.stack, number, &url).await?;
        let settings = [("LOGISTICS_DATABASE_URL", url)];
        victims.push(plan.service_with(round, &format!("-{number}"), "all", &settings).await?);
    }
    let other = plan.service(round, "-other", "worker").await?;
    let load = plan.load(round, api.port).await?;
    let mut traps = Vec::new();
    for (number, (table, at)) in (1..).zip(PLACES) {
        let place = Place { event: "INSERT", table, only: "", at };
        traps.push(Trap::set(&world.stack, &url, number, place).await?);
    }
    let watched = Watched::start(&[api.port, other.port]);
    let (stop, stopped) = watch::channel(false);
    let deliveries = watching::follow(stopped, |given_up| deliveries::course(world, given_up));
    let (mut from, mut healed) = (Instant::now(), Instant::now());
    let faults = async {
        // All of them stop for a moment, so that the first one to go on has much to write.
        victims.iter().chain([&other]).for_each(|service| service.signal(Signal::STOP));
        let backlog = Duration::from_secs(1) * BACKLOG_ROWS / plan.load.rate.max(1);
        tokio::time::sleep(backlog.min(BACKLOG_MAX)).await;
        for ((trap, victim), (table, at)) in traps.iter_mut().zip(&victims).zip(PLACES) {
            trap.arm().await?;
            victim.signal(Signal::CONT);
            let pid = trap.caught().await?;
            victim.signal(Signal::STOP);
            let state = trap.release(pid).await?;
            round.notes.push(format!("{table}, {at:?}: frozen, which the server sees as {state}"));
            round.faults += 1;
        }
        other.signal(Signal::CONT);
        from = Instant::now();
        // Until what they held is claimed, also when there is little time.
        tokio::time::sleep(plan.frozen_for().max(CLAIMED_WITHIN + GO_ON_WITHIN)).await;
        victims.iter().for_each(|victim| victim.signal(Signal::CONT));
        healed = Instant::now();
        for victim in &victims {
            victim.until_ready().await?;
        }
        anyhow::ensure!(healed.elapsed() < RECOVERY_MAX, "ready {:?} after", healed.elapsed());
        tokio::time::sleep(RECOVERY_MAX.saturating_sub(healed.elapsed())).await;
        anyhow::Ok(())
    };
    // Without an end, the deliveries would be followed for ever.
    let faults = async {
        let made = faults.await;
        stop.send_replace(true);
        made
    };
    let (courses, deliveries) = tokio::join!(watched.during(plan, api.port, faults), deliveries);
    let courses = courses?;
    for trap in traps {
        trap.remove().await?;
    }
    let claimed = Bound::Claimed(CLAIMED_WITHIN);
    let fault = Fault { name: "workers frozen", from, healed };
    let play = Play { fault, dependencies: &[], bounds: [GOES_ON, claimed, claimed] };
    let (note, failures) = watching::judge(&fault, &deliveries, &[("delivered to", claimed)]);
    round.notes.push(note);
    round.failures.extend(failures);
    watched.judge(round, &[play], &courses, &[api.port, other.port]);
    let mut apis = vec![&api];
    apis.extend(&victims);
    plan.conclude(round, load, &apis, &[&other], rng).await
}

impl Plan {
    /// The time for which something is frozen or silent.
    pub(super) fn frozen_for(&self) -> Duration {
        if self.quick { FROZEN_QUICK } else { FROZEN }
    }
}

/// A fault, the dependencies of which one shows it, and what it stops.
pub(super) struct Play {
    pub(super) fault: Fault,
    pub(super) dependencies: &'static [&'static str],
    pub(super) bounds: Bounds,
}

/// Probes and looks at processes during faults.
pub(super) struct Watched(Vigil);

impl Watched {
    pub(super) fn start(ports: &[u16]) -> Self {
        Self(Vigil::start(ports))
    }

    /// Sends probes to a port while `faults` are made.
    pub(super) async fn during(
        &self,
        plan: &Plan,
        port: u16,
        faults: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<Vec<Course>> {
        let (stop, stopped) = watch::channel(false);
        let faults = async {
            let made = faults.await;
            stop.send_replace(true);
            made
        };
        let courses = |given_up| probe::course(&plan.world, port, given_up);
        let (courses, made) = tokio::join!(watching::follow(stopped, courses), faults);
        made.map(|()| courses)
    }

    /// Judges faults one by one; `ports` are processes that none of them broke.
    pub(super) fn judge(
        self,
        round: &mut Round,
        plays: &[Play],
        courses: &[Course],
        ports: &[u16],
    ) {
        for Play { fault, dependencies, bounds } in plays {
            let [accepted, shown, stored] = probe::STAGES;
            let stages = [(accepted, bounds[0]), (shown, bounds[1]), (stored, bounds[2])];
            let (note, failures) = watching::judge(fault, courses, &stages);
            round.faults += usize::from(!dependencies.is_empty());
            round.notes.push(note);
            round.failures.extend(failures);
            round.failures.extend(self.0.judge(fault, ports, dependencies));
        }
    }
}
