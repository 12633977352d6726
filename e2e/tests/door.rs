//! From the cart to the door: an order goes through every service, and its customer watches all of
//! it over one socket that is cut twice.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use devstack::{
    services::{Ports, Services},
    stack::{Place, Stack, StackArgs},
};
use futures_util::{SinkExt as _, StreamExt as _};
use loadtest::client::{Connection, Target};
use platform::auth::{Role, Signer};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, tungstenite::Message};

/// Nothing that is waited for takes longer, even on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);
const TOKEN_TTL: Duration = Duration::from_secs(600);
const CUSTOMER: i64 = 7;
const DRIVER: i64 = 1;
const LONGITUDE: f64 = -122.3958;

/// The services, and how to talk to them.
struct Town {
    signer: Signer,
    services: Services,
    stack: Stack,
}

impl Town {
    async fn start() -> Self {
        let stack = Stack::start(&Place::Temporary, &StackArgs::default()).await.unwrap();
        let ports = Ports { order: 0, menu: 0, logistics: 0, payment: 0 };
        let services = Services::start(&stack, ports).await.unwrap();
        Self { signer: stack.keys().signer().unwrap(), services, stack }
    }

    fn token(&self, role: Role, subject: i64, restaurants: &[i64]) -> String {
        self.signer.access(role, subject, restaurants, TOKEN_TTL)
    }

    /// One request; its status and JSON.
    async fn send(
        &self,
        base: &str,
        (method, path): (&str, &str),
        token: &str,
        body: &Value,
    ) -> (u16, Value) {
        let target = Target::parse(base).unwrap();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", target.authority);
        if !token.is_empty() {
            write!(request, "authorization: Bearer {token}\r\n").unwrap();
        }
        // Each request here is made once.
        let key = uuid::Uuid::new_v4();
        write!(
            request,
            "idempotency-key: {key}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n\
             {body}",
            body.len()
        )
        .unwrap();
        let mut connection = Connection::open(&target).await.unwrap();
        let reply = connection.exchange(request.as_bytes()).await.unwrap();
        (reply.status, serde_json::from_slice(connection.body()).unwrap_or_default())
    }

    /// The JSON of an answer that must have this status.
    #[track_caller]
    fn ask<'a>(
        &'a self,
        base: &'a str,
        call: (&'a str, &'a str),
        token: &'a str,
        body: &'a Value,
        status: u16,
    ) -> impl Future<Output = Value> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let (answered, json) = self.send(base, call, token, body).await;
            assert_eq!(answered, status, "{call:?} at {caller}: {json}");
            json
        }
    }

    /// The position of the driver at this latitude.
    async fn moves_to(&self, latitude: f64) {
        let (base, token) = (self.services.logistics_url(), self.token(Role::Driver, DRIVER, &[]));
        let fix = json!({"latitude": latitude, "longitude": LONGITUDE, "speed": 30});
        let path = format!("/api/v1/drivers/{DRIVER}/location");
        self.ask(&base, ("POST", &path), &token, &fix, 202).await;
    }
}

/// Waits for a condition, and fails with its name when it does not come.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !holds().await {
        assert!(since.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What one customer has seen, over all sockets.
#[derive(Default)]
struct Watcher {
    socket: Option<WebSocketStream<MaybeTlsStream<TcpStream>>>,
    /// `seq`, courier's and kitchen's status of each change.
    statuses: Vec<(i64, String, String)>,
    /// Time and latitude.
    positions: Vec<(String, f64)>,
}

impl Watcher {
    fn seq(&self) -> i64 {
        self.statuses.last().map_or(0, |(seq, ..)| *seq)
    }

    /// Opens a socket with a new token and goes on after what was seen.
    async fn connect(&mut self, town: &Town, order_id: &str) {
        let customer = town.token(Role::Customer, CUSTOMER, &[]);
        let path = format!("/api/v1/orders/{order_id}/tracking-token");
        let base = town.services.order_url();
        let grant = town.ask(&base, ("POST", &path), &customer, &Value::Null, 200).await;
        let url = grant["url"].as_str().unwrap();
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let subscribe = json!({"type": "subscribe", "token": grant["token"], "since": self.seq()});
        socket.send(Message::text(subscribe.to_string())).await.unwrap();
        self.socket = Some(socket);
        let connected = self.hear().await.unwrap();
        assert_eq!(connected["type"], "connected");
    }

    /// The connection is cut: nobody says goodbye.
    fn cut(&mut self) {
        self.socket = None;
    }

    /// The next message, noted; `None` when the server ends the socket because all is over.
    async fn hear(&mut self) -> Option<Value> {
        let socket = self.socket.as_mut().unwrap();
        let message = loop {
            let next = tokio::time::timeout(DEADLINE, socket.next()).await;
            match next.expect("the server says nothing").unwrap().unwrap() {
                Message::Text(text) => break serde_json::from_str::<Value>(&text).unwrap(),
                Message::Close(frame) => {
                    assert_eq!(u16::from(frame.unwrap().code), 1000);
                    return None;
                }
                _ => {}
            }
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if message["type"] == "status_change" {
            let seq = message["seq"].as_i64().unwrap();
            self.statuses.push((seq, text(&message["status"]), text(&message["order_status"])));
        }
        let location = match message["type"].as_str() {
            Some("location_update") => &message,
            _ => &message["location"],
        };
        if let Some(latitude) = location["latitude"].as_f64() {
            self.positions.push((text(&location["timestamp"]), latitude));
        }
        Some(message)
    }

    async fn until_status(&mut self, courier: &str, kitchen: &str) {
        let is_there = |watcher: &Self| {
            let last = watcher.statuses.last();
            last.is_some_and(|(_, c, k)| (c.as_str(), k.as_str()) == (courier, kitchen))
        };
        while !is_there(self) {
            assert!(self.hear().await.is_some(), "the end before {courier} and {kitchen}");
        }
    }

    async fn until_position(&mut self, latitude: f64) {
        while self.positions.last().is_none_or(|(_, last)| (last - latitude).abs() > 1e-6) {
            assert!(self.hear().await.is_some(), "the end before {latitude}");
        }
    }
}

/// An operator's restaurant that is open, and an item on its menu.
async fn restaurant(town: &Town) -> (i64, i64) {
    let (base, admin) = (town.services.menu_url(), town.token(Role::Admin, 1, &[]));
    let profile = json!({
        "name": "Bombay Bites", "cuisines": ["indian"], "address": "1 Market Street",
        "city": "San Francisco", "country": "US", "latitude": 37.7936, "longitude": LONGITUDE,
        "time_zone": "America/Los_Angeles", "opening_hours": "24/7", "currency": "USD",
        "delivery_fee": 299, "minimum_order": 1000, "tax_basis_points": 863,
    });
    let made = town.ask(&base, ("POST", "/api/v1/restaurants"), &admin, &profile, 201).await;
    let id = made["restaurant_id"].as_i64().unwrap();
    let operator = town.token(Role::Operator, 5, &[id]);
    let menu = json!({"categories": [{"name": "Curries", "items": [
        {"name": "Chana Masala", "price": 1190},
    ]}]});
    let path = format!("/api/v1/restaurants/{id}/menu");
    town.ask(&base, ("PUT", &path), &operator, &menu, 200).await;
    let open = json!({"status": "open"});
    let status = format!("/api/v1/restaurants/{id}/status");
    town.ask(&base, ("PUT", &status), &operator, &open, 200).await;
    let menu = town.ask(&base, ("GET", &path), "", &Value::Null, 200).await;
    (id, menu["categories"][0]["items"][0]["item_id"].as_i64().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_followed_from_the_cart_to_the_door() {
    let town = Town::start().await;
    let (orders, logistics) = (town.services.order_url(), town.services.logistics_url());
    let (menus, gateway) = (town.services.menu_url(), town.services.payment_url());
    let admin = town.token(Role::Admin, 1, &[]);
    let customer = town.token(Role::Customer, CUSTOMER, &[]);
    let quick = json!({"decline_rate": 0.0, "latency_ms": [5, 20]});
    town.ask(&gateway, ("PUT", "/admin/settings"), "", &quick, 200).await;
    let (restaurant, item) = restaurant(&town).await;
    let operator = town.token(Role::Operator, 5, &[restaurant]);

    // The customer gathers, orders and pays.
    let line = json!({"restaurant_id": restaurant, "item_id": item, "quantity": 2});
    town.ask(&orders, ("POST", "/api/v1/cart/items"), &customer, &line, 201).await;
    let how = json!({"delivery_address": "1 Embarcadero", "payment_method": "credit_card"});
    let path = "/api/v1/cart/checkout";
    let placed = town.ask(&orders, ("POST", path), &customer, &how, 202).await;
    let order_id = placed["orders"][0]["order_id"].as_str().unwrap();
    // 2 × 11.90, 8.63 % of it, 2.99 for bringing it.
    assert_eq!(placed["orders"][0]["total"], json!({"amount": 2884, "currency": "USD"}));
    let order = format!("/api/v1/orders/{order_id}");
    let has_status = async |status: &str| {
        let read = town.ask(&orders, ("GET", &order), &customer, &Value::Null, 200).await;
        read["status"] == status
    };
    until("it is paid", async || has_status("confirmed").await).await;
    let delivery = format!("/api/v1/deliveries/{order_id}");
    until("there is a delivery", async || {
        town.send(&logistics, ("GET", &delivery), &customer, &Value::Null).await.0 == 200
    })
    .await;

    // The kitchen cooks; the socket is cut while it does.
    let mut watcher = Watcher::default();
    watcher.connect(&town, order_id).await;
    let status = format!("{order}/status");
    for (next, extra) in [("accepted", json!({})), ("preparing", json!({"preparation_minutes": 9}))]
    {
        let mut body = extra;
        body["status"] = next.into();
        town.ask(&orders, ("PUT", &status), &operator, &body, 200).await;
        watcher.until_status("confirmed", next).await;
    }
    watcher.cut();
    town.ask(&orders, ("PUT", &status), &operator, &json!({"status": "ready"}), 200).await;
    until("logistics knows that it is ready", async || {
        let read = town.ask(&logistics, ("GET", &delivery), &admin, &Value::Null, 200).await;
        read["order_status"] == "ready"
    })
    .await;

    // A courier is given it and comes nearer.
    let driver = json!({"driver_id": DRIVER, "vehicle": "scooter", "capacity": 2});
    town.ask(&logistics, ("POST", "/api/v1/drivers"), &admin, &driver, 201).await;
    let assign = format!("{delivery}/assign");
    town.ask(&logistics, ("POST", &assign), &admin, &json!({"driver_id": DRIVER}), 200).await;
    watcher.connect(&town, order_id).await;
    watcher.until_status("assigned", "ready").await;
    for latitude in [37.7801, 37.7802, 37.7803] {
        town.moves_to(latitude).await;
        watcher.until_position(latitude).await;
    }
    watcher.cut();
    let courier = town.token(Role::Driver, DRIVER, &[]);
    let brought = format!("{delivery}/status");
    let next = json!({"status": "picked_up"});
    town.ask(&logistics, ("PUT", &brought), &courier, &next, 200).await;
    town.moves_to(37.7901).await;
    watcher.connect(&town, order_id).await;
    watcher.until_status("picked_up", "picked_up").await;
    watcher.until_position(37.7901).await;
    town.moves_to(37.7936).await;
    watcher.until_position(37.7936).await;
    let next = json!({"status": "delivered"});
    town.ask(&logistics, ("PUT", &brought), &courier, &next, 200).await;
    watcher.until_status("delivered", "delivered").await;
    while watcher.hear().await.is_some() {}

    // Each change once, in one sequence without a gap; no position older than the one before.
    let expected = [
        ("confirmed", "confirmed"),
        ("confirmed", "accepted"),
        ("confirmed", "preparing"),
        ("confirmed", "ready"),
        ("assigned", "ready"),
        ("picked_up", "picked_up"),
        ("delivered", "delivered"),
    ];
    let expected: Vec<(i64, String, String)> = (1..)
        .zip(expected)
        .map(|(seq, (courier, kitchen))| (seq, courier.to_owned(), kitchen.to_owned()))
        .collect();
    assert_eq!(watcher.statuses, expected);
    assert!(watcher.positions.is_sorted_by_key(|(at, _)| at), "{:?}", watcher.positions);
    assert_eq!(watcher.positions.last().unwrap().1, 37.7936);

    // The order hears of it too, is rated, and the restaurant shows that.
    until("the order is delivered", async || has_status("delivered").await).await;
    let rating = json!({"order_rating": 5, "driver_rating": 4, "comment": "Still hot."});
    let path = format!("{order}/ratings");
    town.ask(&orders, ("POST", &path), &customer, &rating, 201).await;
    let path = format!("/api/v1/restaurants/{restaurant}");
    until("the restaurant shows its rating", async || {
        let shown = town.ask(&menus, ("GET", &path), "", &Value::Null, 200).await;
        (&shown["rating"], &shown["rating_count"]) == (&json!(5.0), &json!(1))
    })
    .await;
    let ledger = format!("/admin/ledger?order_id={order_id}");
    let ledger = town.ask(&gateway, ("GET", &ledger), "", &Value::Null, 200).await;
    assert_eq!(ledger["effects"].as_array().unwrap().len(), 1, "{ledger}");
    assert_eq!(ledger["effects"][0]["effect"]["intent"]["amount_received"], 2884);
    town.services.stop().await.unwrap();
    town.stack.stop().await;
}
