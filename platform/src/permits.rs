//! Permits for work that is dear: so much at a time, and no more than a part of it for one caller.

use std::{collections::HashMap, hash::Hash, sync::Arc, sync::Weak, time::Duration};

use parking_lot::Mutex;
use sqlx::PgPool;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::{
    auth::{Caller, Role},
    problem::Problem,
};

/// Callers that are gone are forgotten when so many are known.
const CALLERS_KEPT: usize = 256;
/// A report waits so long for its turn.
const REPORT_WAIT_MAX: Duration = Duration::from_secs(2);

/// Permits for one kind of work. Clones share them.
#[derive(Debug)]
pub struct Permits<K> {
    /// What they are for, in metrics.
    name: &'static str,
    all: Arc<Semaphore>,
    each: usize,
    wait_max: Duration,
    callers: Mutex<HashMap<K, Weak<Semaphore>>>,
    in_use: metrics::Gauge,
}

/// Too much is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// Of this caller's.
    #[error("too much of the caller's own work is under way")]
    Own,
    /// Of everybody's.
    #[error("too much work is under way")]
    All,
}

impl From<Busy> for Problem {
    fn from(busy: Busy) -> Self {
        match busy {
            Busy::Own => Self::too_many(Duration::from_secs(1)),
            Busy::All => Self::unavailable("Too much is under way.", Duration::from_secs(1)),
        }
    }
}

/// Work that is under way; dropped when it is over.
#[derive(Debug)]
pub struct Permit {
    /// Its own first: who waits for the caller's then finds one of all.
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
    in_use: metrics::Gauge,
}

impl<K: Eq + Hash> Permits<K> {
    /// `all` at a time, `each` of them for one caller, for whom others wait up to `wait_max`.
    pub fn new(name: &'static str, all: usize, each: usize, wait_max: Duration) -> Self {
        let in_use = metrics::gauge!("permits_in_use", "of" => name);
        in_use.set(0.0);
        Self {
            name,
            all: Arc::new(Semaphore::new(all)),
            each,
            wait_max,
            callers: Mutex::default(),
            in_use,
        }
    }

    /// A permit, as soon as the caller and everybody together have few enough.
    ///
    /// # Errors
    /// None was free within the time to wait.
    pub async fn enter(&self, caller: K) -> Result<Permit, Busy> {
        let until = Instant::now() + self.wait_max;
        // A caller's own first, so that those who wait for it keep nobody else waiting.
        let own = timeout_at(until, self.of(caller).acquire_owned());
        let Ok(Ok(own)) = own.await else {
            return Err(self.refused("own", Busy::Own));
        };
        let all = timeout_at(until, Arc::clone(&self.all).acquire_owned());
        let Ok(Ok(all)) = all.await else {
            return Err(self.refused("all", Busy::All));
        };
        self.in_use.increment(1.0);
        Ok(Permit { _all: all, _own: own, in_use: self.in_use.clone() })
    }

    fn of(&self, caller: K) -> Arc<Semaphore> {
        let mut callers = self.callers.lock();
        if callers.len() >= CALLERS_KEPT {
            callers.retain(|_, known| known.strong_count() > 0);
        }
        if let Some(known) = callers.get(&caller).and_then(Weak::upgrade) {
            return known;
        }
        let new = Arc::new(Semaphore::new(self.each));
        callers.insert(caller, Arc::downgrade(&new));
        new
    }

    fn refused(&self, reason: &'static str, busy: Busy) -> Busy {
        metrics::counter!("permits_refused_total", "of" => self.name, "reason" => reason)
            .increment(1);
        busy
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.in_use.decrement(1.0);
    }
}

/// Reads that look at a lot: connections of their own, so that they take none from anything else,
/// and half of them for one caller.
#[derive(Debug)]
pub struct Reports {
    db: PgPool,
    permits: Permits<(Role, i64)>,
}

impl Reports {
    /// Reports on `db`, one for each of its connections.
    pub fn new(db: PgPool) -> Self {
        let all = db.options().get_max_connections() as usize;
        Self { db, permits: Permits::new("reports", all, all.div_ceil(2), REPORT_WAIT_MAX) }
    }

    /// Where one more report of this caller runs, as long as the permit is kept.
    ///
    /// # Errors
    /// See [`Permits::enter`].
    pub async fn begin(&self, caller: &Caller) -> Result<(&PgPool, Permit), Busy> {
        let permit = self.permits.enter((caller.role, caller.subject)).await?;
        Ok((&self.db, permit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_caller_has_a_part_and_all_have_no_more_than_there_is() {
        let permits = Permits::new("test", 3, 2, Duration::from_millis(100));
        let _first = permits.enter(1).await.unwrap();
        let _second = permits.enter(1).await.unwrap();
        assert_eq!(permits.enter(1).await.unwrap_err(), Busy::Own);
        let _other = permits.enter(2).await.unwrap();
        assert_eq!(permits.enter(2).await.unwrap_err(), Busy::All);
    }

    #[tokio::test]
    async fn what_is_given_back_is_had_by_who_waits() {
        let permits = Permits::new("test", 3, 2, Duration::from_secs(60));
        let first = permits.enter(1).await.unwrap();
        let _second = permits.enter(1).await.unwrap();
        let mut waiting = std::pin::pin!(permits.enter(1));
        let waited = tokio::time::timeout(Duration::from_millis(50), &mut waiting).await;
        assert!(waited.is_err(), "there is none");
        drop(first);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn callers_that_are_gone_are_forgotten() {
        let permits = Permits::new("test", 3, 2, Duration::from_secs(1));
        for caller in 0..10_000 {
            drop(permits.enter(caller).await.unwrap());
        }
        assert!(permits.callers.lock().len() <= CALLERS_KEPT);
    }
}
