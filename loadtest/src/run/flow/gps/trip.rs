//! Trips: to the restaurant, and on to the customer.

use contracts::{
    ids::OrderId,
    position::{Position, to_e7},
};
use platform::auth::Role;

use super::Driver;
use crate::run::{
    agent::{Call, Identity},
    town::Errand,
};

/// Customers live so far from their restaurants, degrees.
const FAR: f64 = 0.01;

/// One half of a trip.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leg {
    errand: Errand,
    to_customer: bool,
    since_us: u64,
}

impl Driver {
    /// Where the driver is on the way, who would otherwise be on its circle.
    pub(super) fn on_trip(&self, leg: Leg, circle: Position, at_us: u64) -> Position {
        let (latitude, longitude) = self.on_the_way(leg, &circle, at_us);
        Position {
            lat_e7: to_e7(latitude),
            lon_e7: to_e7(longitude),
            speed_mps: None,
            heading_deg: None,
            order_id: Some(OrderId(leg.errand.order)),
            ..circle
        }
    }

    fn restaurant(&self, leg: Leg) -> (f64, f64) {
        let restaurant = &self.shared.town.restaurants()[leg.errand.restaurant];
        (restaurant.latitude, restaurant.longitude)
    }

    /// In a straight line, as birds and this town's drivers go.
    fn on_the_way(&self, leg: Leg, circle: &Position, at_us: u64) -> (f64, f64) {
        let restaurant = self.restaurant(leg);
        let bits = leg.errand.order.as_u128();
        let part = |bits: u128| f64::from(bits as u16) / 65_536.0 - 0.5;
        let customer = (restaurant.0 + FAR * part(bits), restaurant.1 + FAR * part(bits >> 16));
        let (from, to) = match leg.to_customer {
            false => ((circle.latitude(), circle.longitude()), restaurant),
            true => (restaurant, customer),
        };
        let half_us = (self.shared.settings.trip.0.as_micros() as f64 / 2.0).max(1.0);
        let share = (at_us.saturating_sub(leg.since_us) as f64 / half_us).min(1.0);
        (from.0 + (to.0 - from.0) * share, from.1 + (to.1 - from.1) * share)
    }

    /// Takes up an order, picks it up, brings it.
    pub(super) async fn deliver(&mut self, at_us: u64) {
        let driver = self.driver.get();
        let Some(leg) = self.leg else {
            let errand = self.shared.town.errand(driver);
            self.leg = errand.map(|errand| Leg { errand, to_customer: false, since_us: at_us });
            return;
        };
        let half = self.shared.settings.trip.0 / 2;
        if at_us.saturating_sub(leg.since_us) < half.as_micros() as u64 {
            return;
        }
        let path = format!("/api/v1/deliveries/{}/status", leg.errand.order);
        let body: &[u8] = match leg.to_customer {
            false => br#"{"status":"picked_up"}"#,
            true => br#"{"status":"delivered"}"#,
        };
        // 409: the customer, or the restaurant, has called it off.
        let call = Call::new(self.shared.status, &path)
            .by(Identity::new(Role::Driver, driver))
            .with(body)
            .expecting(&[200, 409]);
        let answer = self.agent.send(&call, |_, _| {}).await;
        self.agent.check(self.shared.moved, !answer.failed);
        self.leg = match answer.status {
            200 if !leg.to_customer => Some(Leg { to_customer: true, since_us: at_us, ..leg }),
            200 | 409 => None,
            // Tried again with the next fix.
            _ => Some(leg),
        };
        if self.leg.is_none() {
            self.shared.town.is_free(driver);
        }
    }
}
