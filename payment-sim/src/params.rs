//! Parameters in Stripe's form: a list of names and values, some with brackets.

use std::{fmt, str::FromStr};

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{effect::Metadata, refusal::Refusal};

/// As many as Stripe takes.
const METADATA_MAX: usize = 50;
const METADATA_NAME_MAX: usize = 40;
const METADATA_VALUE_MAX: usize = 500;

/// What was sent, decoded.
#[derive(Clone, Debug, Default)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// Reads a form or a query string.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        Self(form_urlencoded::parse(text).into_owned().collect())
    }

    /// The last value of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The same for one that has to be there and not to be empty.
    ///
    /// # Errors
    /// It is not there.
    pub fn required(&self, name: &'static str) -> Result<&str, Refusal> {
        self.get(name).filter(|value| !value.is_empty()).ok_or(Refusal::Missing(name))
    }

    /// A number, if it is there.
    ///
    /// # Errors
    /// It is not a whole number, or less than `min`.
    pub fn integer(&self, name: &'static str, min: i64) -> Result<Option<i64>, Refusal> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| *number >= min);
        number.map(Some).ok_or(Refusal::NotPositive { param: name })
    }

    /// Refuses what is not in `known`; `metadata[` stands for all names that begin so.
    ///
    /// # Errors
    /// The first that is not.
    pub fn only(&self, known: &[&str]) -> Result<(), Refusal> {
        let is_known = |name: &str| {
            known.iter().any(|k| name == *k || (k.ends_with('[') && name.starts_with(k)))
        };
        match self.0.iter().find(|(name, _)| !is_known(name)) {
            Some((name, _)) => Err(Refusal::UnknownParameter(name.clone())),
            None => Ok(()),
        }
    }

    /// All of `metadata[…]`.
    ///
    /// # Errors
    /// More or longer than Stripe takes.
    pub fn metadata(&self) -> Result<Metadata, Refusal> {
        let refuse = |message| Err(Refusal::Invalid { param: "metadata", message });
        let mut all: Vec<(Box<str>, Box<str>)> = Vec::new();
        for (name, value) in &self.0 {
            let Some(name) = name.strip_prefix("metadata[") else { continue };
            let Some(name) = name.strip_suffix(']').filter(|name| !name.is_empty()) else {
                return refuse("Invalid object");
            };
            if name.chars().count() > METADATA_NAME_MAX {
                return refuse("Metadata keys can have up to 40 characters.");
            }
            if value.chars().count() > METADATA_VALUE_MAX {
                return refuse("Metadata values can have up to 500 characters.");
            }
            all.retain(|(known, _)| &**known != name);
            all.push((name.into(), value.as_str().into()));
        }
        if all.len() > METADATA_MAX {
            return refuse("Metadata can have up to 50 keys.");
        }
        Ok(Metadata::new(all))
    }

    /// What a key for idempotent requests is bound to: the path and every parameter, in any order.
    #[must_use]
    pub fn fingerprint(&self, path: &str) -> Fingerprint {
        let mut sorted: Vec<_> = self.0.iter().collect();
        sorted.sort();
        let mut text = form_urlencoded::Serializer::new(format!("{path}?"));
        text.extend_pairs(sorted);
        let digest = digest(&SHA256, text.finish().as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest.as_ref()[..16]);
        Fingerprint(bytes)
    }
}

/// The first 128 bits of a SHA-256; 32 hexadecimal digits in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 16]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl FromStr for Fingerprint {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(|number| Self(number.to_be_bytes()))
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_sees_every_parameter_and_no_order() {
        let of = |text: &str| Params::parse(text.as_bytes()).fingerprint("/v1/payment_intents");
        let first = of("amount=1&currency=inr");
        assert_eq!(first, of("currency=inr&amount=1"));
        assert_eq!(first, first.to_string().parse().unwrap());
        for other in [
            "amount=2&currency=inr",
            "amount=1",
            "amount=1&currency=inr&confirm=true",
            "amount=1%26currency=inr",
            "amount=1&amount=1&currency=inr",
        ] {
            assert_ne!(first, of(other), "{other}");
        }
        assert_ne!(first, Params::parse(b"amount=1&currency=inr").fingerprint("/v1/refunds"));
    }

    #[test]
    fn parameters_are_read_as_stripe_does() {
        let params = Params::parse(b"a=1&metadata[order_id]=o%201&metadata%5Bx%5D=&a=2");
        assert_eq!(params.get("a"), Some("2"));
        assert_eq!(params.metadata().unwrap().get("order_id"), Some("o 1"));
        assert_eq!(params.metadata().unwrap().get("x"), Some(""));
        assert!(params.only(&["a", "metadata["]).is_ok());
        let unknown = Refusal::UnknownParameter("metadata[order_id]".to_owned());
        assert_eq!(params.only(&["a"]), Err(unknown));
        for bad in ["metadata[]=1", "metadata[x=1", &format!("metadata[{}]=", "x".repeat(41))] {
            assert!(Params::parse(bad.as_bytes()).metadata().is_err(), "{bad}");
        }
        for bad in ["n=", "n=0", "n=-1", "n=1.5", "n=99999999999999999999"] {
            assert!(Params::parse(bad.as_bytes()).integer("n", 1).is_err(), "{bad}");
        }
    }
}
