//! A route as GeoJSON (RFC 7946).

use chrono::SecondsFormat;
use contracts::{ids::DriverId, position::Position};
use serde_json::{Value, json};

/// A point of a line, and when the driver was there; `None` where the line is cut.
type Place = ([f64; 2], Option<String>);

/// A `Feature`: a `LineString`, times beside it; a single point is a `Point`. What crosses the
/// antimeridian is cut there, as section 3.1.9 asks for, or maps would draw it around the Earth:
/// then it is a `MultiLineString`, with times by line and none where it is cut.
pub(super) fn geojson(driver_id: DriverId, positions: &[Position]) -> String {
    let mut lines = cut(positions);
    let (geometry, times) = match lines.len() {
        0 => (Value::Null, json!([])),
        1 => {
            let (points, times): (Vec<_>, Vec<_>) = lines.remove(0).into_iter().unzip();
            match points.as_slice() {
                [only] => (json!({"type": "Point", "coordinates": only}), json!(times)),
                line => (json!({"type": "LineString", "coordinates": line}), json!(times)),
            }
        }
        _ => {
            let parts = lines.into_iter().map(|line| line.into_iter().unzip());
            let (lines, times): (Vec<Vec<_>>, Vec<Vec<_>>) = parts.unzip();
            (json!({"type": "MultiLineString", "coordinates": lines}), json!(times))
        }
    };
    json!({
        "type": "Feature",
        "geometry": geometry,
        "properties": {"driver_id": driver_id, "times": times},
    })
    .to_string()
}

/// The way in lines none of which crosses the antimeridian. Of two ways around the Earth the driver
/// took the shorter.
fn cut(positions: &[Position]) -> Vec<Vec<Place>> {
    let mut lines: Vec<Vec<Place>> = Vec::new();
    for position in positions {
        let (lon, lat) = (position.longitude(), position.latitude());
        let time = position.recorded_at().to_rfc3339_opts(SecondsFormat::Micros, true);
        let here = ([lon, lat], Some(time));
        let Some(line) = lines.last_mut() else {
            lines.push(vec![here]);
            continue;
        };
        let before = line.last().map(|([lon, lat], _)| (*lon, *lat));
        let (from_lon, from_lat) = before.unwrap_or((lon, lat));
        if (lon - from_lon).abs() <= 180.0 {
            line.push(here);
            continue;
        }
        // Eastwards across 180, or westwards across -180.
        let edge = 180.0_f64.copysign(from_lon);
        let way = lon + 2.0 * edge - from_lon;
        let share = if way == 0.0 { 0.0 } else { (edge - from_lon) / way };
        let lat = from_lat + share * (lat - from_lat);
        line.push(([edge, lat], None));
        lines.push(vec![([-edge, lat], None), here]);
    }
    lines
}

#[cfg(test)]
mod tests {
    use contracts::{ids::EventId, position::to_e7};
    use proptest::prelude::*;

    use super::*;

    fn way(points: &[(f64, f64)]) -> Value {
        let at = |(second, (lon, lat)): (i64, &(f64, f64))| Position {
            driver_id: DriverId::new(7).unwrap(),
            recorded_at_us: 1_700_000_000_000_000 + second * 1_000_000,
            seq: 0,
            event_id: EventId(1),
            lat_e7: to_e7(*lat),
            lon_e7: to_e7(*lon),
            speed_mps: None,
            heading_deg: None,
            accuracy_m: None,
            order_id: None,
        };
        let positions: Vec<Position> = (0..).zip(points).map(at).collect();
        serde_json::from_str(&geojson(DriverId::new(7).unwrap(), &positions)).unwrap()
    }

    #[test]
    fn a_way_is_a_line_with_times() {
        assert_eq!(way(&[])["geometry"], Value::Null);
        assert_eq!(
            way(&[(1.0, 2.0)])["geometry"],
            json!({"type": "Point", "coordinates": [1.0, 2.0]})
        );
        let line = way(&[(-122.41, 37.77), (-122.42, 37.78)]);
        let coordinates = json!([[-122.41, 37.77], [-122.42, 37.78]]);
        assert_eq!(line["geometry"], json!({"type": "LineString", "coordinates": coordinates}));
        let times = json!(["2023-11-14T22:13:20.000000Z", "2023-11-14T22:13:21.000000Z"]);
        assert_eq!(line["properties"]["times"], times);
    }

    #[test]
    fn a_way_across_the_antimeridian_is_cut_there() {
        let fiji = way(&[(179.999, -16.8), (-179.997, -16.4)]);
        let lines =
            json!([[[179.999, -16.8], [180.0, -16.7]], [[-180.0, -16.7], [-179.997, -16.4]]]);
        let cut = &fiji["geometry"]["coordinates"];
        assert_eq!(fiji["geometry"]["type"], "MultiLineString");
        for (line, expected) in cut.as_array().unwrap().iter().zip(lines.as_array().unwrap()) {
            for (point, expected) in
                line.as_array().unwrap().iter().zip(expected.as_array().unwrap())
            {
                for axis in 0..2 {
                    let off = point[axis].as_f64().unwrap() - expected[axis].as_f64().unwrap();
                    assert!(off.abs() < 1e-7, "{fiji}");
                }
            }
        }
        assert_eq!(fiji["properties"]["times"][0][1], Value::Null);
        assert_eq!(fiji["properties"]["times"][1][1], "2023-11-14T22:13:21.000000Z");
        assert_eq!(
            way(&[(-179.9, 0.0), (179.9, 0.0), (-179.9, 0.0)])["geometry"]["coordinates"]
                .as_array()
                .unwrap()
                .len(),
            3
        );
    }

    proptest! {
        #[test]
        fn no_line_goes_around_the_earth_and_no_point_is_lost(
            points in prop::collection::vec((-180.0..=180.0_f64, -90.0..=90.0_f64), 2..20),
        ) {
            let way = way(&points);
            let coordinates = way["geometry"]["coordinates"].as_array().unwrap().clone();
            let is_one = way["geometry"]["type"] == "LineString";
            let lines = if is_one { vec![Value::from(coordinates)] } else { coordinates };
            let times = &way["properties"]["times"];
            let mut kept = 0;
            for (at, line) in lines.iter().enumerate() {
                let line = line.as_array().unwrap();
                prop_assert!(line.len() >= 2);
                let longitude = |point: &Value| point[0].as_f64().unwrap();
                for pair in line.windows(2) {
                    prop_assert!((longitude(&pair[0]) - longitude(&pair[1])).abs() <= 180.0);
                }
                let times = if is_one { times } else { &times[at] };
                prop_assert_eq!(times.as_array().unwrap().len(), line.len());
                kept += times.as_array().unwrap().iter().filter(|time| !time.is_null()).count();
            }
            prop_assert_eq!(kept, points.len());
        }
    }
}
