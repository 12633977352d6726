//! A scenario file: read and checked whole, before the first request.
//!
//! Everything that can be wrong with it is told with the line where it stands. What stands in
//! `settings` belongs to the flow and is read by [`flow`].

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Deserializer, de::Error as _};
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::{
    data::{Rows, Source},
    executor::{self, Executor, Load},
    expression::{Expression, Selector, Written},
    flow::{self, Kind},
    metrics::TAGS,
    requests::{RawStep, Step},
    target::{self, Service, Targets},
    template::Known,
    town,
};
use crate::pace::parse_duration;

mod threshold;

/// Scenarios of a file; each has figures of its own.
const SCENARIOS_MAX: usize = 64;
const GRACE: Duration = Duration::from_secs(30);
/// A longer time is a slip of the pen, and sums of times must not overflow.
const SPAN_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// A time such as `"90s"` or `"1m30s"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match parse_duration(&text).map_err(D::Error::custom)? {
            time if time <= SPAN_MAX => Ok(Self(time)),
            _ => Err(D::Error::custom(format!("{text:?} is longer than a week"))),
        }
    }
}

/// A share such as `"5%"`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Share(pub(super) f64);

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        crate::pace::parse_share(&text).map(Self).map_err(D::Error::custom)
    }
}

/// What is wrong, and at which byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    at: usize,
    pub(super) message: String,
}

impl Problem {
    pub(super) fn at(span: &Range<usize>, message: impl Into<String>) -> Self {
        Self { at: span.start, message: message.into() }
    }

    /// `file:line: message`
    fn show(&self, file: &str, text: &str) -> String {
        let line =
            text.as_bytes()[..self.at.min(text.len())].iter().filter(|b| **b == b'\n').count();
        format!("{file}:{}: {}", line + 1, self.message)
    }
}

impl From<toml::de::Error> for Problem {
    fn from(error: toml::de::Error) -> Self {
        Self { at: error.span().map_or(0, |span| span.start), message: error.message().to_owned() }
    }
}

/// A threshold of one metric.
#[derive(Debug, Clone)]
pub(super) struct Threshold {
    pub(super) selector: Selector,
    pub(super) expression: Expression,
    /// End the run when it does not hold, once this much of the run is over.
    pub(super) abort_after: Option<Duration>,
}

/// One scenario.
#[derive(Debug, Clone)]
pub(super) struct Scenario {
    pub(super) name: String,
    pub(super) flow: flow::Settings,
    pub(super) load: Load,
    pub(super) start: Duration,
    pub(super) graceful_stop: Duration,
    /// It ends when those that are not in the background are over.
    pub(super) background: bool,
    pub(super) tags: BTreeMap<String, String>,
}

/// A whole file, and all that it needs is there.
#[derive(Debug, Clone)]
pub(super) struct Script {
    /// The file's name.
    pub(super) name: String,
    pub(super) seed: u64,
    pub(super) targets: Targets,
    pub(super) town: town::Settings,
    pub(super) rows: Vec<Rows>,
    pub(super) setup: Vec<Step>,
    pub(super) teardown: Vec<Step>,
    pub(super) scenarios: Vec<Scenario>,
    pub(super) thresholds: Vec<Threshold>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    target: Option<Spanned<target::Raw>>,
    #[serde(default)]
    town: Option<Spanned<town::Settings>>,
    #[serde(default)]
    data: BTreeMap<String, Spanned<Source>>,
    #[serde(default)]
    setup: Vec<Spanned<RawStep>>,
    #[serde(default)]
    teardown: Vec<Spanned<RawStep>>,
    #[serde(default)]
    thresholds: BTreeMap<Spanned<String>, Vec<Spanned<Written>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawScenario {
    flow: Kind,
    executor: Executor,
    #[serde(default)]
    start_time: Span,
    graceful_stop: Option<Span>,
    #[serde(default)]
    background: bool,
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

impl Script {
    /// Reads a file and everything that it names.
    ///
    /// # Errors
    /// What is wrong, as `file:line: reason`.
    pub(super) fn load(path: &Path) -> Result<Self, String> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read {shown}: {error}"))?;
        Self::parse(&shown, &text, path.parent().unwrap_or(Path::new("")))
    }

    /// The same of a text; files that it names are in `folder`.
    ///
    /// # Errors
    /// As [`Script::load`].
    pub(super) fn parse(name: &str, text: &str, folder: &Path) -> Result<Self, String> {
        read(name, text, folder).map_err(|problem| problem.show(name, text))
    }

    /// From the first start to the end of the last scenario, without grace and background.
    pub(super) fn duration(&self) -> Duration {
        let others = self.scenarios.iter().filter(|scenario| !scenario.background);
        others.map(|one| one.start + one.load.duration()).max().unwrap_or_default()
    }

    /// Most virtual users at a time.
    pub(super) fn max_vus(&self) -> u32 {
        self.scenarios.iter().map(|scenario| scenario.load.max_vus()).sum()
    }

    /// Whether anybody has a token.
    pub(super) fn has_identities(&self) -> bool {
        self.scenarios.iter().any(|scenario| scenario.flow.has_identities())
            || self.setup.iter().chain(&self.teardown).any(Step::has_identity)
    }

    /// Returns whether anybody follows an order.
    pub(super) fn has_watchers(&self) -> bool {
        self.scenarios.iter().any(|scenario| scenario.flow.has_watchers())
    }

    /// For people.
    pub(super) fn describe(&self) -> String {
        let many = |count: usize, noun: &str| {
            format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
        };
        let mut text = format!(
            "{}: {}, {}, up to {} VUs, {}\n",
            self.name,
            many(self.scenarios.len(), "scenario"),
            executor::humane(self.duration()),
            self.max_vus(),
            many(self.thresholds.len(), "threshold")
        );
        for scenario in &self.scenarios {
            let start = match scenario.start {
                Duration::ZERO => String::new(),
                start => format!(", from {}", executor::humane(start)),
            };
            let background = if scenario.background { ", in the background" } else { "" };
            text += &format!(
                "  * {}: {}, {}{start}{background}\n",
                scenario.name,
                scenario.flow.kind().name(),
                scenario.load.describe()
            );
        }
        text
    }
}

fn read(name: &str, text: &str, folder: &Path) -> Result<Script, Problem> {
    let mut document = DeTable::parse(text)?;
    let whole = document.span();
    // Scenarios are read one by one: their settings have as many forms as there are flows.
    let scenarios = document.get_mut().remove("scenarios");
    let file = RawFile::deserialize(ValueDeserializer::from(Spanned::new(
        whole,
        DeValue::Table(document.into_inner()),
    )))?;

    let mut rows = Vec::new();
    for (name, source) in &file.data {
        let loaded = Rows::load(name, source.get_ref(), folder)
            .map_err(|error| Problem::at(&source.span(), format!("data.{name}: {error:#}")))?;
        rows.push(loaded);
    }
    let tables: Vec<_> = rows.iter().map(|rows| rows.table.clone()).collect();
    let at_target = file.target.as_ref().map_or(0..0, Spanned::span);
    let mut targets = Targets::default();
    let mut captured = BTreeSet::new();
    let mut steps = |raw: &[Spanned<RawStep>], targets: &mut Targets| {
        let step = |step| Step::compile(step, &tables, &mut captured, targets);
        raw.iter().map(step).collect::<Result<Vec<_>, Problem>>()
    };
    let raw_target = file.target.map(Spanned::into_inner).unwrap_or_default();
    targets.take(&raw_target).map_err(|message| Problem::at(&at_target, message))?;
    let setup = steps(&file.setup, &mut targets)?;
    // Teardown runs even when setup did not get far, but only knows what setup captures.
    let teardown = steps(&file.teardown, &mut targets)?;
    let mut after_setup = BTreeSet::new();
    setup.iter().for_each(|step| step.captures(&mut after_setup));
    let known = Known { tables: &[], captured: &after_setup, identity: true };
    targets.headers(&raw_target, known).map_err(|message| Problem::at(&at_target, message))?;

    let town = match file.town {
        None => town::Settings::default(),
        Some(town) => {
            let at = town.span();
            town.get_ref().check().map_err(|message| Problem::at(&at, message))?;
            town.into_inner()
        }
    };
    let mut script = Script {
        name: name.to_owned(),
        seed: file.seed,
        targets,
        town,
        rows,
        setup,
        teardown,
        scenarios: Vec::new(),
        thresholds: Vec::new(),
    };
    let nothing = || Problem { at: 0, message: "there is no [scenarios.NAME]".into() };
    let scenarios = scenarios.ok_or_else(nothing)?;
    let at = scenarios.span();
    let DeValue::Table(scenarios) = scenarios.into_inner() else {
        return Err(Problem::at(&at, "scenarios is a table of tables"));
    };
    if scenarios.is_empty() || scenarios.len() > SCENARIOS_MAX {
        return Err(Problem::at(&at, format!("there must be 1 to {SCENARIOS_MAX} scenarios")));
    }
    let mut in_order: Vec<_> = scenarios.into_iter().collect();
    in_order.sort_by_key(|(name, _)| name.span().start);
    for (name, table) in in_order {
        let here = name.span();
        let named = |problem: Problem| Problem {
            message: format!("scenarios.{}: {}", name.get_ref(), problem.message),
            ..problem
        };
        let (town, targets) = (&script.town, &mut script.targets);
        let read = scenario(name.get_ref(), here, table, &tables, &after_setup, town, targets);
        script.scenarios.push(read.map_err(named)?);
    }
    if script.scenarios.iter().all(|scenario| scenario.background) {
        return Err(Problem::at(&at, "all scenarios are in the background"));
    }
    for scenario in &script.scenarios {
        for service in scenario.flow.needs() {
            if script.targets.service(*service).is_none() {
                return Err(Problem::at(&at_target, missing(&scenario.name, *service)));
            }
        }
    }
    for (key, written) in &file.thresholds {
        for one in written {
            script.thresholds.push(threshold::read(key, one, &script.scenarios)?);
        }
    }
    Ok(script)
}

fn missing(scenario: &str, service: Service) -> String {
    let (name, variable) = (service.name(), service.variable());
    format!("scenarios.{scenario} needs target.{name}, or {variable} in the environment")
}

fn scenario<'i>(
    name: &str,
    here: Range<usize>,
    table: Spanned<DeValue<'i>>,
    tables: &[super::data::Table],
    after_setup: &BTreeSet<String>,
    town: &town::Settings,
    targets: &mut Targets,
) -> Result<Scenario, Problem> {
    let at = table.span();
    let DeValue::Table(mut table) = table.into_inner() else {
        return Err(Problem::at(&at, "a scenario is a table"));
    };
    let settings = table.remove("settings");
    let places: BTreeMap<String, Range<usize>> =
        table.iter().map(|(key, _)| (key.get_ref().to_string(), key.span())).collect();
    // What belongs to executors is read apart, so that each key is known to one of the two.
    let (of_executor, others): (Vec<_>, Vec<_>) =
        table.into_iter().partition(|(key, _)| executor::Settings::has(key.get_ref()));
    let value = |pairs: Vec<(Spanned<std::borrow::Cow<'i, str>>, Spanned<DeValue<'i>>)>| {
        let table: DeTable<'i> = pairs.into_iter().collect();
        ValueDeserializer::from(Spanned::new(here.clone(), DeValue::Table(table)))
    };
    let raw = RawScenario::deserialize(value(others))?;
    let of_executor = executor::Settings::deserialize(value(of_executor))?;
    let load = raw.executor.load(&of_executor, &here, |name| places.get(name).cloned())?;
    if raw.start_time.0 + load.duration() > executor::DURATION_MAX {
        let at = places.get("start_time").unwrap_or(&here);
        return Err(Problem::at(at, "a scenario is over 48h after the begin of the run"));
    }
    let context = flow::Context { tables, captured: after_setup, load: &load, town };
    let flow = flow::Settings::read(raw.flow, settings, &here, &context, targets)?;
    if let Some(tag) = raw.tags.keys().find(|tag| TAGS.contains(&tag.as_str())) {
        let at = places.get("tags").unwrap_or(&here);
        return Err(Problem::at(at, format!("the tag {tag} is given by the run itself")));
    }
    Ok(Scenario {
        name: name.to_owned(),
        flow,
        load,
        start: raw.start_time.0,
        graceful_stop: raw.graceful_stop.map_or(GRACE, |span| span.0),
        background: raw.background,
        tags: raw.tags,
    })
}

#[cfg(test)]
mod tests;
