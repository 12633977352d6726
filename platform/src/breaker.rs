//! A circuit breaker: while most calls to something fail, the rest are not even tried.
//!
//! Closed, it lets every call through and counts how they end. Once enough of them failed it opens
//! and refuses; after a while exactly one call is let through to probe. If that one succeeds the
//! breaker closes with a clean record, if not it stays open for twice as long.
//!
//! ```
//! # use std::time::{Duration, Instant};
//! # use platform::breaker::{Breaker, Settings};
//! # fn call() -> Result<(), ()> { Ok(()) }
//! let breaker = Breaker::new(Settings::default(), 7, Instant::now());
//! match breaker.try_acquire(Instant::now()) {
//!     Ok(permit) => match call() {
//!         Ok(()) => permit.success(Instant::now()),
//!         Err(()) => permit.failure(Instant::now()),
//!     },
//!     Err(open) => println!("not tried, again in {:?}", open.retry_after),
//! }
//! ```
//!
//! The clock is the caller's: every method takes `now`, and nothing here waits. A call needs a time
//! limit of its own, since a probe that never ends keeps the breaker from closing.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The window moves in so many steps, so a result counts for between 9/10 of it and all of it.
const SLOTS: usize = 10;
/// Stands for "not closed" where otherwise a generation is.
const NOT_CLOSED: u64 = u64::MAX;

/// When a breaker opens and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// How far back results count.
    pub window: Duration,
    /// Fewer failures in the window never open it.
    pub failures_min: u32,
    /// It opens when at least this share of the calls in the window failed, 0 to 1.
    pub failure_share: f64,
    /// How long it refuses the first time. Each failed probe doubles it, and each time a random
    /// part of up to a quarter is left out, so that many processes do not probe at one moment.
    pub open_for: Duration,
    /// The longest it ever refuses before the next probe.
    pub open_max: Duration,
}

impl Default for Settings {
    /// Half of the calls in 10 s and at least 10; open for 5 s, then longer up to 60 s.
    fn default() -> Self {
        Self {
            window: Duration::from_secs(10),
            failures_min: 10,
            failure_share: 0.5,
            open_for: Duration::from_secs(5),
            open_max: Duration::from_secs(60),
        }
    }
}

/// What a breaker does with calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It lets them through.
    Closed,
    /// It refuses them.
    Open,
    /// It lets one through, or waits for how that one ends and refuses the others.
    HalfOpen,
}

/// A call was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("refused without being tried, again in {retry_after:?}")]
pub struct Open {
    /// When it is worth asking again; never zero. While a probe is under way it is a guess.
    pub retry_after: Duration,
}

/// A circuit breaker; shared by reference between all who call the same thing.
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    /// The generation while closed, so that the usual case takes no lock. Written under the lock.
    closed: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The greatest `now` so far: threads read the clock before they get the lock.
    latest: Instant,
    /// Counts changes of the phase. A result counts only in the generation its call began in.
    generation: u64,
    phase: Phase,
    /// How often it opened since it was last closed.
    openings: u32,
    results: Window,
    random: u64,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Closed,
    Open { until: Instant },
    Probing,
}

impl Breaker {
    /// A closed one. Give each process another `seed`, or their probes come together.
    ///
    /// # Panics
    /// When the window is empty or the share is not above 0 and at most 1.
    #[must_use]
    pub fn new(settings: Settings, seed: u64, now: Instant) -> Self {
        assert!(settings.window > Duration::ZERO, "the window is empty");
        let share = settings.failure_share;
        assert!(share > 0.0 && share <= 1.0, "{share} is not a share above 0 and at most 1");
        let inner = Inner {
            latest: now,
            generation: 0,
            phase: Phase::Closed,
            openings: 0,
            results: Window::new(settings.window, now),
            random: seed,
        };
        Self { settings, closed: AtomicU64::new(0), inner: Mutex::new(inner) }
    }

    /// Asks to make one call, whose end is to be told to the permit.
    ///
    /// # Errors
    /// [`Open`] when the call must not be made now.
    pub fn try_acquire(&self, now: Instant) -> Result<Permit<&Self>, Open> {
        let (generation, probe) = self.admit(now)?;
        Ok(Permit { breaker: self, generation, probe })
    }

    /// As [`Breaker::try_acquire`], with a permit that can be taken along into a task.
    ///
    /// # Errors
    /// [`Open`] when the call must not be made now.
    pub fn try_acquire_owned(self: &Arc<Self>, now: Instant) -> Result<OwnedPermit, Open> {
        let (generation, probe) = self.admit(now)?;
        Ok(Permit { breaker: Arc::clone(self), generation, probe })
    }

    /// The generation that a call belongs to, and whether it is the probe.
    fn admit(&self, now: Instant) -> Result<(u64, bool), Open> {
        let generation = self.closed.load(Ordering::Acquire);
        if generation != NOT_CLOSED {
            return Ok((generation, false));
        }
        let mut inner = self.inner.lock();
        let now = inner.tick(now);
        match inner.phase {
            // Closed in between.
            Phase::Closed => Ok((inner.generation, false)),
            Phase::Open { until } if now < until => Err(Open { retry_after: until - now }),
            Phase::Open { .. } => Ok((self.enter(&mut inner, Phase::Probing), true)),
            Phase::Probing => {
                Err(Open { retry_after: self.settings.open_for.max(Duration::from_millis(1)) })
            }
        }
    }

    /// What it does with calls now; for metrics.
    pub fn state(&self, now: Instant) -> State {
        match self.inner.lock().phase {
            Phase::Closed => State::Closed,
            Phase::Open { until } if now < until => State::Open,
            Phase::Open { .. } | Phase::Probing => State::HalfOpen,
        }
    }

    /// A call of that generation ended; `now` is not known when its permit was dropped.
    fn ended(&self, generation: u64, probe: bool, failed: bool, now: Option<Instant>) {
        let mut inner = self.inner.lock();
        let now = now.unwrap_or(inner.latest);
        let now = inner.tick(now);
        if inner.generation != generation {
            return;
        }
        if probe {
            if failed {
                self.open(&mut inner, now);
            } else {
                inner.openings = 0;
                inner.results = Window::new(self.settings.window, now);
                self.enter(&mut inner, Phase::Closed);
            }
            return;
        }
        let (all, failures) = inner.results.count(failed, now);
        let share = f64::from(failures) / f64::from(all);
        if failed && failures >= self.settings.failures_min && share >= self.settings.failure_share
        {
            self.open(&mut inner, now);
        }
    }

    /// The probe of that generation was not made: whoever comes next may make it.
    fn not_probed(&self, generation: u64) {
        let mut inner = self.inner.lock();
        if inner.generation == generation {
            let until = inner.latest;
            self.enter(&mut inner, Phase::Open { until });
        }
    }

    fn open(&self, inner: &mut Inner, now: Instant) {
        let Settings { open_for, open_max, .. } = self.settings;
        let longer = 1_u32.checked_shl(inner.openings).unwrap_or(u32::MAX);
        let full = open_for.saturating_mul(longer).min(open_max);
        inner.openings = inner.openings.saturating_add(1);
        let until = now + full.mul_f64(1.0 - inner.random() / 4.0);
        self.enter(inner, Phase::Open { until });
    }

    fn enter(&self, inner: &mut Inner, phase: Phase) -> u64 {
        inner.generation += 1;
        inner.phase = phase;
        let closed = matches!(phase, Phase::Closed);
        self.closed.store(if closed { inner.generation } else { NOT_CLOSED }, Ordering::Release);
        inner.generation
    }
}

impl Inner {
    /// Time never goes back here.
    fn tick(&mut self, now: Instant) -> Instant {
        self.latest = self.latest.max(now);
        self.latest
    }

    /// From 0 to below 1, by SplitMix64.
    fn random(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        f64::from((z ^ (z >> 31)) as u32) / (f64::from(u32::MAX) + 1.0)
    }
}

/// Leave to make one call. One that is dropped, as with a caller that went away, says nothing
/// about the call; but a probe's counts as failed, or nobody could ever probe again.
#[must_use = "tell it how the call ended"]
#[derive(Debug)]
pub struct Permit<B: Deref<Target = Breaker>> {
    breaker: B,
    generation: u64,
    probe: bool,
}

/// A permit that keeps its breaker alive.
pub type OwnedPermit = Permit<Arc<Breaker>>;

impl<B: Deref<Target = Breaker>> Permit<B> {
    /// The call went well.
    pub fn success(self, now: Instant) {
        self.end(false, now);
    }

    /// The call failed, by an error or by its time limit.
    pub fn failure(self, now: Instant) {
        self.end(true, now);
    }

    /// No call was made.
    pub fn unused(mut self) {
        if self.probe {
            self.breaker.not_probed(self.generation);
            self.probe = false;
        }
    }

    fn end(mut self, failed: bool, now: Instant) {
        self.breaker.ended(self.generation, self.probe, failed, Some(now));
        // The drop that follows has nothing more to tell.
        self.probe = false;
    }

    /// Whether this call decides if the breaker closes.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.probe
    }
}

impl<B: Deref<Target = Breaker>> Drop for Permit<B> {
    fn drop(&mut self) {
        if self.probe {
            self.breaker.ended(self.generation, true, true, None);
        }
    }
}

/// How many calls ended and how many of them failed, in each slot of the window.
#[derive(Debug)]
struct Window {
    start: Instant,
    slot_ns: u128,
    newest: u128,
    slots: [(u32, u32); SLOTS],
}

impl Window {
    fn new(length: Duration, start: Instant) -> Self {
        let slot_ns = (length.as_nanos() / SLOTS as u128).max(1);
        Self { start, slot_ns, newest: 0, slots: [(0, 0); SLOTS] }
    }

    /// Counts one more and adds up the window.
    fn count(&mut self, failed: bool, now: Instant) -> (u32, u32) {
        let newest = now.saturating_duration_since(self.start).as_nanos() / self.slot_ns;
        let passed = newest.saturating_sub(self.newest).min(SLOTS as u128);
        for past in 0..passed {
            self.slots[((newest - past) % SLOTS as u128) as usize] = (0, 0);
        }
        self.newest = self.newest.max(newest);
        let slot = &mut self.slots[(self.newest % SLOTS as u128) as usize];
        slot.0 = slot.0.saturating_add(1);
        slot.1 = slot.1.saturating_add(u32::from(failed));
        let add = |sum: (u32, u32), slot: &(u32, u32)| {
            (sum.0.saturating_add(slot.0), sum.1.saturating_add(slot.1))
        };
        self.slots.iter().fold((0, 0), add)
    }
}

#[cfg(test)]
mod tests;
