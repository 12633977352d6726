//! One id type per noun, so that a driver is never passed where a customer is meant.

use std::{fmt, num::ParseIntError, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

/// An id that is not a positive 64-bit integer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a positive 64-bit integer")]
pub struct InvalidId;

impl From<ParseIntError> for InvalidId {
    fn from(_: ParseIntError) -> Self {
        Self
    }
}

macro_rules! positive_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(i64);

        impl $name {
            /// Accepts 1 to `i64::MAX`.
            pub const fn new(id: i64) -> Result<Self, InvalidId> {
                if id > 0 { Ok(Self(id)) } else { Err(InvalidId) }
            }

            /// The number itself, always positive.
            pub const fn get(self) -> i64 {
                self.0
            }
        }

        impl TryFrom<i64> for $name {
            type Error = InvalidId;
            fn try_from(id: i64) -> Result<Self, InvalidId> {
                Self::new(id)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text.parse()?)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(i64::deserialize(deserializer)?).map_err(de::Error::custom)
            }
        }
    };
}

positive_id!(
    /// A courier's id.
    DriverId
);
positive_id!(
    /// A customer's id, the subject of the customer's token.
    CustomerId
);
positive_id!(
    /// A restaurant's id.
    RestaurantId
);
positive_id!(
    /// A category of a restaurant's menu.
    CategoryId
);
positive_id!(
    /// An item of a restaurant's menu.
    ItemId
);

/// An order's id, a UUIDv7 given by order-api.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OrderId(pub Uuid);

impl OrderId {
    /// A new id that sorts by the time it was made.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl FromStr for OrderId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Uuid::from_str(text).map(Self)
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// Tells two fixes of one driver at one instant apart.
///
/// Written as 16 lower-case hexadecimal digits. A client may send any text of 1 to 64 bytes:
/// 16 hexadecimal digits stand for themselves, other text for its 64-bit FNV-1a hash, so that the
/// id a server answered can be sent back and names the same event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(pub u64);

impl EventId {
    /// The longest text that a client may send.
    pub const TEXT_MAX: usize = 64;

    /// Reads a client's text; `None` when it is empty or longer than [`Self::TEXT_MAX`] bytes.
    pub fn from_client(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.is_empty() || bytes.len() > Self::TEXT_MAX {
            return None;
        }
        if bytes.len() == 16 && bytes.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return u64::from_str_radix(text, 16).ok().map(Self);
        }
        Some(Self(fnv1a(bytes)))
    }

    /// The id of an event that a device has named and numbered: the number is part of the name, so
    /// that what differs in it alone is two events wherever events are kept.
    pub fn numbered(self, seq: u32) -> Self {
        if seq == 0 { self } else { Self(mix(self.0 ^ mix(seq.into()))) }
    }
}

/// 64-bit FNV-1a (Fowler, Noll, Vo), finished with MurmurHash3's `fmix64` so that short inputs
/// reach every bit. Its results are stored and sent: it must never change.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(hash)
}

/// `fmix64` of MurmurHash3 (Austin Appleby, public domain): a bijection with full avalanche.
pub(crate) const fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for EventId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_positive() {
        assert_eq!("7".parse(), DriverId::new(7));
        for bad in ["0", "-1", "9223372036854775808", "x", "", " 1"] {
            assert_eq!(bad.parse::<DriverId>(), Err(InvalidId), "{bad:?}");
        }
    }

    #[test]
    fn a_number_makes_another_event_and_no_number_the_same() {
        let id = EventId::from_client("a").unwrap();
        assert_eq!(id.numbered(0), id);
        let all: std::collections::HashSet<_> = (0..1_000).map(|seq| id.numbered(seq)).collect();
        assert_eq!(all.len(), 1_000);
        assert_eq!(id.numbered(7), id.numbered(7));
        assert_ne!(EventId::from_client("b").unwrap().numbered(7), id.numbered(7));
    }

    #[test]
    fn an_answered_event_id_names_the_same_event_when_sent_back() {
        let id = EventId::from_client("phone-17/42").unwrap();
        assert_eq!(EventId::from_client(&id.to_string()), Some(id));
        assert_ne!(EventId::from_client("phone-17/43"), Some(id));
        assert_eq!(EventId::from_client(""), None);
        assert_eq!(EventId::from_client(&"x".repeat(65)), None);
    }
}
