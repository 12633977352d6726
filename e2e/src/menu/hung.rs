//! What hangs: stores, links and nodes that stay where they are and say nothing.

use std::time::{Duration, Instant};

use anyhow::ensure;
use platform::stores::{Signal, proxy::Mode};
use tokio::task::JoinHandle;

use super::{Run, client::Client, site::Site};
use crate::{
    link::postgres_through,
    probe::RECOVERY_MAX,
    trap::{self, At, Place, Trap},
};

/// The time for which something is frozen, or silent for all.
const LASTS: Duration = Duration::from_secs(60);
const LASTS_QUICK: Duration = Duration::from_secs(15);
/// A connection that is silent is given up and replaced within this time.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(2);
/// A transaction that nobody goes on with is ended by PostgreSQL within this time.
const ENDED_AFTER: Duration = Duration::from_secs(10);
/// Another node has what a frozen one holds within this time.
const YIELDED_WITHIN: Duration = Duration::from_secs(15);

/// The kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hung {
    RedisFrozen,
    PostgresFrozen,
    /// A node, in the middle of writing a restaurant: before its first row and before its COMMIT.
    NodeFrozen(At),
    /// One node's connections to Redis, for ever; new ones work.
    RedisLost,
    /// Only that by which a node learns of changes.
    SubscriptionLost,
    /// One node's link to Redis, new connections included.
    RedisSilent,
    /// The same two of PostgreSQL.
    PostgresLost,
    PostgresSilent,
}

/// A fault that is under way.
#[derive(Default)]
pub(super) struct Held {
    trap: Option<Trap>,
    /// The write of the node that is frozen.
    write: Option<JoinHandle<()>>,
}

impl Hung {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::RedisFrozen => "redis-frozen",
            Self::PostgresFrozen => "postgres-frozen",
            Self::NodeFrozen(At::FirstRow) => "node-frozen-at-first-row",
            Self::NodeFrozen(At::BeforeCommit) => "node-frozen-before-commit",
            Self::RedisLost => "redis-connections-silent",
            Self::SubscriptionLost => "subscription-silent",
            Self::RedisSilent => "redis-silent",
            Self::PostgresLost => "postgres-connections-silent",
            Self::PostgresSilent => "postgres-silent",
        }
    }

    /// For how long.
    pub(super) fn lasts(self, quick: bool) -> Duration {
        match self {
            Self::RedisLost | Self::SubscriptionLost => GIVEN_UP_AFTER,
            Self::PostgresLost => ENDED_AFTER,
            _ if quick => LASTS_QUICK,
            _ => LASTS,
        }
    }

    /// The node that it is done to, when that one cannot be expected to answer.
    pub(super) fn victim(self) -> Option<usize> {
        matches!(self, Self::NodeFrozen(_) | Self::PostgresLost | Self::PostgresSilent).then_some(0)
    }

    /// Whether nodes cannot be told of changes meanwhile.
    pub(super) fn cuts(self) -> bool {
        matches!(
            self,
            Self::RedisFrozen | Self::RedisLost | Self::SubscriptionLost | Self::RedisSilent
        )
    }

    /// Whether a restaurant may stay locked by what nobody goes on with.
    pub(super) fn holds(self) -> bool {
        matches!(self, Self::PostgresLost | Self::PostgresSilent)
    }

    /// The dependency that is shown to be down by the nodes that are no victims.
    pub(super) fn shown_as(self) -> &'static [&'static str] {
        match self {
            Self::RedisFrozen => &["cache"],
            Self::PostgresFrozen => &["database"],
            _ => &[],
        }
    }

    /// The URL by which a node reaches its database, when it is not the usual one.
    pub(super) async fn database(self, site: &Site, node: usize) -> anyhow::Result<Option<String>> {
        let url = site.world.stack.menu_database_url();
        Ok(match self {
            Self::NodeFrozen(_) if node == 0 => {
                Some(trap::connect_as(&site.world.stack, 1, &url).await?)
            }
            Self::PostgresLost | Self::PostgresSilent if node == 0 => {
                Some(postgres_through(&site.database, &url)?)
            }
            _ => None,
        })
    }

    /// Does it; when it is done.
    pub(super) async fn strike(self, run: &Run<'_>, held: &mut Held) -> anyhow::Result<Instant> {
        let site = run.site;
        let stack = &site.world.stack;
        let from = Instant::now();
        match self {
            Self::RedisFrozen => stack.cache.suspend(),
            Self::PostgresFrozen => stack.postgres.suspend(),
            Self::NodeFrozen(at) => return freeze(run, at, held).await,
            Self::RedisLost => site.links[0].set(Mode::Silent),
            Self::SubscriptionLost => {
                let count = site.links[0].silence("SUBSCRIBE");
                ensure!(count > 0, "the node has not subscribed");
            }
            Self::RedisSilent => site.links[0].set(Mode::SilentAll),
            Self::PostgresLost => site.database.set(Mode::Silent),
            Self::PostgresSilent => site.database.set(Mode::SilentAll),
        }
        Ok(from)
    }

    /// Heals it.
    pub(super) async fn heal(self, run: &mut Run<'_>, held: Held) -> anyhow::Result<()> {
        let site = run.site;
        let stack = &site.world.stack;
        match self {
            Self::RedisFrozen => stack.cache.resume(),
            Self::PostgresFrozen => stack.postgres.resume(),
            Self::NodeFrozen(_) => {
                run.nodes[0].signal(Signal::CONT);
                let thawed = Instant::now();
                run.nodes[0].until_ready().await?;
                ensure!(thawed.elapsed() < RECOVERY_MAX, "ready {:?} after", thawed.elapsed());
            }
            Self::RedisSilent => site.links[0].set(Mode::Pass),
            Self::PostgresSilent => site.database.set(Mode::Pass),
            Self::RedisLost | Self::SubscriptionLost | Self::PostgresLost => {}
        }
        if let Some(write) = held.write {
            write.abort();
        }
        if let Some(trap) = held.trap {
            trap.remove().await?;
        }
        Ok(())
    }
}

/// Freezes node 0 while it writes a restaurant, which node 1 can write again soon.
async fn freeze(run: &Run<'_>, at: At, held: &mut Held) -> anyhow::Result<Instant> {
    let restaurant = run.targets.others[0];
    let (path, token) = (format!("/restaurants/{restaurant}/status"), run.site.token());
    let body = r#"{"status":"busy"}"#;
    let only = format!("NEW.restaurant_id = {restaurant}");
    let (event, table) = match at {
        At::FirstRow => ("UPDATE", "restaurants"),
        // The last that is written.
        At::BeforeCommit => ("INSERT", "cache_invalidations"),
    };
    let place = Place { event, table, only: &only, at };
    let stack = &run.site.world.stack;
    let trap = Trap::set(stack, &stack.menu_database_url(), 1, place).await?;
    let trap = held.trap.insert(trap);
    trap.arm().await?;
    let (mut client, at_node) = (Client::new(run.nodes[0].port), (path.clone(), token.clone()));
    held.write = Some(tokio::spawn(async move {
        // Nobody knows what becomes of it; what is shown in the end is compared.
        let _unknown = client.put(&at_node.0, &at_node.1, body).await;
    }));
    let pid = trap.caught().await?;
    run.nodes[0].signal(Signal::STOP);
    trap.release(pid).await?;
    let frozen = Instant::now();
    let mut other = Client::new(run.nodes[1].port);
    loop {
        let put = tokio::time::timeout(YIELDED_WITHIN, other.put(&path, &token, body)).await;
        if matches!(put, Ok(Ok(answer)) if answer.status == 200) {
            return Ok(frozen);
        }
        ensure!(
            frozen.elapsed() < YIELDED_WITHIN,
            "what a frozen node has begun to write nobody can write for {:.0?}",
            frozen.elapsed()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
