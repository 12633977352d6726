//! The flow `gps`: drivers on their ways send fixes, and bring orders when they are told to.

use std::{rc::Rc, time::Duration};

use anyhow::Context as _;
use contracts::{
    ids::{DriverId, EventId},
    position::Position,
};
use futures_util::future::LocalBoxFuture;
use platform::auth::Role;
use serde::Deserialize;

use super::{Flow, Turn, User, for_each, register};
use crate::{
    fix::{Carries, FixWriter},
    plan::on_circle,
    run::{
        agent::{Agent, Call, Endpoint, Identity},
        executor::Load,
        file::Span,
        metrics::{Metric, Name},
        state::Run,
        target::Service,
        town::Town,
    },
    send::stream::Socket,
};

mod socket;
mod trip;

use trip::Leg;

/// How fixes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Carrier {
    Http,
    Batch,
    Ws,
}

/// Settings of the flow `gps`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::run) struct Settings {
    /// `http`: one fix a request; `batch`: many drivers' in one; `ws`: a socket for each driver.
    carrier: Carrier,
    /// Fixes of a batch, 1 to 500.
    batch: u32,
    /// Of virtual users, each of whom is a driver: the time between two fixes.
    every: Span,
    /// Bring the orders that the flow `operator` gives out.
    deliver: bool,
    /// How long it takes to bring one: half of it to the restaurant, half to the customer.
    trip: Span,
}

impl Default for Settings {
    fn default() -> Self {
        let seconds = |seconds| Span(Duration::from_secs(seconds));
        Self {
            carrier: Carrier::Http,
            batch: 100,
            every: seconds(1),
            deliver: false,
            trip: seconds(6),
        }
    }
}

impl Settings {
    /// Whether they go together.
    ///
    /// # Errors
    /// What does not.
    pub(in crate::run) fn check(&self, load: &Load, drivers: u32) -> Result<(), String> {
        if !(1..=500).contains(&self.batch) {
            return Err("a batch has 1 to 500 fixes".into());
        }
        if load.is_open() && (self.carrier == Carrier::Ws || self.deliver) {
            let why =
                "a driver with a socket or an order is a virtual user: use an executor of vus";
            return Err(why.into());
        }
        if self.deliver && self.carrier == Carrier::Batch {
            return Err("who delivers sends fixes of its own: use http or ws".into());
        }
        let vus = load.max_vus();
        // Two on one driver would send two ways of it, and take up one order.
        if !load.is_open() && self.carrier != Carrier::Batch && vus > drivers {
            return Err(format!(
                "each of up to {vus} virtual users is a driver, and town.drivers is {drivers}"
            ));
        }
        Ok(())
    }
}

/// The flow.
pub(in crate::run) struct Gps(Rc<Shared>);

struct Shared {
    settings: Settings,
    town: Rc<Town>,
    is_closed: bool,
    /// Tells the events of this run from those of others.
    nonce: u64,
    one: Endpoint,
    batch: Endpoint,
    status: Endpoint,
    accepted: Name,
    opened: Name,
    moved: Name,
}

pub(in crate::run) async fn prepare(
    settings: &Settings,
    run: &Rc<Run>,
    scenario: u16,
) -> anyhow::Result<Gps> {
    let town = run.town();
    let load = &run.script.scenarios[usize::from(scenario)].load;
    if settings.deliver {
        let endpoint = run.endpoint(Service::Logistics, "POST", "/drivers");
        for_each(run, load.max_vus(), async |agent, n| {
            let driver = town.drivers.id(n).get();
            register(agent, endpoint, driver).await?;
            town.is_free(driver);
            Ok(())
        })
        .await?;
        let mut agent = run.outsider();
        town.open(run, &mut agent).await.context("no restaurants to deliver from")?;
    }
    // Signing in the first seconds of the load would be felt by it.
    if settings.carrier != Carrier::Batch {
        let drivers = (0..town.drivers.count).map(|n| town.drivers.id(n).get());
        run.sign(drivers.map(|driver| Identity::new(Role::Driver, driver)));
    }
    let endpoint = |method, path| run.endpoint(Service::Logistics, method, path);
    Ok(Gps(Rc::new(Shared {
        settings: settings.clone(),
        is_closed: !load.is_open(),
        nonce: (rand::random::<u64>() & 0x00ff_ffff) << 40,
        one: endpoint("POST", "/drivers/{id}/location"),
        batch: endpoint("POST", "/locations"),
        status: endpoint("PUT", "/deliveries/{id}/status"),
        accepted: run.name("fix is accepted"),
        opened: run.name("driver's socket opens"),
        moved: run.name("delivery moves on, or was called off"),
        town,
    })))
}

impl Flow for Gps {
    fn user(&self, agent: Agent) -> Box<dyn User> {
        let drivers = self.0.town.drivers;
        Box::new(Driver {
            driver: drivers.id(agent.vu % drivers.count),
            agent,
            shared: Rc::clone(&self.0),
            writer: FixWriter::default(),
            body: Vec::new(),
            socket: None,
            has_begun: false,
            leg: None,
        })
    }
}

/// A virtual user; in an open model whoever's turn it is.
struct Driver {
    agent: Agent,
    shared: Rc<Shared>,
    driver: DriverId,
    writer: FixWriter,
    body: Vec<u8>,
    /// And the frames sent over it.
    socket: Option<(Socket, u64)>,
    has_begun: bool,
    leg: Option<Leg>,
}

impl User for Driver {
    fn agent(&mut self) -> &mut Agent {
        &mut self.agent
    }

    fn iterate(&mut self, turn: Turn) -> LocalBoxFuture<'_, ()> {
        Box::pin(async move {
            let every = self.shared.settings.every.0;
            // Drivers do not all send in the same moment of each second.
            if self.shared.is_closed && !std::mem::replace(&mut self.has_begun, true) {
                let share = rand::Rng::random::<f64>(&mut self.agent.random);
                if !self.agent.pause(every.mul_f64(share)).await {
                    return;
                }
                self.agent.begin(self.agent.run.clock.now_us());
            }
            let begun_us = self.agent.run.clock.now_us();
            if self.shared.settings.carrier == Carrier::Batch {
                self.send_batch(turn).await;
            } else {
                if !self.shared.is_closed {
                    let drivers = self.shared.town.drivers;
                    self.driver = drivers.id((turn.n % u64::from(drivers.count)) as u32);
                }
                let at_us = if self.shared.is_closed { begun_us } else { turn.due_us };
                self.send_one(turn.n, at_us).await;
                if self.shared.settings.deliver {
                    self.deliver(at_us).await;
                }
            }
            if self.shared.is_closed {
                let took = self.agent.run.clock.now_us().saturating_sub(begun_us);
                self.agent.pause(every.saturating_sub(Duration::from_micros(took))).await;
            }
        })
    }
}

impl Driver {
    fn position(&self, driver: DriverId, n: u64, at_us: u64) -> Position {
        let event = EventId(self.shared.nonce | (n & ((1 << 40) - 1)));
        on_circle(driver, event, at_us, self.agent.run.clock.wall_us(at_us))
    }

    async fn send_one(&mut self, n: u64, at_us: u64) {
        let position = self.position(self.driver, n, at_us);
        let position = match self.leg {
            Some(leg) => self.on_trip(leg, position, at_us),
            None => position,
        };
        self.body.clear();
        self.writer.write(&mut self.body, &position, Carries { driver: false, event: true });
        let wanted_us = self.agent.wanted_us();
        let is_accepted = if self.shared.settings.carrier == Carrier::Ws {
            self.over_socket().await
        } else {
            self.agent.begin(wanted_us);
            let path = format!("/api/v1/drivers/{}/location", self.driver);
            let call = Call::new(self.shared.one, &path)
                .by(Identity::new(Role::Driver, self.driver.get()))
                .with(&self.body)
                .expecting(&[202]);
            !self.agent.send(&call, |_, _| {}).await.failed
        };
        self.accepted(wanted_us, u64::from(is_accepted), is_accepted);
    }

    fn accepted(&self, wanted_us: u64, fixes: u64, all: bool) {
        self.agent.check(self.shared.accepted, all);
        if fixes > 0 {
            self.agent.count(Metric::Fixes, fixes);
            let us = self.agent.run.clock.now_us().saturating_sub(wanted_us);
            self.agent.time(Metric::FixDuration, us);
        }
    }

    async fn send_batch(&mut self, turn: Turn) {
        #[derive(Deserialize)]
        struct Answer<'a> {
            #[serde(borrow)]
            results: Vec<Verdict<'a>>,
        }
        #[derive(Deserialize)]
        struct Verdict<'a> {
            status: &'a str,
        }
        let (size, drivers) = (self.shared.settings.batch, self.shared.town.drivers);
        self.body.clear();
        self.body.extend_from_slice(br#"{"points":["#);
        for place in 0..size {
            let n = turn.n * u64::from(size) + u64::from(place);
            let driver = drivers.id((n % u64::from(drivers.count)) as u32);
            let position = self.position(driver, n, turn.due_us);
            self.writer.write(&mut self.body, &position, Carries { driver: true, event: true });
            self.body.push(b',');
        }
        self.body.pop();
        self.body.extend_from_slice(b"]}");
        let wanted_us = self.agent.wanted_us();
        self.agent.begin(wanted_us);
        let call = Call::new(self.shared.batch, "/api/v1/locations")
            .by(Identity::new(Role::Fleet, 1))
            .with(&self.body)
            .expecting(&[202]);
        let answer = self.agent.send(&call, |_, _| {}).await;
        let accepted = serde_json::from_slice(self.agent.body()).map_or(0, |read: Answer<'_>| {
            read.results.iter().filter(|one| one.status == "accepted").count()
        });
        let accepted = if answer.failed { 0 } else { accepted as u64 };
        self.accepted(wanted_us, accepted, accepted == u64::from(size));
    }
}
