//! This process as one of the nodes: its lease, and what it hears.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt as _, Stream, StreamExt as _, future::BoxFuture, stream::FuturesUnordered,
};
use platform::{health::Dependency, redis::Connection};
use redis::{Client, Script};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Announcement, Names, Sweeper,
    announce::{Acks, Announcer, Number, announcer},
    scripts,
};
use crate::{memory::Memory, stats::Stats};

/// Pause before the next try when Redis is away, doubled up to the second value.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Announcements that are handled before they are acknowledged.
const HANDLED_AT_ONCE: usize = 256;
/// Acknowledgements on their way at a time; with more, Redis is as good as away.
const ACKING_MAX: usize = 256;
/// What must be announced before the shared cache is trusted again takes no longer.
const SWEEP_MAX: Duration = Duration::from_secs(2);

/// Random text for epochs, eras and tokens.
pub(crate) fn random() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// One node.
pub struct Node {
    name: String,
    names: Names,
    lease: Duration,
    client: Client,
    redis: Connection,
    memory: Arc<Memory>,
    stats: Arc<Stats>,
    acks: Arc<Acks>,
    renew: Script,
}

/// A lease that counts once announcements up to `seq` are handled.
struct Grant {
    seq: u64,
    until: Instant,
}

impl Node {
    /// A node with a name of its own, and the announcer that speaks for it. The announcer's work is
    /// started on `tasks`.
    pub fn new(
        client: Client,
        names: Names,
        lease: Duration,
        memory: Arc<Memory>,
        stats: Arc<Stats>,
        tasks: &TaskTracker,
    ) -> (Self, Announcer) {
        let name = uuid::Uuid::now_v7().simple().to_string();
        let acks = Arc::new(Acks::default());
        let (announcer, work) = announcer(
            &client,
            names.clone(),
            name.clone(),
            lease,
            Arc::clone(&acks),
            Arc::clone(&memory),
        );
        tasks.spawn(work.run());
        let node = Self {
            redis: platform::redis::connection(&client),
            name,
            names,
            lease,
            client,
            memory,
            stats,
            acks,
            renew: scripts::renew(),
        };
        (node, announcer)
    }

    /// What others know this node by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Holds a lease for as long as Redis can be reached, until `shutdown`.
    pub async fn run(
        self,
        sweeper: Arc<Sweeper>,
        dependency: Dependency,
        shutdown: CancellationToken,
    ) {
        let mut delay = RETRY.0;
        while !shutdown.is_cancelled() {
            let begun = Instant::now();
            let ended = tokio::select! {
                () = shutdown.cancelled() => break,
                ended = self.session(&sweeper, &dependency) => ended,
            };
            self.memory.lapse();
            if let Err(error) = ended {
                dependency.down(&error);
                tracing::debug!(%error, "the session with the shared cache ended");
            }
            if begun.elapsed() > RETRY.1 {
                delay = RETRY.0;
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(delay) => {}
            }
            delay = (delay * 2).min(RETRY.1);
        }
        // Nobody has to wait for the end of this lease then.
        self.memory.lapse();
        let mut redis = self.redis.clone();
        let leave = scripts::leave();
        let mut call = leave.prepare_invoke();
        call.key(self.names.control()).key(self.names.stats()).arg(&self.name);
        let _best_effort = timeout(self.lease, call.invoke_async::<()>(&mut redis)).await;
    }

    /// Subscribes and follows until something fails; the lease lapses with it.
    async fn session(
        &self,
        sweeper: &Arc<Sweeper>,
        dependency: &Dependency,
    ) -> redis::RedisResult<()> {
        let mut messages = platform::redis::pubsub(&self.client).await?;
        let own = self.names.acks(&self.name);
        let subscribed = async {
            messages.subscribe(&self.names.changes()).await?;
            messages.subscribe(&own).await
        };
        timeout(self.lease, subscribed).await.map_err(|_| timed_out())??;
        let (first, until) = self.ask().await?;
        let mut session = Session {
            node: self,
            at: first,
            grants: VecDeque::new(),
            swept: None,
            to_ack: Vec::new(),
            acking: FuturesUnordered::new(),
        };
        // Whatever was said since the last session is lost to us.
        self.memory.new_session();
        session.grants.push_back(Grant { seq: session.at.seq, until });
        session.sweep(sweeper);

        let mut tick = tokio::time::interval(self.lease / 4);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut asking: Option<BoxFuture<'_, redis::RedisResult<(Number, Instant)>>> = None;
        loop {
            tokio::select! {
                biased;
                message = messages.next() => {
                    let Some(message) = message else { return Err(closed()) };
                    session.hear(&message, &own)?;
                    session.hear_waiting(&mut messages, &own)?;
                    session.acknowledge()?;
                }
                Some(acknowledged) = session.acking.next() => acknowledged?,
                () = async { if let Some(swept) = &mut session.swept { swept.await } },
                    if session.swept.is_some() =>
                {
                    session.swept = None;
                    dependency.up();
                }
                granted = async { match &mut asking {
                    Some(asking) => asking.await,
                    None => std::future::pending().await,
                } }, if asking.is_some() => {
                    asking = None;
                    let (position, until) = granted?;
                    session.granted(position, until, sweeper);
                }
                _ = tick.tick(), if asking.is_none() => asking = Some(self.ask().boxed()),
            }
            session.extend()?;
        }
    }

    /// Asks for the lease again. It ends, for us, one lease after we began to ask.
    async fn ask(&self) -> redis::RedisResult<(Number, Instant)> {
        let asked = Instant::now();
        let mut redis = self.redis.clone();
        let mut call = self.renew.prepare_invoke();
        call.key(self.names.control()).key(self.names.stats());
        call.arg(random()).arg(self.lease.as_millis() as u64).arg(&self.name);
        call.arg(self.stats.to_json(&self.memory));
        let answer = timeout(self.lease, call.invoke_async(&mut redis)).await;
        let (epoch, seq): (String, u64) = answer.map_err(|_| timed_out())??;
        Ok((Number { epoch, seq }, asked + self.lease))
    }
}

struct Session<'a> {
    node: &'a Node,
    /// The last announcement that was handled.
    at: Number,
    grants: VecDeque<Grant>,
    /// Announces what waits in PostgreSQL; until it has ended, no lease counts.
    swept: Option<BoxFuture<'a, ()>>,
    /// (announcer, announcement, documents dropped)
    to_ack: Vec<(String, Number, u64)>,
    /// Acknowledgements on their way.
    acking: FuturesUnordered<BoxFuture<'a, redis::RedisResult<()>>>,
}

impl Session<'_> {
    /// The shared cache may hold what was changed while it could not be told so.
    fn sweep(&mut self, sweeper: &Arc<Sweeper>) {
        let sweeper = Arc::clone(sweeper);
        self.swept = Some(
            async move {
                // Without PostgreSQL nobody can have changed anything either.
                let _in_time = timeout(SWEEP_MAX, sweeper.sweep_all()).await;
            }
            .boxed(),
        );
    }

    fn hear_waiting(
        &mut self,
        messages: &mut (impl Stream<Item = redis::Msg> + Unpin),
        own: &str,
    ) -> redis::RedisResult<()> {
        for _ in 1..HANDLED_AT_ONCE {
            match messages.next().now_or_never() {
                Some(Some(message)) => self.hear(&message, own)?,
                Some(None) => return Err(closed()),
                None => break,
            }
        }
        Ok(())
    }

    fn hear(&mut self, message: &redis::Msg, own: &str) -> redis::RedisResult<()> {
        let text: String = message.get_payload()?;
        if message.get_channel_name() == own {
            self.hear_ack(&text);
            return Ok(());
        }
        let mut parts = text.splitn(4, ' ');
        let (Some(epoch), Some(seq), Some(from), Some(announcement)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(unreadable());
        };
        let seq: u64 = seq.parse().map_err(|_| unreadable())?;
        let announcement: Announcement =
            serde_json::from_str(announcement).map_err(|_| unreadable())?;
        let memory = &self.node.memory;
        if epoch == self.at.epoch && seq <= self.at.seq {
            // It was said before we had the lease, and nothing older was taken in since. Its
            // announcer may wait for us all the same.
            self.to_ack.push((from.to_owned(), Number { epoch: epoch.to_owned(), seq }, 0));
            return Ok(());
        }
        if epoch != self.at.epoch || seq != self.at.seq + 1 {
            tracing::debug!(seq, expected = self.at.seq + 1, "announcements were missed");
            memory.new_session();
            self.grants.clear();
        }
        let dropped = announcement.apply(memory);
        self.at = Number { epoch: epoch.to_owned(), seq };
        self.to_ack.push((from.to_owned(), self.at.clone(), dropped));
        Ok(())
    }

    /// `epoch seq dropped node`
    fn hear_ack(&self, text: &str) {
        let mut parts = text.splitn(4, ' ');
        let epoch = parts.next();
        let seq = parts.next().and_then(|seq| seq.parse().ok());
        let dropped = parts.next().and_then(|dropped| dropped.parse().ok());
        if let (Some(epoch), Some(seq), Some(dropped), Some(node)) =
            (epoch, seq, dropped, parts.next())
        {
            self.node.acks.arrive(Number { epoch: epoch.to_owned(), seq }, node, dropped);
        }
    }

    /// Tells announcers what was done. Nobody waits for it here: on a slow link the lease must be
    /// renewed meanwhile.
    fn acknowledge(&mut self) -> redis::RedisResult<()> {
        let name = &self.node.name;
        let mut pipeline = redis::pipe();
        let mut others = false;
        for (from, number, dropped) in self.to_ack.drain(..) {
            if from == *name {
                self.node.acks.arrive(number, name, dropped);
                continue;
            }
            others = true;
            let Number { epoch, seq } = number;
            let ack = format!("{epoch} {seq} {dropped} {name}");
            pipeline.publish(self.node.names.acks(&from), ack).ignore();
        }
        if !others {
            return Ok(());
        }
        if self.acking.len() >= ACKING_MAX {
            return Err(timed_out());
        }
        let (mut redis, lease) = (self.node.redis.clone(), self.node.lease);
        self.acking.push(
            async move {
                timeout(lease, pipeline.query_async::<()>(&mut redis))
                    .await
                    .map_err(|_| timed_out())?
            }
            .boxed(),
        );
        Ok(())
    }

    fn granted(&mut self, position: Number, until: Instant, sweeper: &Arc<Sweeper>) {
        if position.epoch != self.at.epoch {
            self.node.memory.new_session();
            self.grants.clear();
            self.at = position;
            self.grants.push_back(Grant { seq: self.at.seq, until });
            return;
        }
        if self.swept.is_none() && !self.node.memory.is_valid(Instant::now()) {
            // Nobody has waited for us since it lapsed, so Redis may have been away for others too.
            self.node.memory.new_session();
            self.sweep(sweeper);
        }
        self.grants.push_back(Grant { seq: position.seq, until });
    }

    /// Uses the grants whose announcements are handled.
    ///
    /// # Errors
    /// Announcements have not come for as long as a lease: they are lost, and with them the
    /// subscription that should have brought them.
    fn extend(&mut self) -> redis::RedisResult<()> {
        if self.swept.is_some() {
            return Ok(());
        }
        while let Some(grant) = self.grants.front() {
            if grant.seq > self.at.seq {
                return if grant.until > Instant::now() { Ok(()) } else { Err(timed_out()) };
            }
            self.node.memory.extend(grant.until);
            self.grants.pop_front();
        }
        Ok(())
    }
}

fn timed_out() -> redis::RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

fn closed() -> redis::RedisError {
    std::io::Error::from(std::io::ErrorKind::ConnectionAborted).into()
}

fn unreadable() -> redis::RedisError {
    std::io::Error::from(std::io::ErrorKind::InvalidData).into()
}
