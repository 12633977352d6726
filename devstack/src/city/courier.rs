//! A driver of the town: a vehicle, a phone, and what the driver is busy with.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    OrderNo,
    phone::{Fix, Phone, PhoneSettings, Truth, Why},
    plane::Spot,
    route::fastest,
    streets::{Kerb, Streets},
    vehicle::{Kind, Vehicle},
};

/// Seconds that a driver waits for the food.
const AT_RESTAURANT_S: [f64; 2] = [20.0, 120.0];
/// Seconds from the kerb to the door and back.
const AT_DOOR_S: [f64; 2] = [15.0, 60.0];
/// Seconds that a driver without an order stands before driving on.
const IDLE_S: [f64; 2] = [10.0, 120.0];

/// What a driver is busy with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Task {
    /// Without an order, driving about.
    Roaming,
    /// Without an order, standing until an instant, seconds since the town began.
    Idle(f64),
    /// On the way to the food.
    ToRestaurant(Job),
    /// Waiting for the food until an instant.
    AtRestaurant(Job, f64),
    /// On the way to the customer.
    ToDoor(Job),
    /// At the customer's door until an instant.
    AtDoor(Job, f64),
}

/// An order that a driver has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Job {
    /// Which one.
    pub order: OrderNo,
    /// Where the food is.
    pub restaurant: Kerb,
    /// Where the customer is.
    pub door: Kerb,
}

/// What a driver did to an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// Left the restaurant with it.
    PickedUp(OrderNo),
    /// Handed it over.
    Delivered(OrderNo),
}

/// A driver.
#[derive(Debug, Clone)]
pub struct Courier {
    vehicle: Vehicle,
    phone: Phone,
    task: Task,
    rng: StdRng,
}

impl Courier {
    /// A driver somewhere in the town, already on the way somewhere.
    pub fn new(town: &Streets, phones: &PhoneSettings, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let kind = match rng.random_range(0..10) {
            0 => Kind::Bicycle,
            1..=5 => Kind::Scooter,
            6..=8 => Kind::Motorcycle,
            _ => Kind::Car,
        };
        let vehicle = Vehicle::parked(kind, rng.random_range(0.8..1.1), town.random_kerb(&mut rng));
        let phone = Phone::new(phones, rng.random());
        let mut courier = Self { vehicle, phone, task: Task::Roaming, rng };
        courier.roam(town);
        let part = courier.rng.random();
        courier.vehicle.skip(town, part);
        courier
    }

    /// What the driver rides.
    pub fn kind(&self) -> Kind {
        self.vehicle.kind
    }

    /// What the driver is busy with.
    pub fn task(&self) -> Task {
        self.task
    }

    /// Where the driver really is.
    pub fn spot(&self, town: &Streets) -> Spot {
        self.vehicle.spot(town)
    }

    /// m/s, really.
    pub fn speed_mps(&self) -> f64 {
        self.vehicle.speed_mps()
    }

    /// Whether the phone has no network at an instant.
    pub fn is_silent(&self, now_us: i64) -> bool {
        self.phone.is_silent(now_us)
    }

    /// Whether an order can be given to this driver.
    pub fn is_free(&self) -> bool {
        matches!(self.task, Task::Roaming | Task::Idle(_))
    }

    /// The order that the driver has.
    pub fn order(&self) -> Option<OrderNo> {
        match self.task {
            Task::Roaming | Task::Idle(_) => None,
            Task::ToRestaurant(job)
            | Task::AtRestaurant(job, _)
            | Task::ToDoor(job)
            | Task::AtDoor(job, _) => Some(job.order),
        }
    }

    /// Sends the driver for an order, from wherever the driver is.
    pub fn take(&mut self, town: &Streets, job: Job) {
        self.drive(town, job.restaurant);
        self.task = Task::ToRestaurant(job);
    }

    /// As [`Self::take`], but some time ago: `part` of the tour is behind, 0 to 1. Answers what
    /// was done to the order meanwhile. For the first orders of a town that is already busy.
    pub fn take_underway(&mut self, town: &Streets, job: Job, part: f64) -> Option<Done> {
        // Driving to the restaurant and to the door take about as long; waiting takes less.
        if part < 0.4 {
            self.take(town, job);
            self.vehicle.skip(town, part / 0.4);
            return None;
        }
        if part < 0.5 {
            self.vehicle.park(job.restaurant);
            let until_s = self.rng.random_range(0.0..AT_RESTAURANT_S[1]);
            self.task = Task::AtRestaurant(job, until_s);
            return None;
        }
        if part < 0.9 {
            self.vehicle.park(job.restaurant);
            self.drive(town, job.door);
            self.vehicle.skip(town, (part - 0.5) / 0.4);
            self.task = Task::ToDoor(job);
        } else {
            self.vehicle.park(job.door);
            self.task = Task::AtDoor(job, self.rng.random_range(0.0..AT_DOOR_S[1]));
        }
        Some(Done::PickedUp(job.order))
    }

    /// Lives on from one instant to another, both in microseconds since the town began and close
    /// together; sends fixes through `send` with the instant each is sent at.
    pub fn advance(
        &mut self,
        town: &Streets,
        from_us: i64,
        to_us: i64,
        mut send: impl FnMut(i64, Why, Vec<Fix>),
    ) -> Option<Done> {
        let mut now_us = from_us;
        while self.phone.next_fix_us() < to_us {
            let fix_us = self.phone.next_fix_us();
            self.drive_on(town, now_us, fix_us);
            now_us = fix_us;
            let truth = Truth {
                spot: self.vehicle.spot(town),
                speed_mps: self.vehicle.speed_mps(),
                heading_deg: self.vehicle.heading_deg(town),
                order: self.order(),
            };
            self.phone.take_fix(&truth, &mut send);
        }
        self.drive_on(town, now_us, to_us);
        self.phone.catch_up(to_us, &mut send);
        self.next_task(town, to_us as f64 / 1e6)
    }

    /// The fixes that the phone has not sent, for the end of the town.
    pub fn hang_up(&mut self) -> Vec<Fix> {
        self.phone.hang_up()
    }

    fn drive_on(&mut self, town: &Streets, from_us: i64, to_us: i64) {
        if to_us > from_us {
            self.vehicle.advance(town, from_us as f64 / 1e6, (to_us - from_us) as f64 / 1e6);
        }
    }

    /// One step of the driver's day, when the present one is over.
    fn next_task(&mut self, town: &Streets, now_s: f64) -> Option<Done> {
        let arrived = self.vehicle.has_arrived();
        match self.task {
            Task::Roaming if arrived => {
                self.task = Task::Idle(now_s + self.rng.random_range(IDLE_S[0]..IDLE_S[1]));
                None
            }
            Task::Idle(until_s) if now_s >= until_s => {
                self.roam(town);
                None
            }
            Task::ToRestaurant(job) if arrived => {
                let wait_s = self.rng.random_range(AT_RESTAURANT_S[0]..AT_RESTAURANT_S[1]);
                self.task = Task::AtRestaurant(job, now_s + wait_s);
                None
            }
            Task::AtRestaurant(job, until_s) if now_s >= until_s => {
                self.drive(town, job.door);
                self.task = Task::ToDoor(job);
                Some(Done::PickedUp(job.order))
            }
            Task::ToDoor(job) if arrived => {
                let wait_s = self.rng.random_range(AT_DOOR_S[0]..AT_DOOR_S[1]);
                self.task = Task::AtDoor(job, now_s + wait_s);
                None
            }
            Task::AtDoor(job, until_s) if now_s >= until_s => {
                self.roam(town);
                Some(Done::Delivered(job.order))
            }
            _ => None,
        }
    }

    fn roam(&mut self, town: &Streets) {
        let to = town.random_kerb(&mut self.rng);
        self.drive(town, to);
        self.task = Task::Roaming;
    }

    fn drive(&mut self, town: &Streets, to: Kerb) {
        let route = fastest(town, self.vehicle.kerb(), to);
        self.vehicle.follow(route);
    }
}
