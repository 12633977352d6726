//! A customer who orders, asks again until somebody answers, and may think better of it.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use platform::auth::{Role, Signer};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    client::{Answer, Client, Request},
    site::{Lane, Restaurant},
};

/// Whatever happens, somebody answers within this time.
const ANSWERED_MAX: Duration = Duration::from_secs(150);
const TOKEN_TTL: Duration = Duration::from_secs(600);
/// Looks at an order that is being paid.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A customer who calls an order off soon does so within this time.
const SOON_MS: u64 = 600;
/// What is given back of an order that is paid, in minor units.
const PART: i64 = 123;

/// What becomes of an order after it was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is left alone.
    Stays,
    /// The customer calls it off, perhaps while it is being paid.
    CancelledSoon,
    /// The customer calls it off when it is paid.
    CancelledPaid,
    /// The restaurant takes it.
    Accepted,
    /// A part is given back.
    PartRefunded,
}

/// An order that was answered with 202, and what it must cost.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) key: String,
    pub(super) customer: i64,
    pub(super) order_id: Uuid,
    pub(super) request: Vec<u8>,
    pub(super) response: Vec<u8>,
    pub(super) tax: i64,
    pub(super) total: i64,
}

/// How one order went.
#[derive(Debug, Default)]
pub(super) struct Bought {
    pub(super) placed: Option<Placed>,
    /// What was answered before the 202, by status; 0 is no answer.
    pub(super) refused: BTreeMap<u16, u32>,
    /// What must not be.
    pub(super) odd: Vec<String>,
    pub(super) took: Duration,
}

/// Where orders go; clones share everything.
#[derive(Clone)]
pub(super) struct Shop {
    ports: Arc<[u16]>,
    signer: Arc<Signer>,
    restaurants: Arc<[Restaurant]>,
}

impl Shop {
    /// Orders at these processes, in turn.
    pub(super) fn new(lane: &Lane, restaurants: &Arc<[Restaurant]>, ports: &[u16]) -> Self {
        Self {
            ports: ports.into(),
            signer: Arc::clone(&lane.signer),
            restaurants: Arc::clone(restaurants),
        }
    }

    pub(super) fn token(&self, role: Role, subject: i64) -> String {
        self.signer.access(role, subject, &[], TOKEN_TTL)
    }

    /// Orders something as this customer and follows its fate.
    pub(super) async fn buy(&self, customer: i64, fate: Fate, seed: u64) -> Bought {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut bought = Bought::default();
        let mut client = Client::new(self.ports[rng.random_range(0..self.ports.len())]);
        let token = self.token(Role::Customer, customer);
        let Some(mut placed) = self.ask_for(customer, &mut rng) else { return bought };
        let (since, deadline) = (Instant::now(), Instant::now() + ANSWERED_MAX);
        let answer = client.ask(&placed.as_request(&token), deadline).await;
        bought.took = since.elapsed();
        for status in client.refused.drain(..) {
            *bought.refused.entry(status.unwrap_or(0)).or_default() += 1;
        }
        let Some(answer) = answer else {
            bought.odd.push(format!("nobody answered to an order for {ANSWERED_MAX:?}"));
            return bought;
        };
        let id = answer.json()["order_id"].as_str().and_then(|id| id.parse().ok());
        let Some(order_id) = id.filter(|_| answer.status == 202) else {
            bought.odd.push(odd("an order", &answer));
            return bought;
        };
        (placed.order_id, placed.response) = (order_id, answer.body);
        // The same once more, while it is still being paid.
        let again = client.ask(&placed.as_request(&token), deadline).await;
        bought.odd.extend(again.and_then(|again| placed.differs(&again)));
        bought.odd.extend(self.follow(&mut client, &placed, fate, &mut rng, deadline).await);
        let wrong = client.refused.iter().flatten().find(|status| **status != 503);
        bought.odd.extend(wrong.map(|status| format!("an answer of {status}")));
        bought.placed = Some(placed);
        bought
    }

    /// Waits until an order's payment has an end, not for ever; whether it has.
    pub(super) async fn until_paid(&self, port: u16, placed: &Placed) -> bool {
        let order = format!("/api/v1/orders/{}", placed.order_id);
        let token = self.token(Role::Customer, placed.customer);
        until_paid(&mut Client::new(port), &order, &token, Instant::now() + ANSWERED_MAX).await
    }

    /// An order that nobody has sent yet.
    fn ask_for(&self, customer: i64, rng: &mut StdRng) -> Option<Placed> {
        let restaurant = self.restaurants.choose(rng)?;
        let mut subtotal = 0;
        let lines: Vec<Value> = restaurant
            .items
            .choose_multiple(rng, 2)
            .map(|(item, price)| (item, price, rng.random_range(1..=3_i64)))
            .map(|(item, price, quantity)| {
                subtotal += price * quantity;
                json!({"item_id": item, "quantity": quantity})
            })
            .collect();
        let request = json!({
            "restaurant_id": restaurant.id, "items": lines,
            "delivery_address": "1 Embarcadero, San Francisco", "payment_method": "credit_card",
        });
        // Half a minor unit is rounded up.
        let tax = (subtotal * restaurant.tax_basis_points + 5_000) / 10_000;
        Some(Placed {
            key: Uuid::from_u128(rng.random()).to_string(),
            customer,
            order_id: Uuid::nil(),
            request: request.to_string().into_bytes(),
            response: Vec::new(),
            tax,
            total: subtotal + tax + restaurant.delivery_fee,
        })
    }

    /// Does what becomes of the order; what must not be is answered in words.
    async fn follow(
        &self,
        client: &mut Client,
        placed: &Placed,
        fate: Fate,
        rng: &mut StdRng,
        deadline: Instant,
    ) -> Option<String> {
        let order = format!("/api/v1/orders/{}", placed.order_id);
        let customer = self.token(Role::Customer, placed.customer);
        let admin = self.token(Role::Admin, 1);
        match fate {
            Fate::Stays => return None,
            Fate::CancelledSoon => {
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..SOON_MS))).await;
            }
            Fate::CancelledPaid | Fate::Accepted | Fate::PartRefunded => {
                until_paid(client, &order, &customer, deadline).await;
            }
        }
        let (cancel, refunds) = (format!("{order}/cancel"), format!("{order}/refunds"));
        let status = format!("{order}/status");
        let part = json!({"amount": {"amount": PART, "currency": "USD"}}).to_string();
        let (method, path, token, key, body) = match fate {
            Fate::Accepted => ("PUT", &status, &admin, None, r#"{"status":"accepted"}"#),
            Fate::PartRefunded => ("POST", &refunds, &admin, Some(placed.key.as_str()), &*part),
            _ => ("POST", &cancel, &customer, None, "{}"),
        };
        let request = Request { method, path, token, key, body: body.as_bytes() };
        let answer = client.ask(&request, deadline).await;
        match answer {
            None => Some(format!("nobody answered to {method} {path}")),
            Some(answer) if matches!(answer.status, 200 | 202 | 409 | 422) => None,
            Some(answer) => Some(odd(path, &answer)),
        }
    }
}

impl Placed {
    /// The request that it was made with.
    pub(super) fn as_request<'a>(&'a self, token: &'a str) -> Request<'a> {
        let (key, body) = (Some(self.key.as_str()), self.request.as_slice());
        Request { method: "POST", path: "/api/v1/orders", token, key, body }
    }

    /// I8, in words when another answer to the same request is not the first one.
    pub(super) fn differs(&self, again: &Answer) -> Option<String> {
        let is_same = again.status == 202 && again.body == self.response;
        (!is_same)
            .then(|| odd(&format!("order {} was answered otherwise before", self.order_id), again))
    }
}

/// Waits until the order's payment has an end, not for ever; whether it has.
async fn until_paid(client: &mut Client, order: &str, token: &str, deadline: Instant) -> bool {
    let request = Request { method: "GET", path: order, token, key: None, body: b"" };
    while let Some(answer) = client.ask(&request, deadline).await {
        let json = answer.json();
        let status = json["payment_status"].as_str().unwrap_or_default();
        if status != "processing" || Instant::now() > deadline {
            return status != "processing";
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    false
}

pub(super) fn odd(what: &str, answer: &Answer) -> String {
    let body: String = String::from_utf8_lossy(&answer.body).chars().take(200).collect();
    format!("{what}: {} {body}", answer.status)
}
