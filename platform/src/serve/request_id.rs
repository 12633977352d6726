//! The id under which a request is found in the logs.

use std::cell::Cell;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const MAX_BYTES: usize = 64;

tokio::task_local! {
    pub(super) static CURRENT: Current;
}

/// The request that a task is handling.
pub(super) struct Current {
    pub(super) id: RequestId,
    /// Its handler waits for the body, and so for the client.
    pub(super) reads_body: Cell<bool>,
}

/// The client's id when it is sane (up to 64 letters, digits, `-`, `_`, `.`), else 16 hex digits
/// of our own. It is only written out when somebody reads it.
#[derive(Clone, Debug)]
pub struct RequestId(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Given(HeaderValue),
    Made(u64),
}

/// The id of the request that the running task is handling, if it is.
#[must_use]
pub fn current_request_id() -> Option<RequestId> {
    CURRENT.try_with(|current| current.id.clone()).ok()
}

/// Notes that the running request waits for its body, or does no longer: one that is over its time
/// meanwhile is late by its client's fault.
pub(crate) fn reading_a_body(reads_body: bool) {
    // Without a request, as in a test of an extractor by itself, there is nothing to note.
    let _ = CURRENT.try_with(|current| current.reads_body.set(reads_body));
}

impl RequestId {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        match headers.get(X_REQUEST_ID) {
            Some(given) if is_sane(given.as_bytes()) => Self(Kind::Given(given.clone())),
            _ => Self(Kind::Made(next())),
        }
    }

    pub(super) fn to_header(&self) -> HeaderValue {
        match &self.0 {
            Kind::Given(value) => value.clone(),
            // Hex digits are always a valid header value.
            Kind::Made(number) => HeaderValue::from_bytes(&hex(*number))
                .unwrap_or_else(|_| HeaderValue::from_static("-")),
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Given(value) => f.write_str(value.to_str().unwrap_or_default()),
            Kind::Made(number) => write!(f, "{number:016x}"),
        }
    }
}

fn is_sane(id: &[u8]) -> bool {
    (1..=MAX_BYTES).contains(&id.len())
        && id.iter().all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Counts from a random start and scatters the result (splitmix64, a bijection): no two alike in
/// one process, and processes do not share a range.
fn next() -> u64 {
    static START: OnceLock<u64> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let start = *START.get_or_init(|| RandomState::new().hash_one(std::process::id()));
    let mut x = start
        .wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn hex(number: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    for (i, digit) in digits.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (60 - 4 * i)) as usize & 15];
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sane_ids_are_taken_and_others_replaced() {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_static("abc-1_2.3"));
        assert_eq!(RequestId::of(&headers).to_string(), "abc-1_2.3");
        for bad in ["", "with space", "<script>", &"x".repeat(65)] {
            headers.insert(X_REQUEST_ID, HeaderValue::from_str(bad).unwrap());
            let made = RequestId::of(&headers);
            assert_ne!(made.to_string(), bad);
            assert_eq!(made.to_string().len(), 16);
            assert_eq!(made.to_header().to_str().unwrap(), made.to_string());
        }
    }

    #[test]
    fn made_ids_differ() {
        let ids: std::collections::HashSet<u64> = (0..10_000).map(|_| next()).collect();
        assert_eq!(ids.len(), 10_000);
    }
}
