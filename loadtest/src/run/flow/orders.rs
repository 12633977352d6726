//! The flow `orders`: customers order, pay, and may watch, call off and rate.

use std::{rc::Rc, time::Duration};

use contracts::{
    ids::OrderId,
    order::{OrderStatus, PaymentStatus},
};
use futures_util::future::LocalBoxFuture;
use platform::auth::Role;
use rand::Rng as _;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

use super::{
    Flow, Turn, User,
    track::{self, Told, Watch},
};
use crate::{
    client::Target,
    orders::basket::{Baskets, Keys},
    pace::backoff,
    run::{
        agent::{Agent, Call, Endpoint, Identity},
        metrics::{Metric, Name},
        state::Run,
        target::Service,
    },
    send::is_for_now,
};

mod settings;

use settings::Follow;
pub(in crate::run) use settings::Settings;

/// An order without an answer is sent so often, under one key.
const ATTEMPTS: u32 = 5;
/// A socket is opened so often, until its delivery is there and again when it breaks.
const WATCHES: u32 = 10;

/// The flow.
pub(in crate::run) struct Orders(Rc<Shared>);

struct Shared {
    settings: Settings,
    baskets: Baskets,
    menu: Endpoint,
    place: Endpoint,
    read: Endpoint,
    cancel: Endpoint,
    tracking: Endpoint,
    rate: Endpoint,
    socket: Option<Target>,
    of_watch: track::Names,
    names: Names,
}

struct Names {
    menu: Name,
    accepted: Name,
    settled: Name,
    cancelled: Name,
    tracking: Name,
    delivered: Name,
    rated: Name,
}

pub(in crate::run) async fn prepare(settings: &Settings, run: &Rc<Run>) -> anyhow::Result<Orders> {
    let (town, mut agent) = (run.town(), run.outsider());
    town.open(run, &mut agent).await?;
    let customers = (0..town.customers.count).map(|n| town.customers.id(n));
    run.sign(customers.map(|customer| Identity::new(Role::Customer, customer)));
    let endpoint = |method, path| run.endpoint(Service::Order, method, path);
    let targets = &run.script.targets;
    let socket = targets.service(Service::Logistics).map(|at| targets.bases[at].clone());
    Ok(Orders(Rc::new(Shared {
        settings: settings.clone(),
        baskets: Baskets {
            kitchens: town.restaurants().iter().map(|one| one.kitchen.clone()).collect(),
            customers: town.customers,
            lines: settings.lines as usize,
            seed: run.script.seed,
            keys: Keys::new(),
        },
        menu: run.endpoint(Service::Menu, "GET", "/restaurants/{id}/menu"),
        place: endpoint("POST", "/orders"),
        read: endpoint("GET", "/orders/{id}"),
        cancel: endpoint("POST", "/orders/{id}/cancel"),
        tracking: endpoint("POST", "/orders/{id}/tracking-token"),
        rate: endpoint("POST", "/orders/{id}/ratings"),
        socket,
        of_watch: track::Names::new(run),
        names: Names {
            menu: run.name("menu is shown"),
            accepted: run.name("order is accepted"),
            settled: run.name("payment comes to an end"),
            cancelled: run.name("order is called off, or it is too late"),
            tracking: run.name("tracking token is given"),
            delivered: run.name("order comes to its end"),
            rated: run.name("rating is taken"),
        },
    })))
}

impl Flow for Orders {
    fn user(&self, agent: Agent) -> Box<dyn User> {
        Box::new(Customer { agent, shared: Rc::clone(&self.0), body: Vec::new() })
    }
}

/// An order as far as its customer looks at it.
#[derive(Debug, Deserialize)]
struct Seen {
    order_id: Uuid,
    status: OrderStatus,
    payment_status: PaymentStatus,
}

impl Seen {
    fn is_over(&self) -> bool {
        matches!(
            self.status,
            OrderStatus::Delivered
                | OrderStatus::Cancelled
                | OrderStatus::Rejected
                | OrderStatus::PaymentFailed
        )
    }
}

struct Customer {
    agent: Agent,
    shared: Rc<Shared>,
    body: Vec<u8>,
}

impl User for Customer {
    fn agent(&mut self) -> &mut Agent {
        &mut self.agent
    }

    fn iterate(&mut self, turn: Turn) -> LocalBoxFuture<'_, ()> {
        Box::pin(async move {
            // What is missing was counted as a check that failed.
            let _none = self.order(turn.n).await;
        })
    }
}

impl Customer {
    /// From hunger to stars; `None` as soon as it cannot go on.
    async fn order(&mut self, n: u64) -> Option<()> {
        let shared = Rc::clone(&self.shared);
        let (settings, names) = (&shared.settings, &shared.names);
        let basket = shared.baskets.basket(n);
        let who = Identity::new(Role::Customer, shared.baskets.customers.id(basket.customer));
        if settings.browse {
            let id = shared.baskets.kitchens[basket.kitchen].id;
            let path = format!("/api/v1/restaurants/{id}/menu");
            let answer = self.agent.send(&Call::new(shared.menu, &path), |_, _| {}).await;
            self.agent.check(names.menu, answer.status == 200);
        }
        let wanted_us = self.agent.wanted_us();
        self.agent.begin(wanted_us);
        let order = self.place(n, who).await;
        self.agent.check(names.accepted, order.is_some());
        let order = order?;
        if settings.follow == Follow::Accepted {
            return Some(());
        }
        let patience = settings.patience.0;
        let is_settled = |seen: &Seen| seen.payment_status != PaymentStatus::Processing;
        let seen = self.until(order, who, patience, is_settled).await;
        self.agent.check(names.settled, seen.is_some());
        let seen = seen?;
        if matches!(seen.payment_status, PaymentStatus::Failed | PaymentStatus::Cancelled) {
            return Some(());
        }
        let paid_us = self.agent.run.clock.now_us().saturating_sub(wanted_us);
        self.agent.time(Metric::OrderPaidDuration, paid_us);
        if self.agent.random.random_bool(settings.cancel.0) {
            return self.cancel(order, who).await;
        }
        if settings.follow != Follow::Delivered {
            return Some(());
        }
        if self.agent.random.random_bool(settings.watch.0) {
            self.watch(order, who).await?;
        }
        // Logistics has told it; order-api hears of it a moment later.
        let seen = self.until(order, who, patience, Seen::is_over).await;
        self.agent.check(names.delivered, seen.is_some());
        if seen?.status == OrderStatus::Delivered && self.agent.random.random_bool(settings.rate.0)
        {
            self.rate(order, who).await;
        }
        Some(())
    }

    /// Sends the order until it is answered, always under its key.
    async fn place(&mut self, n: u64, who: Identity) -> Option<Uuid> {
        self.body.clear();
        self.shared.baskets.write(n, &mut self.body);
        let key = self.shared.baskets.keys.key(n).to_string();
        let headers = [("idempotency-key", key.as_str())];
        let call = Call {
            headers: &headers,
            ..Call::new(self.shared.place, "/api/v1/orders")
                .by(who)
                .with(&self.body)
                .expecting(&[202])
        };
        for attempt in 1..=ATTEMPTS {
            let answer = self.agent.send(&call, |_, _| {}).await;
            match answer.status {
                202 => return self.agent.body_as::<Seen>().map(|order| order.order_id),
                // 409 may mean that the first attempt is still being carried out.
                0 | 409 => {}
                status if is_for_now(status) => {}
                _ => return None,
            }
            if attempt < ATTEMPTS {
                sleep(backoff(attempt, answer.retry_after)).await;
            }
        }
        None
    }

    /// Asks for the order until `is_so`; `None` when patience is over first.
    async fn until(
        &mut self,
        order: Uuid,
        who: Identity,
        patience: Duration,
        is_so: impl Fn(&Seen) -> bool,
    ) -> Option<Seen> {
        let deadline = Instant::now() + patience;
        let path = format!("/api/v1/orders/{order}");
        let call = Call::new(self.shared.read, &path).by(who);
        loop {
            let answer = self.agent.send(&call, |_, _| {}).await;
            let seen = self.agent.body_as::<Seen>().filter(|_| answer.status == 200);
            if let Some(seen) = seen.filter(&is_so) {
                return Some(seen);
            }
            if Instant::now() >= deadline {
                return None;
            }
            sleep(self.shared.settings.poll.0).await;
        }
    }

    async fn cancel(&mut self, order: Uuid, who: Identity) -> Option<()> {
        let path = format!("/api/v1/orders/{order}/cancel");
        // 409: the kitchen has begun.
        let call = Call::new(self.shared.cancel, &path)
            .by(who)
            .with(br#"{"reason":"changed my mind"}"#)
            .expecting(&[200, 409]);
        let answer = self.agent.send(&call, |_, _| {}).await;
        self.agent.check(self.shared.names.cancelled, !answer.failed);
        Some(())
    }

    /// Watches the order over a socket until it ends; `None` when it cannot be watched.
    async fn watch(&mut self, order: Uuid, who: Identity) -> Option<()> {
        let shared = Rc::clone(&self.shared);
        let target = shared.socket.as_ref()?;
        let deadline = Instant::now() + shared.settings.patience.0;
        let path = format!("/api/v1/orders/{order}/tracking-token");
        let mut has_opened = false;
        for _ in 0..WATCHES {
            let call = Call::new(shared.tracking, &path).by(who).with(b"{}");
            let answer = self.agent.send(&call, |_, _| {}).await;
            let token = self.agent.body_json();
            let token = token["token"].as_str().filter(|_| answer.status == 200);
            self.agent.check(shared.names.tracking, token.is_some());
            let watch =
                Watch::open(&mut self.agent, target, OrderId(order), token?, shared.of_watch).await;
            // The delivery is made of an event, which may not have come yet.
            let Some(mut watch) = watch else {
                sleep(shared.settings.poll.0).await;
                continue;
            };
            self.agent.check(shared.of_watch.opens, true);
            has_opened = true;
            let is_end = |status: &str| matches!(status, "delivered" | "cancelled");
            let mut is_over = is_end(&watch.status);
            while !is_over {
                match timeout_at(deadline, watch.next(&self.agent)).await {
                    Ok(Some(Told::Status(status))) => is_over = is_end(&status),
                    Ok(Some(Told::Position)) => {}
                    Ok(None) => break,
                    Err(_) => return Some(()),
                }
            }
            watch.close().await;
            if is_over {
                return Some(());
            }
        }
        if !has_opened {
            self.agent.check(shared.of_watch.opens, false);
        }
        Some(())
    }

    async fn rate(&mut self, order: Uuid, who: Identity) {
        let stars = self.agent.random.random_range(3..=5);
        let body = json!({"order_rating": stars, "driver_rating": stars}).to_string();
        let path = format!("/api/v1/orders/{order}/ratings");
        let call =
            Call::new(self.shared.rate, &path).by(who).with(body.as_bytes()).expecting(&[200, 201]);
        let answer = self.agent.send(&call, |_, _| {}).await;
        self.agent.check(self.shared.names.rated, !answer.failed);
    }
}
