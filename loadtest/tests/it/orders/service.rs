//! An order service, a menu service and a payment gateway in memory, that keep their promises or
//! break one on purpose.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Response, body::Bytes, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use platform::auth::{Role, Verifier};
use serde_json::{Value, json};
use uuid::Uuid;

/// Of a page of a list.
const PAGE: usize = 100;

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sabotage {
    Nothing,
    /// Every tenth order is stored and not answered; the repetition is. No promise is broken.
    HangsUpAfter,
    /// Every tenth request is answered 503.
    Unavailable,
    /// Every tenth request is answered as one whose first attempt is still worked on.
    InProgress,
    /// Every fiftieth order is charged twice.
    ChargesTwice,
    /// Every fiftieth charge is one cent more.
    ChargesMore,
    /// Every fiftieth order is paid without a charge.
    ForgetsCharges,
    /// Every fiftieth order is answered and not stored.
    Loses,
    /// For every fiftieth order another one is made that nobody has asked for.
    OrdersByItself,
    /// A key that comes again is a new order.
    ForgetsKeys,
    /// The answer to a key that comes again tells of the present state.
    OtherBytes,
    /// Every fiftieth order is refused.
    Refuses,
    /// No payment ends.
    NeverPays,
}

#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) posts: u64,
    /// First answers by key.
    pub(super) keys: HashMap<String, String>,
    /// Restaurants.
    pub(super) made: usize,
    pub(super) opened: usize,
    /// By id, the oldest first.
    orders: Vec<Value>,
    intents: Vec<Value>,
    menus: usize,
}

pub(super) struct Service {
    sabotage: Sabotage,
    verifier: Verifier,
    pub(super) seen: Mutex<Seen>,
}

/// A status and a body; headers are those that the status needs.
type Answer = (u16, String, bool);

impl Service {
    /// Starts all three at one address.
    pub(super) async fn start(sabotage: Sabotage, verifier: Verifier) -> (Arc<Self>, String) {
        let service = Arc::new(Self { sabotage, verifier, seen: Mutex::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let this = Arc::clone(&service);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let this = Arc::clone(&this);
                let service = service_fn(move |request| Arc::clone(&this).handle(request));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        (service, url)
    }

    async fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> io::Result<Response<Full<Bytes>>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let token = parts.headers["authorization"].to_str().unwrap();
        let header = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap());
        let query = parts.uri.query().unwrap_or_default();
        let of = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        };
        let path = parts.uri.path();
        let seen = &mut *self.seen.lock().unwrap();
        if let Some(noun) = path.strip_prefix("/v1/") {
            assert_eq!(token, "Bearer sk_test_sim");
            return Ok(reply(ledger(seen, noun, of("starting_after"))));
        }
        let caller = self.verifier.access(token.strip_prefix("Bearer ").unwrap()).unwrap();
        let path = path.strip_prefix("/api/v1").unwrap();
        let is_post = parts.method == Method::POST;
        if path == "/orders" && is_post {
            let key = header("idempotency-key").unwrap();
            let order = serde_json::from_slice(&body).unwrap();
            assert_eq!(caller.role, Role::Customer);
            return self.order(seen, caller.subject, key, &order).map(reply);
        }
        assert_eq!(caller.role, Role::Admin);
        let answer = match path.strip_prefix("/orders") {
            Some("") => orders(seen, of("cursor").unwrap().parse().unwrap()),
            Some(id) => match seen.orders.iter().find(|order| order["order_id"] == id[1..]) {
                Some(order) => (200, order.to_string(), false),
                None => (404, "{}".to_owned(), false),
            },
            None => kitchens(seen, &parts.method, path, &body),
        };
        Ok(reply(answer))
    }

    fn order(
        &self,
        seen: &mut Seen,
        customer: i64,
        key: &str,
        asked: &Value,
    ) -> io::Result<Answer> {
        seen.posts += 1;
        let (tenth, fiftieth) = (seen.posts.is_multiple_of(10), seen.posts.is_multiple_of(50));
        let problem = |kind: &str| json!({"type": format!("urn:swift-eats:{kind}")}).to_string();
        match self.sabotage {
            Sabotage::Unavailable if tenth => return Ok((503, problem("unavailable"), false)),
            Sabotage::InProgress if tenth => {
                return Ok((409, problem("request-in-progress"), false));
            }
            _ => {}
        }
        if let Some(first) = seen.keys.get(key)
            && self.sabotage != Sabotage::ForgetsKeys
        {
            let bytes = match self.sabotage {
                Sabotage::OtherBytes => first.replace("processing", "paid"),
                _ => first.clone(),
            };
            return Ok((202, bytes, true));
        }
        if self.sabotage == Sabotage::Refuses && fiftieth {
            return Ok((409, problem("restaurant-closed"), false));
        }
        let order = json!({
            "order_id": Uuid::now_v7(),
            "customer_id": customer,
            "restaurant_id": asked["restaurant_id"],
            "status": "payment_processing",
            "payment_status": "processing",
            "total": {"amount": 1_000 + seen.posts, "currency": "USD"},
            "refunded": {"amount": 0, "currency": "USD"},
            "delivery_address": asked["delivery_address"],
        });
        assert_eq!(asked["items"].as_array().unwrap().len(), 3);
        seen.keys.insert(key.to_owned(), order.to_string());
        let answer = (202, order.to_string(), false);
        if self.sabotage == Sabotage::Loses && fiftieth {
            return Ok(answer);
        }
        if self.sabotage == Sabotage::OrdersByItself && fiftieth {
            let mut other = order.clone();
            other["order_id"] = json!(Uuid::now_v7());
            other["delivery_address"] = json!({"street": "1 Nowhere", "city": "None"});
            self.pay(seen, other, false, false);
        }
        let is_declined = seen.keys.len().is_multiple_of(20);
        self.pay(seen, order, is_declined, fiftieth);
        if self.sabotage == Sabotage::HangsUpAfter && tenth {
            return Err(io::Error::other("on purpose"));
        }
        Ok(answer)
    }

    /// Stores an order whose payment has ended.
    fn pay(&self, seen: &mut Seen, mut order: Value, is_declined: bool, is_odd: bool) {
        if self.sabotage == Sabotage::NeverPays {
            return seen.orders.push(order);
        }
        let odd = |sabotage| self.sabotage == sabotage && is_odd;
        let is_declined = is_declined && !is_odd;
        let mut charges = 1;
        if odd(Sabotage::ChargesTwice) {
            charges = 2;
        } else if odd(Sabotage::ForgetsCharges) {
            charges = 0;
        }
        let more = i64::from(odd(Sabotage::ChargesMore));
        for _ in 0..charges {
            seen.intents.push(json!({
                "id": format!("pi_{}", seen.intents.len()),
                "amount": order["total"]["amount"].as_i64().unwrap() + more,
                "currency": "usd",
                "status": if is_declined { "requires_payment_method" } else { "succeeded" },
                "metadata": {"order_id": order["order_id"]},
            }));
        }
        let (status, payment) =
            if is_declined { ("payment_failed", "failed") } else { ("confirmed", "paid") };
        order["status"] = json!(status);
        order["payment_status"] = json!(payment);
        seen.orders.push(order);
    }
}

fn orders(seen: &Seen, before: Uuid) -> Answer {
    let id = |order: &Value| -> Uuid { order["order_id"].as_str().unwrap().parse().unwrap() };
    let mut older: Vec<_> = seen.orders.iter().filter(|order| id(order) < before).collect();
    older.sort_by_key(|order| std::cmp::Reverse(id(order)));
    let has_more = older.len() > PAGE;
    older.truncate(PAGE);
    let next = older.last().filter(|_| has_more).map(|last| &last["order_id"]);
    (200, json!({"orders": older, "page_size": PAGE, "next_cursor": next}).to_string(), false)
}

fn ledger(seen: &Seen, noun: &str, after: Option<&str>) -> Answer {
    let all: &[Value] = if noun == "payment_intents" { &seen.intents } else { &[] };
    let mut newest = all.iter().rev().peekable();
    if let Some(after) = after {
        newest.by_ref().find(|one| one["id"] == after);
    }
    let data: Vec<_> = newest.by_ref().take(PAGE).collect();
    let has_more = newest.peek().is_some();
    (200, json!({"object": "list", "data": data, "has_more": has_more}).to_string(), false)
}

fn kitchens(seen: &mut Seen, method: &Method, path: &str, body: &[u8]) -> Answer {
    let answer = match (method, path) {
        (&Method::GET, "/restaurants") => json!({"restaurants": []}),
        (&Method::POST, "/restaurants") => {
            let profile: Value = serde_json::from_slice(body).unwrap();
            assert_eq!(profile["opening_hours"], "24/7");
            seen.made += 1;
            return (201, json!({"restaurant_id": seen.made}).to_string(), false);
        }
        (&Method::GET, path) if path.ends_with("/menu") => {
            let count = if seen.menus < seen.made { 0 } else { 20 };
            let items: Vec<_> = (1..=count).map(|id| json!({"item_id": id})).collect();
            json!({"categories": [{"items": items}]})
        }
        (&Method::PUT, path) if path.ends_with("/menu") => {
            seen.menus += 1;
            json!({})
        }
        (&Method::PUT, path) if path.ends_with("/status") => {
            seen.opened += 1;
            json!({})
        }
        other => unreachable!("{other:?}"),
    };
    (200, answer.to_string(), false)
}

fn reply((status, body, is_replay): Answer) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(status);
    if is_replay {
        response = response.header("idempotent-replayed", "true");
    }
    response.body(Full::new(Bytes::from(body))).unwrap()
}
