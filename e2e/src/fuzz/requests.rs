//! Requests that are hostile anywhere: path, query, headers, body.
//!
//! Most parts of a request are good, so that the bad one is reached.

use std::fmt::Write as _;

use rand::{Rng as _, RngCore as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::{Map, Value, json};

use super::surface::{Kind, Operation, Param};

/// The owners of what the good requests are about.
pub(super) const SUBJECT: i64 = 7;

/// Values that parsers, clocks, databases and arithmetic stumble over; bytes that a URL cannot hold
/// as they are go out as they are.
const HOSTILE: &[&str] = &[
    "",
    "0",
    "-1",
    "1",
    "-0",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "2147483647",
    "2147483648",
    "-2147483648",
    "4294967295",
    "NaN",
    "nan",
    "inf",
    "-inf",
    "Infinity",
    "1e308",
    "1e999",
    "-1e308",
    "5e-324",
    "1e-400",
    "0x10",
    "1_000",
    "90.00000001",
    "-180.00000001",
    "-5000-01-01T00:00:00Z",
    "-262143-01-01T00:00:00Z",
    "-262144-01-01T00:00:00Z",
    "%2B262142-12-31T23:59:59Z",
    "%2B10000-01-01T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00%2B23:59",
    "9999-12-31T23:59:59.999999999Z",
    "9999-12-31T23:59:59-23:59",
    "1969-12-31T23:59:59.999999Z",
    "1970-01-01T00:00:00Z",
    "2026-02-30T00:00:00Z",
    "2026-11-30T23:59:60Z",
    "2026-11-30T24:00:00Z",
    "2026-11-30T10:00:00+02:00",
    "-8000000000000000000.0.0",
    "9223372036854775807.2147483647.ffffffffffffffff",
    "-9223372036854775808.-2147483648.0",
    "1.1.1",
    "..",
    ".",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "%00",
    "a%00b",
    "%",
    "%zz",
    "%f",
    "%ff%fe",
    "%c0%af",
    "%ed%a0%80",
    "\u{0}",
    "\u{7f}",
    "\u{202e}",
    "%F0%9F%8D%95",
    "e%CC%81",
    "%E2%80%8B",
    "'",
    "'; DROP TABLE orders; --",
    "\\",
    "$1",
    "%25s%25n",
    "{{7*7}}",
    "null",
    "true",
    "[]",
    "{}",
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "0198c7a2-7d4e-7c3a-9f52-3b1f6f0a9d1",
    "{0198c7a2-7d4e-7c3a-9f52-3b1f6f0a9d11}",
    "urn:uuid:0198c7a2-7d4e-7c3a-9f52-3b1f6f0a9d11",
];

/// Headers that somebody reads, with what they stumble over.
const HEADERS: &[(&str, &[&str])] = &[
    (
        "accept",
        &[
            "",
            "*/*",
            "*",
            ";",
            "text/event-stream",
            "application/geo+json;q=NaN",
            "text/csv;q=9999999999999999999999",
            ",,,,",
            "application/json;q=0, text/*;q=-1",
            "application/gpx+xml",
            "a/b/c",
            "\u{ff}",
        ],
    ),
    ("accept-encoding", &["", "*;q=0", "gzip;q=1e9", "gzip;q=0, *", "zstd, br", "identity;q=0"]),
    (
        "if-none-match",
        &[
            "",
            "*",
            "\"",
            "W/",
            "W/\"",
            "\"a\", \"b\"",
            "\"\\\"",
            "W/\"18446744073709551616\"",
            "\"9223372036854775807\"",
            "\u{ff}",
        ],
    ),
    ("if-match", &["", "*", "\"9223372036854775808\"", "W/\"x\""]),
    ("if-modified-since", &["", "Thu, 01 Jan -5000 00:00:00 GMT", "yesterday"]),
    (
        "last-event-id",
        &["", "null", "-1", "9223372036854775807", "9223372036854775808", "1e3", "\u{ff}"],
    ),
    (
        "range",
        &[
            "bytes=0-0",
            "bytes=-1",
            "bytes=9223372036854775807-",
            "bytes=18446744073709551616-1",
            "bytes=1-0,0-1,-0",
            "lines=1-2",
        ],
    ),
    (
        "content-type",
        &[
            "",
            "application/json; charset=utf-16",
            "application/x+json",
            "text/plain",
            "multipart/form-data",
            ";",
            "\u{ff}",
            "application/é+json",
        ],
    ),
    ("content-encoding", &["gzip", "identity", "br, gzip", ""]),
    (
        "idempotency-key",
        &[
            "",
            "\"\"",
            " ",
            "a\tb",
            "null",
            "00000000-0000-0000-0000-000000000000",
            "\u{ff}",
            "'; --",
        ],
    ),
    ("upgrade", &["h2c", "websocket", "WebSocket, h2c", "", "\u{ff}"]),
    ("connection", &["keep-alive, Upgrade", "upgrade"]),
    ("sec-websocket-key", &["", "x", "dGhlIHNhbXBsZSBub25jZQ=="]),
    ("sec-websocket-version", &["13", "0", "99999999999999999999", ""]),
    ("sec-websocket-protocol", &["", ",", "bearer, x"]),
    ("sec-websocket-extensions", &["permessage-deflate; client_max_window_bits=99", ";;;"]),
    (
        "forwarded",
        &[
            "",
            "for=",
            "for=\"[::1",
            "for=unknown;for=_x",
            "for=\"[2001:db8::1]:99999999\"",
            "for=1.2.3.4, for=1.2.3.4;by=;;=",
            "\u{ff}",
        ],
    ),
    ("x-forwarded-for", &["", ",", "999.999.999.999", "::1, , 1.2.3.4:99999", "\u{ff}"]),
    ("x-forwarded-proto", &["", "https, http", "\u{ff}"]),
    ("x-request-id", &["", "a b", "\u{ff}", "../../x", "${jndi:ldap://x}"]),
    ("origin", &["null", "", "*", "http://", "\u{ff}", "http://a:99999"]),
    ("access-control-request-method", &["", "GET", "\u{ff}"]),
    ("cookie", &["", "=;=;", "a=\u{ff}"]),
    ("traceparent", &["", "00-0-0-0", "ff-ffffffffffffffffffffffffffffffff-ffffffffffffffff-ff"]),
    ("te", &["trailers", "chunked;q=x"]),
];

/// Other ways to say who calls.
const AUTHORIZATIONS: &[&str] = &[
    "",
    "Bearer",
    "Bearer ",
    "Bearer a.b.c",
    "Bearer ..",
    "bearer  x",
    "Basic YTpi",
    "Bearer eyJhbGciOiJub25lIn0.e30.",
    "Bearer \u{ff}",
    "Bearer eyJhbGciOiJFZERTQSIsInR5cCI6ImF0K2p3dCJ9.e30.AAAA",
];

/// One request, whole.
pub(super) struct Made {
    pub(super) bytes: Vec<u8>,
    pub(super) is_upgrade: bool,
}

/// Makes a request for an operation; `tokens` are good ones of every role.
pub(super) fn make(rng: &mut StdRng, operation: &Operation, tokens: &[String]) -> Made {
    let method = match rng.random_range(0..50) {
        0 => ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "X"]
            .choose(rng)
            .copied()
            .unwrap_or("GET"),
        _ => operation.method.as_str(),
    };
    let mut head = method.as_bytes().to_vec();
    head.push(b' ');
    target(rng, operation, &mut head);
    head.extend_from_slice(b" HTTP/1.1\r\nhost: x\r\n");
    if rng.random_ratio(9, 10) {
        if let Some(token) = tokens.choose(rng) {
            head.extend_from_slice(format!("authorization: Bearer {token}\r\n").as_bytes());
        }
    } else {
        for _ in 0..rng.random_range(0..3) {
            let value = AUTHORIZATIONS.choose(rng).copied().unwrap_or_default();
            header(&mut head, "authorization", value.as_bytes());
        }
    }
    let mut is_upgrade = false;
    for _ in 0..rng.random_range(0..4_u32).saturating_sub(1) {
        let Some((name, values)) = HEADERS.choose(rng) else { continue };
        is_upgrade |= matches!(*name, "upgrade" | "connection");
        match rng.random_range(0..8) {
            0 => header(&mut head, name, &overlong(rng)),
            1 => header(&mut head, name, hostile(rng).as_bytes()),
            _ => header(&mut head, name, values.choose(rng).map_or(b"", |value| value.as_bytes())),
        }
    }
    for name in &operation.headers {
        if rng.random_ratio(1, 2) {
            header(&mut head, name, hostile(rng).as_bytes());
        }
    }
    let body = match &operation.body {
        Some(fields) => body(rng, fields),
        None if rng.random_ratio(1, 50) => b"{}".to_vec(),
        None => Vec::new(),
    };
    if operation.body.is_some() && rng.random_ratio(19, 20) {
        head.extend_from_slice(b"content-type: application/json\r\n");
    }
    head.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    head.extend_from_slice(&body);
    Made { bytes: head, is_upgrade }
}

/// Writes a header; line ends and NUL would make it another request, not a hostile one.
fn header(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    // U+00FF stands for the byte, which is no UTF-8.
    let text = String::from_utf8_lossy(value);
    for letter in text.chars().filter(|letter| !matches!(letter, '\r' | '\n' | '\0')) {
        match letter {
            '\u{ff}' => head.push(0xff),
            other => head.extend_from_slice(other.to_string().as_bytes()),
        }
    }
    head.extend_from_slice(b"\r\n");
}

fn target(rng: &mut StdRng, operation: &Operation, head: &mut Vec<u8>) {
    let mut path = operation.path.clone();
    for param in &operation.in_path {
        let value = if rng.random_ratio(4, 5) { good(rng, &param.kind) } else { bad(rng) };
        path = path.replace(&format!("{{{}}}", param.name), &value);
    }
    if rng.random_ratio(1, 100) {
        path.push_str(&bad(rng));
    }
    let mut query = String::new();
    // One parameter that is bad behind others that are good is judged; five bad ones are not.
    let wrong = rng.random_range(0..operation.in_query.len().max(1));
    for (at, param) in operation.in_query.iter().enumerate() {
        if at != wrong && rng.random_ratio(2, 3) {
            continue;
        }
        let value = if at == wrong { bad(rng) } else { good(rng, &param.kind) };
        let _infallible = write!(query, "&{}={value}", param.name);
        if rng.random_ratio(1, 20) {
            let _infallible = write!(query, "&{}={}", param.name, bad(rng));
        }
    }
    match rng.random_range(0..40) {
        0 => query.push_str(&format!("&{}={}", bad(rng), bad(rng))),
        1 => query.push_str(&bad(rng)),
        2 => query.push_str("&&=&=="),
        _ => {}
    }
    if !query.is_empty() {
        path.push('?');
        path.push_str(query.trim_start_matches('&'));
    }
    // What would end the target early belongs to `odd` requests.
    let escape = |byte: u8| match byte {
        b' ' => b"%20".to_vec(),
        b'\r' | b'\n' | b'\0' => b"%0a".to_vec(),
        other => vec![other],
    };
    head.extend(path.bytes().flat_map(escape));
}

fn hostile(rng: &mut StdRng) -> &'static str {
    HOSTILE.choose(rng).copied().unwrap_or_default()
}

/// A value that hardly fits anything.
fn bad(rng: &mut StdRng) -> String {
    match rng.random_range(0..12) {
        0 => rng.random::<i64>().to_string(),
        1 => f64::from_bits(rng.random()).to_string(),
        2 => {
            let mut bytes = vec![0; rng.random_range(1..20)];
            rng.fill_bytes(&mut bytes);
            bytes.iter().fold(String::new(), |text, byte| text + &format!("%{byte:02x}"))
        }
        3 => String::from_utf8_lossy(&overlong(rng)).into_owned(),
        4 => format!("{}.{}.{:x}", rng.random::<i64>(), rng.random::<i32>(), rng.random::<u64>()),
        5 => {
            let (year, sign) = (rng.random_range(0..300_000), ["-", "%2B", ""].choose(rng));
            format!("{}{year:04}-01-01T00:00:00Z", sign.copied().unwrap_or_default())
        }
        _ => hostile(rng).to_owned(),
    }
}

fn overlong(rng: &mut StdRng) -> Vec<u8> {
    vec![*b"x9-%".choose(rng).unwrap_or(&b'x'); rng.random_range(100..6_000)]
}

/// A value that fits.
fn good(rng: &mut StdRng, kind: &Kind) -> String {
    match kind {
        Kind::Integer if rng.random_ratio(3, 4) => SUBJECT.to_string(),
        Kind::Integer => rng.random_range(1..200).to_string(),
        Kind::Number => format!("{:.6}", rng.random_range(-90.0..90.0)),
        Kind::Boolean => rng.random::<bool>().to_string(),
        Kind::Time => {
            let ago = chrono::TimeDelta::seconds(rng.random_range(0..86_400));
            (chrono::Utc::now() - ago).to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
        }
        Kind::Uuid => uuid::Uuid::from_u128(rng.random_range(1..20)).to_string(),
        Kind::Word(words) => words.choose(rng).cloned().unwrap_or_default(),
        Kind::Text | Kind::Other => {
            ["a", "7", "pizza", "US"].choose(rng).map_or(String::new(), |it| (*it).into())
        }
    }
}

/// A body with the fields that it should have, one of them bad.
fn body(rng: &mut StdRng, fields: &[Param]) -> Vec<u8> {
    if fields.is_empty() || rng.random_ratio(1, 30) {
        return hostile(rng).as_bytes().to_vec();
    }
    let wrong = rng.random_range(0..fields.len());
    let mut made = Map::new();
    for (at, field) in fields.iter().enumerate() {
        let value = match &field.kind {
            _ if at == wrong => bad_json(rng),
            Kind::Integer => json!(rng.random_range(1..1_000)),
            Kind::Number => json!(rng.random_range(-90.0..90.0)),
            Kind::Boolean => json!(rng.random::<bool>()),
            Kind::Other => bad_json(rng),
            kind => json!(good(rng, kind)),
        };
        if at == wrong || rng.random_ratio(4, 5) {
            made.insert(field.name.clone(), value);
        }
    }
    Value::Object(made).to_string().into_bytes()
}

pub(super) fn bad_json(rng: &mut StdRng) -> Value {
    match rng.random_range(0..10) {
        0 => Value::Null,
        1 => json!(rng.random::<i64>()),
        2 => json!(f64::from_bits(rng.random())),
        3 => json!([]),
        4 => json!([{}, null, -1, "\u{0}"]),
        5 => json!({"amount": i64::MAX, "currency": "\u{0}\u{0}\u{0}"}),
        6 => json!("a\u{0}b"),
        7 => json!(i64::MIN),
        _ => json!(hostile(rng).replace("%2B", "+").replace("%00", "\u{0}")),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    /// Requests that are made can be sent: one each, as long as it says.
    #[test]
    fn requests_are_whole() {
        let document = serde_json::to_value(logistics::http::openapi()).unwrap();
        let operations = super::super::surface::operations(&document).unwrap();
        let tokens = ["a.b.c".to_owned()];
        for seed in 0..5_000 {
            let rng = &mut StdRng::seed_from_u64(seed);
            let operation = operations.choose(rng).unwrap();
            let made = make(rng, operation, &tokens);
            let end = made.bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
            let head = String::from_utf8_lossy(&made.bytes[..end]).into_owned();
            let length = head.rsplit("content-length: ").next().unwrap().trim();
            assert_eq!(length.parse(), Ok(made.bytes.len() - end), "{head}");
            assert_eq!(head.lines().next().unwrap().split(' ').count(), 3, "{head}");
        }
        // The faults that were known when this was written are among what is asked.
        let route = operations.iter().find(|it| it.path.ends_with("/route")).unwrap();
        let mut reached = [false; 3];
        for seed in 0..10_000 {
            let made = make(&mut StdRng::seed_from_u64(seed), route, &tokens);
            let head = String::from_utf8_lossy(&made.bytes).into_owned();
            reached[0] |= head.contains("start_time=-5000-01");
            reached[1] |= head.contains("end_time=-262143-01");
            reached[2] |= head.contains("cursor=-8000000000000000000.0.0");
        }
        assert_eq!(reached, [true; 3]);
    }
}
