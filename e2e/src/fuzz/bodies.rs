//! Bodies: good ones, ones with a known fault, mutated ones, and noise.

use chrono::{SecondsFormat, TimeDelta, Utc};
use contracts::{
    ids::{DriverId, EventId},
    position::{ENTRY_LEN, Position},
};
use rand::{Rng as _, RngCore as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::{Map, Value, json};

/// What must become of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    /// It is a fix.
    Accept,
    /// It is none.
    Refuse,
    /// Either.
    Any,
}

/// Longest single fix, as documented.
const FIX_BYTES_MAX: usize = 2 * 1024;
/// Text that parsers stumble over.
const NASTY: [&str; 12] = [
    "NaN",
    "-Infinity",
    "1e999",
    "-0",
    "0x10",
    "01",
    ".5",
    "1.",
    "+1",
    "\"\\ud800\"",
    "\"\\u0000\"",
    "123456789012345678901234567890",
];

/// A fix for the route of one driver.
pub(super) fn fix(rng: &mut StdRng, driver: i64) -> (Vec<u8>, Expect) {
    match rng.random_range(0..100) {
        0..12 => (text(&good(rng, driver)), Expect::Accept),
        12..35 => (text(&faulty(rng, driver)), Expect::Refuse),
        35..60 => (mutated(text(&good(rng, driver)), rng), Expect::Any),
        60..70 => (noise(rng, 200), Expect::Any),
        70..78 => (value(rng, 0).to_string().into_bytes(), Expect::Any),
        78..82 => (deep(rng), Expect::Refuse),
        82..84 => (long(rng, driver, FIX_BYTES_MAX), Expect::Refuse),
        84..90 => (truncated(text(&good(rng, driver)), rng), Expect::Refuse),
        _ => (nasty(rng, driver), Expect::Any),
    }
}

/// A batch, and what must become of each of its points where that is known.
pub(super) fn batch(rng: &mut StdRng, drivers: &[i64]) -> (Vec<u8>, Option<Vec<Expect>>) {
    let mut points = Vec::new();
    let mut expected = Vec::new();
    for _ in 0..rng.random_range(1..12) {
        let driver = drivers.choose(rng).copied().unwrap_or(1);
        // In a fleet's batch each point must say whose it is.
        let mut add = |mut point: Value, expect| {
            if let Some(fields) = point.as_object_mut() {
                fields.entry("driver_id").or_insert_with(|| json!(driver));
            }
            points.push(point);
            expected.push(expect);
        };
        match rng.random_range(0..10) {
            0..3 => add(good(rng, driver), Expect::Accept),
            3..8 => add(faulty(rng, driver), Expect::Refuse),
            _ => add(value(rng, 0), Expect::Any),
        }
    }
    let whole = text(&json!({ "points": points }));
    match rng.random_range(0..20) {
        0..10 => (whole, Some(expected)),
        10..16 => (mutated(whole, rng), None),
        16 => (truncated(whole, rng), None),
        17 => (text(&json!({ "points": vec![good(rng, 1); rng.random_range(501..700)] })), None),
        18 => (text(&json!({ "points": value(rng, 0), "more": 1 })), None),
        _ => (noise(rng, 2_000), None),
    }
}

/// A driver's binary frame.
pub(super) fn frame(rng: &mut StdRng, driver: i64) -> (Vec<u8>, Expect) {
    let mut bytes = position(rng, driver).encode_entry().to_vec();
    match rng.random_range(0..10) {
        0..2 => (bytes, Expect::Accept),
        2..6 => {
            for _ in 0..rng.random_range(1..6) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random();
            }
            (bytes, Expect::Any)
        }
        6 => {
            bytes[0] = bytes[0].wrapping_add(rng.random_range(1..=255));
            (bytes, Expect::Refuse)
        }
        7 => {
            let mut length = rng.random_range(0..2_000);
            length += usize::from(length == ENTRY_LEN);
            bytes.resize(length, rng.random());
            (bytes, Expect::Refuse)
        }
        8 => {
            let other = position(rng, driver + 1);
            (other.encode_entry().to_vec(), Expect::Refuse)
        }
        _ => {
            let mut bytes = vec![0; ENTRY_LEN];
            rng.fill_bytes(&mut bytes);
            (bytes, Expect::Any)
        }
    }
}

fn position(rng: &mut StdRng, driver: i64) -> Position {
    let mut maybe = |max: f32| rng.random_bool(0.5).then(|| rng.random_range(0.0..max));
    let (speed_mps, heading_deg, accuracy_m) = (maybe(200.0), maybe(360.0), maybe(1_000.0));
    Position {
        driver_id: DriverId::new(driver.max(1))
            .unwrap_or_else(|_| unreachable!("max(1) is positive")),
        recorded_at_us: Utc::now().timestamp_micros() - rng.random_range(0..3_600_000_000),
        seq: rng.random_range(0..100),
        // 0 asks the service for a name.
        event_id: EventId(if rng.random_ratio(1, 4) { 0 } else { rng.random() }),
        lat_e7: rng.random_range(-880_000_000..=880_000_000),
        lon_e7: rng.random_range(-1_800_000_000..=1_800_000_000),
        speed_mps,
        heading_deg,
        accuracy_m,
        order_id: None,
    }
}

fn text(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// A fix that must be accepted.
fn good(rng: &mut StdRng, driver: i64) -> Value {
    let mut fix = Map::new();
    fix.insert("latitude".into(), json!(rng.random_range(-88.0..88.0)));
    fix.insert("longitude".into(), json!(rng.random_range(-180.0..=180.0)));
    if rng.random_bool(0.5) {
        fix.insert("speed".into(), json!(rng.random_range(0.0..=1_000.0)));
    }
    if rng.random_bool(0.5) {
        fix.insert("heading".into(), json!(rng.random_range(0.0..=360.0)));
    }
    if rng.random_bool(0.3) {
        fix.insert("accuracy".into(), Value::Null);
    }
    if rng.random_bool(0.3) {
        fix.insert("order_id".into(), json!(uuid::Uuid::from_u128(rng.random_range(1..u128::MAX))));
    }
    if rng.random_bool(0.7) {
        let ago = TimeDelta::milliseconds(rng.random_range(-30_000..86_000_000));
        let at = (Utc::now() - ago).to_rfc3339_opts(SecondsFormat::Micros, true);
        fix.insert("recorded_at".into(), json!(at));
    }
    if rng.random_bool(0.5) {
        fix.insert("event_id".into(), json!(format!("{:x}", rng.random::<u64>())));
    }
    if rng.random_bool(0.3) {
        fix.insert("seq".into(), json!(rng.random_range(0..=i32::MAX)));
    }
    if rng.random_bool(0.2) {
        fix.insert("driver_id".into(), json!(driver));
    }
    Value::Object(fix)
}

/// A fix with one fault that must be found. In JSON it is well-formed.
fn faulty(rng: &mut StdRng, driver: i64) -> Value {
    let mut fix = good(rng, driver);
    let ahead = |seconds| (Utc::now() + TimeDelta::seconds(seconds)).to_rfc3339();
    let faults = [
        ("latitude", json!(90.000_001)),
        ("latitude", json!(-1e300)),
        ("latitude", json!("12.5")),
        ("latitude", Value::Null),
        ("latitude", json!([1.0])),
        ("longitude", json!(180.000_001)),
        ("longitude", json!(true)),
        ("longitude", json!({})),
        ("speed", json!(-0.001)),
        ("speed", json!(1_000.1)),
        ("speed", json!("fast")),
        ("heading", json!(360.1)),
        ("heading", json!(-1)),
        ("accuracy", json!(-5)),
        ("accuracy", json!(1e9)),
        ("order_id", json!("00000000-0000-0000-0000-000000000000")),
        ("order_id", json!("7")),
        ("order_id", json!(7)),
        ("recorded_at", json!(ahead(300))),
        ("recorded_at", json!(ahead(-25 * 3_600))),
        ("recorded_at", json!("2026-13-45T00:00:00Z")),
        ("recorded_at", json!("yesterday")),
        ("recorded_at", json!(1_700_000_000)),
        ("recorded_at", json!("+262143-12-31T23:59:59Z")),
        ("event_id", json!("")),
        ("event_id", json!("x".repeat(65))),
        ("event_id", json!(5)),
        ("seq", json!(-1)),
        ("seq", json!(2_147_483_648_u64)),
        ("seq", json!(1.5)),
        ("seq", json!("1")),
        ("driver_id", json!(0)),
        ("driver_id", json!(-1)),
        ("driver_id", json!("1")),
        ("driver_id", json!(u64::MAX)),
        ("lattitude", json!(1.0)),
        ("", json!(1)),
    ];
    if let Some(fields) = fix.as_object_mut() {
        if rng.random_bool(0.05) {
            fields.remove(["latitude", "longitude"].choose(rng).copied().unwrap_or("latitude"));
        } else if let Some((name, wrong)) = faults.choose(rng) {
            fields.insert((*name).to_owned(), wrong.clone());
        }
    }
    fix
}

/// Some bytes changed, left out, put in, doubled.
fn mutated(mut bytes: Vec<u8>, rng: &mut StdRng) -> Vec<u8> {
    for _ in 0..rng.random_range(1..8) {
        if bytes.is_empty() {
            bytes.push(rng.random());
        }
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..6) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, rng.random()),
            3 => bytes.insert(at, *b"{}[]\",:0-.eE\\".choose(rng).unwrap_or(&b'{')),
            4 => {
                let end = rng.random_range(at..bytes.len().min(at + 40));
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => bytes[at] = b'0' + rng.random_range(0..10),
        }
    }
    bytes
}

fn truncated(mut bytes: Vec<u8>, rng: &mut StdRng) -> Vec<u8> {
    bytes.truncate(rng.random_range(0..bytes.len().max(1)));
    bytes
}

fn noise(rng: &mut StdRng, length_max: usize) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(0..length_max)];
    rng.fill_bytes(&mut bytes);
    bytes
}

fn deep(rng: &mut StdRng) -> Vec<u8> {
    let depth = rng.random_range(1..400);
    let (open, close) = if rng.random() { ("[", "]") } else { ("{\"a\":", "}") };
    let inner = if rng.random() { "1" } else { "" };
    format!("{}{inner}{}", open.repeat(depth), close.repeat(depth)).into_bytes()
}

/// A good fix, made too long by what JSON ignores.
fn long(rng: &mut StdRng, driver: i64, above: usize) -> Vec<u8> {
    let mut bytes = text(&good(rng, driver));
    let most = if rng.random_ratio(1, 200) { 3 << 20 } else { 20_000 };
    bytes.resize(rng.random_range(above + 1..most), b' ');
    bytes
}

/// A good fix, one of whose values is replaced by a text that is hardly JSON.
fn nasty(rng: &mut StdRng, driver: i64) -> Vec<u8> {
    let mut fix = good(rng, driver);
    let name = ["latitude", "speed", "event_id", "seq", "recorded_at", "order_id"];
    let name = name.choose(rng).copied().unwrap_or("seq");
    fix[name] = json!("@@");
    let text = fix.to_string().replace("\"@@\"", NASTY.choose(rng).copied().unwrap_or("NaN"));
    text.into_bytes()
}

/// Any JSON, with names that mean something here.
fn value(rng: &mut StdRng, depth: u32) -> Value {
    match rng.random_range(if depth > 3 { 0..5 } else { 0..8 }) {
        0 => Value::Null,
        1 => json!(rng.random::<bool>()),
        2 => json!(f64::from_bits(rng.random())),
        3 => json!(rng.random::<i64>()),
        4 => json!(String::from_utf8_lossy(&noise(rng, 20))),
        5 => Value::Array((0..rng.random_range(0..5)).map(|_| value(rng, depth + 1)).collect()),
        _ => {
            let names = ["latitude", "longitude", "seq", "event_id", "points", "recorded_at", "x"];
            let fields = (0..rng.random_range(0..6)).map(|_| {
                let name = names.choose(rng).copied().unwrap_or("x");
                (name.to_owned(), value(rng, depth + 1))
            });
            Value::Object(fields.collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use logistics::fix::{Fix, check_position};
    use rand::SeedableRng as _;

    use super::*;

    const DRIVER: i64 = 7;

    fn is_fix(body: &[u8]) -> bool {
        let path = DriverId::new(DRIVER).ok();
        body.len() <= FIX_BYTES_MAX
            && serde_json::from_slice::<Fix>(body).is_ok_and(|fix| {
                let driver = fix.driver(path);
                driver.and_then(|driver| fix.check(driver, Utc::now())).is_ok()
            })
    }

    fn is_position(body: &[u8]) -> bool {
        Position::decode_entry(body).is_ok_and(|position| {
            position.driver_id.get() == DRIVER && check_position(position, Utc::now()).is_ok()
        })
    }

    /// What a body is said to be is what the service's own check says, or its run would blame it.
    #[test]
    fn bodies_are_what_they_are_expected_to_be() {
        let mut seen = [0; 2];
        for seed in 0..20_000 {
            let rng = &mut StdRng::seed_from_u64(seed);
            let (text, of_text) = fix(rng, DRIVER);
            let (binary, of_binary) = frame(rng, DRIVER);
            for (expect, good, body) in
                [(of_text, is_fix(&text), &text), (of_binary, is_position(&binary), &binary)]
            {
                seen[usize::from(good)] += 1;
                let shown = String::from_utf8_lossy(body);
                assert!(expect == Expect::Any || good == (expect == Expect::Accept), "{shown}");
            }
        }
        assert!(seen.iter().all(|count| *count > 4_000), "hardly any of one kind: {seen:?}");
    }

    #[test]
    fn a_seed_makes_the_same_body_again() {
        let make = || batch(&mut StdRng::seed_from_u64(3), &[1, 2]).0.len();
        assert_eq!(make(), make());
    }
}
