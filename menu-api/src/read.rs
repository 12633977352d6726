//! The read path: memory, the shared cache, PostgreSQL, and at last an old copy.
//!
//! **Promise.** While Redis can be reached in time, nobody is shown a version before every node has
//! forgotten the older ones: a reader that finds in PostgreSQL what was not announced yet announces
//! it first. So a version that was seen, or that an operator's call has answered with, is the least
//! that anybody sees who asks afterwards, on any node.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use contracts::ids::RestaurantId;
use platform::breaker::{Breaker, Settings};
use sqlx::PgPool;
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;

use crate::{
    coherence::{Announcer, Order, Outcome, Sweeper},
    document::{Body, Document, Key, Kind},
    memory::{Boarding, Change, FLIGHT_MAX, Fetched, Flight, Found, Memory, Ticket},
    shared::{Answer, FillLease, Shared},
    stats::Stats,
    store::{self, Loaded, list::Filter},
};

/// How long a reader waits for another node that fills.
const BUSY_MAX: Duration = Duration::from_millis(100);
const BUSY_FIRST: Duration = Duration::from_millis(2);
/// How long a reader waits for one of the permits for PostgreSQL, and then for PostgreSQL.
const PERMIT_MAX: Duration = Duration::from_millis(100);
const QUERY_MAX: Duration = Duration::from_secs(2);
/// Times to live vary by this share, so that what was filled together does not end together.
const JITTER: f64 = 0.1;

/// Nothing can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither the cache nor the database can answer")]
pub struct ReadError;

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// This process's memory.
    Memory,
    /// The shared cache.
    Shared,
    /// PostgreSQL.
    Database,
    /// An old copy, as nothing else could be asked.
    Stale,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Read {
    /// `None`: there is no such restaurant.
    pub document: Option<Arc<Document>>,
    /// Where it came from.
    pub source: Source,
}

/// How long what is kept is right.
#[derive(Debug, Clone, Copy)]
pub struct Ttls {
    /// `Kind::Restaurant`
    pub restaurant: Duration,
    /// `Kind::Menu`
    pub menu: Duration,
    /// `Kind::Status` and with it `Kind::MenuWithStatus`
    pub status: Duration,
    /// That there is no such restaurant.
    pub negative: Duration,
    /// A copy may be used for so long after its end when nothing else can be asked.
    pub stale_max: Duration,
}

/// A list at most: a restaurant whose opening is over shows its next one ten seconds later, which
/// may be the next change.
const LIST_TTL_MAX: Duration = Duration::from_secs(60);
/// What is right for no time at all could never be sent.
const MOMENT: Duration = Duration::from_millis(1);

impl Ttls {
    fn of(&self, key: &Key) -> Duration {
        match key {
            Key::Document(_, Kind::Restaurant) => self.restaurant,
            Key::Document(_, Kind::Menu) => self.menu,
            Key::Document(_, Kind::Status | Kind::MenuWithStatus) => self.status,
            Key::List(_) => LIST_TTL_MAX,
        }
    }
}

/// What a reader works with.
pub struct Parts {
    /// This process's memory.
    pub memory: Arc<Memory>,
    /// The shared cache.
    pub shared: Shared,
    /// The database.
    pub db: PgPool,
    /// Reads of the database at a time.
    pub database_reads: usize,
    /// Times to live.
    pub ttls: Ttls,
    /// Announces what a reader finds unannounced.
    pub announcer: Announcer,
    /// Told what was announced.
    pub sweeper: Arc<Sweeper>,
    /// Counters.
    pub stats: Arc<Stats>,
    /// Where flights run: they go on when the request that started them is gone.
    pub tasks: TaskTracker,
}

/// A handle that reads; clones share everything.
#[derive(Clone)]
pub struct Reader(Arc<Inner>);

struct Inner {
    parts: Parts,
    permits: Semaphore,
    /// Opens while PostgreSQL is away: then an old copy, or 503, comes at once.
    database: Breaker,
}

/// What to fetch.
#[derive(Clone)]
enum Wanted {
    Document(RestaurantId, Kind),
    List(Arc<Filter>),
}

impl Reader {
    /// A reader.
    pub fn new(parts: Parts) -> Self {
        let permits = Semaphore::new(parts.database_reads);
        let settings = Settings {
            window: Duration::from_secs(2),
            failures_min: 3,
            failure_share: 0.5,
            open_for: Duration::from_millis(250),
            open_max: Duration::from_secs(1),
        };
        let database = Breaker::new(settings, rand::random(), Instant::now());
        Self(Arc::new(Inner { parts, permits, database }))
    }

    /// A document of a restaurant.
    pub async fn document(&self, restaurant: RestaurantId, kind: Kind) -> Result<Read, ReadError> {
        let key = Key::Document(restaurant, kind);
        if let Some(read) = self.recall(&key, || Wanted::Document(restaurant, kind)) {
            return Ok(read);
        }
        self.fetch(key, Wanted::Document(restaurant, kind)).await
    }

    /// A document that can be had at once and is right.
    pub fn remembered(&self, restaurant: RestaurantId, kind: Kind) -> Option<Arc<Document>> {
        let wanted = || Wanted::Document(restaurant, kind);
        self.recall(&Key::Document(restaurant, kind), wanted)?.document
    }

    /// A page of a list.
    pub async fn list(&self, filter: Filter) -> Result<Read, ReadError> {
        let key = Key::List(filter.key().into());
        let filter = Arc::new(filter);
        if let Some(read) = self.recall(&key, || Wanted::List(Arc::clone(&filter))) {
            return Ok(read);
        }
        self.fetch(key, Wanted::List(filter)).await
    }

    /// The menu as it was at a version; not cached, as hardly anybody asks.
    pub async fn old_menu(
        &self,
        restaurant: RestaurantId,
        version: i64,
    ) -> Result<Option<Bytes>, ReadError> {
        let found =
            self.0.query(store::menus::old_menu(&self.0.parts.db, restaurant, version)).await?;
        Ok(found)
    }

    fn recall(&self, key: &Key, wanted: impl Fn() -> Wanted) -> Option<Read> {
        let Parts { memory, stats, .. } = &self.0.parts;
        let Found::Fresh(document, refresh) = memory.find(key, Instant::now()) else {
            return None;
        };
        stats.hits.add();
        if refresh && let Boarding::Start(flight) = memory.board(key) {
            stats.early_refreshes.add();
            self.spawn(flight, wanted());
        }
        Some(Read { document, source: Source::Memory })
    }

    async fn fetch(&self, key: Key, wanted: Wanted) -> Result<Read, ReadError> {
        let Parts { memory, stats, .. } = &self.0.parts;
        let mut landed = match memory.board(&key) {
            Boarding::Join(landed) => {
                stats.single_flight_waits.add();
                landed
            }
            Boarding::Start(flight) => {
                let landed = flight.join();
                self.spawn(flight, wanted);
                landed
            }
        };
        let fetched = match timeout(FLIGHT_MAX, landed.wait_for(Option::is_some)).await {
            Ok(Ok(fetched)) => fetched.clone(),
            // The flight was lost, or takes too long.
            _ => None,
        };
        let (document, source) = fetched.unwrap_or(Err(ReadError)).inspect_err(|_| {
            stats.unavailable.add();
        })?;
        if source == Source::Stale {
            stats.stale.add();
        }
        Ok(Read { document, source })
    }

    fn spawn(&self, flight: Flight, wanted: Wanted) {
        let inner = Arc::clone(&self.0);
        self.0.parts.tasks.spawn(async move {
            let fetched = inner.fly(flight.key(), wanted).await;
            inner.parts.memory.land(flight, fetched);
        });
    }
}

impl Inner {
    async fn fly(&self, key: &Key, wanted: Wanted) -> Fetched {
        let Parts { memory, ttls, stats, .. } = &self.parts;
        let ticket = memory.ticket();
        let fetched = timeout(FLIGHT_MAX, self.fetch(key, &wanted, ticket)).await;
        match fetched.unwrap_or(Err(ReadError)) {
            Ok((document, source)) => {
                if !memory.take_in(key, document.clone(), ttls.negative, ticket) {
                    stats.refused_by_memory.add();
                }
                Ok((document, source))
            }
            Err(error) => {
                let copy = memory.old_copy(key, Instant::now(), ttls.stale_max);
                copy.map(|copy| (Some(copy), Source::Stale)).ok_or(error)
            }
        }
    }

    async fn fetch(&self, key: &Key, wanted: &Wanted, ticket: Ticket) -> Fetched {
        let Parts { shared, ttls, stats, .. } = &self.parts;
        let ttl = ttls.of(key).mul_f64(1.0 + JITTER * (2.0 * rand::random::<f64>() - 1.0));
        let lease = if ticket.is_trusted() {
            match self.ask_shared(key).await {
                Ok(document) => {
                    stats.shared_hits.add();
                    return Ok((document.map(Arc::new), Source::Shared));
                }
                Err(lease) => lease,
            }
        } else {
            None
        };
        stats.misses.add();
        let (document, ttl) = self.load(wanted, ttl, ticket).await?;
        let document = document.map(Arc::new);
        if let Some(lease) = lease {
            shared.fill(lease, document.as_deref(), ttl).await;
        }
        Ok((document, Source::Database))
    }

    /// What the shared cache has, or the right to fill it if that was to be had.
    async fn ask_shared(&self, key: &Key) -> Result<Option<Document>, Option<FillLease>> {
        let begun = Instant::now();
        let mut pause = BUSY_FIRST;
        loop {
            match self.parts.shared.get(key).await {
                Answer::Here(document) => return Ok(document),
                Answer::Fill(lease) => return Err(Some(lease)),
                Answer::Unavailable => return Err(None),
                Answer::Busy if begun.elapsed() > BUSY_MAX => return Err(None),
                Answer::Busy => sleep(pause).await,
            }
            pause *= 2;
        }
    }

    async fn load(
        &self,
        wanted: &Wanted,
        ttl: Duration,
        ticket: Ticket,
    ) -> Result<(Option<Document>, Duration), ReadError> {
        let db = &self.parts.db;
        let now = Utc::now();
        match wanted {
            Wanted::Document(restaurant, kind) => {
                let loaded = self.query(store::document(db, *restaurant, *kind, now)).await?;
                if self.can_tell(ticket) {
                    self.help(*restaurant, *kind, &loaded).await;
                }
                let Some(found) = loaded.found else {
                    return Ok((None, self.parts.ttls.negative));
                };
                let ttl = found.right_until.map_or(ttl, |until| ttl.min(until_then(now, until)));
                let body = match found.packed {
                    Some(packed) => Body::with_zstd(found.body, packed),
                    None => Body::new(found.body),
                };
                Ok((Some(Document::new(found.version, body, ttl)), ttl))
            }
            Wanted::List(filter) => {
                let body = self.query(store::list::page(db, filter)).await?;
                // Asked after the list was read: what it shows is either announced or found here.
                if self.can_tell(ticket) && self.query(store::lists_unannounced(db)).await? {
                    self.parts.stats.helped.add();
                    self.parts.sweeper.sweep_all().await;
                }
                let ttl = match self.query(store::list::right_for(db, now)).await? {
                    Some(change) => ttl.min(change.to_std().unwrap_or_default().max(MOMENT)),
                    None => ttl,
                };
                Ok((Some(Document::new(0, Body::new(body), ttl)), ttl))
            }
        }
    }

    /// Whether a reader may wait for an announcement. While Redis is away or slow it may not: the
    /// read would take as long, and what is slow for us is as good as away.
    fn can_tell(&self, ticket: Ticket) -> bool {
        ticket.is_trusted() && self.parts.shared.is_reachable()
    }

    /// Announces what was read, when its writer has not done so yet.
    async fn help(&self, restaurant: RestaurantId, kind: Kind, loaded: &Loaded) {
        let Parts { memory, announcer, sweeper, stats, .. } = &self.parts;
        let Some(unannounced) = &loaded.unannounced else { return };
        if memory.is_told_everywhere(restaurant, kind, unannounced.version) {
            return;
        }
        stats.helped.add();
        let change = Change { restaurant, version: unannounced.version, parts: unannounced.parts };
        if let Outcome::Everywhere(_) = announcer.announce(Order::Changed(change)).await {
            unannounced.ids.iter().for_each(|id| sweeper.announced(*id));
        }
    }

    /// Asks PostgreSQL, with a permit.
    async fn query<T>(
        &self,
        query: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, ReadError> {
        let permit = timeout(PERMIT_MAX, self.permits.acquire()).await;
        let Ok(Ok(_permit)) = permit else {
            metrics::counter!("menu_database_busy_total").increment(1);
            return Err(ReadError);
        };
        let call = self.database.try_acquire(Instant::now()).map_err(|_| ReadError)?;
        match timeout(QUERY_MAX, query).await {
            Ok(Ok(answer)) => {
                call.success(Instant::now());
                return Ok(answer);
            }
            Ok(Err(error)) if platform::postgres::is_unavailable(&error) => {
                tracing::debug!(%error, "the database is away");
            }
            Ok(Err(error)) => {
                // It answers; what it was asked is our mistake.
                call.success(Instant::now());
                tracing::error!(%error, "a query failed");
                return Err(ReadError);
            }
            Err(_) => tracing::warn!("a query took too long"),
        }
        call.failure(Instant::now());
        Err(ReadError)
    }
}

fn until_then(now: DateTime<Utc>, then: DateTime<Utc>) -> Duration {
    (then - now).to_std().unwrap_or_default().max(MOMENT)
}
