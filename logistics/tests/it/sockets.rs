//! Who gets a socket when many want one, and how drivers' sockets end.

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use platform::stores::Timescaledb;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message, client::IntoClientRequest as _};

use crate::{
    tracking::{Socket, hear, order, watch},
    world::{DEADLINE, World, until},
};

async fn stream(world: &World, driver_id: i64) -> Result<Socket, Error> {
    let url = world.url(&format!("/api/v1/drivers/{driver_id}/stream")).replace("http", "ws");
    let mut request = url.into_client_request()?;
    let bearer = format!("Bearer {}", world.driver(driver_id));
    request.headers_mut().insert("authorization", bearer.parse().unwrap());
    Ok(tokio_tungstenite::connect_async(request).await?.0)
}

/// Sends a fix and reads its acknowledgement.
async fn is_alive(socket: &mut Socket, ack: u64) {
    let fix = json!({"latitude": 1, "longitude": ack as f64 / 100.0}).to_string();
    socket.send(Message::text(fix)).await.unwrap();
    assert_eq!(hear(socket).await["ack"], ack);
}

/// The close code and what the reason says; acknowledgements may come before.
async fn ending(socket: &mut Socket) -> (u16, Value) {
    let ending = async {
        loop {
            if let Message::Close(Some(frame)) = socket.next().await.expect("an ending").unwrap() {
                let reason = serde_json::from_str(&frame.reason).unwrap();
                return (frame.code.into(), reason);
            }
        }
    };
    timeout(DEADLINE, ending).await.expect("the socket lives on")
}

#[tokio::test]
async fn a_driver_has_a_few_sockets_and_the_newest_count() {
    let world = World::start_with(Timescaledb::Auto, &["--streams-per-driver", "2"]).await;
    let mut other = stream(&world, 8).await.unwrap();
    let mut first = stream(&world, 7).await.unwrap();
    is_alive(&mut first, 1).await;
    let mut second = stream(&world, 7).await.unwrap();
    is_alive(&mut second, 1).await;
    let mut third = stream(&world, 7).await.unwrap();
    is_alive(&mut third, 1).await;
    let (code, reason) = ending(&mut first).await;
    assert_eq!((code, &reason["reason"]), (4429, &json!("too_many_sockets")));
    assert!(reason["retry_ms"].is_u64());
    is_alive(&mut second, 2).await;
    is_alive(&mut other, 1).await;
    // One that closes frees its place before its connection ends.
    second.close(None).await.unwrap();
    let ended = async { while second.next().await.is_some() {} };
    timeout(DEADLINE, ended).await.expect("the connection ends");
    let mut fourth = stream(&world, 7).await.unwrap();
    is_alive(&mut fourth, 1).await;
    is_alive(&mut third, 2).await;
}

#[tokio::test]
async fn drivers_that_come_too_fast_are_told_when_to_come_back() {
    let world = World::start_with(Timescaledb::Auto, &["--stream-rate", "30"]).await;
    let refused = async |driver_id: i64| {
        let start = Instant::now();
        loop {
            match stream(&world, driver_id).await {
                Ok(_) => assert!(start.elapsed() < DEADLINE, "everyone is let in"),
                Err(Error::Http(response)) => {
                    assert!(response.headers().contains_key("retry-after"));
                    return response.status().as_u16();
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    assert_eq!(refused(7).await, 429, "one driver");
    let rush = (100..400).map(|driver_id| stream(&world, driver_id));
    let came = futures_util::future::join_all(rush).await;
    let status = |came: &Result<Socket, Error>| match came {
        Err(Error::Http(response)) => response.status().as_u16(),
        _ => 101,
    };
    assert!(came.iter().any(|came| status(came) == 503), "all drivers together");
    assert!(came.iter().all(|came| [101, 503].contains(&status(came))));
}

#[tokio::test]
async fn drivers_sockets_end_spread_over_the_stop() {
    let mut world = World::start().await;
    let mut sockets = Vec::new();
    for driver_id in 1..=20 {
        let mut socket = stream(&world, driver_id).await.unwrap();
        is_alive(&mut socket, 1).await;
        sockets.push(socket);
    }
    let start = Instant::now();
    let endings = futures_util::future::join_all(sockets.iter_mut().map(|socket| async move {
        let (code, reason) = ending(socket).await;
        assert_eq!((code, &reason["reason"]), (1012, &json!("restart")));
        (start.elapsed(), reason["retry_ms"].as_u64().unwrap())
    }));
    let (mut endings, ()) = tokio::join!(endings, world.stop_service());
    endings.sort_unstable();
    // 20 of 5 s: that they are all within one second has a chance of one in 10^12.
    let spread = endings[19].0 - endings[0].0;
    assert!(spread > Duration::from_secs(1), "{endings:?}");
    endings.dedup_by_key(|ending| ending.1);
    assert!(endings.len() > 10, "they would all be back at once: {endings:?}");
}

/// A WebSocket's handshake without a word about who comes.
async fn handshake(address: &str, path: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"HTTP/1.1 101", "{}", String::from_utf8_lossy(&answer));
    Ok(stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_without_a_token_keep_no_customer_out() {
    // Far less than the sockets without a token would use up of it.
    let flags = [
        ["--socket-rate", "50"],
        ["--sockets-unsubscribed", "200"],
        ["--sockets-per-customer", "100"],
    ]
    .concat();
    let world = World::start_with(Timescaledb::Auto, &flags).await;
    let order_id = order(&world, 7).await;
    let path = format!("/api/v1/drivers/orders/{order_id}/driver-location");
    let address = world.url("").trim_start_matches("http://").to_owned();
    let crowd = tokio::spawn(async move {
        let mut held = std::collections::VecDeque::new();
        loop {
            // Some are cut in the handshake, when a place is needed.
            if let Ok(socket) = handshake(&address, &path).await {
                held.push_back(socket);
            }
            if held.len() > 400 {
                held.pop_front();
            }
        }
    });
    let crowded = async || {
        let metrics = world.get("/metrics", "").await;
        let line = "tracking_endings_total{reason=\"crowded\"} ";
        let count = metrics.text().lines().find_map(|l| l.strip_prefix(line)?.parse::<u64>().ok());
        count.unwrap_or(0)
    };
    until("the crowd is larger than its places", async || crowded().await > 100).await;
    for _ in 0..30 {
        let (socket, _) = watch(&world, order_id, None).await;
        drop(socket);
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert!(!crowd.is_finished(), "the crowd went on all the time");
    crowd.abort();
}
