//! Ordering until something is paid: chosen from the menu as it is, refused and chosen again,
//! declined and ordered anew, and now and then called off.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use contracts::{
    ids::OrderId,
    order::{OrderStatus, PaymentStatus},
};
use rand::{SeedableRng as _, rngs::SmallRng};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::basket::{self, Page};
use crate::demo::{
    calls::Call,
    customers::{Ordered, Shared},
    figures::count,
};

/// One of so many customers calls an order off,
const CALLED_OFF_EVERY: u64 = 50;
/// each time at this one, so that a town which is not tiny has some.
const CALLED_OFF_AT: u64 = 7;
/// The first and the longest pause between two looks at an order.
const LOOK_PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];
/// Until a customer who was refused has chosen something else.
const CHOICE_PAUSE: Duration = Duration::from_millis(200);

/// An order that is paid for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paid {
    pub(super) id: OrderId,
    pub(super) restaurant: i64,
}

/// What a customer sees of an order.
#[derive(Debug, Deserialize)]
struct Seen {
    status: OrderStatus,
    payment_status: PaymentStatus,
    created_at: DateTime<Utc>,
    events: Vec<Happened>,
}

#[derive(Debug, Deserialize)]
struct Happened {
    payment_status: PaymentStatus,
    at: DateTime<Utc>,
}

impl Seen {
    /// Whether there is nothing to wait for: paid and kept, or ended and squared.
    fn is_settled(&self) -> bool {
        match self.payment_status {
            PaymentStatus::Processing => false,
            PaymentStatus::Paid => self.status != OrderStatus::Cancelled,
            _ => true,
        }
    }

    /// From when it was taken until it was paid, as the service saw it: a customer only looks now
    /// and then.
    fn paid_after(&self) -> Option<Duration> {
        let paid = self.events.iter().find(|event| event.payment_status == PaymentStatus::Paid)?;
        (paid.at - self.created_at).to_std().ok()
    }
}

impl Shared {
    /// Orders until an order is paid; None when there is nothing to eat in this town.
    pub(super) async fn order(&self, ordered: &Ordered, token: &str) -> Option<Paid> {
        let mut random = SmallRng::seed_from_u64(ordered.order);
        let mut restaurant = self.kitchens().await?.of(ordered.restaurant);
        let figures = &self.figures.orders;
        let mut calls_off = ordered.order % CALLED_OFF_EVERY == CALLED_OFF_AT;
        loop {
            let Some(id) = self.place(restaurant, token, &mut random).await else {
                tokio::time::sleep(CHOICE_PAUSE).await;
                restaurant = self.kitchens().await?.any(&mut random);
                continue;
            };
            // Half of them before anybody can know whether it is paid, half after.
            if calls_off && ordered.order / CALLED_OFF_EVERY % 2 == 1 {
                calls_off = !self.call_off(id, token).await;
            }
            let mut seen = self.settled(id, token).await?;
            if let Some(after) = seen.paid_after() {
                figures.paid_after.record(after);
            }
            let is_paid = seen.payment_status == PaymentStatus::Paid;
            if calls_off && is_paid && self.call_off(id, token).await {
                calls_off = false;
                seen = self.settled(id, token).await?;
            }
            match (seen.status, seen.payment_status) {
                (_, PaymentStatus::Paid) => return Some(Paid { id, restaurant }),
                (_, PaymentStatus::Refunded) => count(&figures.refunds, 1),
                (OrderStatus::PaymentFailed, _) => count(&figures.declined, 1),
                // Called off before it was charged.
                _ => {}
            }
        }
    }

    /// One order of what is on the menu; None when it cannot be had.
    async fn place(&self, restaurant: i64, token: &str, random: &mut SmallRng) -> Option<OrderId> {
        let figures = &self.figures.orders;
        let path = format!("/restaurants/{restaurant}/menu-with-status");
        let call = Call { method: "GET", path: &path, token, body: "", key: None };
        let menu = self.menus.call(call).await;
        let Some(page) = menu.read::<Page>().ok().filter(|_| menu.status == 200) else {
            self.menus.unexpected(call, &menu);
            return None;
        };
        let lines = basket::choose(&page, random)?;
        let body = json!({
            "restaurant_id": restaurant,
            "items": lines,
            "delivery_address": "1 Riverside Road, Pune",
            "payment_method": "credit_card",
        });
        let body = body.to_string();
        let key = Some(Uuid::from_u128(rand::random()));
        let call = Call { method: "POST", path: "/orders", token, body: &body, key };
        figures.ordering();
        let clicked = Instant::now();
        let answer = self.orders.call(call).await;
        let taken = answer.read::<Taken>().ok().filter(|_| answer.status == 202);
        figures.answered(taken.as_ref().map(|taken| taken.order_id), clicked.elapsed());
        let is_choice = matches!(
            answer.kind().as_str(),
            "restaurant-closed" | "items-unavailable" | "price-changed" | "below-minimum"
        );
        if taken.is_none() && !is_choice {
            self.orders.unexpected(call, &answer);
        }
        taken.map(|taken| taken.order_id)
    }

    /// Whether it was called off in time.
    async fn call_off(&self, id: OrderId, token: &str) -> bool {
        let path = format!("/orders/{id}/cancel");
        let call = Call { method: "POST", path: &path, token, body: "{}", key: None };
        let answer = self.orders.call(call).await;
        if answer.status == 200 {
            count(&self.figures.orders.called_off, 1);
        } else if answer.status != 409 {
            // Too late, or declined: then there is nothing to call off.
            self.orders.unexpected(call, &answer);
        }
        answer.status == 200
    }

    /// Looks gently until the order is paid or has ended, with its money back.
    async fn settled(&self, id: OrderId, token: &str) -> Option<Seen> {
        let path = format!("/orders/{id}");
        let call = Call { method: "GET", path: &path, token, body: "", key: None };
        let [mut pause, longest] = LOOK_PAUSES;
        loop {
            tokio::time::sleep(pause).await;
            pause = longest.min(pause.mul_f64(1.5));
            let answer = self.orders.call(call).await;
            let Some(seen) = answer.read::<Seen>().ok().filter(|_| answer.status == 200) else {
                self.orders.unexpected(call, &answer);
                return None;
            };
            if seen.is_settled() {
                return Some(seen);
            }
        }
    }
}

#[derive(Deserialize)]
struct Taken {
    order_id: OrderId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_customer_waits_for_the_money_back() {
        let settled = |status, payment_status| {
            Seen { status, payment_status, created_at: Utc::now(), events: Vec::new() }.is_settled()
        };
        use {OrderStatus as S, PaymentStatus as P};
        for (status, payment, is_settled) in [
            (S::PaymentProcessing, P::Processing, false),
            (S::Cancelled, P::Processing, false),
            (S::Cancelled, P::Paid, false),
            (S::Cancelled, P::Refunded, true),
            (S::Cancelled, P::Cancelled, true),
            (S::PaymentFailed, P::Failed, true),
            (S::Confirmed, P::Paid, true),
        ] {
            assert_eq!(settled(status, payment), is_settled, "{status} {payment}");
        }
    }

    #[test]
    fn the_time_until_it_was_paid_is_the_services() {
        let at = |s: i64| DateTime::from_timestamp(s, 0).unwrap();
        let event = |payment_status, s| Happened { payment_status, at: at(s) };
        let seen = Seen {
            status: OrderStatus::Confirmed,
            payment_status: PaymentStatus::Paid,
            created_at: at(10),
            events: vec![
                event(PaymentStatus::Processing, 10),
                event(PaymentStatus::Paid, 12),
                event(PaymentStatus::Paid, 13),
            ],
        };
        assert_eq!(seen.paid_after(), Some(Duration::from_secs(2)));
    }
}
