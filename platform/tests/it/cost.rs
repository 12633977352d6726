//! What the stack costs, in CPU time of the server's thread with the kernel's part in it.
//!
//! `cargo test --release -p platform --test it -- --ignored --nocapture cost`

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use http::{Method, StatusCode};
use platform::access::{AccessTable, Who};
use platform::auth::{Auth, Role, Signer};
use platform::extract::{Json, Path};
use platform::health::Health;
use platform::serve::{self, HttpArgs};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

const CONNECTIONS: usize = 32;
const ROUNDS: usize = 3000;
const ROUTE: &str = "/api/v1/drivers/{driver_id}/location";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fix {
    latitude: f64,
    longitude: f64,
    speed: Option<f64>,
    heading: Option<f64>,
    accuracy: Option<f64>,
}

#[derive(Serialize)]
struct Accepted {
    status: &'static str,
    message_id: &'static str,
    driver_id: i64,
}

async fn accept(
    _caller: Auth,
    Path(driver_id): Path<i64>,
    Json(fix): Json<Fix>,
) -> (StatusCode, Json<Accepted>) {
    std::hint::black_box((fix.latitude, fix.longitude, fix.speed, fix.heading, fix.accuracy));
    let accepted = Accepted { status: "accepted", message_id: "1700000000000-0", driver_id };
    (StatusCode::ACCEPTED, Json(accepted))
}

#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
fn cost_per_request() {
    let (signer, _, _) = Signer::generate();
    let token = signer.access(Role::Driver, 7, &[], Duration::from_secs(600));
    let bare = Router::new().route(ROUTE, post(async || StatusCode::ACCEPTED));
    let args = HttpArgs::default();
    let layered = serve::layers(bare.clone(), &Health::new("test"), &args);
    let table = AccessTable::new(&[(Method::POST, ROUTE, Who::Roles(&[Role::Driver]))]);
    let guarded = table.clone().protect(bare.clone(), signer.verifier());
    let guarded = serve::layers(guarded, &Health::new("test"), &args);
    let whole = table.protect(Router::new().route(ROUTE, post(accept)), signer.verifier());
    let whole = serve::layers(whole, &Health::new("test"), &args);
    for _ in 0..2 {
        for (name, router) in [
            ("empty handler, serve alone", &bare),
            ("  + layers", &layered),
            ("  + access with a cached token", &guarded),
            ("  + path, JSON in and out", &whole),
        ] {
            let ns = cpu_ns_per_request(router.clone(), &token);
            println!("{name:<32} {:6.2} us", ns / 1000.0);
        }
    }
}

fn cpu_ns_per_request(router: Router, token: &str) -> f64 {
    let body =
        r#"{"latitude":37.775,"longitude":-122.418,"speed":31.5,"heading":270.0,"accuracy":4.2}"#;
    let request = format!(
        "POST /api/v1/drivers/7/location HTTP/1.1\r\nhost: 127.0.0.1:8002\r\n\
         content-type: application/json\r\nauthorization: Bearer {token}\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let shutdown = CancellationToken::new();
    let (told, address) = std::sync::mpsc::channel();
    let stop = shutdown.clone();
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            told.send(listener.local_addr().unwrap()).unwrap();
            let before = thread_cpu_ns();
            serve::serve(listener, serve::Apps::ready(router), &HttpArgs::default(), stop)
                .await
                .unwrap();
            thread_cpu_ns() - before
        })
    });
    drive(address.recv().unwrap(), request.as_bytes());
    shutdown.cancel();
    server.join().unwrap() as f64 / (CONNECTIONS * ROUNDS) as f64
}

fn drive(address: SocketAddr, request: &[u8]) {
    let mut connections: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|_| {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_nodelay(true).unwrap();
            stream
        })
        .collect();
    let mut answer = [0; 1024];
    for _ in 0..ROUNDS {
        for connection in &mut connections {
            connection.write_all(request).unwrap();
        }
        for connection in &mut connections {
            let read = connection.read(&mut answer).unwrap();
            assert!(answer[..read].starts_with(b"HTTP/1.1 202"), "{:?}", &answer[..read]);
        }
    }
}

/// CPU time of this thread as the scheduler counts it.
fn thread_cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split_ascii_whitespace().next().unwrap().parse().unwrap()
}
