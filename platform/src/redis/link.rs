//! One connection for many callers: made when it is first used, given up when it breaks or falls
//! silent, and replaced.
//!
//! A peer that is silent does not look like one that is away: the socket is open, nothing refuses,
//! and no answer ever comes. Two signs end such a connection, both within [`SILENT_MAX`]: a command
//! without an answer, and a PING without one. The PING is for callers with less patience than that,
//! which drop their commands before anybody could see that no answer came.
//!
//! A command is sent once. Those that are in flight when a connection is given up fail, each at the
//! end of its own time, with an unknown outcome.

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use redis::{RedisError, RedisResult};

use super::timed_out;
use crate::health::Dependency;

/// After so long without an answer a connection is silent.
pub const SILENT_MAX: Duration = Duration::from_secs(2);
/// Pause before the next PING, or before the next attempt to connect.
const PING_EVERY: Duration = Duration::from_millis(500);
/// A PING is answered within this time: with the pause before it, within [`SILENT_MAX`].
const PING_MAX: Duration = Duration::from_millis(1_500);

/// The kind of work that a connection which was given up did, for its counter.
#[derive(Debug, Clone, Copy)]
pub(super) enum Work {
    Commands,
    BlockingReads,
    Subscription,
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Self::Commands => "commands",
            Self::BlockingReads => "blocking_reads",
            Self::Subscription => "subscription",
        }
    }

    /// How many silent connections of this kind were given up.
    pub(super) fn silent(self) -> metrics::Counter {
        metrics::counter!("redis_silent_connections_total", "work" => self.name())
    }
}

/// Makes connections of one kind.
pub(super) trait Connect: Send + Sync + 'static {
    /// Clones share it.
    type Connection: Clone + Send + Sync + 'static;

    /// Makes one, within a limit of time.
    fn connect(&self) -> impl Future<Output = RedisResult<Self::Connection>> + Send;

    /// Whether there is one peer that can be asked for a sign of life. If so, the connection is
    /// also made again without being asked for.
    const IS_PINGED: bool;

    /// Asks for a sign of life.
    fn ping(connection: Self::Connection) -> impl Future<Output = RedisResult<()>> + Send;
}

/// A connection that is open.
pub(super) struct Open<T> {
    pub(super) connection: T,
    made_at: Instant,
    /// When the last good answer came, milliseconds after `made_at`.
    answered_ms: AtomicU64,
}

impl<T> Open<T> {
    fn new(connection: T) -> Self {
        Self { connection, made_at: Instant::now(), answered_ms: AtomicU64::new(0) }
    }

    /// How long it has existed.
    pub(super) fn age(&self) -> Duration {
        self.made_at.elapsed()
    }

    /// Notes a good answer.
    pub(super) fn answered(&self) {
        self.answered_ms.store(self.age().as_millis() as u64, Ordering::Relaxed);
    }

    /// How long no good answer has come.
    pub(super) fn silent_for(&self) -> Duration {
        self.age().saturating_sub(Duration::from_millis(self.answered_ms.load(Ordering::Relaxed)))
    }
}

type Attempt<T> = Shared<BoxFuture<'static, RedisResult<Arc<Open<T>>>>>;

/// See the module. Clones share the connection.
pub(super) struct Link<C: Connect>(Arc<Inner<C>>);

struct Inner<C: Connect> {
    connect: C,
    open: ArcSwapOption<Open<C::Connection>>,
    /// One attempt to connect, for all who wait for it.
    attempt: Mutex<Option<Attempt<C::Connection>>>,
    /// Reported to, when somebody wants that.
    dependency: OnceLock<Dependency>,
    is_kept: AtomicBool,
}

impl<C: Connect> Clone for Link<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C: Connect> Link<C> {
    pub(super) fn new(connect: C) -> Self {
        Self(Arc::new(Inner {
            connect,
            open: ArcSwapOption::empty(),
            attempt: Mutex::new(None),
            dependency: OnceLock::new(),
            is_kept: AtomicBool::new(false),
        }))
    }

    /// Connects now and reports from here on that it is connected, or that it is not.
    pub(super) fn report_to(&self, dependency: Dependency) {
        if self.0.dependency.set(dependency).is_ok() {
            let attempt = attempt(&self.0);
            tokio::spawn(attempt.map(drop));
        }
    }

    /// The connection; a new one when there is none.
    pub(super) async fn open(&self) -> RedisResult<Arc<Open<C::Connection>>> {
        if let Some(open) = &*self.0.open.load() {
            return Ok(Arc::clone(open));
        }
        attempt(&self.0).await
    }

    /// Lets go of a connection that is of no more use, unless it was replaced already.
    pub(super) fn give_up(&self, open: &Arc<Open<C::Connection>>, reason: &RedisError) {
        give_up(&self.0, open, reason);
    }
}

fn give_up<C: Connect>(inner: &Inner<C>, open: &Arc<Open<C::Connection>>, reason: &RedisError) {
    let before = inner.open.compare_and_swap(Arc::as_ptr(open), None);
    if !before.as_ref().is_some_and(|before| Arc::ptr_eq(before, open)) {
        return;
    }
    if reason.is_timeout() {
        Work::Commands.silent().increment(1);
        tracing::warn!("a connection to Redis is silent, making a new one");
    }
    if let Some(dependency) = inner.dependency.get() {
        dependency.down(reason);
    }
}

/// The attempt to connect that is under way, or a new one. It goes on when nobody waits for it any
/// more, so that callers with little patience get a connection in the end.
fn attempt<C: Connect>(inner: &Arc<Inner<C>>) -> Attempt<C::Connection> {
    let mut under_way = inner.attempt.lock();
    if let Some(attempt) = under_way.as_ref().filter(|attempt| attempt.peek().is_none()) {
        return attempt.clone();
    }
    let task = tokio::spawn(connect(Arc::clone(inner)));
    let ended = task.map(|ended| ended.unwrap_or_else(|_| Err(timed_out())));
    under_way.insert(ended.boxed().shared()).clone()
}

async fn connect<C: Connect>(inner: Arc<Inner<C>>) -> RedisResult<Arc<Open<C::Connection>>> {
    // It may have been made by an attempt that ended just before this one began.
    let made = match inner.open.load_full() {
        Some(open) => Ok(open),
        None => inner.connect.connect().await.map(|connection| {
            let open = Arc::new(Open::new(connection));
            inner.open.store(Some(Arc::clone(&open)));
            open
        }),
    };
    if let Some(dependency) = inner.dependency.get() {
        match &made {
            Ok(_) => dependency.up(),
            Err(error) => dependency.down(error),
        }
    }
    if C::IS_PINGED && !inner.is_kept.swap(true, Ordering::Relaxed) {
        tokio::spawn(keep(Arc::downgrade(&inner)));
    }
    *inner.attempt.lock() = None;
    made
}

/// Looks after a link for as long as somebody has it: pings the connection, or makes one.
async fn keep<C: Connect>(link: Weak<Inner<C>>) {
    loop {
        tokio::time::sleep(PING_EVERY).await;
        let Some(inner) = link.upgrade() else { return };
        let Some(open) = inner.open.load_full() else {
            let _failed_or_made = attempt(&inner).await;
            continue;
        };
        if let Err(error) = answered(C::ping(open.connection.clone())).await {
            give_up(&inner, &open, &error);
        }
    }
}

/// Waits for the answer to a PING. A refusal is an answer, too.
///
/// # Errors
/// The connection is broken or silent.
async fn answered(ping: impl Future<Output = RedisResult<()>>) -> RedisResult<()> {
    match tokio::time::timeout(PING_MAX, ping).await {
        Ok(Err(error)) if error.is_timeout() || error.is_unrecoverable_error() => Err(error),
        Ok(_) => Ok(()),
        Err(_) => Err(timed_out()),
    }
}

/// Pings again and again; ends when there is no answer.
pub(super) async fn until_silent<F>(mut ping: impl FnMut() -> F) -> RedisError
where
    F: Future<Output = RedisResult<()>>,
{
    loop {
        tokio::time::sleep(PING_EVERY).await;
        if let Err(error) = answered(ping()).await {
            return error;
        }
    }
}
