//! The town's flat map: metres east and north of the centre, and what that is on the globe.

/// Degrees north of the town's centre: Pune, where the Mula and the Mutha meet.
pub const CENTRE_LATITUDE: f64 = 18.5204;
/// Degrees east of the town's centre.
pub const CENTRE_LONGITUDE: f64 = 73.8567;
/// Metres in one degree of latitude, on a sphere of 6,371,008.8 m (the IUGG mean radius).
const METRES_PER_DEGREE: f64 = 111_195.08;

/// A point of the town, metres from its centre.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Spot {
    /// Metres east of the centre.
    pub east_m: f64,
    /// Metres north of the centre.
    pub north_m: f64,
}

impl Spot {
    /// A point from its two coordinates.
    pub const fn new(east_m: f64, north_m: f64) -> Self {
        Self { east_m, north_m }
    }

    /// Where this point is on the globe: latitude and longitude in degrees.
    ///
    /// The map is equirectangular around the centre; over the town's few kilometres the error is
    /// below a metre, and going back with [`Self::from_degrees`] is exact.
    pub fn degrees(self) -> (f64, f64) {
        (
            CENTRE_LATITUDE + self.north_m / METRES_PER_DEGREE,
            CENTRE_LONGITUDE + self.east_m / metres_per_degree_east(),
        )
    }

    /// The inverse of [`Self::degrees`].
    pub fn from_degrees(latitude: f64, longitude: f64) -> Self {
        Self {
            east_m: (longitude - CENTRE_LONGITUDE) * metres_per_degree_east(),
            north_m: (latitude - CENTRE_LATITUDE) * METRES_PER_DEGREE,
        }
    }

    /// Metres in a straight line.
    pub fn distance_m(self, other: Self) -> f64 {
        (self.east_m - other.east_m).hypot(self.north_m - other.north_m)
    }

    /// The point a part of the way to another: 0 is here, 1 is there.
    pub fn towards(self, other: Self, part: f64) -> Self {
        Self {
            east_m: self.east_m + (other.east_m - self.east_m) * part,
            north_m: self.north_m + (other.north_m - self.north_m) * part,
        }
    }

    /// Degrees clockwise from north, 0 to 360, of the way to another point.
    pub fn bearing_deg(self, other: Self) -> f64 {
        (other.east_m - self.east_m)
            .atan2(other.north_m - self.north_m)
            .to_degrees()
            .rem_euclid(360.0)
    }

    /// Metres to the nearest point of the straight line between two points.
    pub fn distance_to_line_m(self, from: Self, to: Self) -> f64 {
        let (east, north) = (to.east_m - from.east_m, to.north_m - from.north_m);
        let length_squared = east * east + north * north;
        if length_squared == 0.0 {
            return self.distance_m(from);
        }
        let along = (self.east_m - from.east_m) * east + (self.north_m - from.north_m) * north;
        self.distance_m(from.towards(to, (along / length_squared).clamp(0.0, 1.0)))
    }
}

/// Metres in one degree of longitude at the centre's latitude.
fn metres_per_degree_east() -> f64 {
    METRES_PER_DEGREE * CENTRE_LATITUDE.to_radians().cos()
}

/// The smaller angle between two bearings, 0 to 180 degrees.
pub fn turn_deg(from: f64, to: f64) -> f64 {
    let turn = (to - from).rem_euclid(360.0);
    turn.min(360.0 - turn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_goes_to_the_globe_and_back() {
        let spot = Spot::new(-3_210.5, 1_234.25);
        let (latitude, longitude) = spot.degrees();
        assert!(spot.distance_m(Spot::from_degrees(latitude, longitude)) < 1e-6);
        // One kilometre north is about 0.009 degrees anywhere.
        assert!((Spot::new(0.0, 1_000.0).degrees().0 - CENTRE_LATITUDE - 0.008_993).abs() < 1e-5);
    }

    #[test]
    fn bearings_are_clockwise_from_north() {
        let here = Spot::default();
        for (east, north, bearing) in
            [(0.0, 1.0, 0.0), (1.0, 0.0, 90.0), (0.0, -1.0, 180.0), (-1.0, 0.0, 270.0)]
        {
            assert!((here.bearing_deg(Spot::new(east, north)) - bearing).abs() < 1e-9);
        }
        assert_eq!(turn_deg(350.0, 20.0), 30.0);
        assert_eq!(turn_deg(20.0, 350.0), 30.0);
    }

    #[test]
    fn the_distance_to_a_line_ends_with_the_line() {
        let (from, to) = (Spot::new(0.0, 0.0), Spot::new(10.0, 0.0));
        assert_eq!(Spot::new(5.0, 3.0).distance_to_line_m(from, to), 3.0);
        assert_eq!(Spot::new(13.0, 4.0).distance_to_line_m(from, to), 5.0);
        assert_eq!(Spot::new(3.0, 4.0).distance_to_line_m(from, from), 5.0);
    }
}
