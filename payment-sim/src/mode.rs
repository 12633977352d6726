//! In which way a request is answered: well, or wrong in one of the ways of real gateways.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What happens to one request. "Before" and "after" are before and after its effect is in the
/// ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// As it should be.
    Ok,
    /// The card, or for a refund the bank, says no.
    Decline,
    /// 500, and nothing has happened.
    #[serde(rename = "500_before")]
    ErrorBefore,
    /// 500, and yet it has happened.
    #[serde(rename = "500_after")]
    ErrorAfter,
    /// No answer, and nothing has happened.
    HangBefore,
    /// No answer, and yet it has happened.
    HangAfter,
    /// It happens, and the answer comes late.
    Slow,
    /// It happens, and the connection is reset in the middle of the answer's body.
    ResetMidBody,
    /// It happens, and the answer is not JSON.
    BadJson,
    /// It happens, and the answer's status is a word that nobody knows.
    UnknownStatus,
    /// Too many requests, and nothing has happened.
    #[serde(rename = "429")]
    TooMany,
    /// It happens, and the answer is that another request with this key is still running.
    InProgress,
    /// It happens, and the answer comes twice on the same connection.
    DuplicateReply,
}

/// Not the name of a mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is none of the modes {}", Mode::ALL.map(Mode::name).join(", "))]
pub struct UnknownMode;

impl Mode {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Ok,
        Self::Decline,
        Self::ErrorBefore,
        Self::ErrorAfter,
        Self::HangBefore,
        Self::HangAfter,
        Self::Slow,
        Self::ResetMidBody,
        Self::BadJson,
        Self::UnknownStatus,
        Self::TooMany,
        Self::InProgress,
        Self::DuplicateReply,
    ];

    /// As it is written in settings and headers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Decline => "decline",
            Self::ErrorBefore => "500_before",
            Self::ErrorAfter => "500_after",
            Self::HangBefore => "hang_before",
            Self::HangAfter => "hang_after",
            Self::Slow => "slow",
            Self::ResetMidBody => "reset_mid_body",
            Self::BadJson => "bad_json",
            Self::UnknownStatus => "unknown_status",
            Self::TooMany => "429",
            Self::InProgress => "in_progress",
            Self::DuplicateReply => "duplicate_reply",
        }
    }

    /// Picks by one draw from 0 to 1: each mode has as much of it as its rate, and what is left
    /// is `Ok`.
    #[must_use]
    pub fn pick(rates: &BTreeMap<Self, f64>, decline_rate: f64, draw: f64) -> Self {
        let decline = std::iter::once((Self::Decline, decline_rate));
        let mut end = 0.0;
        for (mode, rate) in decline.chain(rates.iter().map(|(mode, rate)| (*mode, *rate))) {
            end += rate;
            if draw < end {
                return mode;
            }
        }
        Self::Ok
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(name: &str) -> Result<Self, UnknownMode> {
        Self::ALL.into_iter().find(|mode| mode.name() == name).ok_or(UnknownMode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_everywhere() {
        for mode in Mode::ALL {
            assert_eq!(mode.name().parse(), Ok(mode));
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.name());
        }
        assert!("hang".parse::<Mode>().is_err());
    }

    #[test]
    fn a_draw_falls_on_the_mode_that_owns_it() {
        let rates = BTreeMap::from([(Mode::ErrorAfter, 0.3), (Mode::Slow, 0.2)]);
        let pick = |draw| Mode::pick(&rates, 0.1, draw);
        assert_eq!(pick(0.0), Mode::Decline);
        assert_eq!(pick(0.11), Mode::ErrorAfter);
        assert_eq!(pick(0.39), Mode::ErrorAfter);
        assert_eq!(pick(0.41), Mode::Slow);
        assert_eq!(pick(0.61), Mode::Ok);
        assert_eq!(Mode::pick(&BTreeMap::new(), 0.0, 0.0), Mode::Ok);
        assert_eq!(Mode::pick(&BTreeMap::new(), 1.0, 0.999_999), Mode::Decline);
    }
}
