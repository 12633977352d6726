//! What a run sends: every event is known before the start, by its number.
//!
//! So the generator keeps one byte per event, a repetition is identical to the first attempt, and
//! the check afterwards knows exactly what may be in the history.

use contracts::{
    ids::{DriverId, EventId},
    position::Position,
};

use crate::{fix::Carries, pace::Clock};

/// The events of a run, numbered from 0 in the order of their due times.
pub trait Plan: Send + Sync {
    /// How many events there are.
    fn total(&self) -> u64;
    /// When event `n` is due, µs after the start; never decreases with `n`.
    fn due_us(&self, n: u64) -> u64;
    /// Event `n`, recorded at its due time.
    fn position(&self, n: u64, clock: &Clock) -> Position;
    /// Whether devices send the event's id, or leave it to the server to derive it.
    fn explicit_ids(&self) -> bool;
    /// The drivers that send: contiguous ids.
    fn drivers(&self) -> Drivers;

    /// What a fix of this plan carries when it is sent for one driver, or in a fleet's batch.
    fn carries(&self, fleet: bool) -> Carries {
        Carries { driver: fleet, event: self.explicit_ids() }
    }
}

/// `count` drivers with contiguous ids from `first`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drivers {
    /// The lowest id, at least 1.
    pub first: i64,
    /// How many.
    pub count: u32,
}

impl Drivers {
    /// The id of the driver at `index`, counted from 0.
    pub fn id(&self, index: u32) -> DriverId {
        // The constructor of every plan refuses ids outside 1..=i64::MAX.
        DriverId::new(self.first.saturating_add(i64::from(index)).max(1))
            .unwrap_or_else(|_| unreachable!("max(1) is positive"))
    }

    /// Where this driver stands in the range.
    pub fn index(&self, driver: DriverId) -> usize {
        (driver.get() - self.first) as usize
    }

    /// The highest id.
    pub fn last(&self) -> i64 {
        self.first + i64::from(self.count) - 1
    }
}

/// Drivers that circle over San Francisco at the speed of city traffic, at an even rate: event `n`
/// belongs to driver `n mod drivers`.
///
/// Every place is computed from the event's number alone, so nothing has to be remembered.
#[derive(Debug, Clone)]
pub struct Circles {
    drivers: Drivers,
    rate: f64,
    total: u64,
    nonce: u64,
}

impl Circles {
    /// Events numbered below 2⁴⁰ share the 24 bits of `nonce`, which tells runs apart.
    pub fn new(drivers: Drivers, rate: f64, total: u64, nonce: u32) -> Self {
        Self { drivers, rate, total, nonce: u64::from(nonce & 0x00ff_ffff) << 40 }
    }
}

impl Plan for Circles {
    fn total(&self) -> u64 {
        self.total
    }

    fn due_us(&self, n: u64) -> u64 {
        crate::pace::even_due_us(n, self.rate)
    }

    fn position(&self, n: u64, clock: &Clock) -> Position {
        let driver_id = self.drivers.id((n % u64::from(self.drivers.count)) as u32);
        let due_us = self.due_us(n);
        let event_id = EventId(self.nonce | n);
        on_circle(driver_id, event_id, due_us, clock.wall_us(due_us))
    }

    fn explicit_ids(&self) -> bool {
        true
    }

    fn drivers(&self) -> Drivers {
        self.drivers
    }
}

/// The fix of a driver that has driven on its circle for `driven_us`, at 3 to 15 m/s.
pub fn on_circle(
    driver_id: DriverId,
    event_id: EventId,
    driven_us: u64,
    recorded_at_us: i64,
) -> Position {
    let [x, y, size, speed] = fractions(driver_id);
    // Circles of 100 to 600 m around a point of the city.
    let (radius_m, speed_mps) = (100.0 + 500.0 * size, 3.0 + 12.0 * speed);
    let angle = (x + y) * std::f64::consts::TAU + driven_us as f64 * 1e-6 * speed_mps / radius_m;
    let (sin, cos) = angle.sin_cos();
    // 111,195 m per degree of latitude; 0.79 is the cosine of San Francisco's latitude.
    let lat = 37.715 + 0.085 * y + radius_m * sin / 111_195.0;
    let lon = -122.505 + 0.115 * x + radius_m * cos / (111_195.0 * 0.79);
    Position {
        driver_id,
        recorded_at_us,
        seq: 0,
        event_id,
        lat_e7: contracts::position::to_e7(lat),
        lon_e7: contracts::position::to_e7(lon),
        speed_mps: Some(speed_mps as f32),
        // Counter-clockwise on the map: north at angle 0, west at a quarter turn.
        heading_deg: Some((-angle.to_degrees()).rem_euclid(360.0) as f32),
        accuracy_m: Some(5.0),
        order_id: None,
    }
}

/// Four numbers in [0, 1) that look random and belong to this driver.
fn fractions(driver: DriverId) -> [f64; 4] {
    // SplitMix64 (Steele, Lea, Flood 2014).
    let mut z = (driver.get() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    [0, 16, 32, 48].map(|shift| f64::from((z >> shift) as u16) / 65_536.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_are_driven_at_their_speed_and_ids_are_unique() {
        let drivers = Drivers { first: 1, count: 10 };
        let plan = Circles::new(drivers, 10.0, 1_000, 0xff_abcdef);
        let clock = Clock::start();
        let mut ids = std::collections::HashSet::new();
        for n in 0..990 {
            let (a, b) = (plan.position(n, &clock), plan.position(n + 10, &clock));
            assert_eq!(a.driver_id, b.driver_id);
            assert_eq!(b.recorded_at_us - a.recorded_at_us, 1_000_000);
            assert!(ids.insert(a.event_id));
            let dy = (b.latitude() - a.latitude()) * 111_195.0;
            let dx = (b.longitude() - a.longitude()) * 111_195.0 * 0.79;
            let moved = dx.hypot(dy);
            let speed = f64::from(a.speed_mps.unwrap());
            assert!((moved - speed).abs() < 0.2, "{moved} m in a second at {speed} m/s");
            let bearing = dx.atan2(dy).to_degrees().rem_euclid(360.0);
            let off = (bearing - f64::from(a.heading_deg.unwrap())).abs();
            assert!(off.min(360.0 - off) < 10.0, "{bearing} against {:?}", a.heading_deg);
        }
        assert_eq!(plan.position(0, &clock).event_id.0 >> 40, 0xabcdef);
    }
}
