//! The flow `requests`: a list of requests, one after the other.

use std::{ops::Range, rc::Rc};

use futures_util::future::LocalBoxFuture;
use serde::Deserialize;
use toml::Spanned;

use super::{Context, Flow, Turn, User};
use crate::run::{
    agent::Agent,
    file::Problem,
    requests::{Memory, RawStep, Ready, Step, perform},
    state::Run,
    target::Targets,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::run) struct Raw {
    steps: Vec<Spanned<RawStep>>,
}

/// What is requested.
#[derive(Debug, Clone)]
pub(in crate::run) struct Settings {
    steps: Vec<Step>,
}

impl Settings {
    /// Checks the steps.
    ///
    /// # Errors
    /// What is wrong with one.
    pub(in crate::run) fn compile(
        raw: &Raw,
        at: &Range<usize>,
        context: &Context<'_>,
        targets: &mut Targets,
    ) -> Result<Self, Problem> {
        if raw.steps.is_empty() {
            return Err(Problem::at(at, "there is no step"));
        }
        let mut captured = context.captured.clone();
        let compile = |raw| Step::compile(raw, context.tables, &mut captured, targets);
        Ok(Self { steps: raw.steps.iter().map(compile).collect::<Result<_, _>>()? })
    }

    pub(in crate::run) fn has_identities(&self) -> bool {
        self.steps.iter().any(Step::has_identity)
    }
}

struct Steps(Rc<[Ready]>);

pub(in crate::run) fn prepare(settings: &Settings, run: &Run) -> impl Flow + use<> {
    Steps(settings.steps.iter().map(|step| Ready::new(step.clone(), run)).collect())
}

impl Flow for Steps {
    fn user(&self, agent: Agent) -> Box<dyn User> {
        Box::new(Visitor { steps: Rc::clone(&self.0), agent })
    }
}

struct Visitor {
    steps: Rc<[Ready]>,
    agent: Agent,
}

impl User for Visitor {
    fn agent(&mut self) -> &mut Agent {
        &mut self.agent
    }

    fn iterate(&mut self, turn: Turn) -> LocalBoxFuture<'_, ()> {
        Box::pin(async move {
            let agent = &mut self.agent;
            let run = Rc::clone(&agent.run);
            let row = |rows: &crate::run::data::Rows, agent: &mut Agent| {
                rows.row(agent.vu, turn.n, &mut agent.random)
            };
            let mut memory = Memory {
                rows: run.script.rows.iter().map(|rows| row(rows, agent)).collect(),
                captured: run.captured.borrow().clone(),
            };
            for step in self.steps.iter() {
                // What comes after a failed request is likely to need what it did not get.
                if perform(step, agent, &mut memory, turn.n).await.is_err() {
                    break;
                }
            }
        })
    }
}
