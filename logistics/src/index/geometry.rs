//! Points on the sphere and the distance between them.
//!
//! Two measures of one separation are used. Users see the great-circle distance in metres. The
//! search compares the *chord*, the straight line through a sphere of radius 1: it grows with the
//! great-circle distance, it is a metric of its own (it is Euclid's, so the triangle inequality
//! holds), and it needs no trigonometry between two unit vectors. The haversine is the square of
//! half of it.

use contracts::position::{Position, STEPS_PER_DEGREE, from_e7};

/// Mean radius of the Earth in metres, R₁ of the IUGG (H. Moritz, "Geodetic Reference System
/// 1980", Journal of Geodesy 74, 2000).
pub const EARTH_RADIUS_M: f64 = 6_371_008.8;

/// A latitude outside −90 to 90, a longitude outside −180 to 180, or no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("latitude must be -90 to 90 and longitude -180 to 180 degrees")]
pub struct OutOfRange;

/// A place on the Earth, always finite and in range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    latitude: f64,
    longitude: f64,
}

impl Point {
    /// Takes degrees: latitude −90 to 90, longitude −180 to 180.
    pub fn new(latitude: f64, longitude: f64) -> Result<Self, OutOfRange> {
        // A NaN is in no range.
        if (-90.0..=90.0).contains(&latitude) && (-180.0..=180.0).contains(&longitude) {
            Ok(Self { latitude, longitude })
        } else {
            Err(OutOfRange)
        }
    }

    /// A stored position's place; its steps are in range wherever a `Position` comes from.
    pub(super) fn from_steps(lat_e7: i32, lon_e7: i32) -> Self {
        Self { latitude: from_e7(lat_e7), longitude: from_e7(lon_e7) }
    }

    /// Degrees north.
    pub fn latitude(self) -> f64 {
        self.latitude
    }

    /// Degrees east.
    pub fn longitude(self) -> f64 {
        self.longitude
    }
}

impl From<&Position> for Point {
    fn from(position: &Position) -> Self {
        Self::from_steps(position.lat_e7, position.lon_e7)
    }
}

/// Great-circle distance in metres by the haversine formula (R. W. Sinnott, "Virtues of the
/// Haversine", Sky & Telescope 68, 1984), 0 to π [`EARTH_RADIUS_M`], the same both ways.
pub fn distance_m(a: Point, b: Point) -> f64 {
    metres(Origin::new(a).haversine(b))
}

/// One end of many distances: what depends on it alone is computed once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    lat_rad: f64,
    lon_rad: f64,
    cos_lat: f64,
}

impl Origin {
    pub(super) fn new(point: Point) -> Self {
        let lat_rad = point.latitude.to_radians();
        Self { lat_rad, lon_rad: point.longitude.to_radians(), cos_lat: lat_rad.cos() }
    }

    /// The haversine of the angle to `to`, 0 to 1: the square of half the chord.
    pub(super) fn haversine(&self, to: Point) -> f64 {
        let lat_rad = to.latitude.to_radians();
        let sin_lat = ((lat_rad - self.lat_rad) * 0.5).sin();
        let sin_lon = ((to.longitude.to_radians() - self.lon_rad) * 0.5).sin();
        sin_lat * sin_lat + self.cos_lat * lat_rad.cos() * (sin_lon * sin_lon)
    }

    /// A haversine that the true one is not below, without trigonometry; 0 for what is far away.
    ///
    /// For x up to 0.01, sin²(x/2) ≥ x²/4 · (1 − 1e-5), and cos φ′ ≥ cos φ − |Δφ|. What the true
    /// haversine rounds is less than what is taken off here.
    pub(super) fn haversine_min(&self, lat_e7: i32, lon_e7: i32) -> f64 {
        const RADIANS_PER_STEP: f64 = std::f64::consts::PI / (180.0 * STEPS_PER_DEGREE);
        let lat = (f64::from(lat_e7) * RADIANS_PER_STEP - self.lat_rad).abs();
        let lon = (f64::from(lon_e7) * RADIANS_PER_STEP - self.lon_rad).abs();
        if lat > 0.01 || lon > 0.01 {
            return 0.0;
        }
        let (lat, lon) = ((lat - 1e-14).max(0.0), (lon - 1e-14).max(0.0));
        let cos_sq = self.cos_lat * (self.cos_lat - lat).max(0.0);
        (lat * lat + cos_sq * lon * lon) * (0.25 * (1.0 - 1e-4))
    }
}

/// Metres of a haversine.
pub(super) fn metres(haversine: f64) -> f64 {
    // Rounding can carry an antipode's haversine a hair above 1, where asin is NaN.
    2.0 * EARTH_RADIUS_M * haversine.min(1.0).sqrt().asin()
}

/// The haversine of a distance in metres; half the circumference and more is 1.
pub(super) fn haversine_of(distance_m: f64) -> f64 {
    let half_angle = (distance_m / (2.0 * EARTH_RADIUS_M)).min(std::f64::consts::FRAC_PI_2);
    half_angle.sin().powi(2)
}

/// A point of the unit sphere.
pub(super) type Vector = [f64; 3];

/// The unit vector of a point given in radians.
pub(super) fn unit(lat_rad: f64, lon_rad: f64) -> Vector {
    let (sin_lat, cos_lat) = lat_rad.sin_cos();
    let (sin_lon, cos_lon) = lon_rad.sin_cos();
    [cos_lat * cos_lon, cos_lat * sin_lon, sin_lat]
}

/// The straight line between two unit vectors, 0 to 2.
pub(super) fn chord(a: Vector, b: Vector) -> f64 {
    chord_sq(a, b).sqrt()
}

/// Its square, which orders them as well.
pub(super) fn chord_sq(a: Vector, b: Vector) -> f64 {
    let [x, y, z] = [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
    x * x + y * y + z * z
}

/// The sine of the angle between a point and the great circle through two others.
pub(super) fn sine_to_great_circle(point: Vector, a: Vector, b: Vector) -> f64 {
    let normal = [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
    let length = chord(normal, [0.0; 3]);
    let along = normal[0] * point[0] + normal[1] * point[1] + normal[2] * point[2];
    (along / length).abs()
}

#[cfg(test)]
mod tests {
    use contracts::position::to_e7;
    use h3o::LatLng;
    use proptest::prelude::*;

    use super::*;

    fn point() -> impl Strategy<Value = Point> {
        (-90.0..=90.0, -180.0..=180.0).prop_map(|(lat, lon)| Point::new(lat, lon).unwrap())
    }

    proptest! {
        #[test]
        fn the_distance_is_that_of_another_library(a in point(), b in point()) {
            let theirs = LatLng::new(a.latitude, a.longitude).unwrap()
                .distance_rads(LatLng::new(b.latitude, b.longitude).unwrap()) * EARTH_RADIUS_M;
            // Near the antipode a rounding of the haversine moves the distance by centimetres.
            prop_assert!((distance_m(a, b) - theirs).abs() < 0.5, "{theirs}");
            prop_assert_eq!(distance_m(a, b), distance_m(b, a));
            prop_assert_eq!(distance_m(a, a), 0.0);
        }

        #[test]
        fn the_haversine_is_the_square_of_half_the_chord(a in point(), b in point()) {
            let vector = |p: Point| unit(p.latitude.to_radians(), p.longitude.to_radians());
            let half = chord(vector(a), vector(b)) / 2.0;
            prop_assert!((Origin::new(a).haversine(b) - half * half).abs() < 1e-14);
        }

        #[test]
        fn the_quick_haversine_is_not_above_the_true_one(
            lat in -90.0..=90.0,
            lon in -180.0..=180.0,
            lat_step in -8_000_000_i32..8_000_000,
            lon_step in -8_000_000_i32..8_000_000,
            shift in 0_u32..24,
        ) {
            let from = Point::new(lat, lon).unwrap();
            let near = |degrees: f64, step: i32, max: i32| {
                (to_e7(degrees) + (step >> shift)).clamp(-max, max)
            };
            let lat = near(lat, lat_step, 900_000_000);
            let lon = near(lon, lon_step, 1_800_000_000);
            let origin = Origin::new(from);
            let (true_one, quick) =
                (origin.haversine(Point::from_steps(lat, lon)), origin.haversine_min(lat, lon));
            prop_assert!(quick <= true_one, "{quick} {true_one}");
            // Near by, and away from the poles, it is of use.
            if from.latitude.abs() < 80.0 && true_one > 1e-14 && true_one < 1e-8 {
                prop_assert!(quick > 0.99 * true_one, "{quick} {true_one}");
            }
        }

        #[test]
        fn a_distance_and_its_haversine_are_one(distance in 0.0..20_000_000.0) {
            prop_assert!((metres(haversine_of(distance)) - distance).abs() < 0.01);
        }
    }

    #[test]
    fn known_distances() {
        let point = |lat, lon| Point::new(lat, lon).unwrap();
        let quarter = EARTH_RADIUS_M * std::f64::consts::FRAC_PI_2;
        assert!((distance_m(point(0.0, 0.0), point(90.0, 17.0)) - quarter).abs() < 1e-6);
        assert!(distance_m(point(0.0, 180.0), point(0.0, -180.0)) < 1e-6);
        assert!(distance_m(point(90.0, -70.0), point(90.0, 70.0)) < 1e-6);
        assert!((distance_m(point(12.0, 5.0), point(-12.0, -175.0)) - 2.0 * quarter).abs() < 0.5);
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for (lat, lon) in [(90.1, 0.0), (f64::NAN, 0.0), (0.0, -180.1), (0.0, f64::INFINITY)] {
            assert_eq!(Point::new(lat, lon), Err(OutOfRange));
        }
    }
}
