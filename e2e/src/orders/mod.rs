//! `chaos orders`: rounds of one kind of fault each, on processes of order-api under load.
//!
//! A round has a lane of its own: a database, a `queue` Redis and a gateway with its ledger. Its
//! customers (`buy.rs`) ask again with the same key until they are answered, and some call their
//! order off. When all is over and nothing is under way any more, everything that is known from
//! every side (`books.rs`) is judged (`check.rs`): I4 to I9.

mod books;
mod buy;
mod check;
mod client;
mod gateway;
mod hung;
mod kills;
mod load;
mod matrix;
mod outage;
mod races;
pub(crate) mod sabotage;
mod site;
mod zombie;

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use platform::{auth::Role, stores::Signal};
use rand::{SeedableRng as _, rngs::StdRng};

use self::{
    books::{Books, Seen},
    buy::{Fate, Shop},
    check::Findings,
    client::Client,
    load::Orders,
    site::{Lane, Left, Settings, Site},
};
use crate::{report, sabotage::build, service::Service, world::Programs};

/// Orders are settled so soon after all is whole again (I4).
const SETTLED_MAX: Duration = Duration::from_secs(120);
/// Requests that are sent once more in the end, to see the same answer.
const AGAIN_MAX: usize = 200;
const AGAIN_WITHIN: Duration = Duration::from_secs(60);
/// What cannot be in a round's verdict more often.
const ODD_MAX: usize = 3;

/// A gateway as it comes, with each kind of fault now and then: a tenth in all.
const FAULTY: Settings<'static> = &[
    ("PAYMENT_SIM_HANG", "3s"),
    ("PAYMENT_SIM_SLOW", "2500ms"),
    (
        "PAYMENT_SIM_MODES",
        "500_before=0.01,500_after=0.01,hang_before=0.01,hang_after=0.01,slow=0.01,\
         reset_mid_body=0.01,bad_json=0.01,unknown_status=0.01,429=0.005,in_progress=0.01,\
         duplicate_reply=0.005",
    ),
];
/// A worker gives up soon and a payment is soon another's, so that a run has many of both.
const HASTY: Settings<'static> =
    &[("PAYMENT_TIMEOUT", "2s"), ("PAYMENT_LEASE", "4s"), ("PAYMENT_SWEEP_AFTER", "2s")];
/// What becomes of a hundred orders.
const FATES: &[(Fate, u32)] = &[
    (Fate::CancelledSoon, 10),
    (Fate::CancelledPaid, 10),
    (Fate::Accepted, 10),
    (Fate::PartRefunded, 5),
];

/// Settings of `chaos orders`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// How often something is killed in the round `kills`
    #[arg(long, default_value_t = 500)]
    kills: usize,
    /// Seeds of each cell of the round `matrix`
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Cells of the round `matrix` whose name, MODE/PLACE, contains this; may be repeated
    #[arg(long)]
    cell: Vec<String>,
    /// Races of the round `races`
    #[arg(long, default_value_t = 10_000)]
    races: usize,
    /// Makes the faults of an earlier run again
    #[arg(long)]
    seed: Option<u64>,
    /// A few faults of each kind, and shorter outages
    #[arg(long)]
    quick: bool,
    /// Only rounds whose name contains this; may be repeated
    #[arg(long)]
    only: Vec<String>,
}

/// The kinds of round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Matrix,
    Kills,
    RedisAway,
    GatewayAway,
    Races,
    Zombie,
    FrozenStores,
    FrozenWorkers,
    SilentLinks,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::Matrix,
        Self::Kills,
        Self::RedisAway,
        Self::GatewayAway,
        Self::Races,
        Self::Zombie,
        Self::FrozenStores,
        Self::FrozenWorkers,
        Self::SilentLinks,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Matrix => "matrix",
            Self::Kills => "kills",
            Self::RedisAway => "redis-away",
            Self::GatewayAway => "gateway-away",
            Self::Races => "races",
            Self::Zombie => "zombie",
            Self::FrozenStores => "frozen-stores",
            Self::FrozenWorkers => "frozen-workers",
            Self::SilentLinks => "silent-links",
        }
    }
}

/// What a round showed.
#[derive(Debug, Default)]
struct Round {
    name: String,
    faults: usize,
    /// Longest time until an order was answered, and from the end of the fault until all was quiet.
    slowest: Duration,
    quiet: Duration,
    found: Findings,
    notes: Vec<String>,
    failures: Vec<String>,
}

/// What every round works with.
struct Plan {
    site: Site,
    args: Args,
}

/// Runs the rounds; `true` when everything held.
pub(crate) async fn run(args: Args) -> anyhow::Result<bool> {
    let seed = args.seed.unwrap_or_else(rand::random);
    report::say(&format!("chaos orders --seed {seed}"));
    let wanted = |kind: &Kind| {
        args.only.is_empty() || args.only.iter().any(|part| kind.name().contains(part.as_str()))
    };
    let programs = Programs::find()?;
    // Only these can be made to die at a place.
    let dying = match wanted(&Kind::Matrix) {
        true => build(["sabotaged-orders"])?.into_iter().next(),
        false => None,
    };
    let program = programs.order_api.clone();
    let plan = Plan { site: Site::start(programs, program).await?, args: args.clone() };
    let started = Instant::now();
    let mut rounds = Vec::new();
    for (number, kind) in (0_u64..).zip(Kind::ALL) {
        if !wanted(&kind) {
            continue;
        }
        // A seed of its own, so that a round alone is the same as among the others.
        let seed = seed.wrapping_add(number);
        let mut round = Round { name: kind.name().to_owned(), ..Round::default() };
        let since = Instant::now();
        eprintln!("{} …", round.name);
        let mut rng = StdRng::seed_from_u64(seed);
        let (plan, dying) = (&plan, dying.as_deref());
        let ran = match kind {
            Kind::Matrix => Box::pin(matrix::run(plan, dying, &mut round, seed)).await,
            Kind::Kills => Box::pin(kills::run(plan, &mut round, &mut rng)).await,
            Kind::RedisAway => Box::pin(outage::redis(plan, &mut round, &mut rng)).await,
            Kind::GatewayAway => Box::pin(gateway::run(plan, &mut round, &mut rng)).await,
            Kind::Races => Box::pin(races::run(plan, &mut round, &mut rng)).await,
            Kind::Zombie => Box::pin(zombie::run(plan, &mut round, &mut rng)).await,
            Kind::FrozenStores => Box::pin(hung::stores(plan, &mut round, &mut rng)).await,
            Kind::FrozenWorkers => Box::pin(hung::workers(plan, &mut round, &mut rng)).await,
            Kind::SilentLinks => Box::pin(hung::links(plan, &mut round, &mut rng)).await,
        };
        round.failures.extend(ran.err().map(|error| format!("{error:#}")));
        plan.heal().await?;
        let result = if round.failures.is_empty() { "held" } else { "FAILED" };
        if result != "held" {
            let kept = plan.site.world.keep_logs()?;
            round.notes.push(format!("logs are kept in {}", kept.display()));
        }
        eprintln!("{} {result} after {:.0} s", round.name, since.elapsed().as_secs_f64());
        rounds.push(round);
    }
    let took = started.elapsed().as_secs();
    Ok(print(&format!("chaos orders --seed {seed}: {took} s"), &rounds))
}

impl Plan {
    /// Whatever a round left behind must not spoil the next one.
    async fn heal(&self) -> anyhow::Result<()> {
        let stack = &self.site.world.stack;
        self.site.menu.signal(Signal::CONT);
        stack.postgres.resume();
        for redis in [&stack.queue, &stack.live, &stack.cache] {
            redis.resume();
            if redis.pid() == 0 {
                redis.restart().await?;
            }
        }
        if stack.postgres.pid() == 0 {
            stack.postgres.restart().await?;
        }
        Ok(())
    }
}

/// Waits until all is quiet, and judges what these customers' orders have come to.
async fn judge(
    lane: &Lane,
    orders: &Orders,
    customers: &Range<i64>,
    seen: &mut Seen,
    limit: Duration,
) -> anyhow::Result<Judged> {
    let (quiet, left) = lane.until_quiet(limit).await?;
    let mut failures: Vec<String> = orders.odd.iter().take(ODD_MAX).cloned().collect();
    if orders.odd.len() > ODD_MAX {
        failures.push(format!("and {} more like that", orders.odd.len() - ODD_MAX));
    }
    if left != Left::default() {
        failures.push(format!("I4 not quiet after {limit:?}: {left:?}"));
    }
    let wrong = |status: &&u16| !matches!(status, 0 | 409 | 503 | 504);
    failures.extend(orders.refused.keys().filter(wrong).map(|status| format!("I13: a {status}")));
    let books = Books::read(lane, customers, orders.placed.clone(), seen).await?;
    let found = check::judge(&books);
    failures.extend(found.failures());
    Ok(Judged { found, quiet, failures })
}

/// What a lane's orders have come to.
struct Judged {
    found: Findings,
    quiet: Duration,
    failures: Vec<String>,
}

/// I8 at the end: the answer to a request is still the first one, byte for byte.
async fn again(shop: &Shop, port: u16, orders: &Orders) -> Vec<String> {
    let (mut client, deadline) = (Client::new(port), Instant::now() + AGAIN_WITHIN);
    let mut differing = Vec::new();
    let step = (orders.placed.len() / AGAIN_MAX).max(1);
    for placed in orders.placed.iter().step_by(step) {
        let token = shop.token(Role::Customer, placed.customer);
        match client.ask(&placed.as_request(&token), deadline).await {
            Some(answer) => differing.extend(placed.differs(&answer)),
            None => differing.push(format!("I8 nobody answers again to {}", placed.order_id)),
        }
    }
    differing.truncate(ODD_MAX);
    differing
}

impl Round {
    /// Ends a round of one lane: everything is checked, and the processes are stopped in order.
    async fn conclude(
        &mut self,
        lane: &Lane,
        shop: &Shop,
        orders: &Orders,
        customers: &Range<i64>,
        limit: Duration,
        nodes: &[&Service],
    ) -> anyhow::Result<()> {
        let mut seen = Seen::default();
        let judged = judge(lane, orders, customers, &mut seen, limit).await?;
        (self.found, self.quiet, self.slowest) = (judged.found, judged.quiet, orders.slowest);
        self.failures.extend(judged.failures);
        if let Some(api) = nodes.first() {
            self.failures.extend(again(shop, api.port, orders).await);
        }
        if !orders.refused.is_empty() {
            self.notes.push(format!("asked again: {}", orders.repeats()));
        }
        for node in nodes {
            let (status, took) = node.terminate().await?;
            if !status.success() || took > crate::service::STOP_MAX {
                self.failures.push(format!("after SIGTERM: {status} in {took:.1?}"));
            }
            self.failures.extend(node.bad_log_lines());
        }
        Ok(())
    }
}

fn print(title: &str, rounds: &[Round]) -> bool {
    const HEADS: [&str; 11] = [
        "round",
        "faults",
        "orders",
        "charges",
        "double",
        "refunds",
        "lost",
        "stuck",
        "slowest s",
        "quiet s",
        "result",
    ];
    let mut rows = vec![HEADS.map(str::to_owned).to_vec()];
    let mut below = Vec::new();
    for round in rounds {
        let Findings { orders, charges, double, refunds, lost, stuck, .. } = &round.found;
        let mut row = vec![round.name.clone()];
        let counts = [&round.faults, orders, charges, double, refunds, lost, stuck];
        row.extend(counts.map(ToString::to_string));
        row.extend([round.slowest, round.quiet].map(|time| format!("{:.1}", time.as_secs_f64())));
        row.push(if round.failures.is_empty() { "held" } else { "FAILED" }.to_owned());
        rows.push(row);
        below.extend(round.notes.iter().map(|note| format!("  {}: {note}", round.name)));
        let failed = round.failures.iter().map(|why| format!("  FAILED {}: {why}", round.name));
        below.extend(failed);
    }
    report::say(&format!("\n{title}\n{}{}", report::table(&rows), below.join("\n")));
    rounds.iter().all(|round| round.failures.is_empty())
}
