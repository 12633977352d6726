//! How much one driver may send, counted in this process.

use std::{num::NonZeroU32, time::Duration};

use contracts::ids::DriverId;
use governor::{
    DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock as _,
};
use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// Drivers that are back at their full allowance are forgotten this often, which bounds the memory
/// by the drivers of a minute.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// Sockets that one driver may open a second, and at once: far more than a bad connection needs, and
/// far less than what all drivers share.
const STREAM_RATE: u32 = 2;
const STREAM_BURST: u32 = 20;

/// Allowances by driver: single fixes and points in batches apart, so that uploading what a tunnel
/// held back does not silence the present.
pub struct Limits {
    fixes: DefaultKeyedRateLimiter<DriverId>,
    points: DefaultKeyedRateLimiter<DriverId>,
    /// New sockets of each, and of all.
    streams: DefaultKeyedRateLimiter<DriverId>,
    all_streams: DefaultDirectRateLimiter,
}

/// Why a driver gets no socket just now, and when to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Early {
    /// The driver opens them too fast.
    Driver(Duration),
    /// All drivers together do.
    Process(Duration),
}

impl Limits {
    /// The allowances of the settings, which are positive.
    pub fn new(config: &Config) -> Self {
        let quota = |rate: u32, burst: u32| {
            let positive = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
            Quota::per_second(positive(rate)).allow_burst(positive(burst))
        };
        Self {
            fixes: RateLimiter::keyed(quota(config.fix_rate, config.fix_burst)),
            points: RateLimiter::keyed(quota(config.batch_rate, config.batch_burst)),
            streams: RateLimiter::keyed(quota(STREAM_RATE, STREAM_BURST)),
            all_streams: RateLimiter::direct(quota(config.stream_rate, config.stream_rate)),
        }
    }

    /// Takes one fix from the driver's allowance, or tells when to come back.
    pub fn fix(&self, driver_id: DriverId) -> Result<(), Duration> {
        self.fixes
            .check_key(&driver_id)
            .map_err(|until| until.wait_time_from(self.fixes.clock().now()))
    }

    /// Takes all points of a batch from the driver's allowance, or none and tells when to come back.
    pub fn batch(&self, driver_id: DriverId, points: usize) -> Result<(), Duration> {
        let Some(points) = u32::try_from(points).ok().and_then(NonZeroU32::new) else {
            return Ok(());
        };
        match self.points.check_key_n(&driver_id, points) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(until)) => Err(until.wait_time_from(self.points.clock().now())),
            // More than the burst: the settings make that impossible for a batch of legal size.
            Err(_) => Err(FORGET_EVERY),
        }
    }

    /// Lets a driver open one more socket, or tells when to come back.
    pub fn stream(&self, driver_id: DriverId) -> Result<(), Early> {
        self.streams
            .check_key(&driver_id)
            .map_err(|until| Early::Driver(until.wait_time_from(self.streams.clock().now())))?;
        self.all_streams
            .check()
            .map_err(|until| Early::Process(until.wait_time_from(self.all_streams.clock().now())))
    }

    /// Forgets idle drivers until `shutdown`.
    pub async fn forget_idle(&self, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(FORGET_EVERY);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = tick.tick() => {}
            }
            self.fixes.retain_recent();
            self.points.retain_recent();
            self.streams.retain_recent();
            self.fixes.shrink_to_fit();
            self.points.shrink_to_fit();
            self.streams.shrink_to_fit();
        }
    }
}
