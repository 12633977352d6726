//! The flow `operator`: restaurants accept and cook what was ordered, call drivers, and change their
//! menus.
//!
//! An iteration is a look at one restaurant; they take turns.

use std::{cell::RefCell, rc::Rc, time::Duration};

use contracts::order::OrderStatus;
use futures_util::future::LocalBoxFuture;
use rand::Rng as _;
use rustc_hash::{FxHashMap, FxHashSet};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::{Flow, Turn, User};
use crate::{
    menu::catalogue::Menu,
    orders::books::Page,
    run::{
        agent::{Agent, Call, Endpoint, Identity},
        file::{Share, Span},
        metrics::Name,
        state::Run,
        target::Service,
        town::{Errand, Town},
    },
};

/// Orders of one look.
const PAGE_SIZE: usize = 50;
/// Drivers of whom the nearest free one is called, and how far away they may be, metres.
const NEAR: usize = 20;
const RADIUS_M: u32 = 20_000;
/// Who finds somebody else at a restaurant waits before the next one.
const TAKEN: Duration = Duration::from_millis(20);

/// Settings of the flow `operator`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::run) struct Settings {
    /// How long a kitchen cooks.
    cook: Span,
    /// Looks after which an item is sold out, or back.
    change: Share,
    /// Give orders to drivers of the flow `gps` that deliver.
    assign: bool,
    /// Between two looks of one virtual user.
    think: Span,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cook: Span(Duration::from_secs(2)),
            change: Share(0.1),
            assign: true,
            think: Span(Duration::ZERO),
        }
    }
}

/// The flow.
pub(in crate::run) struct Operators(Rc<Shared>);

struct Shared {
    settings: Settings,
    town: Rc<Town>,
    hands: Hands,
    /// Restaurants that somebody looks at: two would call two drivers for one order.
    looked_at: RefCell<FxHashSet<usize>>,
    list: Endpoint,
    status: Endpoint,
    nearby: Endpoint,
    assign: Endpoint,
    availability: Endpoint,
    menu: Endpoint,
    names: Names,
}

struct Names {
    listed: Name,
    moved: Name,
    assigned: Name,
    changed: Name,
    shown: Name,
}

pub(in crate::run) async fn prepare(
    settings: &Settings,
    run: &Rc<Run>,
) -> anyhow::Result<Operators> {
    let (town, mut agent) = (run.town(), run.outsider());
    town.open(run, &mut agent).await?;
    Ok(Operators(Rc::new(Shared {
        settings: settings.clone(),
        town,
        hands: Hands::default(),
        looked_at: RefCell::default(),
        list: run.endpoint(Service::Order, "GET", "/orders"),
        status: run.endpoint(Service::Order, "PUT", "/orders/{id}/status"),
        nearby: run.endpoint(Service::Logistics, "GET", "/drivers/nearby"),
        assign: run.endpoint(Service::Logistics, "POST", "/deliveries/{id}/assign"),
        availability: run.endpoint(
            Service::Menu,
            "PUT",
            "/restaurants/{id}/menu/items/{item_id}/availability",
        ),
        menu: run.endpoint(Service::Menu, "GET", "/restaurants/{id}/menu"),
        names: Names {
            listed: run.name("orders are listed"),
            moved: run.name("order moves on, or was called off"),
            assigned: run.name("driver is assigned, or the order was called off"),
            changed: run.name("item is changed"),
            shown: run.name("change shows at once"),
        },
    })))
}

impl Flow for Operators {
    fn user(&self, agent: Agent) -> Box<dyn User> {
        Box::new(Operator { agent, shared: Rc::clone(&self.0) })
    }
}

/// Orders in the hands of each restaurant, and when its kitchen began with them, µs after the start.
#[derive(Debug, Default)]
struct Hands(RefCell<FxHashMap<usize, FxHashMap<Uuid, u64>>>);

impl Hands {
    /// The kitchen begins with an order.
    fn begin(&self, place: usize, order: Uuid, now_us: u64) {
        self.0.borrow_mut().entry(place).or_default().insert(order, now_us);
    }

    /// An order is there; one that somebody else has begun is taken to be there for long.
    fn hold(&self, place: usize, order: Uuid) {
        self.0.borrow_mut().entry(place).or_default().entry(order).or_default();
    }

    /// When the kitchen began with it.
    fn since_us(&self, place: usize, order: Uuid) -> u64 {
        self.0.borrow().get(&place).and_then(|hands| hands.get(&order)).copied().unwrap_or(0)
    }

    /// Forgets what is not among `listed`, and answers what that was: orders leave a kitchen's hands
    /// because a driver has them, and because they were called off.
    fn keep(&self, place: usize, listed: &FxHashSet<Uuid>) -> Vec<Uuid> {
        let mut hands = self.0.borrow_mut();
        let gone = hands.entry(place).or_default().extract_if(|order, _| !listed.contains(order));
        gone.map(|(order, _)| order).collect()
    }
}

/// A look at a restaurant; it ends, too, when the iteration is cut off.
struct Look<'a> {
    shared: &'a Shared,
    place: usize,
}

impl<'a> Look<'a> {
    /// `None` when somebody else is there.
    fn at(shared: &'a Shared, place: usize) -> Option<Self> {
        // `then_some` would make a look in any case, whose end is that of the other.
        shared.looked_at.borrow_mut().insert(place).then(|| Self { shared, place })
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        self.shared.looked_at.borrow_mut().remove(&self.place);
    }
}

struct Operator {
    agent: Agent,
    shared: Rc<Shared>,
}

impl User for Operator {
    fn agent(&mut self) -> &mut Agent {
        &mut self.agent
    }

    fn iterate(&mut self, turn: Turn) -> LocalBoxFuture<'_, ()> {
        Box::pin(async move {
            let shared = Rc::clone(&self.shared);
            let place = (turn.n % shared.town.restaurants().len() as u64) as usize;
            let Some(look) = Look::at(&shared, place) else {
                self.agent.pause(TAKEN).await;
                return;
            };
            self.cook(place).await;
            if self.agent.random.random_bool(shared.settings.change.0) {
                self.change(place).await;
            }
            drop(look);
            if !shared.settings.think.0.is_zero() {
                self.agent.pause(shared.settings.think.0).await;
            }
        })
    }
}

impl Operator {
    /// Looks at the orders of a restaurant and moves each one on.
    async fn cook(&mut self, place: usize) {
        let shared = Rc::clone(&self.shared);
        let id = shared.town.restaurants()[place].kitchen.id;
        let who = Identity::operator(id);
        let path = format!(
            "/api/v1/orders?restaurant_id={id}&status=confirmed,accepted,preparing,ready\
             &page_size={PAGE_SIZE}"
        );
        let answer = self.agent.send(&Call::new(shared.list, &path).by(who), |_, _| {}).await;
        let page = self.agent.body_as::<Page>().filter(|_| answer.status == 200);
        self.agent.check(shared.names.listed, page.is_some());
        let Some(page) = page else { return };
        // One that is not on a full page may be in the kitchen all the same.
        if page.orders.len() < PAGE_SIZE {
            let listed = page.orders.iter().map(|order| order.order_id).collect();
            shared
                .hands
                .keep(place, &listed)
                .into_iter()
                .for_each(|order| shared.town.forget(order));
        }
        for order in page.orders.iter().filter(|order| shared.town.customers.has(order.customer_id))
        {
            let id = order.order_id;
            let mut status = order.status;
            if status == OrderStatus::Confirmed
                && self.advance(id, who, OrderStatus::Accepted).await
            {
                status = OrderStatus::Accepted;
            }
            if status == OrderStatus::Accepted
                && self.advance(id, who, OrderStatus::Preparing).await
            {
                status = OrderStatus::Preparing;
                shared.hands.begin(place, id, self.agent.run.clock.now_us());
            }
            if !matches!(status, OrderStatus::Preparing | OrderStatus::Ready) {
                continue;
            }
            shared.hands.hold(place, id);
            if status == OrderStatus::Preparing && self.is_cooked(place, id) {
                self.advance(id, who, OrderStatus::Ready).await;
            }
            if shared.settings.assign && !shared.town.is_assigned(id) {
                self.assign(id, who, place).await;
            }
        }
    }

    fn is_cooked(&self, place: usize, order: Uuid) -> bool {
        let since_us = self.shared.hands.since_us(place, order);
        let cooked_us = self.agent.run.clock.now_us().saturating_sub(since_us);
        cooked_us >= self.shared.settings.cook.0.as_micros() as u64
    }

    async fn advance(&mut self, order: Uuid, who: Identity, to: OrderStatus) -> bool {
        let mut body = json!({ "status": to });
        if to == OrderStatus::Preparing {
            body["preparation_minutes"] = 10.into();
        }
        let (path, body) = (format!("/api/v1/orders/{order}/status"), body.to_string());
        // 409: the customer has called it off.
        let call = Call::new(self.shared.status, &path)
            .by(who)
            .with(body.as_bytes())
            .expecting(&[200, 409]);
        let answer = self.agent.send(&call, |_, _| {}).await;
        self.agent.check(self.shared.names.moved, !answer.failed);
        answer.status == 200
    }

    /// Calls the nearest driver who is free.
    async fn assign(&mut self, order: Uuid, who: Identity, place: usize) {
        #[derive(Deserialize)]
        struct Nearby {
            drivers: Vec<Near>,
        }
        #[derive(Deserialize)]
        struct Near {
            driver_id: i64,
        }
        let shared = Rc::clone(&self.shared);
        let restaurant = &shared.town.restaurants()[place];
        let path = format!(
            "/api/v1/drivers/nearby?lat={:.6}&lng={:.6}&radius={RADIUS_M}&limit={NEAR}",
            restaurant.latitude, restaurant.longitude
        );
        self.agent.send(&Call::new(shared.nearby, &path).by(who), |_, _| {}).await;
        let near = self.agent.body_as::<Nearby>().map_or_else(Vec::new, |nearby| nearby.drivers);
        let near: Vec<i64> = near.into_iter().map(|near| near.driver_id).collect();
        // All are on their ways: the next look tries again.
        let Some(taken) = shared.town.take_driver(&near) else { return };
        let path = format!("/api/v1/deliveries/{order}/assign");
        let body = format!(r#"{{"driver_id":{}}}"#, taken.driver);
        // 404: the delivery is made of an event, which may not have come yet.
        let call = Call::new(shared.assign, &path)
            .by(who)
            .with(body.as_bytes())
            .expecting(&[200, 404, 409]);
        let answer = self.agent.send(&call, |_, _| {}).await;
        self.agent.check(shared.names.assigned, !answer.failed);
        if answer.status == 200 {
            taken.send(Errand { order, restaurant: place });
        }
    }

    /// Changes what no order needs, and looks whether customers see it.
    async fn change(&mut self, place: usize) {
        let shared = Rc::clone(&self.shared);
        let restaurant = &shared.town.restaurants()[place];
        let Some(item) = restaurant.special else { return };
        let id = restaurant.kitchen.id;
        let is_there = self.agent.random.random_bool(0.5);
        let body = json!({"available": true, "in_stock": is_there}).to_string();
        let path = format!("/api/v1/restaurants/{id}/menu/items/{item}/availability");
        let call =
            Call::new(shared.availability, &path).by(Identity::operator(id)).with(body.as_bytes());
        let answer = self.agent.send(&call, |_, _| {}).await;
        self.agent.check(shared.names.changed, !answer.failed);
        if answer.failed {
            return;
        }
        let path = format!("/api/v1/restaurants/{id}/menu");
        self.agent.send(&Call::new(shared.menu, &path), |_, _| {}).await;
        let menu = self.agent.body_as::<Menu>();
        let shown = menu.is_some_and(|menu| {
            menu.items().any(|one| one.item_id == item && one.in_stock == is_there)
        });
        self.agent.check(shared.names.shown, shown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_left_a_kitchen_is_forgotten() {
        let hands = Hands::default();
        let [cooking, called_off, elsewhere] = [1, 2, 3].map(Uuid::from_u128);
        hands.begin(0, cooking, 10);
        hands.begin(0, called_off, 20);
        hands.begin(1, elsewhere, 30);
        assert_eq!(hands.keep(0, &FxHashSet::from_iter([cooking])), [called_off]);
        assert_eq!((hands.since_us(0, cooking), hands.since_us(1, elsewhere)), (10, 30));
        hands.hold(0, cooking);
        hands.hold(0, called_off);
        assert_eq!((hands.since_us(0, cooking), hands.since_us(0, called_off)), (10, 0));
        assert_eq!(hands.keep(0, &FxHashSet::default()).len(), 2);
    }
}
