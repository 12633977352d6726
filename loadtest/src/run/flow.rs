//! What virtual users do.

use std::{collections::BTreeSet, ops::Range, rc::Rc};

use futures_util::future::{LocalBoxFuture, try_join_all};
use platform::auth::Role;
use serde::{Deserialize, de::DeserializeOwned};
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::{
    agent::{Agent, Call, Endpoint, Identity},
    data::Table,
    executor::Load,
    file::Problem,
    state::Run,
    target::{Service, Targets},
    town,
};

pub(super) mod gps;
pub(super) mod menu;
pub(super) mod operator;
pub(super) mod orders;
pub(super) mod steps;
pub(super) mod track;

/// One iteration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    /// Its number in its scenario, from 0.
    pub(super) n: u64,
    /// When it was due, or began, µs after the start.
    pub(super) due_us: u64,
}

/// What the virtual users of a scenario do.
pub(super) trait Flow {
    /// One of them.
    fn user(&self, agent: Agent) -> Box<dyn User>;
}

/// A virtual user.
pub(super) trait User {
    fn agent(&mut self) -> &mut Agent;

    /// Goes through one iteration.
    fn iterate(&mut self, turn: Turn) -> LocalBoxFuture<'_, ()>;
}

/// The name of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Gps,
    Track,
    Menu,
    Orders,
    Operator,
    Requests,
}

impl Kind {
    /// In a file.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Gps => "gps",
            Self::Track => "track",
            Self::Menu => "menu",
            Self::Orders => "orders",
            Self::Operator => "operator",
            Self::Requests => "requests",
        }
    }
}

/// What surrounds a flow in its file.
pub(super) struct Context<'a> {
    pub(super) tables: &'a [Table],
    pub(super) captured: &'a BTreeSet<String>,
    pub(super) load: &'a Load,
    pub(super) town: &'a town::Settings,
}

/// A flow with its settings.
#[derive(Debug, Clone)]
pub(super) enum Settings {
    Gps(gps::Settings),
    Track(track::Settings),
    Menu(menu::Settings),
    Orders(orders::Settings),
    Operator(operator::Settings),
    Requests(steps::Settings),
}

impl Settings {
    /// Reads the settings of a flow; `here` is where its scenario stands.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn read(
        kind: Kind,
        settings: Option<Spanned<DeValue<'_>>>,
        here: &Range<usize>,
        context: &Context<'_>,
        targets: &mut Targets,
    ) -> Result<Self, Problem> {
        let settings =
            settings.unwrap_or_else(|| Spanned::new(here.clone(), DeValue::Table(DeTable::new())));
        let at = settings.span();
        let checked =
            |result: Result<(), String>| result.map_err(|message| Problem::at(&at, message));
        Ok(match kind {
            Kind::Gps => {
                let settings: gps::Settings = take(settings)?;
                checked(settings.check(context.load, context.town.drivers()))?;
                Self::Gps(settings)
            }
            Kind::Track => Self::Track(take(settings)?),
            Kind::Menu => {
                let settings: menu::Settings = take(settings)?;
                checked(settings.check())?;
                Self::Menu(settings)
            }
            Kind::Orders => {
                let settings: orders::Settings = take(settings)?;
                checked(settings.check())?;
                Self::Orders(settings)
            }
            Kind::Operator => Self::Operator(take(settings)?),
            Kind::Requests => {
                Self::Requests(steps::Settings::compile(&take(settings)?, &at, context, targets)?)
            }
        })
    }

    /// Which it is.
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Gps(_) => Kind::Gps,
            Self::Track(_) => Kind::Track,
            Self::Menu(_) => Kind::Menu,
            Self::Orders(_) => Kind::Orders,
            Self::Operator(_) => Kind::Operator,
            Self::Requests(_) => Kind::Requests,
        }
    }

    /// The services whose addresses it needs.
    pub(super) fn needs(&self) -> &'static [Service] {
        match self {
            Self::Gps(_) | Self::Track(_) => &[Service::Logistics],
            Self::Menu(_) => &[Service::Menu],
            Self::Orders(settings) => settings.needs(),
            Self::Operator(_) => &Service::ALL,
            Self::Requests(_) => &[],
        }
    }

    /// Whether its users are somebody.
    pub(super) fn has_identities(&self) -> bool {
        match self {
            Self::Requests(settings) => settings.has_identities(),
            _ => true,
        }
    }

    /// Returns whether its users follow orders.
    pub(super) fn has_watchers(&self) -> bool {
        matches!(self, Self::Track(_))
    }

    /// Makes what the flow needs before the first iteration.
    ///
    /// # Errors
    /// Something cannot be made.
    pub(super) async fn prepare(
        &self,
        run: &Rc<Run>,
        scenario: u16,
    ) -> anyhow::Result<Box<dyn Flow>> {
        Ok(match self {
            Self::Gps(settings) => Box::new(gps::prepare(settings, run, scenario).await?),
            Self::Track(settings) => Box::new(track::prepare(settings, run, scenario).await?),
            Self::Menu(settings) => Box::new(menu::prepare(settings, run).await?),
            Self::Orders(settings) => Box::new(orders::prepare(settings, run).await?),
            Self::Operator(settings) => Box::new(operator::prepare(settings, run).await?),
            Self::Requests(settings) => Box::new(steps::prepare(settings, run)),
        })
    }
}

/// Requests that set up are made by so many at a time.
const LANES: usize = 8;

/// Does something for each of `0..count`, some of them at a time.
///
/// # Errors
/// The first that failed.
async fn for_each(
    run: &Rc<Run>,
    count: u32,
    work: impl AsyncFn(&mut Agent, u32) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let work = &work;
    let lane = |lane: usize| async move {
        let mut agent = run.outsider_at(lane as u32);
        for n in (0..count).skip(lane).step_by(LANES) {
            work(&mut agent, n).await?;
        }
        anyhow::Ok(())
    };
    try_join_all((0..LANES).map(lane)).await.map(drop)
}

/// Makes sure that a driver is registered.
///
/// # Errors
/// The service refuses.
async fn register(agent: &mut Agent, endpoint: Endpoint, driver: i64) -> anyhow::Result<()> {
    let body = format!(r#"{{"driver_id":{driver},"vehicle":"scooter"}}"#);
    let call = Call::new(endpoint, "/api/v1/drivers")
        .by(Identity::new(Role::Admin, 1))
        .with(body.as_bytes())
        .expecting(&[200, 201, 409]);
    let answer = agent.send(&call, |_, _| {}).await;
    anyhow::ensure!(
        !answer.failed,
        "driver {driver} cannot be registered: status {}: {}",
        answer.status,
        agent.body_start()
    );
    Ok(())
}

fn take<T: DeserializeOwned>(settings: Spanned<DeValue<'_>>) -> Result<T, Problem> {
    Ok(T::deserialize(ValueDeserializer::from(settings))?)
}
