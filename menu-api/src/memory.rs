//! What this process remembers: documents, the flights that fetch them, and what was announced.
//!
//! **Promise.** A document is found here only while the node's lease is valid, and only if nothing
//! newer was announced. The three rules behind it:
//! - An announcement raises the *floor* of the documents that it names and removes them, in one
//!   step; a document below its floor is not taken in. So a reader that was slower than the
//!   announcement cannot put an old document back.
//! - An announcement detaches the flights that fetch such documents: whoever asks later starts a
//!   flight of its own and cannot be handed what was read before.
//! - A node that may have missed an announcement begins a new *session*; what was taken in before
//!   is old from then on, but for [`Memory::old_copy`], the last resort when all stores are away.
//!
//! A lease is a time up to which every announcer waits for this node; `coherence` renews it.

use std::{
    collections::hash_map::Entry as MapEntry,
    hash::BuildHasher as _,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use contracts::ids::RestaurantId;
use parking_lot::Mutex;
use quick_cache::{Weighter, sync::DefaultLifecycle};
use rustc_hash::{FxBuildHasher, FxHashMap};
use tokio::sync::watch;

use crate::{
    document::{Document, Key, Kind, Parts},
    read::{ReadError, Source},
};

/// What a flight brings: `None` is that there is no such restaurant.
pub type Fetched = Result<(Option<Arc<Document>>, Source), ReadError>;

/// No flight lasts this long, so floors need not be kept longer.
pub const FLIGHT_MAX: Duration = Duration::from_secs(10);
const FLOOR_KEPT: Duration = Duration::from_secs(60);
/// Floors of one shard above which old ones are looked for.
const FLOORS_PRUNE: usize = 1_024;
const SHARDS: usize = 64;
/// What a document takes, about: only for the first size of tables.
const DOCUMENT_BYTES: u64 = 16 * 1024;
/// A negative entry's body is nothing; this is its key and so on.
const NEGATIVE_WEIGHT: u32 = 200;

/// Something that was changed or is to be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Whose.
    pub restaurant: RestaurantId,
    /// Documents below this are old; 0 drops without making anything old.
    pub version: i64,
    /// What of it.
    pub parts: Parts,
}

#[derive(Clone)]
struct Kept {
    /// `None`: there is no such restaurant.
    document: Option<Arc<Document>>,
    fresh_until: Instant,
    /// When to fetch it again, ahead of its end.
    refresh_at: Instant,
    session: u64,
    /// The generation of lists; not looked at for documents.
    lists: u64,
    /// Fetched while the lease was valid.
    trusted: bool,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Key, Kept> for ByBytes {
    fn weight(&self, _: &Key, kept: &Kept) -> u64 {
        kept.document.as_ref().map_or(NEGATIVE_WEIGHT, |document| document.weight()).into()
    }
}

/// What is known at the begin of a fetch, by which its result is judged.
#[derive(Debug, Clone, Copy)]
pub struct Ticket {
    session: u64,
    lists: u64,
    trusted: bool,
}

impl Ticket {
    /// Whether the node's lease ran when the fetch began, so that Redis can be reached.
    pub fn is_trusted(&self) -> bool {
        self.trusted
    }
}

/// What was found.
#[derive(Debug, Clone)]
pub enum Found {
    /// Right now; when true it is time to fetch it again, in the background.
    Fresh(Option<Arc<Document>>, bool),
    /// Nothing that may be shown.
    Nothing,
}

/// How to get what is not here.
pub enum Boarding {
    /// Somebody fetches it already.
    Join(watch::Receiver<Option<Fetched>>),
    /// Fetch it, and tell those who join by [`Memory::land`].
    Start(Flight),
}

/// A fetch under way. Dropped without landing, those who joined find its channel closed.
pub struct Flight {
    key: Key,
    id: u64,
    tell: watch::Sender<Option<Fetched>>,
}

impl Flight {
    /// What is fetched.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// For the one who started it.
    pub fn join(&self) -> watch::Receiver<Option<Fetched>> {
        self.tell.subscribe()
    }
}

struct UnderWay {
    id: u64,
    seen: watch::Receiver<Option<Fetched>>,
}

struct Floor {
    version: i64,
    /// The newest version that every node is known to have heard of.
    everywhere: i64,
    since: Instant,
}

#[derive(Default)]
struct Shard {
    floors: FxHashMap<(RestaurantId, Kind), Floor>,
    flights: FxHashMap<Key, UnderWay>,
}

/// The process's cache.
pub struct Memory {
    kept: quick_cache::sync::Cache<Key, Kept, ByBytes, FxBuildHasher>,
    shards: Box<[Mutex<Shard>]>,
    next_flight: AtomicU64,
    session: AtomicU64,
    lists: AtomicU64,
    /// Nanoseconds after `start` until which announcers wait for us.
    valid_until: AtomicI64,
    start: Instant,
}

impl Memory {
    /// Keeps up to `bytes`, bodies in all their encodings included.
    pub fn new(bytes: u64) -> Self {
        let kept = quick_cache::sync::Cache::with(
            usize::try_from(bytes / DOCUMENT_BYTES).unwrap_or(usize::MAX),
            bytes,
            ByBytes,
            FxBuildHasher,
            DefaultLifecycle::default(),
        );
        Self {
            kept,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            next_flight: AtomicU64::new(0),
            session: AtomicU64::new(0),
            lists: AtomicU64::new(0),
            valid_until: AtomicI64::new(0),
            start: Instant::now(),
        }
    }

    fn nanos(&self, at: Instant) -> i64 {
        at.saturating_duration_since(self.start).as_nanos() as i64
    }

    /// Whether announcers wait for this node at `now`.
    pub fn is_valid(&self, now: Instant) -> bool {
        self.nanos(now) < self.valid_until.load(Ordering::Acquire)
    }

    /// Announcers wait for this node until `until`.
    pub fn extend(&self, until: Instant) {
        self.valid_until.fetch_max(self.nanos(until), Ordering::AcqRel);
    }

    /// Announcers may no longer wait.
    pub fn lapse(&self) {
        self.valid_until.store(0, Ordering::Release);
    }

    /// Something may have been missed: all that is kept is old. The lease is left as it is.
    pub fn new_session(&self) {
        self.session.fetch_add(1, Ordering::AcqRel);
        self.lists.fetch_add(1, Ordering::AcqRel);
        for shard in &self.shards {
            shard.lock().flights.clear();
        }
    }

    /// Bytes and documents that are kept, old ones included.
    pub fn size(&self) -> (u64, u64) {
        (self.kept.weight(), self.kept.len() as u64)
    }

    /// To be asked for before a fetch begins to read.
    pub fn ticket(&self) -> Ticket {
        // The lease first: a session that ends in between makes the ticket old and not the reverse.
        let trusted = self.is_valid(Instant::now());
        Ticket {
            trusted,
            session: self.session.load(Ordering::Acquire),
            lists: self.lists.load(Ordering::Acquire),
        }
    }

    /// Looks a document up.
    pub fn find(&self, key: &Key, now: Instant) -> Found {
        // The lease first, as above.
        if !self.is_valid(now) {
            return Found::Nothing;
        }
        let Some(kept) = self.kept.get(key) else { return Found::Nothing };
        if now >= kept.fresh_until || !self.is_current(&kept, key) {
            return Found::Nothing;
        }
        Found::Fresh(kept.document, now >= kept.refresh_at)
    }

    fn is_current(&self, kept: &Kept, key: &Key) -> bool {
        kept.trusted
            && kept.session == self.session.load(Ordering::Acquire)
            && (!matches!(key, Key::List(_)) || kept.lists == self.lists.load(Ordering::Acquire))
    }

    /// A copy that was right at most `stale_max` ago, for when no store can be asked.
    pub fn old_copy(&self, key: &Key, now: Instant, stale_max: Duration) -> Option<Arc<Document>> {
        let kept = self.kept.get(key)?;
        let document = kept.document.clone()?;
        // What was current is right up to the end of the lease; what was read while there was no
        // lease was right when it was read.
        let current = kept.trusted && kept.session == self.session.load(Ordering::Acquire);
        let leased = self.start
            + Duration::from_nanos(self.valid_until.load(Ordering::Acquire).unsigned_abs());
        let right_until =
            if current { leased.min(kept.fresh_until).max(document.since) } else { document.since };
        (now.saturating_duration_since(right_until) <= stale_max).then_some(document)
    }

    /// Takes in what was fetched since `ticket`, unless something newer was announced meanwhile;
    /// false when it was refused.
    pub fn take_in(
        &self,
        key: &Key,
        document: Option<Arc<Document>>,
        ttl: Duration,
        ticket: Ticket,
    ) -> bool {
        let now = Instant::now();
        let fresh_until = document.as_ref().map_or(now + ttl, |document| document.fresh_until);
        let kept = Kept {
            refresh_at: fresh_until
                - fresh_until.saturating_duration_since(now).mul_f64(REFRESH_AHEAD),
            fresh_until,
            session: ticket.session,
            lists: ticket.lists,
            trusted: ticket.trusted,
            document,
        };
        let shard = self.shard(key).lock();
        if let Key::Document(restaurant, kind) = *key {
            let version = kept.document.as_ref().map_or(0, |document| document.version);
            let floor = shard.floors.get(&(restaurant, kind)).map_or(0, |floor| floor.version);
            #[cfg(feature = "sabotage")]
            let floor = crate::sabotage::floor(floor);
            if version < floor {
                return false;
            }
        }
        self.kept.insert(key.clone(), kept);
        true
    }

    /// Every node is known to have forgotten what this change made old.
    pub fn told_everywhere(&self, change: Change) {
        for kind in change.parts.kinds() {
            let mut shard = self.shard(&Key::Document(change.restaurant, kind)).lock();
            let floor = shard.raise_floor(change.restaurant, kind, change.version);
            floor.everywhere = floor.everywhere.max(change.version);
        }
    }

    /// Whether every node is known to have forgotten what is older than this version. That this
    /// node has heard of it is not enough: others may not have.
    pub fn is_told_everywhere(&self, restaurant: RestaurantId, kind: Kind, version: i64) -> bool {
        let shard = self.shard(&Key::Document(restaurant, kind)).lock();
        shard.floors.get(&(restaurant, kind)).is_some_and(|floor| floor.everywhere >= version)
    }

    /// Does what an announcement says; answers how many documents were dropped. Once this returns,
    /// nobody who asks gets anything older.
    pub fn apply(&self, change: Change) -> u64 {
        let mut dropped = 0;
        for kind in change.parts.kinds() {
            dropped += self.drop_document(change.restaurant, kind, change.version);
        }
        if change.parts.meets(Parts::LISTS) {
            self.drop_lists();
        }
        dropped
    }

    /// Drops one document and, with a version, refuses older ones from now on.
    pub fn drop_document(&self, restaurant: RestaurantId, kind: Kind, version: i64) -> u64 {
        let key = Key::Document(restaurant, kind);
        let mut shard = self.shard(&key).lock();
        if version > 0 {
            shard.raise_floor(restaurant, kind, version);
        }
        shard.flights.remove(&key);
        u64::from(self.kept.remove(&key).is_some())
    }

    /// Makes every list old.
    pub fn drop_lists(&self) {
        self.lists.fetch_add(1, Ordering::AcqRel);
        for shard in &self.shards {
            shard.lock().flights.retain(|key, _| !matches!(key, Key::List(_)));
        }
    }

    /// Joins the flight for a key, or becomes the one who flies.
    pub fn board(&self, key: &Key) -> Boarding {
        let mut shard = self.shard(key).lock();
        match shard.flights.entry(key.clone()) {
            MapEntry::Occupied(there) if there.get().seen.has_changed().is_ok() => {
                Boarding::Join(there.get().seen.clone())
            }
            there => {
                // A flight whose sender is gone was lost: its place is taken.
                let (tell, seen) = watch::channel(None);
                let id = self.next_flight.fetch_add(1, Ordering::Relaxed);
                there.insert_entry(UnderWay { id, seen });
                Boarding::Start(Flight { key: key.clone(), id, tell })
            }
        }
    }

    /// Tells those who joined, and ends the flight.
    pub fn land(&self, flight: Flight, fetched: Fetched) {
        let Flight { key, id, tell } = flight;
        let mut shard = self.shard(&key).lock();
        if shard.flights.get(&key).is_some_and(|there| there.id == id) {
            shard.flights.remove(&key);
        }
        drop(shard);
        tell.send_replace(Some(fetched));
    }

    fn shard(&self, key: &Key) -> &Mutex<Shard> {
        let hash = FxBuildHasher.hash_one(key);
        // The high bits are the better ones.
        &self.shards[(hash >> 58) as usize % SHARDS]
    }
}

/// The share of its time by which a document is fetched ahead of its end.
const REFRESH_AHEAD: f64 = 0.1;

impl Shard {
    fn raise_floor(&mut self, restaurant: RestaurantId, kind: Kind, version: i64) -> &mut Floor {
        let now = Instant::now();
        if self.floors.len() >= FLOORS_PRUNE {
            let before = self.floors.len();
            self.floors.retain(|_, floor| now.duration_since(floor.since) < FLOOR_KEPT);
            if self.floors.len() > before / 2 {
                self.floors.reserve(before);
            }
        }
        let floor = self.floors.entry((restaurant, kind)).or_insert(Floor {
            version,
            everywhere: 0,
            since: now,
        });
        floor.version = floor.version.max(version);
        floor.since = now;
        floor
    }
}

#[cfg(test)]
mod tests;
