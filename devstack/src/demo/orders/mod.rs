//! The life of an order, from the click to the stars: its customer orders and pays, the restaurant
//! cooks, the company gives it to the town's driver, and the customer watches.
//!
//! [`place`] orders until something is paid, of what [`basket`] chooses; [`figures`] counts, and
//! [`books`] compares in the end.

mod basket;
pub(super) mod books;
pub(super) mod figures;
mod place;

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use contracts::ids::OrderId;
use platform::auth::Role;
use rand::{Rng as _, rngs::SmallRng};
use tokio::sync::mpsc;

use self::place::Paid;
use super::{
    calls::Call,
    customers::{Ordered, Shared},
    figures::count,
    socket,
};

/// How long an ended order's socket may take to say so.
const LAST_STATUS_WITHIN: Duration = Duration::from_secs(15);
/// How long a paid order may have no delivery, or its driver another order.
const ASSIGNED_WITHIN: Duration = Duration::from_secs(120);
const ASSIGN_PAUSE: Duration = Duration::from_millis(100);
/// Between two words of a kitchen: it cooks fast, so that no driver of this town waits for it.
const KITCHEN_PAUSE: Duration = Duration::from_millis(500);
/// What the kitchen says.
const PREPARATION_MINUTES: u32 = 15;
/// One of so many customers says what it was like.
const RATED_EVERY: u64 = 3;
/// Operators are far from drivers and customers, and not those who change menus.
const FIRST_COOK: i64 = 6_000_000;
/// Longer than any order takes.
const TOKEN_FOR: Duration = Duration::from_secs(4 * 3_600);

/// The restaurants that can be ordered from, by their ids.
pub(super) struct Kitchens {
    /// Those that the town knows, by its numbers.
    pub(super) town: Vec<i64>,
    /// All; at least one.
    pub(super) all: Vec<i64>,
    /// Told of a restaurant that is about to be rated, when its menus are checked.
    pub(super) rated: Option<Box<dyn Fn(i64) + Send + Sync>>,
}

impl Kitchens {
    fn of(&self, number: usize) -> i64 {
        self.town.get(number).copied().unwrap_or(self.all[number % self.all.len()])
    }

    fn any(&self, random: &mut SmallRng) -> i64 {
        self.all[random.random_range(0..self.all.len())]
    }
}

impl Shared {
    /// The restaurants, once they are open; None when they never will be.
    pub(super) async fn kitchens(&self) -> Option<Arc<Kitchens>> {
        let mut kitchens = self.kitchens.clone();
        let opened = kitchens.wait_for(Option::is_some).await.ok()?;
        opened.clone()
    }

    /// From the click to the stars. The order's id is written to `known` when its driver has it.
    pub(super) async fn live(
        self: &Arc<Self>,
        ordered: Ordered,
        known: Arc<OnceLock<OrderId>>,
        todo: mpsc::Receiver<&'static str>,
    ) {
        let Ordered { customer, driver, .. } = ordered;
        let token = self.signer.access(Role::Customer, customer, &[], TOKEN_FOR);
        let Some(paid) = self.order(&ordered, &token).await else { return };
        if !self.assign(paid.id, driver).await {
            return;
        }
        // There is one id for each of the town's orders: nobody has written it before.
        let _ = known.set(paid.id);
        let watching = socket::watch(Arc::clone(self), paid.id, token.clone(), driver);
        let seen = tokio::spawn(watching);
        self.cook(paid).await;
        self.deliver(paid.id, driver, todo).await;
        match tokio::time::timeout(LAST_STATUS_WITHIN, seen).await {
            Ok(Ok(true)) => {
                count(&self.figures.delivered, 1);
                self.figures.orders.delivered(paid.id);
            }
            _ => {
                count(&self.figures.status_gaps, 1);
                self.figures.note(format!("the customer of {} did not see the delivery", paid.id));
            }
        }
        if ordered.order.is_multiple_of(RATED_EVERY) {
            let stars = 3 + ordered.order / RATED_EVERY % 3;
            self.rate(paid, &token, stars).await;
        }
    }

    /// The company gives the order to the driver whom the town has chosen. The delivery follows
    /// the payment by an event, and the driver may still be on the way with another order.
    async fn assign(&self, id: OrderId, driver: i64) -> bool {
        let path = format!("/deliveries/{id}/assign");
        let body = format!(r#"{{"driver_id":{driver}}}"#);
        let call =
            Call { method: "POST", path: &path, token: &self.company, body: &body, key: None };
        let (end, mut pause) = (Instant::now() + ASSIGNED_WITHIN, ASSIGN_PAUSE);
        loop {
            let answer = self.logistics.call(call).await;
            if answer.status == 200 {
                return true;
            }
            if !matches!(answer.status, 404 | 409) || Instant::now() > end {
                self.logistics.unexpected(call, &answer);
                return false;
            }
            tokio::time::sleep(pause).await;
            pause = Duration::from_secs(1).min(pause * 2);
        }
    }

    /// What the restaurant says of it, a little apart.
    async fn cook(&self, paid: Paid) {
        let Paid { id, restaurant } = paid;
        let cook = FIRST_COOK + restaurant;
        let token = self.signer.access(Role::Operator, cook, &[restaurant], TOKEN_FOR);
        let path = format!("/orders/{id}/status");
        for body in [
            r#"{"status":"accepted"}"#.to_owned(),
            format!(r#"{{"status":"preparing","preparation_minutes":{PREPARATION_MINUTES}}}"#),
            r#"{"status":"ready"}"#.to_owned(),
        ] {
            tokio::time::sleep(KITCHEN_PAUSE).await;
            let call = Call { method: "PUT", path: &path, token: &token, body: &body, key: None };
            if !self.orders.done(call, &[200]).await {
                return;
            }
        }
    }

    /// What the town's driver does, when it is done.
    async fn deliver(&self, id: OrderId, driver: i64, mut todo: mpsc::Receiver<&'static str>) {
        let token = self.signer.access(Role::Driver, driver, &[], TOKEN_FOR);
        let path = format!("/deliveries/{id}/status");
        while let Some(status) = todo.recv().await {
            let body = format!(r#"{{"status":"{status}"}}"#);
            let call = Call { method: "PUT", path: &path, token: &token, body: &body, key: None };
            if !self.logistics.done(call, &[200]).await || status == "delivered" {
                break;
            }
        }
    }

    /// The stars; order-api hears of the delivery a moment after the customer.
    async fn rate(&self, paid: Paid, token: &str, stars: u64) {
        if let Some(kitchens) = self.kitchens().await
            && let Some(rated) = &kitchens.rated
        {
            rated(paid.restaurant);
        }
        let path = format!("/orders/{}/ratings", paid.id);
        let body = format!(r#"{{"order_rating":{stars},"driver_rating":5}}"#);
        let call = Call { method: "POST", path: &path, token, body: &body, key: None };
        let (end, mut pause) = (Instant::now() + LAST_STATUS_WITHIN, ASSIGN_PAUSE);
        loop {
            let answer = self.orders.call(call).await;
            match answer.status {
                200 | 201 => return count(&self.figures.orders.rated, 1),
                409 if Instant::now() < end => {}
                _ => return self.orders.unexpected(call, &answer),
            }
            tokio::time::sleep(pause).await;
            pause = Duration::from_secs(1).min(pause * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn every_number_of_the_town_has_a_restaurant() {
        let kitchens = Kitchens { town: vec![7, 9], all: vec![7, 8, 9], rated: None };
        assert_eq!([0, 1, 2, 300].map(|number| kitchens.of(number)), [7, 9, 9, 7]);
        let random = &mut SmallRng::seed_from_u64(1);
        assert!((0..100).all(|_| kitchens.all.contains(&kitchens.any(random))));
    }
}
