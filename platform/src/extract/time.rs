//! Times that come from outside.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, de};

/// 1970-01-01 and 9999-12-31, in seconds: what chrono, PostgreSQL and RFC 3339 all hold, with room on
/// both sides for what is reckoned from them. chrono itself reads years of six digits with a sign.
const STORABLE_S: std::ops::RangeInclusive<i64> = 0..=253_402_300_799;

/// Returns true for a time from 1970 to 9999.
pub fn is_storable(at: DateTime<Utc>) -> bool {
    STORABLE_S.contains(&at.timestamp())
}

/// A time in a query, a path or a body: RFC 3339, from 1970 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time(pub DateTime<Utc>);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let at = DateTime::<Utc>::deserialize(deserializer)?;
        if is_storable(at) {
            Ok(Self(at))
        } else {
            Err(de::Error::custom("must be between 1970-01-01 and 9999-12-31"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_outside_of_four_digits_are_refused() {
        let read = |text: &str| serde_json::from_value::<Time>(text.into()).is_ok();
        for good in
            ["1970-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "2026-11-30T10:00:00+02:00"]
        {
            assert!(read(good), "{good}");
        }
        for bad in [
            "1969-12-31T23:59:59.999Z",
            "1970-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "-5000-01-01T00:00:00Z",
            "-262143-01-01T00:00:00Z",
            "+262142-12-31T23:59:59Z",
            "+10000-01-01T00:00:00Z",
            "yesterday",
            "",
        ] {
            assert!(!read(bad), "{bad}");
        }
    }
}
