//! A town to run the system in: streets, drivers, restaurants, and customers who order.
//!
//! Nothing here performs I/O or reads a clock. [`City::step`] moves the town on and says what
//! happened; the same seed and settings always give the same events, however the time is cut
//! into steps. Who runs it decides what an event means: the demo posts the fixes and lets the
//! customers order.

pub mod courier;
pub mod phone;
pub mod plane;
pub mod route;
pub mod streets;
pub mod vehicle;

#[cfg(test)]
mod tests;

use rand::{Rng, SeedableRng, rngs::StdRng};

use courier::{Courier, Done, Job};
use phone::{Fix, PhoneSettings, Why};
use plane::Spot;
use streets::{Kerb, Streets};

/// The town's inner step; a driver brakes and turns in steps of this.
const TICK_US: i64 = 100_000;
/// How far customers order from, in a straight line, metres.
const DOOR_M: [f64; 2] = [500.0, 3_000.0];
/// Seconds until a customer who was served, or found no driver, orders again.
const NEXT_ORDER_S: [f64; 2] = [3.0, 15.0];

/// Counts the orders of a town from 1.
pub type OrderNo = u64;

/// What a town is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Decides everything that chance decides.
    pub seed: u64,
    /// How many drivers there are.
    pub drivers: usize,
    /// How many customers there are; each has at most one order at a time.
    pub customers: usize,
    /// How their phones behave.
    pub phones: PhoneSettings,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When, microseconds since the town began.
    pub at_us: i64,
    /// What.
    pub what: What,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// A driver's phone sends fixes, oldest first.
    Fixes {
        /// The driver, from 0.
        driver: usize,
        /// Why it sends them now.
        why: Why,
        /// One, or all that were missed.
        fixes: Vec<Fix>,
    },
    /// A customer ordered, and a driver is on the way.
    Ordered {
        /// The order's number.
        order: OrderNo,
        /// The customer, from 0.
        customer: usize,
        /// The restaurant, from 0.
        restaurant: usize,
        /// The driver, from 0.
        driver: usize,
    },
    /// The driver left the restaurant with the food.
    PickedUp {
        /// The order's number.
        order: OrderNo,
    },
    /// The customer has the food.
    Delivered {
        /// The order's number.
        order: OrderNo,
    },
}

#[derive(Debug, Clone)]
struct Customer {
    door: Kerb,
    /// When the next order comes, while there is none.
    hungry_at_us: Option<i64>,
}

/// The town.
#[derive(Debug, Clone)]
pub struct City {
    town: Streets,
    couriers: Vec<Courier>,
    restaurants: Vec<Kerb>,
    customers: Vec<Customer>,
    /// The customer of each order that is under way, by driver.
    served: Vec<Option<usize>>,
    orders: OrderNo,
    rng: StdRng,
    now_us: i64,
    /// Up to here steps were asked for; the town stands at the last whole tick before.
    asked_us: i64,
    opening: Vec<Event>,
}

impl City {
    /// Builds a town that is already busy: every customer's first order is somewhere between
    /// the click and the door, as far as there are drivers.
    pub fn new(settings: &Settings) -> Self {
        let mut rng = StdRng::seed_from_u64(settings.seed);
        let town = Streets::generate(rng.random());
        let couriers: Vec<_> = (0..settings.drivers)
            .map(|_| Courier::new(&town, &settings.phones, rng.random()))
            .collect();
        let restaurants: Vec<_> =
            (0..settings.customers.clamp(20, 200)).map(|_| central_kerb(&town, &mut rng)).collect();
        let customers = (0..settings.customers)
            .map(|_| Customer { door: town.random_kerb(&mut rng), hungry_at_us: Some(0) })
            .collect();
        let served = vec![None; couriers.len()];
        let mut city = Self {
            town,
            couriers,
            restaurants,
            customers,
            served,
            orders: 0,
            rng,
            now_us: 0,
            asked_us: 0,
            opening: Vec::new(),
        };
        city.open();
        city
    }

    /// The streets.
    pub fn streets(&self) -> &Streets {
        &self.town
    }

    /// The drivers, by number.
    pub fn couriers(&self) -> &[Courier] {
        &self.couriers
    }

    /// Where the restaurants are, by number.
    pub fn restaurants(&self) -> impl ExactSizeIterator<Item = Spot> {
        self.restaurants.iter().map(|kerb| self.town.kerb_spot(*kerb))
    }

    /// The instant at which the town stands, microseconds since it began.
    pub fn now_us(&self) -> i64 {
        self.now_us
    }

    /// Up to where steps were asked for; the town stands less than a tick before.
    pub fn asked_us(&self) -> i64 {
        self.asked_us
    }

    /// How many orders are under way.
    pub fn deliveries(&self) -> usize {
        self.served.iter().flatten().count()
    }

    /// Moves the town on and answers what happened meanwhile, in order of time. Events of one
    /// instant are in the order in which they must be told.
    pub fn step(&mut self, by_us: i64) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.opening);
        self.asked_us += by_us;
        while self.now_us + TICK_US <= self.asked_us {
            self.tick(&mut events);
        }
        events
    }

    /// Ends the town: every phone sends what it still has.
    pub fn hang_up(&mut self) -> Vec<Event> {
        let at_us = self.now_us;
        let send = |(driver, courier): (usize, &mut Courier)| {
            let fixes = courier.hang_up();
            (!fixes.is_empty())
                .then_some(Event { at_us, what: What::Fixes { driver, why: Why::Missed, fixes } })
        };
        self.couriers.iter_mut().enumerate().filter_map(send).collect()
    }

    fn tick(&mut self, events: &mut Vec<Event>) {
        let (from_us, to_us) = (self.now_us, self.now_us + TICK_US);
        let first = events.len();
        for driver in 0..self.couriers.len() {
            let send = |at_us, why, fixes| {
                events.push(Event { at_us, what: What::Fixes { driver, why, fixes } });
            };
            let done = self.couriers[driver].advance(&self.town, from_us, to_us, send);
            if let Some(done) = done {
                self.tell(driver, done, to_us, events);
            }
        }
        self.now_us = to_us;
        self.take_orders(events);
        // Stable: what one driver did at one instant stays in its order.
        events[first..].sort_by_key(|event| event.at_us);
    }

    fn tell(&mut self, driver: usize, done: Done, at_us: i64, events: &mut Vec<Event>) {
        let what = match done {
            Done::PickedUp(order) => What::PickedUp { order },
            Done::Delivered(order) => {
                if let Some(customer) = self.served[driver].take() {
                    self.customers[customer].hungry_at_us = Some(at_us + self.pause_us());
                }
                What::Delivered { order }
            }
        };
        events.push(Event { at_us, what });
    }

    fn take_orders(&mut self, events: &mut Vec<Event>) {
        for customer in 0..self.customers.len() {
            if self.customers[customer].hungry_at_us.is_none_or(|at_us| at_us > self.now_us) {
                continue;
            }
            let (restaurant, job) = self.next_job(customer);
            let from = self.town.kerb_spot(job.restaurant);
            let Some(driver) = self.nearest_free(from) else {
                self.customers[customer].hungry_at_us = Some(self.now_us + self.pause_us());
                continue;
            };
            self.couriers[driver].take(&self.town, job);
            self.ordered(customer, restaurant, driver, job, events);
        }
    }

    /// Gives the first customers their orders, each a random part of the tour along.
    fn open(&mut self) {
        let mut events = Vec::new();
        for customer in 0..self.customers.len().min(self.couriers.len()) {
            let (restaurant, job) = self.next_job(customer);
            let part = self.rng.random();
            let done = self.couriers[customer].take_underway(&self.town, job, part);
            self.ordered(customer, restaurant, customer, job, &mut events);
            if let Some(done) = done {
                self.tell(customer, done, 0, &mut events);
            }
        }
        self.opening = events;
    }

    fn ordered(
        &mut self,
        customer: usize,
        restaurant: usize,
        driver: usize,
        job: Job,
        events: &mut Vec<Event>,
    ) {
        self.orders = job.order;
        self.served[driver] = Some(customer);
        self.customers[customer].hungry_at_us = None;
        let what = What::Ordered { order: job.order, customer, restaurant, driver };
        events.push(Event { at_us: self.now_us, what });
    }

    /// The next order of a customer, from a restaurant in reach if a few draws find one.
    fn next_job(&mut self, customer: usize) -> (usize, Job) {
        let door = self.customers[customer].door;
        let door_spot = self.town.kerb_spot(door);
        let mut restaurant = 0;
        for _ in 0..12 {
            restaurant = self.rng.random_range(0..self.restaurants.len());
            let way_m = door_spot.distance_m(self.town.kerb_spot(self.restaurants[restaurant]));
            if (DOOR_M[0]..DOOR_M[1]).contains(&way_m) {
                break;
            }
        }
        let job = Job { order: self.orders + 1, restaurant: self.restaurants[restaurant], door };
        (restaurant, job)
    }

    /// The free driver nearest to a point in a straight line: the town has no dispatcher, so this
    /// stands in for the operator who assigns by hand.
    fn nearest_free(&self, to: Spot) -> Option<usize> {
        self.couriers
            .iter()
            .enumerate()
            .filter(|(_, courier)| courier.is_free())
            .map(|(driver, courier)| (courier.spot(&self.town).distance_m(to), driver))
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, driver)| driver)
    }

    fn pause_us(&mut self) -> i64 {
        (self.rng.random_range(NEXT_ORDER_S[0]..NEXT_ORDER_S[1]) * 1e6) as i64
    }
}

/// A point on a street, the likelier the nearer to the centre.
fn central_kerb(town: &Streets, rng: &mut StdRng) -> Kerb {
    loop {
        let kerb = town.random_kerb(rng);
        let off_m = town.kerb_spot(kerb).distance_m(Spot::default());
        if rng.random::<f64>() < (-off_m / 2_000.0).exp() {
            return kerb;
        }
    }
}
