//! Bounds on the figures of a summary, by their flat names.

use std::{collections::BTreeMap, str::FromStr};

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Comparison, Summary};

/// A bound on one figure, such as `accept_p99_ms<20`.
#[derive(Debug, Clone, PartialEq)]
pub struct Threshold {
    name: String,
    comparison: Comparison,
    bound: f64,
}

/// Whether a threshold held.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ThresholdResult {
    /// As it was given.
    pub threshold: String,
    /// The figure; `null` when it was not measured, which fails the threshold.
    pub value: Option<f64>,
    /// Whether it held.
    pub passed: bool,
}

impl ThresholdResult {
    /// What is wrong, in words; `None` when it held.
    pub(crate) fn lapse(&self) -> Option<String> {
        let Self { threshold, value, passed } = self;
        let wrong = || match value {
            Some(value) => format!("{threshold} is {value}"),
            None => format!("{threshold} was not measured"),
        };
        (!passed).then(wrong)
    }
}

/// Longer signs first: `<=` starts with `<`.
const SIGNS: [(&str, Comparison); 6] = [
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("==", Comparison::Equal),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
    ("=", Comparison::Equal),
];

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse_for(&Summary::full(), text)
    }
}

impl Threshold {
    /// Reads a bound on a figure of summaries like `full`, which must have every part.
    pub fn parse_for(full: &impl Serialize, text: &str) -> Result<Self, String> {
        let at = text
            .find(['<', '>', '='])
            .ok_or_else(|| format!("{text:?} is not a threshold such as accept_p99_ms<20"))?;
        let (name, rest) = (text[..at].trim(), &text[at..]);
        let (comparison, bound) = SIGNS
            .iter()
            .find_map(|(sign, comparison)| Some((*comparison, rest.strip_prefix(sign)?)))
            .ok_or_else(|| format!("{text:?} has no comparison"))?;
        let bound = bound.trim().parse().map_err(|_| format!("{text:?} has no number"))?;
        let known = figures(full);
        if !known.contains_key(name) {
            let known: Vec<_> = known.into_keys().collect();
            return Err(format!("no figure is called {name:?}; there are {}", known.join(", ")));
        }
        Ok(Self { name: name.to_owned(), comparison, bound })
    }
}

impl std::fmt::Display for Threshold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = SIGNS.iter().find(|(_, comparison)| *comparison == self.comparison);
        write!(f, "{}{}{}", self.name, sign.map_or("", |(sign, _)| sign), self.bound)
    }
}

impl Threshold {
    fn judge(&self, value: Option<f64>) -> ThresholdResult {
        let passed = value.is_some_and(|value| self.comparison.holds(value, self.bound));
        ThresholdResult { threshold: self.to_string(), value, passed }
    }
}

/// Every number of the summary by its flat name: `accept_ms.p99` is `accept_p99_ms`, other
/// nesting is joined by `_`.
fn figures(summary: &impl Serialize) -> BTreeMap<String, Option<f64>> {
    let mut figures = BTreeMap::new();
    // A summary is plain data, which serialises.
    if let Ok(Value::Object(object)) = serde_json::to_value(summary) {
        flatten(&object, "", &mut figures);
    }
    figures
}

fn flatten(object: &Map<String, Value>, prefix: &str, figures: &mut BTreeMap<String, Option<f64>>) {
    for (key, value) in object {
        let name = match (prefix, prefix.strip_suffix("_ms")) {
            ("", _) => key.clone(),
            (_, Some(stem)) if key == "count" => format!("{stem}_count"),
            (_, Some(stem)) => format!("{stem}_{key}_ms"),
            (prefix, None) => format!("{prefix}_{key}"),
        };
        match value {
            Value::Object(inner) => flatten(inner, &name, figures),
            Value::Number(number) => drop(figures.insert(name, number.as_f64())),
            Value::Null => drop(figures.insert(name, None)),
            _ => {}
        }
    }
}

/// Applies the thresholds to a summary's figures.
pub(crate) fn judge(summary: &impl Serialize, thresholds: &[Threshold]) -> Vec<ThresholdResult> {
    let figures = figures(summary);
    thresholds
        .iter()
        .map(|threshold| threshold.judge(figures.get(&threshold.name).copied().flatten()))
        .collect()
}
