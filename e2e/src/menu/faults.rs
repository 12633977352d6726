//! What is done to the nodes, their stores and their links.

use std::time::{Duration, Instant};

use anyhow::ensure;
use platform::stores::{Signal, proxy::Mode};
use rand::{Rng as _, rngs::StdRng};

use super::{
    Run,
    hung::{Held, Hung},
    windows::Span,
};
use crate::{probe::RECOVERY_MAX, trap::At};

/// The latency of a slow link, each way.
const SLOW: Duration = Duration::from_millis(200);

/// The kinds of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    RedisKilled,
    RedisStopped,
    RedisFlushed,
    RedisSlow,
    LinkHole,
    /// One link in each other way in turn.
    LinkBroken,
    PostgresKilled,
    NodeKilled,
    NodeStopped,
    Hung(Hung),
}

/// How a link is broken, apart from slow ones and black holes.
const BROKEN: [Mode; 5] =
    [Mode::Refuse, Mode::Cut, Mode::Reset, Mode::DropReplies, Mode::CutAfter(2_000)];

impl Fault {
    pub(super) const ALL: [Self; 18] = [
        Self::RedisKilled,
        Self::RedisStopped,
        Self::RedisFlushed,
        Self::RedisSlow,
        Self::LinkHole,
        Self::LinkBroken,
        Self::PostgresKilled,
        Self::NodeKilled,
        Self::NodeStopped,
        Self::Hung(Hung::RedisFrozen),
        Self::Hung(Hung::PostgresFrozen),
        Self::Hung(Hung::NodeFrozen(At::FirstRow)),
        Self::Hung(Hung::NodeFrozen(At::BeforeCommit)),
        Self::Hung(Hung::RedisLost),
        Self::Hung(Hung::SubscriptionLost),
        Self::Hung(Hung::RedisSilent),
        Self::Hung(Hung::PostgresLost),
        Self::Hung(Hung::PostgresSilent),
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::RedisKilled => "redis-killed",
            Self::RedisStopped => "redis-stopped",
            Self::RedisFlushed => "redis-flushed",
            Self::RedisSlow => "redis-slow",
            Self::LinkHole => "link-hole",
            Self::LinkBroken => "link-broken",
            Self::PostgresKilled => "postgres-killed",
            Self::NodeKilled => "node-killed",
            Self::NodeStopped => "node-stopped",
            Self::Hung(hung) => hung.name(),
        }
    }

    /// How often it happens in a round.
    pub(super) fn times(self, quick: bool) -> usize {
        match self {
            Self::RedisFlushed => 5,
            Self::LinkBroken => BROKEN.len(),
            Self::NodeStopped if !quick => 5,
            Self::Hung(_) => 1,
            _ if quick => 1,
            _ => 3,
        }
    }

    /// For how long; drawn before anything happens, so that a seed gives the same moments.
    pub(super) fn lasts(self, quick: bool, rng: &mut StdRng) -> Duration {
        let (from_ms, to_ms) = match self {
            Self::Hung(hung) => return hung.lasts(quick),
            Self::RedisFlushed => (0, 1),
            Self::RedisSlow if quick => (10_000, 10_001),
            Self::RedisSlow => (20_000, 20_001),
            Self::RedisStopped => (10_000, 10_001),
            Self::LinkBroken => (3_000, 4_000),
            Self::NodeKilled => (0, 3_000),
            // Shorter and longer than a node's lease.
            Self::NodeStopped => (300, 5_000),
            _ => (6_000, 10_000),
        };
        Duration::from_millis(rng.random_range(from_ms..to_ms))
    }

    /// The node that it is done to.
    pub(super) fn victim(self) -> Option<usize> {
        match self {
            Self::NodeKilled | Self::NodeStopped => Some(0),
            Self::Hung(hung) => hung.victim(),
            _ => None,
        }
    }

    /// Whether operators can write meanwhile.
    pub(super) fn lets_write(self) -> bool {
        !matches!(self, Self::PostgresKilled | Self::Hung(Hung::PostgresFrozen))
    }

    /// Whether nodes cannot be told of changes meanwhile, or not in the time that a read has: while
    /// the breaker is open readers wait for no announcement.
    fn cuts(self) -> bool {
        match self {
            Self::RedisKilled
            | Self::RedisStopped
            | Self::RedisSlow
            | Self::LinkHole
            | Self::LinkBroken => true,
            Self::Hung(hung) => hung.cuts(),
            _ => false,
        }
    }

    /// Does it for the time that it lasts, and heals it.
    pub(super) async fn strike(
        self,
        run: &mut Run<'_>,
        number: usize,
        lasts: Duration,
    ) -> anyhow::Result<Span> {
        let site = run.site;
        let (stack, links) = (&site.world.stack, &site.links);
        let (mut from, mut held) = (Instant::now(), Held::default());
        match self {
            Self::Hung(hung) => from = hung.strike(run, &mut held).await?,
            Self::RedisKilled => stack.cache.kill(),
            Self::RedisStopped => stack.cache.suspend(),
            Self::RedisFlushed => site.flush().await?,
            Self::RedisSlow => links.iter().for_each(|link| link.set(Mode::Delay(SLOW))),
            Self::LinkHole => links[0].set(Mode::BlackHole),
            Self::LinkBroken => links[0].set(BROKEN[number % BROKEN.len()]),
            Self::PostgresKilled => stack.postgres.kill(),
            Self::NodeKilled => run.nodes[0].kill().await,
            Self::NodeStopped => run.nodes[0].signal(Signal::STOP),
        }
        tokio::time::sleep(lasts.saturating_sub(from.elapsed())).await;
        match self {
            Self::Hung(hung) => hung.heal(run, held).await?,
            Self::RedisKilled => stack.cache.restart().await?,
            Self::RedisStopped => stack.cache.resume(),
            Self::RedisFlushed => {}
            Self::RedisSlow | Self::LinkHole | Self::LinkBroken => {
                links.iter().for_each(|link| link.set(Mode::Pass));
            }
            Self::PostgresKilled => stack.postgres.restart().await?,
            Self::NodeKilled => {
                let started = Instant::now();
                run.nodes[0].start_again()?;
                run.nodes[0].until_ready().await?;
                let took = started.elapsed();
                ensure!(took <= RECOVERY_MAX, "the node was ready after {took:.1?}");
            }
            Self::NodeStopped => {
                run.witness.read_late(0).await?;
                run.nodes[0].signal(Signal::CONT);
            }
        }
        Ok(Span {
            from,
            healed: Instant::now(),
            victim: self.victim(),
            writes: self.lets_write(),
            is_cut: self.cuts(),
            holds: matches!(self, Self::Hung(hung) if hung.holds()),
        })
    }
}
