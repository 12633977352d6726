//! Links that fall silent: bytes are swallowed, no connection ends.

use std::time::{Duration, Instant};

use platform::stores::proxy::{Mode, Proxy, Upstream};
use rand::rngs::StdRng;

use super::{
    super::{HASTY, Plan, Round},
    Bounds, CLAIMED, GOES_ON, Play, during,
};
use crate::{
    link::{postgres_through, redis_through, to_postgres, to_redis},
    probe::RECOVERY_MAX,
    watch::{Bound, Fault, GO_ON_WITHIN},
};

/// A link whose new connections work is looked at for so long: longer than a lease.
const REPLACED_FOR: Duration = Duration::from_secs(20);

/// The part of a link that falls silent: what exists, for ever, or all of it until it is healed.
struct Victim {
    name: &'static str,
    link: usize,
    mode: Mode,
    dependencies: &'static [&'static str],
    bounds: Bounds,
}

const fn lost(name: &'static str, link: usize) -> Victim {
    Victim { name, link, mode: Mode::Silent, dependencies: &[], bounds: [GOES_ON, CLAIMED] }
}

const fn silent(
    name: &'static str,
    link: usize,
    dependencies: &'static [&'static str],
    bounds: Bounds,
) -> Victim {
    Victim { name, link, mode: Mode::SilentAll, dependencies, bounds }
}

const QUEUE: usize = 0;
const POSTGRES: usize = 1;
const MENU: usize = 2;
const GATEWAY: usize = 3;

const VICTIMS: [Victim; 8] = [
    lost("queue's connections silent", QUEUE),
    lost("PostgreSQL's connections silent", POSTGRES),
    lost("menu-api's connections silent", MENU),
    lost("the gateway's connections silent", GATEWAY),
    silent("queue silent", QUEUE, &["queue"], [GOES_ON, CLAIMED]),
    silent("PostgreSQL silent", POSTGRES, &["database"], [Bound::Healed; 2]),
    silent("menu-api silent", MENU, &[], [GOES_ON, CLAIMED]),
    silent("the gateway silent", GATEWAY, &[], [GOES_ON, Bound::Back]),
];

/// Each link in turn, in each way.
pub(in super::super) async fn links(
    plan: &Plan,
    round: &mut Round,
    rng: &mut StdRng,
) -> anyhow::Result<()> {
    let (site, postgres) = (&plan.site, &plan.site.world.stack.postgres);
    let lane = site.lane("silent-links", HASTY, &[]).await?;
    let at = |port: u16| Upstream::Tcp(format!("127.0.0.1:{port}"));
    let links = [
        Proxy::start(to_redis(&lane.queue)?).await?,
        Proxy::start(to_postgres(postgres)?).await?,
        Proxy::start(at(site.menu.port)).await?,
        Proxy::start(at(lane.sim.port)).await?,
    ];
    let http = |link: usize| format!("http://127.0.0.1:{}", links[link].port);
    let database = postgres.url(&lane.database);
    let settings = [
        ("REDIS_QUEUE_URL", redis_through(&links[QUEUE])),
        ("ORDER_DATABASE_URL", postgres_through(&links[POSTGRES], &database)?),
        ("MENU_URL", http(MENU)),
        ("PAYMENT_GATEWAY_URL", http(GATEWAY)),
    ];
    let node = site.node_of(&site.program, &lane, "all", "all", &settings).await?;
    let faults = async {
        let mut plays = Vec::new();
        for Victim { name, link, mode, dependencies, bounds } in VICTIMS {
            tokio::time::sleep(GO_ON_WITHIN).await;
            let (link, from) = (&links[link], Instant::now());
            link.set(mode);
            let healed = match mode {
                Mode::SilentAll => {
                    tokio::time::sleep(plan.lasts()).await;
                    link.set(Mode::Pass);
                    Instant::now()
                }
                _ => from,
            };
            plays.push(Play { fault: Fault { name, from, healed }, dependencies, bounds });
            let rest =
                if mode == Mode::SilentAll { RECOVERY_MAX + GO_ON_WITHIN } else { REPLACED_FOR };
            tokio::time::sleep(rest).await;
            link.set(Mode::Pass);
        }
        Ok((plays, Vec::new()))
    };
    let customers = lane.new_customers();
    during(plan, round, &lane, &customers, &[&node], &[node.port], rng, faults).await
}
