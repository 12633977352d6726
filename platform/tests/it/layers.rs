//! What every request passes: ids, limits, panics, problems, metrics, CORS.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use http::StatusCode;
use platform::extract::Json;
use platform::problem::Problem;
use platform::serve::{ClientAddress, HttpArgs};
use serde_json::Value;

use crate::kit::Server;

fn router() -> Router {
    Router::new()
        .route("/ok", get(async || "ok"))
        .route("/things/{id}", get(async || "ok"))
        .route("/raw", post(async |body: Bytes| body.len().to_string()))
        .route("/json", post(async |Json(value): Json<Value>| Json(value)))
        .route("/panic", get(async || -> &'static str { panic!("the secret 4711") }))
        .route("/hang", get(async || std::future::pending::<&'static str>().await))
        .route("/plain", get(async || (StatusCode::BAD_REQUEST, "internals: /etc/passwd")))
        .route(
            "/internal",
            get(async || Problem::internal(&std::io::Error::other("SELECT secret FROM t"))),
        )
        .route(
            "/away",
            get(async || Problem::unavailable("The queue is away.", Duration::from_millis(1500))),
        )
        .route(
            "/json-error",
            get(async || (StatusCode::CONFLICT, Json("mine".to_owned())).into_response()),
        )
}

#[tokio::test]
async fn request_ids_are_taken_or_made() {
    let server = Server::start(router(), HttpArgs::default()).await;
    let answer = server.get("/ok", "x-request-id: abc-123\r\n").await;
    assert_eq!(answer.header("x-request-id"), Some("abc-123"));
    let made = server.get("/ok", "x-request-id: <b>\r\n").await;
    let made = made.header("x-request-id").unwrap().to_owned();
    assert!(made.len() == 16 && made.bytes().all(|b| b.is_ascii_hexdigit()), "{made}");
    let other = server.get("/ok", "").await;
    assert_ne!(other.header("x-request-id"), Some(&*made));
    let problem = server.get("/nowhere", "x-request-id: abc-124\r\n").await;
    assert_eq!(problem.problem(404, "not-found")["request_id"], "abc-124");
}

#[tokio::test]
async fn failures_leave_as_problems_without_their_causes() {
    let server = Server::start(router(), HttpArgs::default()).await;
    server.get("/nowhere", "").await.problem(404, "not-found");
    let answer = server.post("/ok", "{}").await;
    answer.problem(405, "method-not-allowed");
    assert_eq!(answer.header("allow"), Some("GET,HEAD"));
    server.get("/plain", "").await.problem(400, "bad-request");
    server.get("/internal", "").await.problem(500, "internal");
    server.get("/panic", "").await.problem(500, "internal");
    for path in ["/plain", "/internal", "/panic"] {
        let answer = server.get(path, "").await;
        for secret in ["passwd", "SELECT", "4711", "panic", ".rs"] {
            assert!(!answer.body.contains(secret), "{answer:?}");
        }
    }
    let answer = server.get("/away", "").await;
    assert_eq!(answer.problem(503, "unavailable")["detail"], "The queue is away.");
    assert_eq!(answer.header("retry-after"), Some("2"));
    let own = server.get("/json-error", "").await;
    assert_eq!((own.status, &*own.body), (409, "\"mine\""));
}

#[tokio::test]
async fn a_panic_ends_neither_the_connection_nor_the_server() {
    let server = Server::start(router(), HttpArgs::default()).await;
    let mut client = server.client().await;
    for _ in 0..3 {
        assert_eq!(client.ask("GET", "/panic", "", "").await.status, 500);
        assert_eq!(client.ask("GET", "/ok", "", "").await.status, 200);
    }
}

#[tokio::test]
async fn head_has_no_body_whatever_happens() {
    let server = Server::start(router(), HttpArgs::default()).await;
    let mut client = server.client().await;
    for (path, status) in [("/ok", 200), ("/nowhere", 404), ("/panic", 500), ("/ok", 200)] {
        let answer = client.ask("HEAD", path, "", "").await;
        // Bytes of a body would be read as the start of the next answer.
        assert_eq!((answer.status, &*answer.body), (status, ""), "{path}");
    }
}

#[tokio::test]
async fn a_request_without_an_answer_times_out() {
    let args = HttpArgs { request_timeout: Duration::from_millis(50), ..HttpArgs::default() };
    let server = Server::start(router(), args).await;
    server.get("/hang", "").await.problem(504, "timeout");
    // A body that never arrives is also the request's time.
    let mut client = server.client().await;
    client.send("POST /raw HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\nabc").await;
    client.answer(false).await.expect("an answer").problem(504, "timeout");
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused() {
    let args = HttpArgs { max_body_bytes: 1000, ..HttpArgs::default() };
    let server = Server::start(router(), args).await;
    let json = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    assert_eq!(server.post("/json", &json(1000)).await.status, 200);
    assert_eq!(server.post("/raw", &json(1000)).await.body, "1000");
    for path in ["/json", "/raw"] {
        server.post(path, &json(1001)).await.problem(413, "too-large");
        // One that does not say how long it will be.
        let mut client = server.client().await;
        client
            .send(&format!(
                "POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n\
                 transfer-encoding: chunked\r\n\r\n3e9\r\n{}\r\n0\r\n\r\n",
                json(1001)
            ))
            .await;
        client.answer(false).await.expect("an answer").problem(413, "too-large");
    }
    // A header that promises too much is refused before the body is sent.
    let mut client = server.client().await;
    client.send("POST /raw HTTP/1.1\r\nhost: test\r\ncontent-length: 99999999\r\n\r\n").await;
    client.answer(false).await.expect("an answer").problem(413, "too-large");
}

#[tokio::test]
async fn requests_are_counted_by_route() {
    let server = Server::start(router(), HttpArgs::default()).await;
    let count = async |labels: &str| {
        let metrics = server.get("/metrics", "").await.body;
        let line = format!("http_requests_total{{{labels}}} ");
        metrics.lines().find_map(|l| l.strip_prefix(&line)).map_or(0, |n| n.parse().unwrap())
    };
    let labels = r#"method="GET",route="/things/{id}",status="200""#;
    let before: u64 = count(labels).await;
    for id in 0..5 {
        assert_eq!(server.get(&format!("/things/{id}"), "").await.status, 200);
    }
    assert_eq!(count(labels).await - before, 5);
    server.client().await.ask("BREW", "/somewhere/else", "", "").await.problem(404, "not-found");
    assert!(count(r#"method="OTHER",route="unmatched",status="404""#).await >= 1);
    let metrics = server.get("/metrics", "").await.body;
    assert!(
        metrics.contains(
            r#"http_request_duration_seconds_bucket{method="GET",route="/things/{id}",le="0.001"}"#
        ),
        "{metrics}"
    );
    assert!(!metrics.contains("/things/3"), "{metrics}");
}

#[tokio::test]
async fn cors_is_for_the_listed_origins_only() {
    let preflight = "origin: https://app.example\r\naccess-control-request-method: POST\r\n";
    let server = Server::start(router(), HttpArgs::default()).await;
    let answer = server.client().await.ask("OPTIONS", "/json", preflight, "").await;
    assert_eq!(answer.header("access-control-allow-origin"), None);

    let cors_origins = "https://app.example".parse().unwrap();
    let server = Server::start(router(), HttpArgs { cors_origins, ..HttpArgs::default() }).await;
    let answer = server.client().await.ask("OPTIONS", "/json", preflight, "").await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example"));
    let answer = server.get("/ok", "origin: https://evil.example\r\n").await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn every_page_may_call_when_origins_are_any() {
    let cors_origins = "*".parse().unwrap();
    let server = Server::start(router(), HttpArgs { cors_origins, ..HttpArgs::default() }).await;
    let answer = server.get("/ok", "origin: https://any.example\r\n").await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.header("access-control-allow-credentials"), None);
}

#[tokio::test]
async fn a_packed_body_is_refused_on_every_route() {
    let server = Server::start(router(), HttpArgs::default()).await;
    for path in ["/json", "/raw", "/nowhere"] {
        for encoding in ["gzip", "br", "GZIP, identity", ""] {
            let headers =
                format!("content-type: application/json\r\ncontent-encoding: {encoding}\r\n");
            let answer = server.client().await.ask("POST", path, &headers, "1").await;
            answer.problem(415, "unsupported-media-type");
            assert_eq!(answer.header("accept-encoding"), Some("identity"));
        }
    }
    let headers = "content-type: application/json\r\ncontent-encoding: Identity\r\n";
    assert_eq!(server.client().await.ask("POST", "/json", headers, "1").await.status, 200);
}

#[tokio::test]
async fn a_write_under_a_condition_is_not_performed() {
    let server = Server::start(router(), HttpArgs::default()).await;
    for condition in ["if-match: \"nope\"", "if-match: \"a\", \"b\"", "if-none-match: *"] {
        let headers = format!("content-type: application/json\r\n{condition}\r\n");
        let answer = server.client().await.ask("POST", "/json", &headers, "1").await;
        answer.problem(412, "precondition-failed");
        assert_eq!(server.get("/ok", &format!("{condition}\r\n")).await.status, 200);
    }
    let headers = "content-type: application/json\r\nif-match: *\r\n";
    assert_eq!(server.client().await.ask("POST", "/json", headers, "1").await.status, 200);
}

#[tokio::test]
async fn failures_are_not_kept_by_caches() {
    let server = Server::start(router(), HttpArgs::default()).await;
    for path in ["/nowhere", "/panic"] {
        assert_eq!(server.get(path, "").await.header("cache-control"), Some("no-store"), "{path}");
    }
    assert_eq!(server.get("/ok", "").await.header("cache-control"), None);
}

#[tokio::test]
async fn a_handler_knows_the_address_of_its_client() {
    let whoami = async |client: ClientAddress| client.to_string();
    let router = || Router::new().route("/whoami", get(whoami));
    let claim = "x-forwarded-for: 1.1.1.1, 198.51.100.7\r\n";
    let server = Server::start(router(), HttpArgs::default()).await;
    assert_eq!(server.get("/whoami", claim).await.body, "127.0.0.1");
    let trusted_proxies = "127.0.0.0/8".parse().unwrap();
    let server = Server::start(router(), HttpArgs { trusted_proxies, ..HttpArgs::default() }).await;
    assert_eq!(server.get("/whoami", claim).await.body, "198.51.100.7");
    assert_eq!(server.get("/whoami", "").await.body, "127.0.0.1");
}
