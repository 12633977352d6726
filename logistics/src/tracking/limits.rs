//! How many may watch, and how long a socket may take for what.

use std::{num::NonZeroU32, time::Duration};

/// Limits on the sockets and event streams of one process.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Sockets of any client that have not subscribed yet, at once; half of them of one address.
    pub unsubscribed: usize,
    /// New ones a second whose token was verified; more are sent away with a time to come back.
    pub accepts_per_second: NonZeroU32,
    /// How many one customer may have open at once.
    pub sockets_per_customer: u32,
    /// Fixed by the protocol; only tests shorten it.
    pub timing: Timing,
}

impl Default for Limits {
    fn default() -> Self {
        const ACCEPTS_PER_SECOND: NonZeroU32 = NonZeroU32::new(500).unwrap();
        Self {
            unsubscribed: 1_000,
            accepts_per_second: ACCEPTS_PER_SECOND,
            sockets_per_customer: 5,
            timing: Timing::default(),
        }
    }
}

/// How long a socket may take for what.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// From the upgrade to the subscribe message.
    pub subscribe_within: Duration,
    /// Between pings.
    pub ping_every: Duration,
    /// Without a pong, or any other frame, for so long the client is taken for dead.
    pub dead_after: Duration,
    /// The longest that one write may be blocked by a client that does not read.
    pub blocked_max: Duration,
    /// How far a stopping process spreads the ends of its sockets.
    pub close_spread: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            subscribe_within: Duration::from_secs(5),
            ping_every: Duration::from_secs(20),
            dead_after: Duration::from_secs(30),
            blocked_max: Duration::from_secs(10),
            close_spread: Duration::from_secs(5),
        }
    }
}
