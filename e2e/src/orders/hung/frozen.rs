//! SIGSTOP for a minute: of stores and services, and of processes in the middle of a transaction.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use platform::{auth::Role, stores::Signal};
use rand::rngs::StdRng;
use tokio::task::JoinHandle;

use super::{
    super::{
        HASTY, Plan, Round,
        buy::{Bought, Fate, Placed, Shop},
        client::{Client, Request},
    },
    CLAIMED, CLAIMED_WITHIN, FOLLOWED, GOES_ON, Play, during,
};
use crate::{
    probe::RECOVERY_MAX,
    service::Service,
    trap::{self, At, Place, Trap},
    watch::{Bound, Fault, GO_ON_WITHIN},
};

/// The parts that an order needs, one after the other; those that orders are taken without are
/// frozen together.
pub(in super::super) async fn stores(
    plan: &Plan,
    round: &mut Round,
    rng: &mut StdRng,
) -> anyhow::Result<()> {
    let (site, stack) = (&plan.site, &plan.site.world.stack);
    let lane = site.lane("frozen-stores", HASTY, &[]).await?;
    let node = site.node(&lane, "all", "all").await?;
    let (postgres, queue) = (&stack.postgres, &lane.queue);
    let rest = [&site.menu, &lane.sim];
    let faults = async {
        let mut plays = Vec::new();
        for name in ["PostgreSQL frozen", "queue frozen", "menus, their cache and gateway frozen"] {
            tokio::time::sleep(GO_ON_WITHIN).await;
            let from = Instant::now();
            let (dependencies, bounds): (&[&str], _) = match plays.len() {
                0 => (&["database"], [Bound::Healed; 2]),
                1 => (&["queue"], [GOES_ON, CLAIMED]),
                _ => (&[], [GOES_ON, Bound::Back]),
            };
            match plays.len() {
                0 => postgres.suspend(),
                1 => queue.suspend(),
                _ => {
                    stack.cache.suspend();
                    rest.iter().for_each(|service| service.signal(Signal::STOP));
                }
            }
            tokio::time::sleep(plan.lasts()).await;
            match plays.len() {
                0 => postgres.resume(),
                1 => queue.resume(),
                _ => {
                    stack.cache.resume();
                    rest.iter().for_each(|service| service.signal(Signal::CONT));
                }
            }
            let fault = Fault { name, from, healed: Instant::now() };
            plays.push(Play { fault, dependencies, bounds });
            tokio::time::sleep(RECOVERY_MAX + GO_ON_WITHIN).await;
        }
        Ok((plays, Vec::new()))
    };
    let customers = lane.new_customers();
    during(plan, round, &lane, &customers, &[&node], &[node.port], rng, faults).await
}

/// A process that is frozen in the middle of a transaction.
struct Victim {
    role: &'static str,
    place: Place<'static>,
}

const VICTIMS: [Victim; 4] = [
    // Writing the end of a payment; claiming one gives it a lease.
    Victim {
        role: "worker",
        place: Place {
            event: "UPDATE",
            table: "payments",
            only: "OLD.lease IS NOT NULL AND NEW.lease IS NULL",
            at: At::FirstRow,
        },
    },
    Victim {
        role: "worker",
        place: Place { event: "INSERT", table: "outbox", only: "", at: At::BeforeCommit },
    },
    // With the turn of all relays.
    Victim {
        role: "relay",
        place: Place { event: "DELETE", table: "outbox", only: "", at: At::FirstRow },
    },
    Victim {
        role: "api",
        place: Place { event: "UPDATE", table: "orders", only: "", at: At::BeforeCommit },
    },
];

/// One process of each kind and place at once; another of each kind goes on.
pub(in super::super) async fn workers(
    plan: &Plan,
    round: &mut Round,
    rng: &mut StdRng,
) -> anyhow::Result<()> {
    let site = &plan.site;
    let lane = site.lane("frozen-workers", HASTY, &[]).await?;
    let api = site.node(&lane, "api", "api").await?;
    let url = site.world.stack.postgres.url(&lane.database);
    let mut victims = Vec::new();
    for (number, victim) in (1..).zip(&VICTIMS) {
        let url = trap::connect_as(&site.world.stack, number, &url).await?;
        let settings = [("ORDER_DATABASE_URL", url)];
        let name = format!("{}-{number}", victim.role);
        victims.push(site.node_of(&site.program, &lane, &name, victim.role, &settings).await?);
    }
    let relay = site.node(&lane, "relay", "relay").await?;
    let worker = site.node(&lane, "worker", "worker").await?;
    let (shop, customers) =
        (Shop::new(&lane, &site.restaurants, &[api.port]), lane.new_customers());
    let followed = customers.end - FOLLOWED - 1;
    let mut notes = Vec::new();
    let faults = async {
        tokio::time::sleep(GO_ON_WITHIN).await;
        let (mut traps, mut called_off) = (Vec::new(), None);
        for (number, Victim { place, .. }) in (1..).zip(&VICTIMS) {
            traps.push(Trap::set(&site.world.stack, &url, number, *place).await?);
        }
        for ((Victim { role, place }, trap), victim) in VICTIMS.iter().zip(&mut traps).zip(&victims)
        {
            trap.arm().await?;
            let pid = match *role {
                // Nobody orders there, but somebody calls an order off.
                "api" => {
                    called_off =
                        Some(CallOff::begin(&shop, followed, api.port, victim.port).await?);
                    trap.caught().await?
                }
                _ => trap.caught().await?,
            };
            victim.signal(Signal::STOP);
            let state = trap.release(pid).await?;
            notes.push(format!("{role} frozen at {:?}, as the server sees it {state}", place.at));
        }
        let from = Instant::now();
        let order = called_off.context("an order that is called off")?;
        let order = order.end(&shop, api.port).await?;
        tokio::time::sleep(plan.lasts().saturating_sub(from.elapsed())).await;
        victims.iter().for_each(|victim| victim.signal(Signal::CONT));
        let healed = Instant::now();
        for victim in &victims {
            victim.until_ready().await?;
        }
        ensure!(healed.elapsed() < RECOVERY_MAX, "ready {:?} after", healed.elapsed());
        tokio::time::sleep(RECOVERY_MAX.saturating_sub(healed.elapsed())).await;
        for trap in traps {
            trap.remove().await?;
        }
        let fault = Fault { name: "processes frozen", from, healed };
        let play = Play { fault, dependencies: &[], bounds: [GOES_ON, CLAIMED] };
        Ok((vec![play], vec![order]))
    };
    let mut nodes: Vec<&Service> = vec![&api];
    nodes.extend(&victims);
    nodes.extend([&relay, &worker]);
    let untouched = [api.port, relay.port, worker.port];
    let ran = during(plan, round, &lane, &customers, &nodes, &untouched, rng, faults).await;
    round.notes.extend(notes);
    ran
}

/// An order that a process which is frozen has begun to call off.
struct CallOff {
    order: Bought,
    /// The call, of which nobody knows what becomes.
    call: JoinHandle<()>,
}

impl CallOff {
    /// Orders at one process and calls the order off at another.
    async fn begin(shop: &Shop, customer: i64, port: u16, victim: u16) -> anyhow::Result<Self> {
        let order = shop.buy(customer, Fate::Stays, customer.unsigned_abs()).await;
        let placed = order.placed.as_ref().context("an order was not taken")?;
        shop.until_paid(port, placed).await;
        let (path, token) = (cancel_path(placed), shop.token(Role::Customer, customer));
        let call = tokio::spawn(async move {
            let cancel = cancel(&path, &token);
            let _unknown = Client::new(victim).once(&cancel).await;
        });
        Ok(Self { order, call })
    }

    /// Calls it off at another process, which must work soon.
    async fn end(self, shop: &Shop, port: u16) -> anyhow::Result<Bought> {
        let placed = self.order.placed.as_ref().context("an order was not taken")?;
        let (path, token) = (cancel_path(placed), shop.token(Role::Customer, placed.customer));
        let deadline = Instant::now() + CLAIMED_WITHIN;
        let answer = Client::new(port).ask(&cancel(&path, &token), deadline).await;
        let answer = answer.context("what a frozen process has begun keeps its order locked")?;
        ensure!(matches!(answer.status, 200 | 202), "{path}: {}", answer.status);
        self.call.abort();
        Ok(self.order)
    }
}

fn cancel_path(placed: &Placed) -> String {
    format!("/api/v1/orders/{}/cancel", placed.order_id)
}

fn cancel<'a>(path: &'a str, token: &'a str) -> Request<'a> {
    Request { method: "POST", path, token, key: None, body: b"{}" }
}
