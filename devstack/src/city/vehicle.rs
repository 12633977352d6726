//! How a vehicle moves along its route: it speeds up, keeps to the limit, brakes for corners and
//! red lights, and stops where it wants to be.

use super::{
    plane::Spot,
    route::Route,
    streets::{Kerb, Streets, corner_mps},
};

/// Gains of speed, m/s².
const SPEED_UP_MPS2: f64 = 1.6;
/// What a driver plans to brake with, m/s².
const BRAKE_MPS2: f64 = 2.0;
/// What the brakes can do, m/s²; a light that turns red nearer than that is driven through.
const BRAKE_MAX_MPS2: f64 = 4.0;
/// Where a vehicle waits before a red light, metres from the crossing.
const STOP_LINE_M: f64 = 2.0;
/// Nearer than this to its end, a journey is over, metres.
const THERE_M: f64 = 0.05;
/// Each axis of a crossing has green for half of this.
const LIGHTS_CYCLE_S: f64 = 56.0;

/// What a driver rides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Slow, and the same on every street.
    Bicycle,
    /// The usual one.
    Scooter,
    /// As fast as the streets allow.
    Motorcycle,
    /// Likewise.
    Car,
}

impl Kind {
    /// The name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bicycle => "bicycle",
            Self::Scooter => "scooter",
            Self::Motorcycle => "motorcycle",
            Self::Car => "car",
        }
    }

    /// The fastest it goes, m/s.
    pub const fn top_mps(self) -> f64 {
        match self {
            Self::Bicycle => 6.5,
            Self::Scooter => 12.5,
            Self::Motorcycle | Self::Car => 15.5,
        }
    }
}

/// A vehicle on its way, or standing at the end of it.
#[derive(Debug, Clone)]
pub struct Vehicle {
    /// What it is.
    pub kind: Kind,
    /// The driver's habit: the part of the limit that is driven, around 1.
    style: f64,
    /// The streets that are still ahead, this one first; never empty.
    route: Route,
    /// How many of them are behind.
    done: usize,
    /// Metres from the start of this street.
    at_m: f64,
    speed_mps: f64,
}

impl Vehicle {
    /// A vehicle that stands at a kerb.
    pub fn parked(kind: Kind, style: f64, kerb: Kerb) -> Self {
        let route = parking(kerb);
        Self { kind, style, route, done: 0, at_m: kerb.at_m, speed_mps: 0.0 }
    }

    /// Puts it at another kerb, without driving there.
    pub fn park(&mut self, kerb: Kerb) {
        self.follow(parking(kerb));
        self.speed_mps = 0.0;
    }

    /// Takes a route that starts where the vehicle is now; it keeps its speed.
    pub fn follow(&mut self, route: Route) {
        self.at_m = route.start_m;
        self.route = route;
        self.done = 0;
    }

    /// Puts a standing vehicle a part of the way along its route, 0 to 1.
    pub fn skip(&mut self, town: &Streets, part: f64) {
        let mut rest_m = self.rest_m(town) * part;
        while self.done + 1 < self.route.streets.len() {
            let left_m = self.length_m(town) - self.at_m;
            if rest_m <= left_m {
                break;
            }
            rest_m -= left_m;
            self.done += 1;
            self.at_m = 0.0;
        }
        self.at_m += rest_m;
    }

    /// Whether it has come to the end of its route.
    pub fn has_arrived(&self) -> bool {
        self.done + 1 == self.route.streets.len() && self.route.end_m - self.at_m <= THERE_M
    }

    /// Where on which street it is.
    pub fn kerb(&self) -> Kerb {
        Kerb { street: self.route.streets[self.done], at_m: self.at_m }
    }

    /// Where it is.
    pub fn spot(&self, town: &Streets) -> Spot {
        town.kerb_spot(self.kerb())
    }

    /// m/s.
    pub fn speed_mps(&self) -> f64 {
        self.speed_mps
    }

    /// Degrees clockwise from north.
    pub fn heading_deg(&self, town: &Streets) -> f64 {
        town.streets[self.route.streets[self.done] as usize].bearing_deg
    }

    /// Moves on by a short time (at most a quarter of a second or so); `now_s` decides the lights.
    pub fn advance(&mut self, town: &Streets, now_s: f64, dt_s: f64) {
        if self.has_arrived() {
            self.speed_mps = 0.0;
            return;
        }
        let wanted_mps = self.wanted_mps(town, now_s);
        self.speed_mps = wanted_mps
            .clamp(self.speed_mps - BRAKE_MAX_MPS2 * dt_s, self.speed_mps + SPEED_UP_MPS2 * dt_s)
            .max(0.0);
        self.at_m += self.speed_mps * dt_s;
        while self.done + 1 < self.route.streets.len() && self.at_m >= self.length_m(town) {
            self.at_m -= self.length_m(town);
            self.done += 1;
        }
        if self.done + 1 == self.route.streets.len() {
            self.at_m = self.at_m.min(self.route.end_m);
        }
    }

    /// The speed from which everything ahead can still be braked for.
    fn wanted_mps(&self, town: &Streets, now_s: f64) -> f64 {
        let cruise_mps = |street: u32| {
            (town.streets[street as usize].limit_mps * self.style).min(self.kind.top_mps())
        };
        let brakeable_mps = |to_mps: f64, within_m: f64| {
            (to_mps * to_mps + 2.0 * BRAKE_MPS2 * within_m.max(0.0)).sqrt()
        };
        let ahead = &self.route.streets[self.done..];
        let mut wanted_mps = cruise_mps(ahead[0]);
        // What is further away than the way to a stop cannot matter yet.
        let horizon_m = self.speed_mps * self.speed_mps / (2.0 * BRAKE_MPS2) + 25.0;
        let mut gone_m = -self.at_m;
        for pair in ahead.windows(2) {
            let (street, next) = (&town.streets[pair[0] as usize], &town.streets[pair[1] as usize]);
            gone_m += street.length_m;
            if gone_m > horizon_m {
                return wanted_mps;
            }
            let corner = corner_mps(street.bearing_deg, next.bearing_deg).min(cruise_mps(pair[1]));
            wanted_mps = wanted_mps.min(brakeable_mps(corner, gone_m));
            let crossing = &town.crossings[street.to as usize];
            let can_stop = gone_m > self.speed_mps * self.speed_mps / (2.0 * BRAKE_MAX_MPS2);
            if crossing.lights && can_stop && is_red(street.to, street.bearing_deg, now_s) {
                return wanted_mps.min(brakeable_mps(0.0, gone_m - STOP_LINE_M));
            }
        }
        wanted_mps.min(brakeable_mps(0.0, gone_m + self.route.end_m))
    }

    fn length_m(&self, town: &Streets) -> f64 {
        town.streets[self.route.streets[self.done] as usize].length_m
    }

    fn rest_m(&self, town: &Streets) -> f64 {
        let (_, before) = self.route.streets[self.done..].split_last().unwrap_or((&0, &[]));
        let whole: f64 = before.iter().map(|s| town.streets[*s as usize].length_m).sum();
        whole + self.route.end_m - self.at_m
    }
}

/// The route of what stays where it is.
fn parking(kerb: Kerb) -> Route {
    Route { streets: vec![kerb.street], start_m: kerb.at_m, end_m: kerb.at_m }
}

/// Whether the lights of a crossing stop those who come along a bearing.
fn is_red(crossing: u32, bearing_deg: f64, now_s: f64) -> bool {
    // A golden-ratio step spreads the crossings over the cycle.
    let offset_s = (f64::from(crossing) * 0.618_034).fract() * LIGHTS_CYCLE_S;
    let first_half = (now_s + offset_s).rem_euclid(LIGHTS_CYCLE_S) < LIGHTS_CYCLE_S / 2.0;
    let east_west = (45.0..135.0).contains(&(bearing_deg % 180.0));
    first_half == east_west
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::{super::route::fastest, *};

    const DT_S: f64 = 0.1;

    #[test]
    fn every_journey_arrives_at_plausible_speeds() {
        let town = Streets::generate(1);
        let mut rng = StdRng::seed_from_u64(1);
        for kind in [Kind::Bicycle, Kind::Scooter, Kind::Motorcycle, Kind::Car] {
            for _ in 0..15 {
                let (from, to) = (town.random_kerb(&mut rng), town.random_kerb(&mut rng));
                let mut vehicle = Vehicle::parked(kind, 1.0, from);
                vehicle.follow(fastest(&town, from, to));
                let way_m = vehicle.rest_m(&town);
                let (mut now_s, mut drove_m) = (0.0, 0.0);
                while !vehicle.has_arrived() {
                    let (before, slower) = (vehicle.spot(&town), vehicle.speed_mps());
                    vehicle.advance(&town, now_s, DT_S);
                    now_s += DT_S;
                    drove_m += vehicle.speed_mps() * DT_S;
                    assert!(vehicle.speed_mps() <= kind.top_mps());
                    let gain = (vehicle.speed_mps() - slower) / DT_S;
                    assert!((-4.01..=1.61).contains(&gain), "{gain} m/s²");
                    // Corners are cut by the straight line, never lengthened.
                    let moved_m = before.distance_m(vehicle.spot(&town));
                    assert!(moved_m <= vehicle.speed_mps().max(slower) * DT_S + 1e-6);
                    assert!(now_s < 7_200.0, "stuck at {:?}", vehicle.kerb());
                }
                assert_eq!(vehicle.kerb().street, to.street);
                assert!((vehicle.kerb().at_m - to.at_m).abs() <= THERE_M);
                assert!((drove_m - way_m).abs() < 1.0, "{drove_m} of {way_m} m");
            }
        }
    }

    #[test]
    fn corners_and_limits_are_kept() {
        let town = Streets::generate(2);
        let mut rng = StdRng::seed_from_u64(2);
        let (mut fastest_mps, mut corners) = (0.0_f64, 0);
        for _ in 0..40 {
            let (from, to) = (town.random_kerb(&mut rng), town.random_kerb(&mut rng));
            let mut vehicle = Vehicle::parked(Kind::Car, 1.0, from);
            vehicle.follow(fastest(&town, from, to));
            let mut now_s = 0.0;
            while !vehicle.has_arrived() {
                let (street, heading) = (vehicle.kerb().street, vehicle.heading_deg(&town));
                vehicle.advance(&town, now_s, DT_S);
                now_s += DT_S;
                fastest_mps = fastest_mps.max(vehicle.speed_mps());
                if vehicle.kerb().street != street {
                    corners += 1;
                    let corner = corner_mps(heading, vehicle.heading_deg(&town));
                    assert!(vehicle.speed_mps() <= corner + 1.0, "{} m/s", vehicle.speed_mps());
                }
                let limit = town.streets[vehicle.kerb().street as usize].limit_mps;
                assert!(vehicle.speed_mps() <= limit + 1.0);
            }
        }
        assert!(corners > 500 && fastest_mps > 12.0, "{corners} corners, {fastest_mps} m/s");
    }

    #[test]
    fn lights_stop_one_axis_at_a_time() {
        for second in 0..200 {
            let now_s = f64::from(second);
            assert_ne!(is_red(7, 90.0, now_s), is_red(7, 0.0, now_s));
            assert_eq!(is_red(7, 90.0, now_s), is_red(7, 270.0, now_s));
            assert_ne!(is_red(7, 0.0, now_s), is_red(7, 0.0, now_s + LIGHTS_CYCLE_S / 2.0));
        }
    }

    #[test]
    fn skipping_ahead_stays_on_the_route() {
        let town = Streets::generate(3);
        let mut rng = StdRng::seed_from_u64(3);
        for _ in 0..50 {
            let (from, to) = (town.random_kerb(&mut rng), town.random_kerb(&mut rng));
            let route = fastest(&town, from, to);
            let mut vehicle = Vehicle::parked(Kind::Scooter, 1.0, from);
            vehicle.follow(route.clone());
            let whole_m = vehicle.rest_m(&town);
            vehicle.skip(&town, 0.25);
            assert!((vehicle.rest_m(&town) - whole_m * 0.75).abs() < 1e-6);
            assert!(route.streets.contains(&vehicle.kerb().street));
            vehicle.skip(&town, 1.0);
            assert!(vehicle.has_arrived());
        }
    }
}
