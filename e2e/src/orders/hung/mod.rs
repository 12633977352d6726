//! What hangs: stores, services and processes that are frozen, and links that fall silent.
//!
//! Beside the load, one order a second is followed until it is taken and paid.

mod frozen;
mod silent;

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use rand::{Rng as _, rngs::StdRng};
use tokio::sync::watch;

pub(super) use self::{
    frozen::{stores, workers},
    silent::links,
};
use super::{
    FATES, Plan, Round, SETTLED_MAX,
    buy::{Bought, Fate, Shop},
    load::Load,
    site::Lane,
};
use crate::{
    service::Service,
    watch::{Bound, Course, Fault, GO_ON_WITHIN, Vigil, follow, judge},
};

const RATE: u32 = 10;
/// The time for which something is frozen, or silent for all.
const LASTS: Duration = Duration::from_secs(60);
const LASTS_QUICK: Duration = Duration::from_secs(15);
/// A payment is another worker's, or taken without the stream, within this time.
const CLAIMED_WITHIN: Duration = Duration::from_secs(15);
/// Customers whose orders are followed are the last of a lane's.
const FOLLOWED: i64 = 10_000;

/// Of the stages of an order.
type Bounds = [Bound; 2];
const GOES_ON: Bound = Bound::Within(GO_ON_WITHIN);
const CLAIMED: Bound = Bound::Within(CLAIMED_WITHIN);

/// A fault, the dependencies of which one shows it, and what it stops.
struct Play {
    fault: Fault,
    dependencies: &'static [&'static str],
    bounds: Bounds,
}

impl Plan {
    fn lasts(&self) -> Duration {
        if self.args.quick { LASTS_QUICK } else { LASTS }
    }
}

/// Orders at `api` while `faults` are made, judges them, and ends the round. `nodes` are all
/// processes, the first of them answers; `untouched` are those that no fault is done to. `faults`
/// answers with what it did and what it ordered itself.
#[expect(clippy::too_many_arguments, reason = "what a round consists of")]
async fn during(
    plan: &Plan,
    round: &mut Round,
    lane: &Lane,
    customers: &Range<i64>,
    nodes: &[&Service],
    untouched: &[u16],
    rng: &mut StdRng,
    faults: impl Future<Output = anyhow::Result<(Vec<Play>, Vec<Bought>)>>,
) -> anyhow::Result<()> {
    let port = nodes[0].port;
    let shop = Shop::new(lane, &plan.site.restaurants, &[port]);
    let load = Load::start(shop.clone(), customers.clone(), RATE, FATES, rng.random());
    let vigil = Vigil::start(untouched);
    let (stop, stopped) = watch::channel(false);
    let mut followed = customers.end - FOLLOWED..customers.end;
    let (seed, orderer) = (rng.random::<u64>(), shop.clone());
    let following = tokio::spawn(follow(stopped, move |given_up| {
        let customer = followed.next().unwrap_or_default();
        let seed = seed.wrapping_add(customer.unsigned_abs());
        course(orderer.clone(), port, customer, seed, given_up)
    }));
    let played = faults.await;
    stop.send_replace(true);
    let (courses, bought): (Vec<_>, Vec<_>) = following.await?.into_iter().unzip();
    let mut orders = load.conclude().await?;
    let (plays, ordered) = played?;
    bought.into_iter().flatten().chain(ordered).for_each(|bought| orders.add(bought));
    for Play { fault, dependencies, bounds } in plays {
        let stages = [("taken", bounds[0]), ("paid", bounds[1])];
        let (note, failures) = judge(&fault, &courses, &stages);
        round.faults += 1;
        round.notes.push(note);
        round.failures.extend(failures);
        round.failures.extend(vigil.judge(&fault, untouched, dependencies));
    }
    drop(vigil);
    round.conclude(lane, &shop, &orders, customers, SETTLED_MAX, nodes).await
}

/// Follows one order to its payment, until it is given up.
async fn course(
    shop: Shop,
    port: u16,
    customer: i64,
    seed: u64,
    mut given_up: watch::Receiver<bool>,
) -> (Course, Option<Bought>) {
    let (began, mut taken, mut paid, mut order) = (Instant::now(), None, None, None);
    let whole = async {
        let bought = order.insert(shop.buy(customer, Fate::Stays, seed).await);
        let Some(placed) = &bought.placed else { return };
        taken = Some(began + bought.took);
        if shop.until_paid(port, placed).await {
            paid = Some(Instant::now());
        }
    };
    tokio::select! {
        () = whole => {}
        _ = given_up.wait_for(|given_up| *given_up) => {}
    }
    (Course { began, reached: vec![taken, paid] }, order)
}
