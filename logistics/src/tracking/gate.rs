//! Who may come in: a limit on how fast, and on how many for one customer.

use std::{sync::Arc, time::Duration};

use contracts::ids::CustomerId;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter, clock::Clock as _};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::Limits;

/// Counts those who come and those who are in.
#[derive(Debug)]
pub struct Gate {
    accepts: DefaultDirectRateLimiter,
    seats: Arc<Mutex<FxHashMap<CustomerId, u32>>>,
    seats_per_customer: u32,
}

impl Gate {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            accepts: RateLimiter::direct(Quota::per_second(limits.accepts_per_second)),
            seats: Arc::default(),
            seats_per_customer: limits.sockets_per_customer,
        }
    }

    /// Lets one more in, or says how long to wait: after a restart everyone comes at once.
    pub fn accept(&self) -> Result<(), Duration> {
        self.accepts
            .check()
            .map_err(|early| early.wait_time_from(governor::clock::DefaultClock::default().now()))
    }

    /// A seat for a customer; `None` when the customer has as many as allowed in this process.
    pub fn enter(&self, customer_id: CustomerId) -> Option<Seat> {
        let mut seats = self.seats.lock();
        let taken = seats.entry(customer_id).or_insert(0);
        if *taken >= self.seats_per_customer {
            return None;
        }
        *taken += 1;
        Some(Seat { seats: Arc::clone(&self.seats), customer_id })
    }
}

/// One of a customer's seats, free again when dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Mutex<FxHashMap<CustomerId, u32>>>,
    customer_id: CustomerId,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.seats.lock();
        if let Some(taken) = seats.get_mut(&self.customer_id) {
            *taken -= 1;
            if *taken == 0 {
                seats.remove(&self.customer_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn a_customer_has_so_many_seats_and_leaves_no_trace() {
        let gate = Gate::new(&Limits::default());
        let (a, b) = (CustomerId::new(1).unwrap(), CustomerId::new(2).unwrap());
        let mut seats: Vec<_> = (0..5).map(|_| gate.enter(a).unwrap()).collect();
        assert!(gate.enter(a).is_none());
        assert!(gate.enter(b).is_some());
        seats.pop();
        assert!(gate.enter(a).is_some());
        drop(seats);
        assert!(gate.seats.lock().is_empty());
    }

    #[test]
    fn a_rush_is_told_to_wait() {
        let accepts_per_second = NonZeroU32::new(10).unwrap();
        let gate = Gate::new(&Limits { accepts_per_second, ..Limits::default() });
        let accepted = (0..100).filter(|_| gate.accept().is_ok()).count();
        assert!((10..20).contains(&accepted), "{accepted}");
        assert!(gate.accept().unwrap_err() <= Duration::from_secs(1));
    }
}
