use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use chrono::TimeDelta;
use contracts::{
    ids::{DriverId, EventId},
    position::Position,
};
use futures_util::StreamExt as _;
use platform::{auth::Signer, health::Health};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::{WebSocketStream, tungstenite};
use uuid::Uuid;

use super::*;
use crate::{
    current::Current,
    deliveries::{Change, NewDelivery, store},
    drivers::{self, Roster, Vehicle},
    tracking::{Hub, Limits, notify},
};

const CUSTOMER: i64 = 9;
/// Sockets that may wait for their subscribe message.
const UNSUBSCRIBED: usize = 16;
const PATIENCE: Duration = Duration::from_secs(10);

/// A process that serves nothing but tracking sockets, at the root of its address.
struct Server {
    db: PgPool,
    hub: Arc<Hub>,
    signer: Signer,
    address: std::net::SocketAddr,
    shutdown: CancellationToken,
}

impl Server {
    async fn start(db: PgPool, timing: Timing) -> Self {
        let hub = Arc::new(Hub::with_limits(Limits {
            timing,
            unsubscribed: UNSUBSCRIBED,
            ..Limits::default()
        }));
        let signer = Signer::generate().0;
        let shutdown = CancellationToken::new();
        let sources = Sources {
            db: db.clone(),
            current: Arc::new(Current::new(
                Arc::clone(&hub),
                TimeDelta::seconds(60),
                TimeDelta::days(30),
            )),
            hub: Arc::clone(&hub),
            verifier: signer.tracking_verifier(),
            shutdown: shutdown.clone(),
        };
        let serve = async |Path(id): Path<Uuid>, State(sources), upgrade: WebSocketUpgrade| {
            let client = ClientAddress(std::net::Ipv4Addr::LOCALHOST.into());
            accept(upgrade, sources, OrderId(id), client)
        };
        let app = Router::new().route("/{order_id}", get(serve)).with_state(sources);
        // Small kernel buffers, so that a client that does not read is soon felt.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(4_096).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(128).unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, app).into_future());
        tokio::spawn({
            let (db, hub, shutdown) = (db.clone(), Arc::clone(&hub), shutdown.clone());
            let dependency = Health::new("test").dependency("notifications");
            async move { notify::run(db, &hub, &Roster::new(), dependency, shutdown).await }
        });
        for id in 1..=2 {
            drivers::store::register(&db, driver(id), Vehicle::Car, 100).await.unwrap();
        }
        Self { db, hub, signer, address, shutdown }
    }

    /// An order of [`CUSTOMER`] that driver 1 has.
    async fn order(&self) -> OrderId {
        let order_id = OrderId::generate();
        let new = NewDelivery {
            order_id,
            customer_id: CustomerId::new(CUSTOMER).unwrap(),
            restaurant_id: None,
            driver_id: Some(driver(1)),
        };
        store::create(&self.db, &new, "test:1").await.unwrap();
        order_id
    }

    async fn change(&self, order_id: OrderId, change: Change) {
        store::change(&self.db, order_id, None, "test:1", |_| Some(change)).await.unwrap();
    }

    /// Gives the order to the driver who does not have it.
    async fn reassign(&self, order_id: OrderId) {
        let decide = |delivery: &crate::deliveries::Delivery| {
            let other = if delivery.driver_id == Some(driver(1)) { 2 } else { 1 };
            Some(Change::Assign(driver(other)))
        };
        store::change(&self.db, order_id, None, "test:1", decide).await.unwrap();
    }

    fn token(&self, order_id: OrderId) -> String {
        self.signer.tracking(order_id.0, CUSTOMER, Duration::from_secs(60))
    }

    async fn open(&self, order_id: OrderId) -> Client {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let stream = socket.connect(self.address).await.unwrap();
        let url = format!("ws://{}/{order_id}", self.address);
        Client(tokio_tungstenite::client_async(url, stream).await.unwrap().0)
    }

    /// A client that has subscribed and read the snapshot.
    async fn watch(&self, order_id: OrderId, since: Option<i64>) -> (Client, Value) {
        let mut client = self.open(order_id).await;
        client.say(&subscribe(&self.token(order_id), since)).await;
        let connected = client.hear().await;
        assert_eq!(connected["type"], "connected");
        (client, connected)
    }
}

struct Client(WebSocketStream<TcpStream>);

impl Client {
    async fn say(&mut self, message: &Value) {
        self.0.send(tungstenite::Message::text(message.to_string())).await.unwrap();
    }

    async fn next(&mut self) -> tungstenite::Message {
        let next = timeout(PATIENCE, self.0.next()).await.expect("the server says nothing");
        next.expect("the connection is over").unwrap()
    }

    async fn hear(&mut self) -> Value {
        loop {
            match self.next().await {
                tungstenite::Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                tungstenite::Message::Ping(_) => {}
                other => panic!("{other:?} instead of a text"),
            }
        }
    }

    /// The close code and reason; nothing else may come before.
    async fn hear_close(&mut self) -> (u16, Value) {
        loop {
            match self.next().await {
                tungstenite::Message::Close(Some(frame)) => {
                    assert!(frame.reason.len() <= 123);
                    return (frame.code.into(), serde_json::from_str(&frame.reason).unwrap());
                }
                tungstenite::Message::Ping(_) => {}
                other => panic!("{other:?} instead of the end"),
            }
        }
    }
}

fn driver(id: i64) -> DriverId {
    DriverId::new(id).unwrap()
}

fn subscribe(token: &str, since: Option<i64>) -> Value {
    let mut message = json!({ "type": "subscribe", "token": token });
    if let Some(since) = since {
        message["since"] = since.into();
    }
    message
}

/// A position whose latitude tells its number.
fn position(driver_id: i64, number: i32) -> Position {
    Position {
        driver_id: driver(driver_id),
        recorded_at_us: 1_800_000_000_000_000 + i64::from(number) * 1_000,
        seq: 0,
        event_id: EventId(0),
        lat_e7: number,
        lon_e7: 0,
        speed_mps: None,
        heading_deg: None,
        accuracy_m: None,
        order_id: None,
    }
}

fn number(update: &Value) -> i32 {
    assert_eq!(update["type"], "location_update", "{update}");
    contracts::position::to_e7(update["latitude"].as_f64().unwrap())
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn a_watcher_sees_the_order_its_driver_and_its_end(db: PgPool) {
    let server = Server::start(db, Timing::default()).await;
    let order_id = server.order().await;
    let (mut client, connected) = server.watch(order_id, None).await;
    assert_eq!(
        connected,
        json!({
            "type": "connected", "order_id": order_id, "status": "assigned",
            "order_status": null, "seq": 2, "driver_id": 1, "location": null,
        })
    );
    server.hub.publish_all(&[position(1, 1), position(2, 2)]);
    assert_eq!(number(&client.hear().await), 1);

    server.change(order_id, Change::Assign(driver(2))).await;
    let change = client.hear().await;
    assert_eq!((&change["type"], &change["seq"]), (&json!("status_change"), &json!(3)));
    assert_eq!((&change["status"], &change["driver_id"]), (&json!("assigned"), &json!(2)));
    assert!(change["at"].as_str().unwrap().ends_with('Z'));
    // The former driver is nobody's business any more.
    server.hub.publish(&position(1, 3));
    server.hub.publish(&position(2, 4));
    assert_eq!(number(&client.hear().await), 4);

    server.change(order_id, Change::PickUp).await;
    assert_eq!(client.hear().await["status"], "picked_up");
    server.change(order_id, Change::Deliver).await;
    assert_eq!(client.hear().await["status"], "delivered");
    assert_eq!(client.hear_close().await, (1000, json!({ "reason": "order_ended" })));
    until("nothing left", || server.hub.watchers() == 0).await;
    assert_eq!((server.hub.watched_drivers(), server.hub.watched_orders().len()), (0, 0));
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn every_status_is_told_once_across_connections(db: PgPool) {
    let server = Server::start(db, Timing::default()).await;
    let order_id = server.order().await;
    let mut told: Vec<i64> = Vec::new();
    for _ in 0..3 {
        // Nobody is connected, and there is more than is read at once.
        for _ in 0..60 {
            server.reassign(order_id).await;
        }
        let since = told.last().copied().unwrap_or(0);
        let (mut client, connected) = server.watch(order_id, Some(since)).await;
        assert_eq!(connected["seq"], since.max(2) + 60);
        for _ in 0..5 {
            server.reassign(order_id).await;
        }
        let newest = store::get(&server.db, order_id).await.unwrap().unwrap().version;
        while told.last() != Some(&newest) {
            told.push(client.hear().await["seq"].as_i64().unwrap());
        }
    }
    assert_eq!(told, (1..=2 + 3 * 65).collect::<Vec<_>>());
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn an_order_that_has_ended_tells_what_was_missed_and_closes(db: PgPool) {
    let server = Server::start(db, Timing::default()).await;
    let order_id = server.order().await;
    server.change(order_id, Change::PickUp).await;
    server.change(order_id, Change::Deliver).await;
    let (mut client, connected) = server.watch(order_id, Some(2)).await;
    assert_eq!((&connected["status"], &connected["seq"]), (&json!("delivered"), &json!(4)));
    assert_eq!(
        (client.hear().await["seq"].clone(), client.hear().await["seq"].clone()),
        (3.into(), 4.into())
    );
    assert_eq!(client.hear_close().await.0, 1000);
    // Whoever has seen it all, or does not ask for the past, is told only that it is over.
    for since in [None, Some(4), Some(99)] {
        let (mut client, _) = server.watch(order_id, since).await;
        assert_eq!(client.hear_close().await.0, 1000);
    }
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn only_the_orders_own_fresh_token_comes_in(db: PgPool) {
    let timing = Timing { subscribe_within: Duration::from_millis(200), ..Timing::default() };
    let server = Server::start(db, timing).await;
    let order_id = server.order().await;
    let missing = OrderId::generate();
    let minute = Duration::from_secs(60);
    let own = server.token(order_id);
    let for_missing = server.token(missing);
    let for_another_customer = server.signer.tracking(order_id.0, CUSTOMER + 1, minute);
    let access = server.signer.access(platform::auth::Role::Customer, CUSTOMER, &[], minute);
    let forged = Signer::generate().0.tracking(order_id.0, CUSTOMER, minute);
    for (order_id, message, code) in [
        (order_id, subscribe(&for_missing, None), 4404),
        (missing, subscribe(&for_missing, None), 4404),
        (missing, subscribe(&own, None), 4404),
        (order_id, subscribe(&for_another_customer, None), 4404),
        (order_id, subscribe(&access, None), 4401),
        (order_id, subscribe(&forged, None), 4401),
        (order_id, subscribe("", None), 4401),
        (order_id, json!({ "type": "subscribe" }), 4400),
        (order_id, json!({ "action": "unsubscribe" }), 4400),
    ] {
        let mut client = server.open(order_id).await;
        client.say(&message).await;
        assert_eq!(client.hear_close().await.0, code, "{message}");
    }
    let mut silent = server.open(order_id).await;
    assert_eq!(silent.hear_close().await, (4408, json!({ "reason": "subscribe_timeout" })));
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn a_token_is_for_connecting_and_need_not_last(db: PgPool) {
    let server = Server::start(db, Timing::default()).await;
    let order_id = server.order().await;
    // A token of no time is valid for the leeway.
    let token = server.signer.tracking(order_id.0, CUSTOMER, Duration::ZERO);
    let verifier = server.signer.tracking_verifier();
    let mut client = server.open(order_id).await;
    client.say(&subscribe(&token, None)).await;
    assert_eq!(client.hear().await["type"], "connected");
    until("the token has expired", || verifier.tracking(&token).is_err()).await;
    server.change(order_id, Change::PickUp).await;
    assert_eq!(client.hear().await["status"], "picked_up");
    let mut late = server.open(order_id).await;
    late.say(&subscribe(&token, None)).await;
    assert_eq!(late.hear_close().await.0, 4401);
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn a_customer_has_five_sockets(db: PgPool) {
    let server = Server::start(db, Timing::default()).await;
    let order_id = server.order().await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(server.watch(order_id, None).await.0);
    }
    let mut sixth = server.open(order_id).await;
    sixth.say(&subscribe(&server.token(order_id), None)).await;
    let (code, reason) = sixth.hear_close().await;
    assert_eq!(code, 4429);
    assert!(reason["retry_ms"].is_u64());

    clients[0].say(&json!({ "action": "unsubscribe" })).await;
    assert_eq!(clients[0].hear_close().await, (1000, json!({ "reason": "unsubscribed" })));
    until("a seat is free", || server.hub.watchers() == 4).await;
    server.watch(order_id, None).await;
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn what_is_not_the_protocol_ends_a_socket(db: PgPool) {
    let server = Server::start(db, Timing::default()).await;
    let order_id = server.order().await;
    for message in [
        tungstenite::Message::text("hello"),
        tungstenite::Message::text(r#"{"action":"jump"}"#),
        tungstenite::Message::binary(vec![1, 2, 3]),
    ] {
        let (mut client, _) = server.watch(order_id, None).await;
        client.0.send(message).await.unwrap();
        assert_eq!(client.hear_close().await.0, 4400);
    }
    let (mut client, _) = server.watch(order_id, None).await;
    client.0.send(tungstenite::Message::text("x".repeat(MESSAGE_MAX_BYTES + 1))).await.unwrap();
    until("the large message ended it", || server.hub.watchers() == 0).await;
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn a_client_that_does_not_read_delays_nobody_and_is_ended(db: PgPool) {
    let blocked_max = Duration::from_millis(500);
    let server = Server::start(db, Timing { blocked_max, ..Timing::default() }).await;
    let order_id = server.order().await;
    let (mut quick, _) = server.watch(order_id, None).await;
    let (mut slow, _) = server.watch(order_id, None).await;
    assert_eq!(server.hub.watchers(), 2);
    let start = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut sent = 0;
    while server.hub.watchers() == 2 {
        assert!(start.elapsed() < PATIENCE, "the slow one stays after {sent} positions");
        sent += 1;
        let at = Instant::now();
        server.hub.publish(&position(1, sent));
        assert_eq!(number(&quick.hear().await), sent);
        slowest = slowest.max(at.elapsed());
    }
    assert!(slowest < blocked_max, "the quick one waited {slowest:?} for a position");
    // What is still in the way shows that it skipped none but those that came while blocked.
    let mut numbers = Vec::new();
    while let Some(Ok(tungstenite::Message::Text(text))) =
        timeout(PATIENCE, slow.0.next()).await.unwrap()
    {
        numbers.push(number(&serde_json::from_str(&text).unwrap()));
    }
    assert!(numbers.len() < sent as usize / 2, "{} of {sent} were queued", numbers.len());
    assert!(numbers.is_sorted());
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn a_client_that_does_not_answer_pings_is_dead(db: PgPool) {
    let timing = Timing {
        ping_every: Duration::from_millis(50),
        dead_after: Duration::from_millis(400),
        ..Timing::default()
    };
    let server = Server::start(db, timing).await;
    let order_id = server.order().await;
    let (mut alive, _) = server.watch(order_id, None).await;
    let (_dead, _) = server.watch(order_id, None).await;
    // Reading answers pings. Twelve of them take longer than the dead one has.
    for _ in 0..12 {
        assert!(matches!(alive.next().await, tungstenite::Message::Ping(_)));
    }
    assert_eq!(server.hub.watchers(), 1);
    server.hub.publish(&position(1, 1));
    assert_eq!(number(&alive.hear().await), 1);
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn pings_go_along_with_positions_and_are_few(db: PgPool) {
    let ping_every = Duration::from_millis(200);
    let server = Server::start(db, Timing { ping_every, ..Timing::default() }).await;
    let order_id = server.order().await;
    let (mut client, _) = server.watch(order_id, None).await;
    let (mut positions, mut pings) = (0, 0);
    while pings < 3 {
        positions += 1;
        server.hub.publish(&position(1, positions));
        // What follows a position is the next one, unless a ping comes between.
        loop {
            match client.next().await {
                tungstenite::Message::Text(_) => break,
                tungstenite::Message::Ping(_) => pings += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    // Hundreds fit between two of them.
    assert!(positions > 2 * pings, "{pings} pings came with {positions} positions");
}

mod crowd;
