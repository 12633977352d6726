//! Recorded tracks: `unix_seconds,driver_id,latitude,longitude,occupied`, plain or gzipped, with a
//! header line.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead as _, BufReader, Read},
    path::Path,
};

use anyhow::Context as _;
use flate2::read::MultiGzDecoder;

/// One recorded fix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// Seconds since 1970.
    pub at_s: i64,
    /// The id in the file.
    pub taxi: u32,
    /// Latitude, 1e-7 degrees.
    pub lat_e7: i32,
    /// Longitude, 1e-7 degrees.
    pub lon_e7: i32,
}

/// Reads a whole trace, sorted by time; points of one time keep the file's order.
pub fn load(path: &Path) -> anyhow::Result<Vec<Point>> {
    let context = || format!("cannot read the trace {}", path.display());
    let mut file = BufReader::new(File::open(path).with_context(context)?);
    let is_gzip = file.fill_buf().with_context(context)?.starts_with(&[0x1f, 0x8b]);
    let points = if is_gzip { parse(MultiGzDecoder::new(file)) } else { parse(file) };
    points.with_context(context)
}

fn parse(input: impl Read) -> anyhow::Result<Vec<Point>> {
    let mut reader = csv::Reader::from_reader(input);
    let (mut record, mut points) = (csv::ByteRecord::new(), Vec::new());
    while reader.read_byte_record(&mut record)? {
        let point =
            point(&record).with_context(|| format!("line {} is not a fix", points.len() + 2))?;
        points.push(point);
    }
    points.sort_by_key(|point| point.at_s);
    Ok(points)
}

fn point(record: &csv::ByteRecord) -> Option<Point> {
    let field = |at: usize| std::str::from_utf8(record.get(at)?).ok();
    let lat_e7 = decimal_e7(field(2)?)?;
    let lon_e7 = decimal_e7(field(3)?)?;
    let in_range = lat_e7.unsigned_abs() <= 900_000_000 && lon_e7.unsigned_abs() <= 1_800_000_000;
    in_range.then_some(Point {
        at_s: field(0)?.parse().ok()?,
        taxi: field(1)?.parse().ok()?,
        lat_e7,
        lon_e7,
    })
}

/// Reads `-122.45694` as −1,224,569,400: exact, which a detour through binary fractions need not
/// be. More than seven decimals are refused.
fn decimal_e7(text: &str) -> Option<i32> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || fraction.len() > 7 || !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let steps: i64 = format!("{whole}{fraction:0<7}").parse().ok()?;
    i32::try_from(if negative { -steps } else { steps }).ok()
}

/// One driver's way through the trace, sorted by time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Track(pub Vec<Point>);

/// Every taxi of the trace as one driver.
pub fn by_taxi(points: &[Point]) -> Vec<Track> {
    let mut tracks = BTreeMap::<u32, Vec<Point>>::new();
    for point in points {
        tracks.entry(point.taxi).or_default().push(*point);
    }
    tracks.into_values().map(Track).collect()
}

/// Every (taxi, hour) as one driver: the `count` with the most points, at least two each.
pub fn by_taxi_hour(points: &[Point], count: usize) -> Vec<Track> {
    let mut tracks = BTreeMap::<(u32, i64), Vec<Point>>::new();
    for point in points {
        tracks.entry((point.taxi, hour(point))).or_default().push(*point);
    }
    let mut tracks: Vec<_> =
        tracks.into_values().filter(|points| points.len() > 1).map(Track).collect();
    tracks.sort_by_key(|track| std::cmp::Reverse(track.0.len()));
    tracks.truncate(count);
    tracks
}

/// The hour that a point belongs to, counted from 1970.
pub fn hour(point: &Point) -> i64 {
    point.at_s.div_euclid(3600)
}

impl Track {
    /// The place at `at_us` (microseconds since 1970), interpolated linearly along the track;
    /// before its start and after its end the driver stands still.
    pub fn at(&self, at_us: i64) -> (i32, i32) {
        let after = self.0.partition_point(|point| point.at_s * 1_000_000 <= at_us);
        let (Some(a), Some(b)) = (self.0.get(after.saturating_sub(1)), self.0.get(after)) else {
            return self.0.last().map_or((0, 0), |last| (last.lat_e7, last.lon_e7));
        };
        let (start_us, end_us) = (a.at_s * 1_000_000, b.at_s * 1_000_000);
        if at_us <= start_us || end_us <= start_us {
            return (a.lat_e7, a.lon_e7);
        }
        let share = (at_us - start_us) as f64 / (end_us - start_us) as f64;
        let between =
            |a: i32, b: i32| (f64::from(a) + (f64::from(b) - f64::from(a)) * share).round() as i32;
        (between(a.lat_e7, b.lat_e7), between(a.lon_e7, b.lon_e7))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use contracts::position::from_e7;

    use super::*;

    const SAMPLE: &str = "unix_seconds,driver_id,latitude,longitude,occupied\n\
        7205,22,37.79,-122.4,1\n\
        7200,22,37.78589,-122.45694,1\n\
        7200,22,37.78589,-122.45694,1\n\
        7200,74,-0.5,122,0\n";

    #[test]
    fn a_trace_is_read_plain_and_gzipped_and_sorted() {
        let points = parse(SAMPLE.as_bytes()).unwrap();
        assert_eq!(points.len(), 4);
        let first = Point { at_s: 7_200, taxi: 22, lat_e7: 377_858_900, lon_e7: -1_224_569_400 };
        assert_eq!(points[0], first);
        assert_eq!(points[2].lat_e7, -5_000_000);
        assert_eq!(points[3].at_s, 7_205);
        let directory = std::env::temp_dir().join(format!("trace-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&directory).unwrap();
        let path = directory.join("trace.csv.gz");
        let mut file =
            flate2::write::GzEncoder::new(File::create(&path).unwrap(), Default::default());
        file.write_all(SAMPLE.as_bytes()).unwrap();
        file.finish().unwrap();
        let gzipped = load(&path).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(gzipped, points);
    }

    #[test]
    fn a_broken_line_is_named() {
        let error = parse("a,b,c,d,e\n1,2,3.5,4.5,0\n1,2,nan,4,0\n".as_bytes()).unwrap_err();
        assert!(error.to_string().contains("line 3"), "{error}");
        for bad in ["", "-", ".5", "1.12345678", "1e5", "+1", "1.2.3", "999"] {
            let line = format!("a,b,c,d,e\n1,2,{bad},4,0\n");
            assert!(parse(line.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn decimals_become_the_steps_whose_quotient_is_the_same_float() {
        for text in ["37.75134", "-122.39488", "0.1", "89.9999999", "-0.0000001"] {
            assert_eq!(from_e7(decimal_e7(text).unwrap()), text.parse::<f64>().unwrap());
        }
    }

    #[test]
    fn a_track_is_interpolated_and_stands_still_at_its_ends() {
        let point = |at_s, lat_e7| Point { at_s, taxi: 1, lat_e7, lon_e7: -lat_e7 };
        let track = Track(vec![point(10, 100), point(20, 200), point(20, 300), point(30, 300)]);
        assert_eq!(track.at(5_000_000), (100, -100));
        assert_eq!(track.at(15_000_000), (150, -150));
        assert_eq!(track.at(20_000_000), (300, -300));
        assert_eq!(track.at(99_000_000), (300, -300));
    }

    #[test]
    fn taxis_and_hours_are_split() {
        let points = parse(SAMPLE.as_bytes()).unwrap();
        assert_eq!(by_taxi(&points).iter().map(|track| track.0.len()).collect::<Vec<_>>(), [3, 1]);
        let hours = by_taxi_hour(&points, 10);
        assert_eq!(hours.len(), 1, "a single point is no track");
        assert_eq!(hours[0].0.len(), 3);
    }

    #[test]
    fn the_real_day_is_read_whole() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../shared/data/sf-cabs-2008-05-21.csv.gz");
        if !path.exists() {
            eprintln!("SKIPPED: {} is absent", path.display());
            return;
        }
        let points = load(&path).unwrap();
        assert_eq!(points.len(), 456_453);
        // Counted with awk; the data set as a whole has 537 taxis, this day 499 of them.
        assert_eq!(by_taxi(&points).len(), 499);
        assert_eq!(by_taxi_hour(&points, usize::MAX).len(), 9_214);
        assert_eq!(by_taxi_hour(&points, 100).len(), 100);
    }
}
