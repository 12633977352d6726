//! Requests as a file writes them down: for `setup`, `teardown` and the flow `requests`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use platform::auth::Role;
use serde::Deserialize;
use serde_json::Value;
use toml::Spanned;

use super::{
    agent::{Agent, Call, Endpoint, Identity},
    check::{Check, RawCheck},
    data::{Row, Table},
    file::{Problem, Span},
    metrics::Name,
    state::Run,
    target::{Targets, header_name},
    template::{Json, Known, Scope, Template},
};

/// Methods whose answers can be read.
const METHODS: [&str; 6] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// One request.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStep {
    /// For tags; the method and the path as it is written when there is none.
    name: Option<String>,
    #[serde(default = "get")]
    method: String,
    url: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    json: Option<toml::Value>,
    body: Option<String>,
    /// Who sends it.
    r#as: Option<RawIdentity>,
    /// Statuses that are no failure; 200 to 399 when there are none.
    #[serde(default)]
    expect: Vec<u16>,
    #[serde(default)]
    checks: Vec<RawCheck>,
    /// Variables and JSON pointers into the answer.
    #[serde(default)]
    capture: BTreeMap<String, String>,
    /// A pause after it.
    think: Option<Span>,
}

fn get() -> String {
    "GET".into()
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawIdentity {
    role: String,
    subject: toml::Value,
    restaurant: Option<toml::Value>,
}

#[derive(Debug, Clone)]
enum Body {
    None,
    Text(Template),
    Json(Json),
}

/// A request that can be made.
#[derive(Debug, Clone)]
pub(super) struct Step {
    name: String,
    method: &'static str,
    target: usize,
    path: Template,
    headers: Vec<(String, Template)>,
    body: Body,
    identity: Option<(Role, Template, Option<Template>)>,
    expect: Vec<u16>,
    checks: Vec<Check>,
    capture: Vec<(String, String)>,
    think: Duration,
}

impl Step {
    /// Checks a step; what it captures is known to those after it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn compile(
        raw: &Spanned<RawStep>,
        tables: &[Table],
        captured: &mut BTreeSet<String>,
        targets: &mut Targets,
    ) -> Result<Self, Problem> {
        let step = raw.get_ref();
        step.compile(tables, captured, targets).map_err(|message| Problem::at(&raw.span(), message))
    }

    /// Adds the names of what it captures.
    pub(super) fn captures(&self, names: &mut BTreeSet<String>) {
        names.extend(self.capture.iter().map(|(name, _)| name.clone()));
    }

    /// Whether it is somebody's.
    pub(super) fn has_identity(&self) -> bool {
        self.identity.is_some()
    }
}

impl RawStep {
    fn compile(
        &self,
        tables: &[Table],
        captured: &mut BTreeSet<String>,
        targets: &mut Targets,
    ) -> Result<Step, String> {
        let upper = self.method.to_ascii_uppercase();
        let method = METHODS.into_iter().find(|method| *method == upper);
        let method = method
            .ok_or_else(|| format!("{:?} is not one of {}", self.method, METHODS.join(", ")))?;
        let (target, path) = targets.split(&self.url)?;
        let known = Known { tables, captured, identity: self.r#as.is_some() };
        let template = |text: &str| Template::parse(text, known);
        let mut headers = Vec::new();
        for (name, value) in &self.headers {
            header_name(name)?;
            headers.push((name.to_ascii_lowercase(), template(value)?));
        }
        let body = match (&self.json, &self.body) {
            (Some(_), Some(_)) => return Err("a request has json or a body, not both".into()),
            (Some(json), None) => Body::Json(Json::parse(json, known)?),
            (None, Some(text)) => Body::Text(template(text)?),
            (None, None) => Body::None,
        };
        let text = |value: &toml::Value| match value {
            toml::Value::String(text) => template(text),
            toml::Value::Integer(number) => template(&number.to_string()),
            other => Err(format!("a {} is not an id", other.type_str())),
        };
        let identity = match &self.r#as {
            None => None,
            Some(one) => {
                let role = one.role.parse().map_err(|error| format!("{error}"))?;
                let restaurant = one.restaurant.as_ref().map(text).transpose()?;
                Some((role, text(&one.subject)?, restaurant))
            }
        };
        let checks = self.checks.iter().map(RawCheck::compile).collect::<Result<_, _>>()?;
        let capture: Vec<_> = self.capture.clone().into_iter().collect();
        for (name, pointer) in &capture {
            if !pointer.is_empty() && !pointer.starts_with('/') {
                return Err(format!("{pointer:?} is not a JSON pointer such as /orders/0/id"));
            }
            if name.contains(['.', ':', '}']) {
                return Err(format!("{name:?} cannot be the name of a variable"));
            }
        }
        let step = Step {
            name: self.name.clone().unwrap_or_else(|| format!("{method} {path}")),
            method,
            target,
            path: template(path)?,
            headers,
            body,
            identity,
            expect: self.expect.clone(),
            checks,
            capture,
            think: self.think.unwrap_or_default().0,
        };
        step.captures(captured);
        Ok(step)
    }
}

/// A step whose names have their numbers.
#[derive(Debug, Clone)]
pub(super) struct Ready {
    step: Step,
    endpoint: Endpoint,
    checks: Vec<Name>,
}

impl Ready {
    /// Of a step.
    pub(super) fn new(step: Step, run: &Run) -> Self {
        let endpoint = run.endpoint_at(step.target, step.method, &step.name);
        let checks = step.checks.iter().map(|check| run.name(&check.name)).collect();
        Self { step, endpoint, checks }
    }
}

/// What one virtual user knows while it goes through its steps.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) rows: Vec<Row>,
    pub(super) captured: BTreeMap<String, Value>,
}

/// Makes one request, judges it, and keeps what is captured of the answer.
///
/// # Errors
/// There was no answer, a failed one, or nothing to capture; in words. What follows needs it.
pub(super) async fn perform(
    ready: &Ready,
    agent: &mut Agent,
    memory: &mut Memory,
    iteration: u64,
) -> Result<(), String> {
    let step = &ready.step;
    let filled = fill(step, agent, memory, iteration);
    let (path, headers, body, who) = filled.inspect_err(|_| agent.unsent(ready.endpoint))?;
    let headers: Vec<(&str, &str)> =
        headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let call = Call {
        who,
        headers: &headers,
        body: body.as_deref(),
        expected: &step.expect,
        ..Call::new(ready.endpoint, &path)
    };
    let wanted: Vec<&str> = step.checks.iter().filter_map(Check::header).collect();
    let mut noted = BTreeMap::new();
    let answer = agent
        .send(&call, |name, value| {
            // Those of one header are equal, and the first stands for all.
            if let Some(wanted) = wanted.iter().find(|wanted| name.eq_ignore_ascii_case(wanted)) {
                noted.insert(*wanted, String::from_utf8_lossy(value).into_owned());
            }
        })
        .await;
    let json = agent.body_json();
    let mut result = match answer.failed {
        true => Err(match answer.status {
            0 => format!("{}: no answer", step.name),
            // What a login answers is a token, and this is printed.
            status @ ..400 => format!("{}: status {status}", step.name),
            status => format!("{}: status {status}: {}", step.name, agent.body_start()),
        }),
        false => Ok(()),
    };
    for (check, name) in step.checks.iter().zip(&ready.checks) {
        let holds = check.holds(answer.status, |header| noted.get(header), &json, agent.body());
        agent.check(*name, holds);
        // Nobody would see that it does not hold.
        if agent.is_outside() && !holds {
            result = result.and_then(|()| Err(format!("{}: not {}", step.name, check.name)));
        }
    }
    for (name, pointer) in &step.capture {
        match json.pointer(pointer) {
            Some(value) => drop(memory.captured.insert(name.clone(), value.clone())),
            // Yesterday's value would be worse than none.
            None => {
                memory.captured.remove(name);
                let missing = format!("{}: nothing at {pointer} of the answer", step.name);
                result = result.and(Err(missing));
            }
        }
    }
    // Also when the load ends: if all went on to their next requests at once, that would be felt.
    if !step.think.is_zero() {
        tokio::time::sleep(step.think).await;
    }
    result
}

type Filled<'a> = (String, Vec<(&'a str, String)>, Option<Vec<u8>>, Option<Identity>);

fn fill<'a>(
    step: &'a Step,
    agent: &mut Agent,
    memory: &Memory,
    iteration: u64,
) -> Result<Filled<'a>, String> {
    let run = std::rc::Rc::clone(&agent.run);
    let scenario = run.scenario_name(agent.scenario);
    let vu = agent.vu;
    let mut scope = Scope {
        vu,
        iteration,
        scenario,
        seed: run.script.seed,
        rows: &memory.rows,
        captured: &memory.captured,
        token: "",
        role: "",
        subject: "",
        random: &mut agent.random,
    };
    let id = |text: String| {
        let number = text.parse::<i64>().ok().filter(|id| *id > 0);
        number.ok_or_else(|| format!("{}: {text:?} is not an id", step.name))
    };
    let who = match &step.identity {
        None => None,
        Some((role, subject, restaurant)) => Some(Identity {
            role: *role,
            subject: id(subject.fill(&mut scope))?,
            restaurant: match restaurant {
                Some(template) => Some(id(template.fill(&mut scope))?),
                None => None,
            },
        }),
    };
    let token = who.map(|who| run.token(who));
    let subject = who.map(|who| who.subject.to_string()).unwrap_or_default();
    scope.token = token.as_deref().unwrap_or_default();
    scope.role = who.map_or("", |who| who.role.as_str());
    scope.subject = &subject;
    if !step.path.is_known(who.is_some(), &memory.captured) {
        return Err(format!("{}: what its URL needs was not captured", step.name));
    }
    let path = step.path.fill(&mut scope);
    let headers =
        step.headers.iter().map(|(name, value)| (name.as_str(), value.fill(&mut scope))).collect();
    let body = match &step.body {
        Body::None => None,
        Body::Text(template) => Some(template.fill(&mut scope).into_bytes()),
        Body::Json(json) => Some(json.fill(&mut scope).to_string().into_bytes()),
    };
    Ok((path, headers, body, who))
}
