//! Orders, their drivers, and the customers who watch them.

use std::time::Duration;

use bytes::Bytes;
use contracts::ids::OrderId;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use platform::{auth::Role, stores::Timescaledb};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Error, Message, client::IntoClientRequest as _},
};

use crate::world::{DEADLINE, World, until};

pub(crate) const CUSTOMER: i64 = 9;

/// A driver who is registered, and an order of [`CUSTOMER`] that this driver has.
pub(crate) async fn order(world: &World, driver_id: i64) -> OrderId {
    let order_id = OrderId::generate();
    let driver = json!({ "driver_id": driver_id, "vehicle": "scooter", "capacity": 9 });
    let answer = world.post("/api/v1/drivers", &world.admin(), &driver).await;
    assert!([200, 201].contains(&answer.status), "{}", answer.text());
    let new = json!({ "order_id": order_id, "customer_id": CUSTOMER, "driver_id": driver_id });
    let answer = world.post("/api/v1/deliveries", &world.admin(), &new).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    order_id
}

async fn moves_to(world: &World, driver_id: i64, latitude: f64) {
    let fix = json!({ "latitude": latitude, "longitude": -122.4, "speed": 36 });
    let path = format!("/api/v1/drivers/{driver_id}/location");
    let answer = world.post(&path, &world.driver(driver_id), &fix).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
}

async fn status(world: &World, order_id: OrderId, driver_id: i64, status: &str) {
    let path = format!("/api/v1/deliveries/{order_id}/status");
    let answer = world.put(&path, &world.driver(driver_id), &json!({ "status": status })).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn customer(world: &World) -> String {
    world.token(Role::Customer, CUSTOMER)
}

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn open(world: &World, order_id: OrderId, origin: &str) -> Result<Socket, Error> {
    let path = format!("/api/v1/drivers/orders/{order_id}/driver-location");
    let mut request = world.url(&path).replace("http://", "ws://").into_client_request()?;
    if !origin.is_empty() {
        request.headers_mut().insert("origin", origin.parse().unwrap());
    }
    Ok(tokio_tungstenite::connect_async(request).await?.0)
}

pub(crate) async fn watch(world: &World, order_id: OrderId, since: Option<i64>) -> (Socket, Value) {
    let mut socket = open(world, order_id, "").await.unwrap();
    let token = world.tracking_signer.tracking(order_id.0, CUSTOMER, Duration::from_secs(60));
    let subscribe = json!({ "type": "subscribe", "token": token, "since": since });
    socket.send(Message::text(subscribe.to_string())).await.unwrap();
    let connected = hear(&mut socket).await;
    assert_eq!(connected["type"], "connected");
    (socket, connected)
}

pub(crate) async fn hear(socket: &mut Socket) -> Value {
    match next(socket).await {
        Some(Ok(Message::Text(text))) => serde_json::from_str(&text).unwrap(),
        other => panic!("{other:?} instead of a text"),
    }
}

pub(crate) async fn hear_close(socket: &mut Socket) -> u16 {
    match next(socket).await {
        Some(Ok(Message::Close(Some(frame)))) => frame.code.into(),
        other => panic!("{other:?} instead of the end"),
    }
}

/// The next message that is not a ping, which must not make a test wait any longer.
async fn next(socket: &mut Socket) -> Option<Result<Message, Error>> {
    let next = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Ping(_))) => {}
                other => return other,
            }
        }
    };
    timeout(DEADLINE, next).await.expect("the server says nothing")
}

#[tokio::test]
async fn a_customer_follows_an_order_to_the_door() {
    let world = World::start().await;
    let order_id = order(&world, 7).await;
    let newest = format!("/api/v1/drivers/orders/{order_id}/driver-location");
    assert_eq!(world.get(&newest, &customer(&world)).await.status, 404, "no position yet");

    let (mut first, connected) = watch(&world, order_id, None).await;
    assert_eq!((&connected["seq"], &connected["location"]), (&json!(2), &Value::Null));
    moves_to(&world, 7, 37.7001).await;
    let update = hear(&mut first).await;
    assert_eq!((&update["type"], &update["driver_id"]), (&json!("location_update"), &json!(7)));
    assert_eq!((&update["latitude"], &update["speed"]), (&json!(37.7001), &json!(36.0)));
    let mut update = update;
    update.as_object_mut().unwrap().remove("type");
    assert_eq!(world.get(&newest, &customer(&world)).await.json(), update);

    status(&world, order_id, 7, "picked_up").await;
    assert_eq!(hear(&mut first).await["seq"], 3);
    drop(first);
    status(&world, order_id, 7, "delivered").await;

    let (mut second, connected) = watch(&world, order_id, Some(2)).await;
    assert_eq!((&connected["status"], &connected["seq"]), (&json!("delivered"), &json!(4)));
    assert_eq!(connected["location"], Value::Null, "the driver is private again");
    assert_eq!(hear(&mut second).await["seq"], 3);
    let last = hear(&mut second).await;
    assert_eq!((&last["seq"], &last["status"]), (&json!(4), &json!("delivered")));
    assert_eq!(hear_close(&mut second).await, 1000);
    assert_eq!(world.get(&newest, &customer(&world)).await.status, 404);
}

#[tokio::test]
async fn a_snapshot_has_the_position_and_a_reassignment_the_new_drivers() {
    let world = World::start().await;
    let order_id = order(&world, 7).await;
    order(&world, 8).await;
    moves_to(&world, 7, 37.7).await;
    moves_to(&world, 8, 37.8).await;
    for driver_id in [7, 8] {
        let path = format!("/api/v1/drivers/{driver_id}/location");
        until("both are current", async || world.get(&path, &world.admin()).await.status == 200)
            .await;
    }
    let (mut socket, connected) = watch(&world, order_id, None).await;
    assert_eq!(connected["location"]["latitude"], 37.7);
    let path = format!("/api/v1/deliveries/{order_id}/assign");
    let answer = world.post(&path, &world.admin(), &json!({ "driver_id": 8 })).await;
    assert_eq!(answer.json()["driver_id"], 8);
    assert_eq!(hear(&mut socket).await["driver_id"], 8);
    let update = hear(&mut socket).await;
    assert_eq!((&update["driver_id"], &update["latitude"]), (&json!(8), &json!(37.8)));
}

#[tokio::test]
async fn a_status_that_changes_while_postgresql_restarts_is_told_once() {
    let world = World::start().await;
    let order_id = order(&world, 7).await;
    let (mut socket, _) = watch(&world, order_id, None).await;
    world.postgres.kill();
    let path = format!("/api/v1/deliveries/{order_id}/status");
    let picked_up = json!({ "status": "picked_up" });
    let answer = world.put(&path, &world.driver(7), &picked_up).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.headers.contains_key("retry-after"));
    world.postgres.restart().await.unwrap();
    // Written at once when PostgreSQL is back, before the service hears notifications again.
    until("the status is written", async || {
        world.put(&path, &world.driver(7), &picked_up).await.status == 200
    })
    .await;
    assert_eq!(hear(&mut socket).await["seq"], 3);
    status(&world, order_id, 7, "delivered").await;
    assert_eq!(hear(&mut socket).await["seq"], 4);
    assert_eq!(hear_close(&mut socket).await, 1000);
}

#[tokio::test]
async fn a_stop_sends_watchers_away_in_time() {
    let mut world = World::start().await;
    let order_id = order(&world, 7).await;
    let (mut socket, _) = watch(&world, order_id, None).await;
    let stream = stream_of(&world, order_id, "").await;
    let (code, ..) = tokio::join!(hear_close(&mut socket), stream.text(), world.stop_service());
    assert_eq!(code, 1012);
}

#[tokio::test]
async fn unknown_pages_and_a_rush_stay_outside() {
    let flags = ["--socket-rate", "2", "--origins", "https://app.example.com"];
    let world = World::start_with(Timescaledb::Auto, &flags).await;
    let order_id = order(&world, 7).await;
    let refused = async |origin: &str| match open(&world, order_id, origin).await {
        Err(Error::Http(response)) => {
            (response.status().as_u16(), response.headers().contains_key("retry-after"))
        }
        other => panic!("{other:?} instead of a refusal"),
    };
    assert_eq!(refused("https://evil.example.com").await, (403, false));
    let mut inside = vec![open(&world, order_id, "https://app.example.com").await.unwrap()];
    // Two customers a second come in; a third within the same half second does not.
    let rush = async {
        loop {
            let mut socket = open(&world, order_id, "").await.unwrap();
            let customer = i64::try_from(inside.len()).unwrap() + 100;
            let token =
                world.tracking_signer.tracking(order_id.0, customer, Duration::from_secs(60));
            let subscribe = json!({ "type": "subscribe", "token": token });
            socket.send(Message::text(subscribe.to_string())).await.unwrap();
            // 4404, for the order is not theirs, says that they were let in.
            let code = hear_close(&mut socket).await;
            if code != 4404 {
                return code;
            }
            inside.push(socket);
        }
    };
    assert_eq!(timeout(DEADLINE, rush).await.unwrap(), 1013);
    // Streams share what sockets of customers share.
    until("a stream is too early as well", async || {
        let answer = world.get(&events_path(order_id), &customer(&world)).await;
        answer.status == 503 && answer.headers.contains_key("retry-after")
    })
    .await;
    until("one comes in again", async || {
        let mut socket = open(&world, order_id, "").await.unwrap();
        let token = world.tracking_signer.tracking(order_id.0, CUSTOMER, Duration::from_secs(60));
        let subscribe = json!({ "type": "subscribe", "token": token });
        socket.send(Message::text(subscribe.to_string())).await.unwrap();
        matches!(next(&mut socket).await, Some(Ok(Message::Text(_))))
    })
    .await;
}

/// A stream of server-sent events.
struct Events(hyper::body::Incoming, String);

impl Events {
    /// The next event's name, id and data.
    async fn next(&mut self) -> (String, Option<i64>, Value) {
        loop {
            if let Some((event, rest)) = self.1.split_once("\n\n") {
                let field = |name: &str| {
                    event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
                };
                let parsed = field("event: ").map(|name| {
                    let id = field("id: ").map(|id| id.parse().unwrap());
                    (name, id, serde_json::from_str(&field("data: ").unwrap()).unwrap())
                });
                self.1 = rest.to_owned();
                match parsed {
                    Some(parsed) => return parsed,
                    None => continue,
                }
            }
            let frame = timeout(DEADLINE, self.0.frame()).await.expect("the server says nothing");
            let bytes = frame.expect("the stream is over").unwrap().into_data().unwrap();
            self.1 += std::str::from_utf8(&bytes).unwrap();
        }
    }

    /// Everything up to the end.
    async fn text(self) -> String {
        let rest = timeout(DEADLINE, self.0.collect()).await.expect("the stream does not end");
        self.1 + std::str::from_utf8(&rest.unwrap().to_bytes()).unwrap()
    }
}

async fn stream_of(world: &World, order_id: OrderId, last_event_id: &str) -> Events {
    let mut request = http::Request::get(world.url(&events_path(order_id)))
        .header("accept", "text/event-stream")
        .header("authorization", format!("Bearer {}", customer(world)));
    if !last_event_id.is_empty() {
        request = request.header("last-event-id", last_event_id);
    }
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    Events(response.into_body(), String::new())
}

fn events_path(order_id: OrderId) -> String {
    format!("/api/v1/drivers/orders/{order_id}/events")
}

#[tokio::test]
async fn an_event_stream_tells_the_same_as_a_socket() {
    let world = World::start().await;
    let order_id = order(&world, 7).await;
    let mut stream = stream_of(&world, order_id, "").await;
    let (name, id, connected) = stream.next().await;
    assert_eq!(
        (name.as_str(), id, &connected["status"]),
        ("connected", Some(2), &json!("assigned"))
    );
    moves_to(&world, 7, 37.7001).await;
    let (name, id, update) = stream.next().await;
    assert_eq!((name.as_str(), id), ("location_update", None));
    assert_eq!(update["latitude"], 37.7001);
    status(&world, order_id, 7, "picked_up").await;
    let (name, id, change) = stream.next().await;
    assert_eq!((name.as_str(), id, &change["seq"]), ("status_change", Some(3), &json!(3)));
    drop(stream);
    status(&world, order_id, 7, "delivered").await;

    let mut stream = stream_of(&world, order_id, "3").await;
    assert_eq!(stream.next().await.0, "connected");
    assert_eq!(stream.next().await.1, Some(4));
    assert_eq!(stream.next().await.0, "end");
    assert_eq!(stream.text().await, "");

    // Seen it all: an EventSource that comes back is told to stop.
    let path = events_path(order_id);
    assert_eq!(world.get(&format!("{path}?since=4"), &customer(&world)).await.status, 204);
    let json_only = [("accept", "application/json")];
    let list = format!("{path}?since=2");
    let list = world.send("GET", &list, &customer(&world), &json_only, Bytes::new()).await.json();
    let told: Vec<_> = list["events"].as_array().unwrap().iter().map(|e| &e["status"]).collect();
    assert_eq!(told, ["picked_up", "delivered"]);
}

#[tokio::test]
async fn somebody_elses_order_is_a_missing_one() {
    let world = World::start().await;
    let order_id = order(&world, 7).await;
    moves_to(&world, 7, 37.7).await;
    let paths = [
        format!("/api/v1/drivers/orders/{order_id}/driver-location"),
        events_path(order_id),
        format!("/api/v1/deliveries/{order_id}"),
    ];
    let other = world.token(Role::Customer, CUSTOMER + 1);
    for path in &paths {
        assert_eq!(world.get(path, &other).await.status, 404, "{path}");
        assert_eq!(world.get(path, "").await.status, 401, "{path}");
        let missing = path.replace(&order_id.to_string(), &OrderId::generate().to_string());
        assert_eq!(world.get(&missing, &customer(&world)).await.status, 404, "{missing}");
    }
    for path in &paths[..2] {
        assert_eq!(world.get(path, &world.driver(7)).await.status, 403, "{path}");
    }
    let operator = |restaurants: &[i64]| {
        world.signer.access(Role::Operator, 1, restaurants, Duration::from_secs(60))
    };
    assert_eq!(world.get(&paths[2], &operator(&[3])).await.status, 404, "no restaurant's order");
    assert_eq!(world.get(&paths[2], &world.driver(7)).await.status, 200);
    assert_eq!(world.get(&paths[2], &world.driver(8)).await.status, 404);

    let status = format!("/api/v1/deliveries/{order_id}/status");
    let picked_up = json!({ "status": "picked_up" });
    assert_eq!(world.put(&status, &world.driver(8), &picked_up).await.status, 404);
    assert_eq!(world.put(&status, &customer(&world), &picked_up).await.status, 403);
    let online = json!({ "state": "online" });
    for (driver_id, code) in [(7, 200), (8, 404)] {
        let path = format!("/api/v1/drivers/{driver_id}/status");
        assert_eq!(world.put(&path, &world.driver(7), &online).await.status, code);
    }
}

#[tokio::test]
async fn deliveries_and_drivers_refuse_what_cannot_be() {
    let world = World::start().await;
    let admin = world.admin();
    let order_id = order(&world, 7).await;
    let created = |extra: Value| {
        let mut body = json!({ "order_id": order_id, "customer_id": CUSTOMER, "driver_id": 7 });
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    let post = async |body: Value| world.post("/api/v1/deliveries", &admin, &body).await;
    assert_eq!(post(created(json!({}))).await.status, 200, "the same again");
    assert_eq!(post(created(json!({ "customer_id": 10 }))).await.status, 409);
    assert_eq!(post(created(json!({ "note": "x" }))).await.status, 422);
    let unknown = created(json!({ "order_id": OrderId::generate(), "driver_id": 404 }));
    let answer = post(unknown).await;
    assert_eq!((answer.status, &answer.json()["errors"][0]["field"]), (422, &json!("driver_id")));

    let path = format!("/api/v1/deliveries/{order_id}/status");
    let put = async |body: Value| world.put(&path, &admin, &body).await;
    let illegal = put(json!({ "status": "delivered" })).await;
    assert_eq!(illegal.status, 409);
    assert_eq!(
        illegal.json()["detail"],
        "Not done: a delivery that is assigned cannot become delivered."
    );
    assert_eq!(put(json!({ "status": "picked_up", "version": 1 })).await.status, 409);
    assert_eq!(put(json!({ "status": "picked_up", "version": 2 })).await.status, 200);
    assert_eq!(put(json!({ "status": "confirmed" })).await.status, 422);

    let register = async |body: Value| world.post("/api/v1/drivers", &admin, &body).await.status;
    assert_eq!(register(json!({ "driver_id": 7, "vehicle": "car" })).await, 409);
    assert_eq!(register(json!({ "driver_id": 9, "vehicle": "tank" })).await, 422);
    assert_eq!(register(json!({ "driver_id": 9, "vehicle": "car", "capacity": 0 })).await, 422);
    assert_eq!(register(json!({ "driver_id": 0, "vehicle": "car" })).await, 422);
    let list = world.get("/api/v1/drivers?vehicle=scooter", &admin).await.json();
    assert_eq!((&list["total"], &list["drivers"][0]["driver_id"]), (&json!(1), &json!(7)));
    assert_eq!(world.get("/api/v1/drivers?page_size=101", &admin).await.status, 422);
}

#[tokio::test]
async fn a_client_that_offers_other_protocols_is_answered_as_without() {
    let world = World::start().await;
    let order_id = order(&world, 7).await;
    moves_to(&world, 7, 37.7).await;
    let path = format!("/api/v1/drivers/orders/{order_id}/driver-location");
    until("the position is current", async || {
        world.get(&path, &customer(&world)).await.status == 200
    })
    .await;
    for upgrade in ["h2c", "HTTP/2.0, TLS/1.3", ""] {
        let headers = [("upgrade", upgrade), ("connection", "upgrade, http2-settings")];
        let answer = world.send("GET", &path, &customer(&world), &headers, Bytes::new()).await;
        assert_eq!((answer.status, &answer.json()["latitude"]), (200, &json!(37.7)), "{upgrade}");
    }
    // Several protocols, among them ours: that is an attempt, and lacks its other headers.
    let headers = [("upgrade", "h2c, WebSocket"), ("connection", "upgrade")];
    let answer = world.send("GET", &path, &customer(&world), &headers, Bytes::new()).await;
    assert_eq!(answer.status, 400);
}

#[tokio::test]
async fn a_stream_goes_on_from_what_the_client_has_seen() {
    let world = World::start().await;
    let order_id = order(&world, 7).await;
    let path = events_path(order_id);
    let ask = async |id: &str| {
        let headers = [("accept", "application/json"), ("last-event-id", id)];
        world.send("GET", &path, &customer(&world), &headers, Bytes::new()).await
    };
    let as_json = [("accept", "application/json")];
    let all = world.send("GET", &path, &customer(&world), &as_json, Bytes::new()).await.json();
    assert_eq!(all["events"].as_array().unwrap().len(), 2);
    assert_eq!(ask("").await.json(), all, "an empty id is none");
    assert_eq!(ask("null").await.status, 422);
    assert_eq!(ask("2").await.json()["events"], json!([]));
    // A seq of the future, or from before the first: the next change is told all the same.
    let mut ahead = stream_of(&world, order_id, "999999").await;
    assert_eq!(ahead.next().await.0, "connected");
    let mut behind = stream_of(&world, order_id, "-5").await;
    assert_eq!(behind.next().await.0, "connected");
    status(&world, order_id, 7, "picked_up").await;
    assert_eq!(ahead.next().await.1, Some(3));
    let seen = [behind.next().await.1, behind.next().await.1, behind.next().await.1];
    assert_eq!(seen, [Some(1), Some(2), Some(3)]);
}
