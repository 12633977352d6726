//! What a request costs the generator, against the same with hyper's client.
//!
//! `cargo test --release -p loadtest --test client_cost -- --ignored --nocapture`
//!
//! The server is axum with a handler that does nothing, on a thread of its own; the clients run on
//! the test's thread, whose CPU time is read. On 2 busy cores (2026-11-21) the own client took
//! 5.8 to 6.9 µs and hyper 8.2 to 10.1 µs a request, 1.45 times as much. That is why the generator
//! has its own.

use std::{
    cell::Cell,
    fs, io,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use axum::{Router, http::StatusCode, routing::post};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use loadtest::client::{Connection, Target, complete};
use tokio::{net::TcpStream, task::LocalSet, time::timeout};

const CONNECTIONS: usize = 64;
const REQUESTS: u64 = 200_000;
const BODY: &[u8] = br#"{"latitude":37.7749123,"longitude":-122.4194155,"speed":36.0,"heading":90.5,"accuracy":4,"event_id":"0000000000000abc","recorded_at":"2026-11-20T10:00:00.000042Z"}"#;

#[test]
#[ignore = "a measurement: run it alone and with --release"]
fn a_request_costs_less_than_with_hyper() {
    let address = serve();
    let target = Target::parse(&format!("http://{address}")).unwrap();
    let token = "t".repeat(300);
    let head: Rc<[u8]> = target.head("POST", "/drivers/7/location", &token).into();
    let measure = |name: &str, run: &dyn Fn(Rc<Cell<u64>>) -> LocalSet| {
        let left = Rc::new(Cell::new(REQUESTS));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (started, cpu) = (Instant::now(), thread_cpu());
        runtime.block_on(run(left));
        let (rate, used) = (REQUESTS as f64 / started.elapsed().as_secs_f64(), thread_cpu() - cpu);
        let us = used.as_secs_f64() * 1e6 / REQUESTS as f64;
        eprintln!("{name}: {us:.1} µs of CPU per request, {rate:.0} requests/s");
        us
    };
    let own = || {
        measure("own client", &|left| {
            let local = LocalSet::new();
            for _ in 0..CONNECTIONS {
                let (left, target, head) = (Rc::clone(&left), target.clone(), Rc::clone(&head));
                local.spawn_local(async move {
                    let mut connection = Connection::open(&target).await.unwrap();
                    let mut request = Vec::new();
                    while take(&left) {
                        request.clear();
                        complete(&mut request, &head, BODY);
                        assert_eq!(connection.exchange(&request).await.unwrap().status, 202);
                    }
                });
            }
            local
        })
    };
    let hyper = || {
        measure("hyper", &|left| {
            let local = LocalSet::new();
            let bearer = http::HeaderValue::try_from(format!("Bearer {token}")).unwrap();
            let host = http::HeaderValue::try_from(target.authority.clone()).unwrap();
            for _ in 0..CONNECTIONS {
                let (left, bearer, host) = (Rc::clone(&left), bearer.clone(), host.clone());
                local.spawn_local(async move {
                    let stream = TcpStream::connect(address).await.unwrap();
                    stream.set_nodelay(true).unwrap();
                    let (mut sender, connection) =
                        http1::handshake(TokioIo::new(stream)).await.unwrap();
                    tokio::task::spawn_local(connection);
                    while take(&left) {
                        let request = Request::post("/api/v1/drivers/7/location")
                            .header("host", host.clone())
                            .header("authorization", bearer.clone())
                            .header("content-type", "application/json")
                            .body(Full::new(Bytes::copy_from_slice(BODY)))
                            .unwrap();
                        // The own client has a limit on its answers too.
                        let answer = async {
                            let response = sender.send_request(request).await.unwrap();
                            assert_eq!(response.status(), 202);
                            response.into_body().collect().await.unwrap()
                        };
                        timeout(Duration::from_secs(10), answer).await.unwrap();
                    }
                });
            }
            local
        })
    };
    // The first round warms both up.
    let rounds: Vec<_> = (0..5).map(|_| (own(), hyper())).skip(1).collect();
    let (own, hyper): (Vec<f64>, Vec<f64>) = rounds.into_iter().unzip();
    let (own, hyper) = (own.iter().sum::<f64>(), hyper.iter().sum::<f64>());
    eprintln!("hyper costs {:.2} times as much", hyper / own);
    assert!(hyper > own, "hyper costs less: use it");
}

fn take(left: &Cell<u64>) -> bool {
    let is_any = left.get() > 0;
    left.set(left.get().saturating_sub(1));
    is_any
}

/// An axum server that reads the body and answers like the real one.
fn serve() -> SocketAddr {
    const ANSWER: &str = r#"{"status":"accepted","message_id":"1700000000000-0","driver_id":7}"#;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || -> io::Result<()> {
        let app = Router::new().route(
            "/api/v1/drivers/{driver_id}/location",
            post(|_body: Bytes| async { (StatusCode::ACCEPTED, ANSWER) }),
        );
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { accept(listener, app).await })
    });
    address
}

/// `axum::serve` needs a feature that the services do without.
async fn accept(listener: std::net::TcpListener, app: Router) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let service = hyper_util::service::TowerToHyperService::new(app.clone());
        tokio::spawn(
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}

/// CPU time of the calling thread; proc(5) counts in 1/100 s.
fn thread_cpu() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
    let fields: Vec<u64> = stat[stat.rfind(')').unwrap() + 1..]
        .split_whitespace()
        .map(|field| field.parse().unwrap_or_default())
        .collect();
    Duration::from_millis((fields[11] + fields[12]) * 10)
}
