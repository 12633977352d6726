//! The flow `track`: customers watch where their drivers are.

use std::{rc::Rc, time::Duration};

use chrono::DateTime;
use contracts::ids::OrderId;
use futures_util::{SinkExt as _, StreamExt as _, future::LocalBoxFuture};
use platform::auth::Role;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::Message;

use super::{Flow, Turn, User, for_each, register};
use crate::{
    client::Target,
    pace::wall_us,
    run::{
        agent::{Agent, Call, Identity},
        file::Span,
        metrics::{Metric, Name},
        state::Run,
        target::Service,
    },
    sockets::{Socket, Update, subscribe},
};

/// Before a socket that could not be opened is tried again.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

/// Settings of the flow `track`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::run) struct Settings {
    /// How long a customer looks; until the end of the load when it is absent.
    session: Option<Span>,
}

/// The flow.
pub(in crate::run) struct Track {
    session: Option<Duration>,
    /// By virtual user: an order whose driver the flow `gps` of the same file drives.
    orders: Rc<[(OrderId, i64)]>,
    names: Names,
}

pub(in crate::run) async fn prepare(
    settings: &Settings,
    run: &Rc<Run>,
    scenario: u16,
) -> anyhow::Result<Track> {
    let town = run.town();
    let count = run.script.scenarios[usize::from(scenario)].load.max_vus();
    anyhow::ensure!(
        count <= town.drivers.count && count <= town.customers.count,
        "{count} customers who watch need as many drivers and customers in [town]"
    );
    let drivers = run.endpoint(Service::Logistics, "POST", "/drivers");
    let deliveries = run.endpoint(Service::Logistics, "POST", "/deliveries");
    let order = |n| (OrderId::generate(), town.customers.id(n));
    let orders: Rc<[_]> = (0..count).map(order).collect();
    for_each(run, count, async |agent, n| {
        let driver = town.drivers.id(n).get();
        register(agent, drivers, driver).await?;
        let (order, customer) = orders[n as usize];
        let body =
            format!(r#"{{"order_id":"{order}","customer_id":{customer},"driver_id":{driver}}}"#);
        let call = Call::new(deliveries, "/api/v1/deliveries")
            .by(Identity::new(Role::Admin, 1))
            .with(body.as_bytes())
            .expecting(&[201]);
        let answer = agent.send(&call, |_, _| {}).await;
        let (status, shown) = (answer.status, agent.body_start());
        anyhow::ensure!(!answer.failed, "driver {driver} gets no delivery: {status}: {shown}");
        Ok(())
    })
    .await?;
    let session = settings.session.map(|session| session.0);
    Ok(Track { session, orders, names: Names::new(run) })
}

impl Flow for Track {
    fn user(&self, agent: Agent) -> Box<dyn User> {
        let (order, customer) = self.orders[agent.vu as usize % self.orders.len()];
        Box::new(Watcher { agent, order, customer, session: self.session, names: self.names })
    }
}

struct Watcher {
    agent: Agent,
    order: OrderId,
    customer: i64,
    session: Option<Duration>,
    names: Names,
}

impl User for Watcher {
    fn agent(&mut self) -> &mut Agent {
        &mut self.agent
    }

    fn iterate(&mut self, _turn: Turn) -> LocalBoxFuture<'_, ()> {
        Box::pin(async move {
            let run = Rc::clone(&self.agent.run);
            let token = run.tracking_token(self.order.0, self.customer).unwrap_or_default();
            let Some(target) = run.script.targets.service(Service::Logistics) else { return };
            let target = &run.script.targets.bases[target];
            let watch = Watch::open(&mut self.agent, target, self.order, &token, self.names).await;
            self.agent.check(self.names.opens, watch.is_some());
            let Some(mut watch) = watch else {
                self.agent.pause(REOPEN_AFTER).await;
                return;
            };
            // A week is longer than any load, whose end is told.
            let session = self.session.unwrap_or(Duration::from_secs(7 * 86_400));
            let until = Instant::now() + session;
            let ending = self.agent.ending.clone();
            let looking = async {
                while let Ok(Some(_)) = timeout_at(until, watch.next(&self.agent)).await {}
            };
            let is_over = ending.or(looking).await.is_none();
            let stayed = is_over || Instant::now() >= until;
            self.agent.check(self.names.stays, stayed);
            watch.close().await;
            if !stayed {
                self.agent.pause(REOPEN_AFTER).await;
            }
        })
    }
}

/// The names of the checks of a watch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    pub(super) opens: Name,
    stays: Name,
    forward: Name,
    in_turn: Name,
}

impl Names {
    pub(super) fn new(run: &Run) -> Self {
        Self {
            opens: run.name("tracking socket opens"),
            stays: run.name("tracking socket stays open"),
            forward: run.name("position does not go back"),
            in_turn: run.name("events come in turn"),
        }
    }
}

/// What a watcher was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    Position,
    /// The delivery's status.
    Status(String),
}

/// An open socket of one order.
pub(super) struct Watch {
    socket: Box<Socket>,
    names: Names,
    since_us: i64,
    newest_us: i64,
    seq: Option<i64>,
    /// The next position is where the driver already was when this delivery became its own.
    is_old_news: bool,
    /// What the snapshot said.
    pub(super) status: String,
}

impl Watch {
    /// Opens the socket; `None` when that fails.
    pub(super) async fn open(
        agent: &mut Agent,
        target: &Target,
        order: OrderId,
        token: &str,
        names: Names,
    ) -> Option<Self> {
        let wanted_us = agent.wanted_us();
        let opened = subscribe(target, order, token, false).await;
        let (socket, connected) = opened.ok()?;
        agent.count(Metric::WsSessions, 1);
        agent.count(Metric::WsMsgsSent, 1);
        agent.count(Metric::WsMsgsReceived, 1);
        agent.count(Metric::DataReceived, connected.len() as u64);
        agent.time(Metric::WsConnecting, agent.run.clock.now_us().saturating_sub(wanted_us));
        let update: Update<'_> = serde_json::from_str(&connected).ok()?;
        Some(Self {
            socket: Box::new(socket),
            names,
            since_us: wall_us(),
            newest_us: 0,
            seq: update.seq,
            is_old_news: false,
            status: update.status.unwrap_or_default().to_owned(),
        })
    }

    /// The next thing that is told, checked; `None` when the server has ended it.
    pub(super) async fn next(&mut self, agent: &Agent) -> Option<Told> {
        loop {
            let text = match self.socket.next().await?.ok()? {
                Message::Text(text) => text,
                Message::Close(_) => return None,
                _ => continue,
            };
            let now_us = wall_us();
            agent.count(Metric::WsMsgsReceived, 1);
            agent.count(Metric::DataReceived, text.len() as u64);
            let Ok(update) = serde_json::from_str::<Update<'_>>(&text) else { continue };
            match update.r#type {
                "location_update" => {
                    let at = update.timestamp.and_then(|at| DateTime::parse_from_rfc3339(at).ok());
                    let at_us = at.map_or(0, |at| at.timestamp_micros());
                    agent.check(self.names.forward, at_us >= self.newest_us);
                    self.newest_us = self.newest_us.max(at_us);
                    // What was sent before it looked was pushed to nobody.
                    let is_new = at_us >= self.since_us && !self.is_old_news;
                    self.is_old_news = false;
                    if is_new {
                        agent.time(Metric::PushLatency, (now_us - at_us).max(0) as u64);
                    }
                    return Some(Told::Position);
                }
                "status_change" => {
                    let expected = self.seq.map(|seq| seq + 1);
                    agent.check(self.names.in_turn, expected.is_none() || update.seq == expected);
                    self.seq = update.seq;
                    let status = update.status.unwrap_or_default();
                    self.is_old_news |= status == "assigned";
                    return Some(Told::Status(status.to_owned()));
                }
                _ => {}
            }
        }
    }

    /// Says goodbye; whether that is heard does not matter any more.
    pub(super) async fn close(mut self) {
        let bye = async {
            self.socket.send(Message::Close(None)).await.ok()?;
            while self.socket.next().await?.is_ok() {}
            Some(())
        };
        let _heard_or_not = tokio::time::timeout(Duration::from_secs(1), bye).await;
    }
}
