//! Thresholds: `p(95)<200` of a metric, or of those of its samples that have some tags.

use serde::Deserialize;

use super::metrics::{Kind, Metric};
use crate::report::Comparison;

/// What is made of a metric's samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Aggregate {
    /// Of a trend.
    Average,
    /// Of a trend.
    Minimum,
    /// Of a trend.
    Median,
    /// Of a trend.
    Maximum,
    /// Of a trend: so many percent are at most this.
    Percentile(f64),
    /// How many, of a counter or a trend.
    Count,
    /// The share of a rate; of a counter how many a second.
    Rate,
    /// The last of a gauge.
    Value,
}

/// Longer signs first: `<=` starts with `<`.
const SIGNS: [(&str, Comparison); 8] = [
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("===", Comparison::Equal),
    ("==", Comparison::Equal),
    ("!==", Comparison::Unequal),
    ("!=", Comparison::Unequal),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
];

/// A bound, such as `p(95)<200`; times are milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Expression {
    /// As it was written.
    pub text: String,
    /// Of what.
    pub aggregate: Aggregate,
    comparison: Comparison,
    bound: f64,
}

impl Expression {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let example = || format!("{text:?} is not a threshold such as \"p(95)<200\"");
        let at = text.find(['<', '>', '=', '!']).ok_or_else(example)?;
        let (left, right) = (text[..at].trim(), &text[at..]);
        let (sign, comparison) =
            SIGNS.iter().find(|(sign, _)| right.starts_with(sign)).ok_or_else(example)?;
        let bound = right[sign.len()..].trim();
        let bound = bound.parse::<f64>().ok().filter(|bound| bound.is_finite());
        let bound = bound.ok_or_else(|| format!("{text:?} has no number to compare with"))?;
        let aggregate = match left {
            "avg" => Aggregate::Average,
            "min" => Aggregate::Minimum,
            "med" => Aggregate::Median,
            "max" => Aggregate::Maximum,
            "count" => Aggregate::Count,
            "rate" => Aggregate::Rate,
            "value" => Aggregate::Value,
            other => {
                let percent = other.strip_prefix("p(").and_then(|rest| rest.strip_suffix(')'));
                let percent = percent.and_then(|number| number.trim().parse::<f64>().ok());
                let known = "avg, min, med, max, p(N), count, rate and value";
                percent
                    .filter(|percent| (0.0..=100.0).contains(percent))
                    .map(Aggregate::Percentile)
                    .ok_or_else(|| format!("{other:?} in {text:?} is not one of {known}"))?
            }
        };
        Ok(Self { text: text.to_owned(), aggregate, comparison: *comparison, bound })
    }

    /// Whether the metric has what is asked of it.
    ///
    /// # Errors
    /// What it has instead.
    pub fn fits(&self, metric: Metric) -> Result<(), String> {
        use Aggregate as A;
        let (fits, has) = match metric.kind() {
            Kind::Counter => (matches!(self.aggregate, A::Count | A::Rate), "count and rate"),
            Kind::Rate => (self.aggregate == A::Rate, "rate"),
            Kind::Gauge => (self.aggregate == A::Value, "value"),
            Kind::Trend => (
                !matches!(self.aggregate, A::Rate | A::Value),
                "avg, min, med, max, p(N) and count",
            ),
        };
        if fits { Ok(()) } else { Err(format!("{} has {has}, not {:?}", metric.name(), self.text)) }
    }

    /// Whether it holds; what was not measured never does.
    pub fn holds(&self, value: Option<f64>) -> bool {
        value.is_some_and(|value| self.comparison.holds(value, self.bound))
    }
}

/// A metric, or those of its samples that have some tags: `http_reqs{scenario:browse,status:200}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// As it was written.
    pub text: String,
    /// Of which metric.
    pub metric: Metric,
    /// Names of tags and what they must be.
    pub tags: Vec<(String, String)>,
}

impl Selector {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, tags) = match text.split_once('{') {
            None => (text, ""),
            Some((name, rest)) => (
                name,
                rest.trim_end().strip_suffix('}').ok_or_else(|| format!("{text:?} has no }}"))?,
            ),
        };
        let metric = Metric::named(name.trim()).ok_or_else(|| {
            let known: Vec<_> = Metric::ALL.iter().map(|metric| metric.name()).collect();
            format!("no metric is called {:?}; there are {}", name.trim(), known.join(", "))
        })?;
        let mut read = Vec::<(String, String)>::new();
        for part in tags.split(',').filter(|part| !part.trim().is_empty()) {
            match (part.split_once(':'), read.last_mut()) {
                (Some((tag, value)), _) => {
                    read.push((tag.trim().to_owned(), value.trim().to_owned()));
                }
                // The names of checks may have commas.
                (None, Some((_, value))) => {
                    value.push(',');
                    value.push_str(part.trim_end());
                }
                (None, None) => {
                    let part = part.trim();
                    return Err(format!("{part:?} in {text:?} is not a tag such as scenario:gps"));
                }
            }
        }
        let tags = read;
        Ok(Self { text: text.to_owned(), metric, tags })
    }
}

/// A threshold as a file has it: the expression alone, or with what else happens.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Written {
    Bare(String),
    Full(Full),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Full {
    pub(super) threshold: String,
    /// End the run as soon as it does not hold.
    #[serde(default)]
    pub(super) abort_on_fail: bool,
    /// Not before this much of the run is over.
    #[serde(default)]
    pub(super) delay_abort_eval: Option<super::file::Span>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read_and_applied() {
        for (text, value, holds) in [
            ("p(95)<200", 199.9, true),
            ("p(95) < 200", 200.0, false),
            ("p(99.9)<=5", 5.0, true),
            ("avg>1", 1.0, false),
            ("rate>=0.99", 0.99, true),
            ("count==0", 0.0, true),
            ("count===0", 0.0, true),
            ("count!=0", 1.0, true),
            ("count!==0", 0.0, false),
        ] {
            assert_eq!(Expression::parse(text).unwrap().holds(Some(value)), holds, "{text}");
        }
        assert!(!Expression::parse("count==0").unwrap().holds(None), "nothing was measured");
        for bad in ["", "p(95)", "p(101)<1", "p95<1", "avg<", "avg<x", "avg<inf", "<5", "avg=5"] {
            assert!(Expression::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_metric_is_asked_for_what_it_has() {
        let fits = |text, metric| Expression::parse(text).unwrap().fits(metric).is_ok();
        assert!(fits("p(95)<1", Metric::HttpReqDuration) && fits("count<1", Metric::PushLatency));
        assert!(fits("rate<1", Metric::Checks) && fits("rate<1", Metric::HttpReqs));
        assert!(fits("value<1", Metric::VusMax));
        assert!(!fits("rate<1", Metric::HttpReqDuration) && !fits("p(95)<1", Metric::Checks));
        assert!(!fits("count<1", Metric::Checks) && !fits("avg<1", Metric::DroppedIterations));
    }

    #[test]
    fn selectors_name_a_metric_and_tags() {
        let selector = Selector::parse("http_reqs{scenario: browse, status:200}").unwrap();
        assert_eq!(selector.metric, Metric::HttpReqs);
        let tags = [("scenario", "browse"), ("status", "200")];
        assert_eq!(selector.tags, tags.map(|(tag, value)| (tag.to_owned(), value.to_owned())));
        let selector = Selector::parse("checks{check:it is so, or not,scenario:a}").unwrap();
        let tags = [("check", "it is so, or not"), ("scenario", "a")];
        assert_eq!(selector.tags, tags.map(|(tag, value)| (tag.to_owned(), value.to_owned())));
        assert!(Selector::parse("checks").unwrap().tags.is_empty());
        assert!(Selector::parse("http_rex").unwrap_err().contains("http_reqs"));
        assert!(Selector::parse("checks{scenario}").is_err());
        assert!(Selector::parse("checks{scenario:a").is_err());
    }
}
