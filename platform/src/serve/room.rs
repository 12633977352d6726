//! Room for connections: so many at a time, sockets that were upgraded included.
//!
//! When there is no room for one more, the connection that waits longest without a request gives
//! way: first among those that never had one, then among those that rest between two. So idle
//! connections, which cost a client nothing, cannot keep out those who ask for something.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// A connection that gives way is gone in a moment; a stuck executor is not waited for.
const GIVE_WAY_WITHIN: Duration = Duration::from_millis(250);
/// Connections that are asked to give way for one new one, at most: one may get a request meanwhile.
const TRIES: usize = 3;
/// Connections that are looked at for one new one, at most.
const LOOKS_MAX: usize = 1_024;

/// Had no request yet.
const FRESH: u8 = 0;
/// Is being answered.
const BUSY: u8 = 1;
/// Waits for its next request.
const IDLE: u8 = 2;

/// The state of a connection, shared by those who look after a part of it.
#[derive(Debug)]
pub(super) struct Connection {
    number: u64,
    phase: AtomicU8,
    /// Bytes have come since the last complete request.
    is_partial: AtomicBool,
    /// An answer waits for the client to read.
    is_blocked: AtomicBool,
    /// Had a request since it was last looked at.
    is_recent: AtomicBool,
    gives_way: Notify,
}

impl Connection {
    fn new(number: u64) -> Self {
        Self {
            number,
            phase: AtomicU8::new(FRESH),
            is_partial: AtomicBool::new(false),
            is_blocked: AtomicBool::new(false),
            is_recent: AtomicBool::new(false),
            gives_way: Notify::new(),
        }
    }

    pub(super) fn begin(&self) {
        self.phase.store(BUSY, Relaxed);
        self.is_partial.store(false, Relaxed);
    }

    /// The answer is complete but for what still has to be written.
    pub(super) fn answered(&self) {
        self.phase.store(IDLE, Relaxed);
        self.is_recent.store(true, Relaxed);
        self.is_partial.store(false, Relaxed);
    }

    pub(super) fn heard(&self) {
        self.is_partial.store(true, Relaxed);
    }

    pub(super) fn is_partial(&self) -> bool {
        self.is_partial.load(Relaxed)
    }

    pub(super) fn set_blocked(&self, is_blocked: bool) {
        self.is_blocked.store(is_blocked, Relaxed);
    }

    /// Whether nothing is lost when it ends now.
    pub(super) fn is_idle(&self) -> bool {
        self.phase.load(Relaxed) != BUSY && !self.is_blocked.load(Relaxed)
    }

    fn is_fresh(&self) -> bool {
        self.phase.load(Relaxed) == FRESH
    }

    /// Waits until this connection is asked to give way.
    pub(super) async fn asked_to_give_way(&self) {
        self.gives_way.notified().await;
    }
}

/// One connection's part of the room, until it is dropped.
#[derive(Debug)]
pub(super) struct Permit(#[allow(dead_code)] OwnedSemaphorePermit);

impl Drop for Permit {
    fn drop(&mut self) {
        metrics::gauge!("http_connections").decrement(1.0);
    }
}

#[derive(Debug)]
pub(super) struct Room {
    permits: Arc<Semaphore>,
    known: Mutex<Known>,
}

/// Connections by number, which grows: the first is the oldest.
#[derive(Debug, Default)]
struct Known {
    next: u64,
    /// Those that had no request when they were last looked at.
    fresh: BTreeMap<u64, Arc<Connection>>,
    others: BTreeMap<u64, Arc<Connection>>,
    /// The last of `others` that was looked at.
    hand: u64,
}

impl Room {
    pub(super) fn new(connections_max: usize) -> Self {
        let permits = Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS)));
        Self { permits, known: Mutex::default() }
    }

    /// Room for one more; `None` when all connections are at work.
    pub(super) async fn enter(&self) -> Option<(Permit, Arc<Connection>)> {
        let permit = match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => self.make_room().await?,
        };
        metrics::gauge!("http_connections").increment(1.0);
        let mut known = self.known.lock();
        known.next += 1;
        let connection = Arc::new(Connection::new(known.next));
        known.fresh.insert(connection.number, Arc::clone(&connection));
        Some((Permit(permit), connection))
    }

    async fn make_room(&self) -> Option<OwnedSemaphorePermit> {
        for _ in 0..TRIES {
            let idle = self.known.lock().longest_idle()?;
            idle.gives_way.notify_one();
            let permit = Arc::clone(&self.permits).acquire_owned();
            if let Ok(permit) = tokio::time::timeout(GIVE_WAY_WITHIN, permit).await {
                return permit.ok();
            }
        }
        None
    }

    /// Forgets a connection that ended or became a socket; its permit may live on.
    pub(super) fn forget(&self, connection: &Connection) {
        let mut known = self.known.lock();
        if known.fresh.remove(&connection.number).is_none() {
            known.others.remove(&connection.number);
        }
    }
}

impl Known {
    /// Takes out the connection that is missed least.
    fn longest_idle(&mut self) -> Option<Arc<Connection>> {
        let mut looks = 0..LOOKS_MAX;
        while let Some(first) = self.fresh.first_entry()
            && looks.next().is_some()
        {
            let connection = first.remove();
            if connection.is_fresh() {
                return Some(connection);
            }
            self.others.insert(connection.number, connection);
        }
        for _ in looks {
            let next = self.others.range((Excluded(self.hand), Unbounded)).next();
            let (&number, connection) = next.or_else(|| self.others.first_key_value())?;
            self.hand = number;
            // One round of grace for those that were used since the hand last came by.
            if connection.is_idle() && !connection.is_recent.swap(false, Relaxed) {
                return self.others.remove(&number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets `count` connections in, which stay.
    async fn full(room: &Room, count: usize) -> Vec<(Permit, Arc<Connection>)> {
        let mut held = Vec::new();
        for _ in 0..count {
            held.push(room.enter().await.expect("room"));
        }
        held
    }

    fn gives_way(room: &Room) -> Option<u64> {
        room.known.lock().longest_idle().map(|connection| connection.number)
    }

    #[tokio::test]
    async fn those_without_a_request_give_way_first_the_oldest_before_others() {
        let room = Room::new(6);
        let held = full(&room, 6).await;
        for used in [0, 1, 3] {
            held[used].1.begin();
        }
        held[0].1.answered();
        held[3].1.answered();
        assert_eq!(gives_way(&room), Some(3));
        assert_eq!(gives_way(&room), Some(5));
        assert_eq!(gives_way(&room), Some(6));
        // Then the idle ones; the one at work stays, and so does whoever was used meanwhile.
        assert_eq!(gives_way(&room), Some(1));
        held[3].1.begin();
        held[3].1.answered();
        assert_eq!(gives_way(&room), Some(4));
        assert_eq!(gives_way(&room), None);
        held[1].1.answered();
        held[1].1.set_blocked(true);
        assert_eq!(gives_way(&room), None, "an answer on its way is not cut");
    }

    #[tokio::test]
    async fn a_socket_keeps_its_permit_and_is_not_looked_at() {
        let room = Room::new(1);
        let (permit, connection) = room.enter().await.expect("room");
        room.forget(&connection);
        assert!(room.enter().await.is_none());
        drop(permit);
        assert!(room.enter().await.is_some());
        assert_eq!(room.known.lock().fresh.len(), 1);
    }
}
