//! Links that fall silent: bytes are swallowed, no connection ends, nobody says a word.
//!
//! A link that is silent for what exists, while new connections work, is a peer that has vanished
//! behind a failover; one that is silent for all is a network that drops everything.

use std::time::{Duration, Instant};

use platform::stores::proxy::{Mode, Proxy};
use rand::rngs::StdRng;

use super::{
    Plan,
    frozen::{Bounds, CLAIMED_WITHIN, GOES_ON, Play, Watched},
    random_ms,
};
use crate::{
    link::{postgres_through, redis_through, to_postgres, to_redis},
    probe::RECOVERY_MAX,
    report::Round,
    watch::{Bound, Fault, GO_ON_WITHIN},
};

/// A link whose new connections work is looked at for so long: longer than a lease or a claim.
const REPLACED_FOR: Duration = Duration::from_secs(25);

/// The links of a process to its stores.
pub(super) struct Links {
    queue: Proxy,
    live: Proxy,
    postgres: Proxy,
}

/// The ways in which a link falls silent.
#[derive(Debug, Clone, Copy)]
enum How {
    /// The connections that exist, for ever; new ones work.
    Existing,
    /// The subscriptions, for ever; everything else works.
    Subscribers,
    /// All connections, new ones too, until it is healed.
    All,
}

struct Victim {
    name: &'static str,
    link: fn(&Links) -> &Proxy,
    how: How,
    dependencies: &'static [&'static str],
    bounds: Bounds,
}

const QUEUE: fn(&Links) -> &Proxy = |links| &links.queue;
const LIVE: fn(&Links) -> &Proxy = |links| &links.live;
const POSTGRES: fn(&Links) -> &Proxy = |links| &links.postgres;

/// A connection is given up within seconds, which nobody needs to see on `/readyz`.
const fn replaced(name: &'static str, link: fn(&Links) -> &Proxy, how: How) -> Victim {
    Victim { name, link, how, dependencies: &[], bounds: [GOES_ON; 3] }
}

const VICTIMS: [Victim; 7] = [
    replaced("queue's connections silent", QUEUE, How::Existing),
    replaced("live's connections silent", LIVE, How::Existing),
    replaced("live's subscription silent", LIVE, How::Subscribers),
    // What was being written stays locked until PostgreSQL ends the transaction.
    Victim {
        name: "PostgreSQL's connections silent",
        link: POSTGRES,
        how: How::Existing,
        dependencies: &[],
        bounds: [GOES_ON, GOES_ON, Bound::Within(CLAIMED_WITHIN)],
    },
    Victim {
        name: "queue silent",
        link: QUEUE,
        how: How::All,
        dependencies: &["queue", "streams"],
        bounds: [Bound::Healed; 3],
    },
    Victim {
        name: "live silent",
        link: LIVE,
        how: How::All,
        dependencies: &["live"],
        bounds: [GOES_ON, Bound::Healed, GOES_ON],
    },
    Victim {
        name: "PostgreSQL silent",
        link: POSTGRES,
        how: How::All,
        dependencies: &["database", "history"],
        bounds: [GOES_ON, GOES_ON, Bound::Healed],
    },
];

/// Each link in turn, in each way.
pub(super) async fn run(plan: &Plan, round: &mut Round, rng: &mut StdRng) -> anyhow::Result<()> {
    let links = Links::start(plan).await?;
    let service = plan.service_with(round, "", "all", &links.settings(plan)?).await?;
    let load = plan.load(round, service.port).await?;
    let mut plays = Vec::new();
    let watched = Watched::start(&[service.port]);
    let faults = async {
        for Victim { name, link, how, dependencies, bounds } in VICTIMS {
            tokio::time::sleep(random_ms(rng, 0, 1_000)).await;
            let (link, from) = (link(&links), Instant::now());
            let healed = match how {
                How::Existing => {
                    link.set(Mode::Silent);
                    from
                }
                How::Subscribers => {
                    let count = link.silence("SUBSCRIBE");
                    anyhow::ensure!(count > 0, "{name}: nobody has subscribed");
                    from
                }
                How::All => {
                    link.set(Mode::SilentAll);
                    tokio::time::sleep(plan.frozen_for()).await;
                    link.set(Mode::Pass);
                    Instant::now()
                }
            };
            plays.push(Play { fault: Fault { name, from, healed }, dependencies, bounds });
            let rest = match how {
                How::All => RECOVERY_MAX + GO_ON_WITHIN,
                How::Existing | How::Subscribers => REPLACED_FOR,
            };
            tokio::time::sleep(rest).await;
            link.set(Mode::Pass);
        }
        anyhow::Ok(())
    };
    let courses = watched.during(plan, service.port, faults).await?;
    watched.judge(round, &plays, &courses, &[service.port]);
    plan.conclude(round, load, &[&service], &[], rng).await
}

impl Links {
    /// Starts links to the stores of the world.
    async fn start(plan: &Plan) -> anyhow::Result<Self> {
        let stack = &plan.world.stack;
        Ok(Self {
            queue: Proxy::start(to_redis(&stack.queue)?).await?,
            live: Proxy::start(to_redis(&stack.live)?).await?,
            postgres: Proxy::start(to_postgres(&stack.postgres)?).await?,
        })
    }

    /// The environment that makes a process use them.
    fn settings(&self, plan: &Plan) -> anyhow::Result<[(&'static str, String); 3]> {
        let database = plan.world.stack.logistics_database_url();
        Ok([
            ("REDIS_QUEUE_URL", redis_through(&self.queue)),
            ("REDIS_LIVE_URL", redis_through(&self.live)),
            ("LOGISTICS_DATABASE_URL", postgres_through(&self.postgres, &database)?),
        ])
    }
}
