//! What a customer sees of an order under way: where its driver is, and how far it is.
//!
//! Two lanes lead to each watcher. *Positions* are conflated: [`Hub`] keeps one slot per driver
//! with the newest position, so a watcher that reads slowly skips positions and delays nobody.
//! *Status changes* are lossless: each watcher remembers the `seq` it has told and reads what
//! follows from `delivery_events` whenever [`notify`] says that there is more.
//!
//! `feed` joins the lanes of one order; `session` brings them to a WebSocket and `http/events.rs`
//! to an event stream.

pub(crate) mod feed;
mod gate;
mod hub;
mod limits;
pub(crate) mod message;
pub mod notify;
pub(crate) mod session;
mod slots;

use std::{sync::Arc, time::Duration};

use platform::auth::TrackingVerifier;
use rand::Rng as _;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

pub use gate::{Gate, Refused, Seat};
pub use hub::{Hub, Latest, OrderWatch, Watch};
pub use limits::{Limits, Timing};

use crate::current::Current;

/// What a watcher needs of its process.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) db: PgPool,
    pub(crate) current: Arc<Current>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) verifier: TrackingVerifier,
    pub(crate) shutdown: CancellationToken,
}

/// A random part of `spread`, so that many do not all do the same thing at once.
pub(crate) fn jitter(spread: Duration) -> Duration {
    spread.mul_f64(rand::rng().random::<f64>())
}
