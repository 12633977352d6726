//! What the virtual users of a run share. All of it lives on one thread.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    time::Duration,
};

use platform::auth::Signer;
use rand::{SeedableRng as _, rngs::SmallRng};
use rustc_hash::FxHashMap;
use serde_json::Value;

use super::{
    agent::{Agent, Endpoint, Identity},
    file::Script,
    leave::Leave,
    metrics::{Metrics, Name, ScenarioTags},
    seconds::Seconds,
    target::{Auth, Service},
    template::{Scope, Template},
    town::Town,
};
use crate::pace::Clock;

/// Longer than any run.
const TOKEN_TTL: Duration = Duration::from_secs(72 * 3600);
/// A token is made in some ten microseconds and has some hundred bytes.
const TOKENS_MAX: usize = 100_000;
/// The index of what belongs to no scenario: setup and teardown.
pub(super) const OUTSIDE: u16 = u16::MAX;

/// Role, id, and an operator's restaurant.
type Bearer = (&'static str, i64, Option<i64>);

/// The signer of tokens; none when they are not needed.
#[derive(Debug, Default)]
pub(super) struct Signers {
    pub(super) access: Option<Signer>,
    pub(super) tracking: Option<Signer>,
}

/// A run.
pub(super) struct Run {
    pub(super) script: Script,
    pub(super) clock: Clock,
    pub(super) metrics: RefCell<Metrics>,
    pub(super) seconds: RefCell<Seconds>,
    /// What setup has captured.
    pub(super) captured: RefCell<BTreeMap<String, Value>>,
    /// Restaurants, drivers and customers; there once a flow has asked for them.
    town: OnceCell<Rc<Town>>,
    signers: Signers,
    tokens: RefCell<FxHashMap<Bearer, Rc<str>>>,
    /// Of each scenario, iterations that have begun.
    iterations: Vec<Cell<u64>>,
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").field("file", &self.script.name).finish_non_exhaustive()
    }
}

impl Run {
    pub(super) fn new(script: Script, signers: Signers) -> Self {
        let tags = |scenario: &super::file::Scenario| ScenarioTags {
            name: scenario.name.clone(),
            flow: scenario.flow.kind().name(),
            tags: scenario.tags.clone(),
        };
        Self {
            metrics: RefCell::new(Metrics::new(script.scenarios.iter().map(tags).collect())),
            seconds: RefCell::new(Seconds::new(script.scenarios.len())),
            iterations: script.scenarios.iter().map(|_| Cell::new(0)).collect(),
            script,
            clock: Clock::start(),
            captured: RefCell::default(),
            town: OnceCell::new(),
            signers,
            tokens: RefCell::default(),
        }
    }

    /// The town of this run.
    pub(super) fn town(&self) -> Rc<Town> {
        Rc::clone(self.town.get_or_init(|| Rc::new(Town::new(&self.script.town))))
    }

    /// Somebody who sets up, and counts nowhere.
    pub(super) fn outsider(self: &Rc<Self>) -> Agent {
        self.outsider_at(0)
    }

    /// One of several.
    pub(super) fn outsider_at(self: &Rc<Self>, number: u32) -> Agent {
        let random = self.random(OUTSIDE, number);
        Agent::new(self, OUTSIDE, number, random, Leave::default())
    }

    /// The number of a scenario's next iteration.
    pub(super) fn next_iteration(&self, scenario: u16) -> u64 {
        self.iterations.get(usize::from(scenario)).map_or(0, |next| next.replace(next.get() + 1))
    }

    /// Random numbers that follow from the seed, for the `nth` virtual user of a scenario.
    pub(super) fn random(&self, scenario: u16, nth: u32) -> SmallRng {
        let one = u64::from(scenario) << 32 | u64::from(nth);
        SmallRng::seed_from_u64(
            self.script.seed.rotate_left(17) ^ one.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        )
    }

    pub(super) fn name(&self, text: &str) -> Name {
        self.metrics.borrow_mut().name(text)
    }

    pub(super) fn scenario_name(&self, scenario: u16) -> &str {
        self.script.scenarios.get(usize::from(scenario)).map_or("setup", |scenario| &scenario.name)
    }

    /// A kind of request to a service; `path` is shown as its name.
    ///
    /// # Panics
    /// The service has no address: a file is only taken when all that its flows need have one.
    pub(super) fn endpoint(&self, service: Service, method: &'static str, path: &str) -> Endpoint {
        let target = self.script.targets.service(service);
        let target = target.unwrap_or_else(|| unreachable!("needs() has named {service:?}"));
        self.endpoint_at(target, method, &format!("{method} {path}"))
    }

    /// The same at any address.
    pub(super) fn endpoint_at(&self, target: usize, method: &'static str, name: &str) -> Endpoint {
        Endpoint { target, method, method_name: self.name(method), name: self.name(name) }
    }

    /// The token of somebody; empty when there are none.
    pub(super) fn token(&self, who: Identity) -> Rc<str> {
        let (Some(signer), Auth::Signed) = (&self.signers.access, self.script.targets.auth) else {
            return "".into();
        };
        let key = (who.role.as_str(), who.subject, who.restaurant);
        if let Some(token) = self.tokens.borrow().get(&key) {
            return Rc::clone(token);
        }
        let restaurants: Vec<i64> = who.restaurant.into_iter().collect();
        let token: Rc<str> = signer.access(who.role, who.subject, &restaurants, TOKEN_TTL).into();
        let mut tokens = self.tokens.borrow_mut();
        if tokens.len() >= TOKENS_MAX {
            tokens.clear();
        }
        tokens.insert(key, Rc::clone(&token));
        token
    }

    /// Makes the tokens of these, as many as are kept.
    pub(super) fn sign(&self, all: impl Iterator<Item = Identity>) {
        let room = TOKENS_MAX.saturating_sub(self.tokens.borrow().len());
        all.take(room).for_each(|who| drop(self.token(who)));
    }

    /// A token to watch an order with.
    pub(super) fn tracking_token(&self, order: uuid::Uuid, customer: i64) -> Option<String> {
        let signer = self.signers.tracking.as_ref();
        let signer = signer.filter(|_| self.script.targets.auth == Auth::Signed)?;
        Some(signer.tracking(order, customer, Duration::from_secs(60)))
    }

    /// The headers of the file's `[target]`, and who it is.
    pub(super) fn common_headers(
        &self,
        who: Option<Identity>,
        random: &mut SmallRng,
    ) -> Vec<(String, String)> {
        let targets = &self.script.targets;
        let token = who.map(|who| self.token(who)).unwrap_or_else(|| "".into());
        let mut headers = Vec::new();
        if !token.is_empty() && !targets.has_authorization {
            headers.push(("authorization".to_owned(), format!("Bearer {token}")));
        }
        if targets.headers.is_empty() {
            return headers;
        }
        let captured = self.captured.borrow();
        let subject = who.map(|who| who.subject.to_string()).unwrap_or_default();
        let mut scope = Scope {
            vu: 0,
            iteration: 0,
            scenario: "",
            seed: self.script.seed,
            rows: &[],
            captured: &captured,
            token: &token,
            role: who.map_or("", |who| who.role.as_str()),
            subject: &subject,
            random,
        };
        let is_known = |(_, value): &&(String, Template)| value.is_known(who.is_some(), &captured);
        for (name, value) in targets.headers.iter().filter(is_known) {
            headers.push((name.clone(), value.fill(&mut scope)));
        }
        headers
    }
}
