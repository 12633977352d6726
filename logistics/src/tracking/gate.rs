//! Who may come in: sockets before they have said who they are, how fast customers come, and how
//! many each has.
//!
//! A socket that has not subscribed costs its client nothing, so all of them share a small number of
//! places, by client address, in which the newest counts: customers subscribe at once, and those
//! who only hold on to a place lose it. What is kept for customers is charged when a token was
//! verified, and never by anybody without one.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use contracts::ids::CustomerId;
use governor::{
    DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock as _,
};
use parking_lot::Mutex;
use platform::serve::{ClientAddress, Network};
use rustc_hash::FxHashMap;
use tokio_util::sync::CancellationToken;

use super::Limits;
use crate::places::{Place, Places};

/// Sockets and streams that one customer may open at once, and then each second.
const CUSTOMER_BURST: NonZeroU32 = NonZeroU32::new(30).unwrap();
const CUSTOMER_RATE: NonZeroU32 = NonZeroU32::new(2).unwrap();
/// Customers are forgotten after so many have come, but for those who have come just now.
const FORGET_EVERY: u32 = 4_096;

/// Counts those who come and those who are in.
#[derive(Debug)]
pub struct Gate {
    unsubscribed: Places<Network>,
    accepts: DefaultDirectRateLimiter,
    by_customer: DefaultKeyedRateLimiter<CustomerId>,
    came: AtomicU32,
    seats: Arc<Mutex<FxHashMap<CustomerId, u32>>>,
    seats_per_customer: u32,
}

/// Why a customer does not come in just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The customer has as many open as allowed, or opens them too fast.
    Customer(Duration),
    /// All customers together come too fast: after a restart everyone comes at once.
    Process(Duration),
}

impl Gate {
    pub(super) fn new(limits: &Limits) -> Self {
        let per_customer = Quota::per_second(CUSTOMER_RATE).allow_burst(CUSTOMER_BURST);
        Self {
            // One address may take half: many customers can be behind it.
            unsubscribed: Places::new(limits.unsubscribed.div_ceil(2), limits.unsubscribed),
            accepts: RateLimiter::direct(Quota::per_second(limits.accepts_per_second)),
            by_customer: RateLimiter::keyed(per_customer),
            came: AtomicU32::new(0),
            seats: Arc::default(),
            seats_per_customer: limits.sockets_per_customer,
        }
    }

    /// A place for a socket that has not said who it is; the token is cancelled when it has to give
    /// way.
    pub fn wait_inside(&self, client: ClientAddress) -> (Place<Network>, CancellationToken) {
        let gives_way = CancellationToken::new();
        (self.unsubscribed.take(client.network(), gives_way.clone()), gives_way)
    }

    /// A seat for a customer whose token was verified, in this process.
    pub fn enter(&self, customer_id: CustomerId) -> Result<Seat, Refused> {
        let seat = self.seat(customer_id).ok_or(Refused::Customer(Duration::ZERO))?;
        if self.came.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
            self.by_customer.retain_recent();
            self.by_customer.shrink_to_fit();
        }
        self.by_customer.check_key(&customer_id).map_err(|early| {
            Refused::Customer(early.wait_time_from(self.by_customer.clock().now()))
        })?;
        self.accepts
            .check()
            .map_err(|early| Refused::Process(early.wait_time_from(self.accepts.clock().now())))?;
        Ok(seat)
    }

    fn seat(&self, customer_id: CustomerId) -> Option<Seat> {
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
    use super::*;

    fn customer(id: i64) -> CustomerId {
        CustomerId::new(id).unwrap()
    }

    #[test]
    fn a_customer_has_so_many_seats_and_leaves_no_trace() {
        let gate = Gate::new(&Limits::default());
        let mut seats: Vec<_> = (0..5).map(|_| gate.enter(customer(1)).unwrap()).collect();
        assert!(matches!(gate.enter(customer(1)), Err(Refused::Customer(_))));
        assert!(gate.enter(customer(2)).is_ok());
        seats.pop();
        assert!(gate.enter(customer(1)).is_ok());
        drop(seats);
        assert!(gate.seats.lock().is_empty());
    }

    #[test]
    fn a_rush_is_told_to_wait() {
        let accepts_per_second = NonZeroU32::new(10).unwrap();
        let gate = Gate::new(&Limits { accepts_per_second, ..Limits::default() });
        let accepted = (1..=100).filter(|id| gate.enter(customer(*id)).is_ok()).count();
        assert!((10..20).contains(&accepted), "{accepted}");
        let refused = gate.enter(customer(101)).unwrap_err();
        assert!(matches!(refused, Refused::Process(wait) if wait <= Duration::from_secs(1)));
    }

    #[test]
    fn one_customer_cannot_use_up_what_is_for_all() {
        let gate = Gate::new(&Limits::default());
        let came = (0..10_000).filter(|_| gate.enter(customer(1)).is_ok()).count();
        assert!((30..100).contains(&came), "{came}");
        assert!((2..200).all(|id| gate.enter(customer(id)).is_ok()));
    }

    #[test]
    fn customers_that_came_long_ago_are_forgotten() {
        let accepts_per_second = NonZeroU32::MAX;
        let gate = Gate::new(&Limits { accepts_per_second, ..Limits::default() });
        for id in 1..=3 * i64::from(FORGET_EVERY) {
            gate.enter(customer(id)).unwrap();
        }
        // Each has its full allowance again after half a second, and is kept for as long again.
        std::thread::sleep(Duration::from_millis(1_100));
        for id in 1..=i64::from(FORGET_EVERY) {
            gate.enter(customer(id)).unwrap();
        }
        assert!(gate.by_customer.len() <= FORGET_EVERY as usize, "{}", gate.by_customer.len());
    }
}
