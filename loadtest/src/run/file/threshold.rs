//! Thresholds of a file, which name what is measured.

use toml::Spanned;

use super::{Problem, Scenario, Threshold};
use crate::run::expression::{Expression, Selector, Written};

/// Reads one; `key` is what it is of.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(
    key: &Spanned<String>,
    written: &Spanned<Written>,
    scenarios: &[Scenario],
) -> Result<Threshold, Problem> {
    let here = |message| Problem::at(&key.span(), message);
    let selector = Selector::parse(key.get_ref()).map_err(here)?;
    for (tag, value) in &selector.tags {
        let of_scenario = ["scenario", "flow"].contains(&tag.as_str())
            || scenarios.iter().any(|scenario| scenario.tags.contains_key(tag));
        // A counter of samples that cannot be would be 0, and `count==0` hold for ever.
        if !of_scenario && !selector.metric.tags().contains(&tag.as_str()) {
            let metric = selector.metric.name();
            return Err(here(format!("no sample of {metric} has the tag {tag:?}")));
        }
        let is_known = match tag.as_str() {
            "scenario" => scenarios.iter().any(|scenario| scenario.name == *value),
            "flow" => scenarios.iter().any(|scenario| scenario.flow.kind().name() == value),
            _ => true,
        };
        if !is_known {
            return Err(here(format!("no {tag} of this file is called {value:?}")));
        }
    }
    let (text, abort_after) = match written.get_ref() {
        Written::Bare(text) => (text, None),
        Written::Full(full) => {
            let delay = full.delay_abort_eval.unwrap_or_default().0;
            (&full.threshold, full.abort_on_fail.then_some(delay))
        }
    };
    let there = |message| Problem::at(&written.span(), message);
    let expression = Expression::parse(text).map_err(there)?;
    expression.fits(selector.metric).map_err(there)?;
    Ok(Threshold { selector, expression, abort_after })
}
