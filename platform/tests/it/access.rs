//! Deny by default.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use http::Method;
use platform::access::{AccessTable, Row, Who};
use platform::auth::{Auth, Role, Signer};
use platform::serve::HttpArgs;

use crate::kit::Server;

const ROWS: &[Row] = &[
    (Method::GET, "/open", Who::Anyone),
    (Method::GET, "/things/{id}", Who::Roles(&[Role::Driver, Role::Admin])),
    (Method::POST, "/things/{id}", Who::Roles(&[Role::Admin])),
    (Method::GET, "/nobody", Who::Roles(&[])),
];

async fn whoami(auth: Auth) -> String {
    format!("{} {}", auth.0.role, auth.0.subject)
}

async fn start() -> (Server, Signer) {
    let (signer, _, _) = Signer::generate();
    let api = Router::new()
        .route("/open", get(async || "open"))
        .route("/open-but-asks", get(whoami))
        .route("/things/{id}", get(whoami).post(whoami).put(whoami))
        .route("/nobody", get(whoami))
        .route("/forgotten", get(async || "forgotten"));
    let table = AccessTable::default()
        .under("/api/v1", ROWS)
        .under("", &[(Method::GET, "/api/v1/open-but-asks", Who::Anyone)]);
    let router = table.protect(Router::new().nest("/api/v1", api), signer.verifier());
    (Server::start(router, HttpArgs::default()).await, signer)
}

fn bearer(signer: &Signer, role: Role) -> String {
    format!("authorization: Bearer {}\r\n", signer.access(role, 7, &[], Duration::from_secs(60)))
}

#[tokio::test]
async fn each_row_lets_in_whom_it_names() {
    let (server, signer) = start().await;
    assert_eq!(server.get("/api/v1/open", "").await.body, "open");
    assert_eq!(server.get("/api/v1/open", "authorization: Bearer x\r\n").await.status, 200);
    server.get("/api/v1/open-but-asks", "").await.problem(401, "unauthorized");
    for &role in Role::ALL {
        let token = bearer(&signer, role);
        let path = "/api/v1/things/1";
        let got = server.get(path, &token).await;
        if matches!(role, Role::Driver | Role::Admin) {
            assert_eq!(got.body, format!("{role} 7"));
            let head = server.client().await.ask("HEAD", path, &token, "").await;
            assert_eq!(head.status, 200, "HEAD goes by the row of GET");
        } else {
            got.problem(403, "forbidden");
        }
        let posted = server.client().await.ask("POST", path, &token, "").await;
        assert_eq!(posted.status, if role == Role::Admin { 200 } else { 403 }, "{role}");
        server.get("/api/v1/nobody", &token).await.problem(403, "forbidden");
    }
}

#[tokio::test]
async fn what_has_no_row_is_nobodys() {
    let (server, signer) = start().await;
    let mut tokens: Vec<String> = Role::ALL.iter().map(|&role| bearer(&signer, role)).collect();
    tokens.push(String::new());
    for token in &tokens {
        server.get("/api/v1/forgotten", token).await.problem(404, "not-found");
        server.get("/api/v1/missing", token).await.problem(404, "not-found");
        // There is a handler for PUT, but no row.
        let put = server.client().await.ask("PUT", "/api/v1/things/1", token, "").await;
        put.problem(405, "method-not-allowed");
        assert_eq!(put.header("allow"), Some("GET, POST"));
    }
}

#[tokio::test]
async fn bad_credentials_are_challenged() {
    let (server, signer) = start().await;
    let good = bearer(&signer, Role::Driver);
    let token = good.trim().rsplit(' ').next().unwrap();
    for headers in [
        String::new(),
        "authorization: \r\n".to_owned(),
        "authorization: Bearer\r\n".to_owned(),
        "authorization: Bearer \r\n".to_owned(),
        format!("authorization: {token}\r\n"),
        format!("authorization: Basic {token}\r\n"),
        format!("authorization: Bearer {token}x\r\n"),
        format!("authorization: Bearer {token}, Bearer {token}\r\n"),
        format!("{good}{good}"),
        format!("cookie: token={token}\r\n"),
    ] {
        let answer = server.get("/api/v1/things/1", &headers).await;
        answer.problem(401, "unauthorized");
        assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer"), "{headers}");
        assert!(!answer.body.contains(token), "{answer:?}");
    }
    let query = format!("/api/v1/things/1?access_token={token}");
    server.get(&query, "").await.problem(401, "unauthorized");
    let small = format!("authorization: bearer {token}\r\n");
    assert_eq!(server.get("/api/v1/things/1", &small).await.status, 200);
    let tracking = signer.tracking(uuid::Uuid::now_v7(), 7, Duration::from_secs(60));
    let tracking = format!("authorization: Bearer {tracking}\r\n");
    server.get("/api/v1/things/1", &tracking).await.problem(401, "unauthorized");
}

#[test]
fn the_table_knows_what_it_covers() {
    let table = AccessTable::new(ROWS);
    assert!(table.covers(&Method::GET, "/things/{id}"));
    assert!(!table.covers(&Method::PUT, "/things/{id}"));
    assert!(!table.covers(&Method::GET, "/things/{other}"));
    assert_eq!(table.rows().count(), ROWS.len());
}

#[test]
#[should_panic(expected = "has two rows")]
fn two_rows_for_one_route_are_a_mistake() {
    let _ = AccessTable::new(ROWS).under("", &ROWS[..1]);
}
