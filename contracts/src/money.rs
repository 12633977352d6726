//! Money as it crosses a process: whole minor units and an ISO 4217 code, never a fraction.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::ToSchema;

/// An amount of one currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Money {
    /// Minor units: 1250 is 12.50 INR and 1250 JPY.
    pub amount: i64,
    /// What it is counted in.
    pub currency: Currency,
}

/// An ISO 4217 code: three capital letters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ToSchema)]
#[schema(value_type = String, pattern = "^[A-Z]{3}$", example = "USD")]
pub struct Currency([u8; 3]);

/// Not three capital letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be an ISO 4217 code of three capital letters, such as INR")]
pub struct InvalidCurrency;

impl Currency {
    /// Reads a code; whether a bank knows it is not checked.
    pub fn parse(code: &str) -> Result<Self, InvalidCurrency> {
        match code.as_bytes() {
            &[a, b, c] if [a, b, c].iter().all(u8::is_ascii_uppercase) => Ok(Self([a, b, c])),
            _ => Err(InvalidCurrency),
        }
    }

    /// The three letters.
    pub fn as_str(&self) -> &str {
        // Checked to be ASCII when it was made.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&code).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_whole_minor_units_of_a_known_form() {
        let money: Money = serde_json::from_str(r#"{"amount":1250,"currency":"INR"}"#).unwrap();
        assert_eq!(money, Money { amount: 1250, currency: Currency::parse("INR").unwrap() });
        assert_eq!(serde_json::to_string(&money).unwrap(), r#"{"amount":1250,"currency":"INR"}"#);
        for bad in [
            r#"{"amount":12.5,"currency":"INR"}"#,
            r#"{"amount":"1250","currency":"INR"}"#,
            r#"{"amount":1,"currency":"inr"}"#,
            r#"{"amount":1,"currency":"EURO"}"#,
            r#"{"amount":1}"#,
            r#"{"amount":1,"currency":"EUR","cents":1}"#,
        ] {
            assert!(serde_json::from_str::<Money>(bad).is_err(), "{bad}");
        }
    }
}
