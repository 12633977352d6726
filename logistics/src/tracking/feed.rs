//! One watcher's view of one order: both lanes, joined.

use std::{pin::Pin, time::Duration};

use axum::extract::ws::Utf8Bytes;
use contracts::ids::{CustomerId, DriverId, OrderId};
use platform::postgres::within;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    Sources,
    hub::{OrderWatch, Watch},
    jitter,
    message::{self, Connected},
};
use crate::{
    deliveries::{Event, Status, store},
    location::Location,
};

/// Events read at once; the rest follows.
const EVENTS_MAX: i64 = 100;
/// An order that is opened waits so long for PostgreSQL,
const OPEN_MAX: Duration = Duration::from_secs(5);
/// and events for so long; positions wait with them.
const READ_MAX: Duration = Duration::from_secs(2);
/// The longest pause before PostgreSQL is asked again after it failed.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Why an order cannot be watched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// There is no delivery of that order, or it is somebody else's.
    #[error("there is no such order")]
    NotFound,
    /// PostgreSQL failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// What is new, in the order to tell it in.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) events: Vec<Event>,
    /// The `location_update` message.
    pub(crate) location: Option<Utf8Bytes>,
}

/// Follows one order for one watcher.
pub(crate) struct Feed {
    sources: Sources,
    order_id: OrderId,
    order: OrderWatch,
    /// The driver who has the order now.
    driver: Option<(DriverId, Watch)>,
    /// A new driver's present position, told before any update.
    first: Option<Utf8Bytes>,
    /// The `seq` of the last event told.
    told: i64,
    /// The greatest `seq` known to exist.
    newest: i64,
    /// The order has ended, with the event of `newest`.
    has_ended: bool,
    failures: u32,
    /// Until when PostgreSQL is left alone after it failed. Boxed: hardly ever there.
    retry: Option<Pin<Box<Sleep>>>,
}

impl Feed {
    /// Starts with the order as it is. Events after `since` are told, or those from now on when
    /// it is `None`.
    pub(crate) async fn open(
        sources: Sources,
        order_id: OrderId,
        customer_id: CustomerId,
        since: Option<i64>,
    ) -> Result<(Self, Connected), OpenError> {
        // Watched before it is read: what happens in between is heard of twice, not missed.
        let order = sources.hub.watch_order(order_id);
        let delivery = within(OPEN_MAX, store::get(&sources.db, order_id))
            .await?
            .filter(|delivery| delivery.customer_id == customer_id)
            .ok_or(OpenError::NotFound)?;
        let mut feed = Self {
            order_id,
            order,
            driver: None,
            first: None,
            told: since.map_or(delivery.version, |since| since.clamp(0, delivery.version)),
            newest: delivery.version,
            has_ended: delivery.status.is_final(),
            failures: 0,
            retry: None,
            sources,
        };
        let position = feed.follow(delivery.status, delivery.driver_id);
        let connected = Connected::of(&delivery, position.as_ref());
        Ok((feed, connected))
    }

    /// The order has ended and its last event was told.
    pub(crate) fn is_over(&self) -> bool {
        self.has_ended && self.told >= self.newest
    }

    /// The `seq` to come back with.
    pub(crate) fn told(&self) -> i64 {
        self.told
    }

    /// Waits for news. Dropping the future loses nothing: what is new is judged by what was told,
    /// and that changes only when this returns.
    pub(crate) async fn next(&mut self) -> Batch {
        loop {
            self.newest = self.newest.max(self.order.newest());
            if self.newest > self.told && self.retry.is_none() {
                // Boxed, for it is rare and would make every idle watcher larger.
                let events = Box::pin(self.read()).await;
                if !events.is_empty() {
                    return self.tell(events);
                }
            }
            if let Some(location) = self.location() {
                return Batch { location: Some(location), ..Batch::default() };
            }
            tokio::select! {
                () = self.order.changed() => {}
                () = changed(&mut self.driver) => {}
                () = over(&mut self.retry) => self.retry = None,
            }
        }
    }

    /// The events that follow; none, and a pause, when PostgreSQL does not answer.
    async fn read(&mut self) -> Vec<Event> {
        let read = store::events_after(&self.sources.db, self.order_id, self.told, EVENTS_MAX);
        match within(READ_MAX, read).await {
            Ok(events) if !events.is_empty() => {
                self.failures = 0;
                return events;
            }
            Ok(_) => {}
            Err(error) => {
                metrics::counter!("tracking_event_read_failures_total").increment(1);
                tracing::debug!(%error, order_id = %self.order_id, "events could not be read");
            }
        }
        let pause = RETRY_MAX.min(Duration::from_millis(100 << self.failures.min(6)));
        self.failures += 1;
        self.retry = Some(Box::pin(sleep_until(Instant::now() + pause / 2 + jitter(pause / 2))));
        Vec::new()
    }

    fn tell(&mut self, events: Vec<Event>) -> Batch {
        if let Some(last) = events.last() {
            self.told = last.seq;
            self.newest = self.newest.max(last.seq);
            self.has_ended = last.status.is_final();
            // Older events of a replay say nothing of who has the order now.
            if self.told == self.newest
                && let Some(position) = self.follow(last.status, last.driver_id)
            {
                self.first = Some(message::location_update_json(&Location::of(&position)));
            }
        }
        Batch { events, location: self.location() }
    }

    /// Watches the driver while the order is with it; a new driver's present position is answered.
    fn follow(
        &mut self,
        status: Status,
        driver_id: Option<DriverId>,
    ) -> Option<contracts::position::Position> {
        let driver_id = driver_id.filter(|_| status.is_active());
        if self.driver.as_ref().map(|(driver_id, _)| *driver_id) == driver_id {
            return None;
        }
        self.first = None;
        self.driver = driver_id.map(|driver_id| (driver_id, self.sources.hub.watch(driver_id)));
        let (driver_id, watch) = self.driver.as_mut()?;
        let position = self.sources.current.get(*driver_id)?;
        watch.skip(&position);
        Some(position)
    }

    fn location(&mut self) -> Option<Utf8Bytes> {
        let newer = self.driver.as_mut().and_then(|(_, watch)| watch.take());
        let first = self.first.take();
        newer.or(first)
    }
}

async fn changed(driver: &mut Option<(DriverId, Watch)>) {
    match driver {
        Some((_, watch)) => watch.changed().await,
        None => std::future::pending().await,
    }
}

async fn over(retry: &mut Option<Pin<Box<Sleep>>>) {
    match retry {
        Some(sleep) => sleep.await,
        None => std::future::pending().await,
    }
}
