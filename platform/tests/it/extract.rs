//! What bodies, queries and paths are refused with.

use axum::Router;
use axum::routing::{get, post};
use platform::extract::{Json, JsonMax, OptionalJson, Path, Query};
use platform::serve::HttpArgs;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kit::{Answer, Server};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch {
    points: Vec<Point>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    latitude: f64,
    #[serde(default)]
    seq: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    page: u32,
    word: Option<String>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    text: Option<String>,
}

fn router() -> Router {
    Router::new()
        .route("/points", post(async |Json(point): Json<Point>| Json(point)))
        .route("/batch", post(async |Json(batch): Json<Batch>| Json(batch)))
        .route("/small", post(async |JsonMax(point): JsonMax<Point, 64>| Json(point)))
        .route("/note", post(async |OptionalJson(note): OptionalJson<Note>| Json(note)))
        .route(
            "/pages",
            get(async |Query(Page { page, word }): Query<Page>| match word {
                Some(word) => format!("{page} {word}"),
                None => page.to_string(),
            }),
        )
        .route("/drivers/{driver_id}", get(async |Path(id): Path<i64>| id.to_string()))
        .route("/a/{left}/b/{right}", get(async |Path(p): Path<(i64, u8)>| format!("{p:?}")))
}

#[track_caller]
fn field(answer: &Answer) -> (String, String) {
    let problem = answer.problem(422, "invalid");
    let error = &problem["errors"][0];
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    (text(&error["field"]), text(&error["message"]))
}

#[tokio::test]
async fn bodies() {
    let server = Server::start(router(), HttpArgs::default()).await;
    assert_eq!(server.post("/points", r#"{"latitude":1.5}"#).await.status, 200);
    for (path, body, name, message) in [
        ("/points", r#"{"latitude":1.5,"longitud":2}"#, "longitud", "unknown field"),
        ("/points", r#"{"latitude":"1.5"}"#, "latitude", "invalid type: string"),
        ("/points", r#"{"latitude":1.5,"seq":-1}"#, "seq", "invalid value"),
        ("/points", r#"{"latitude":1.5,"latitude":2}"#, "latitude", "duplicate field"),
        ("/points", r#"{"latitude":null}"#, "latitude", "invalid type: null"),
        ("/points", "{}", "latitude", "missing field"),
        ("/points", r#"{"latitude":1e999}"#, "latitude", "number out of range"),
        ("/batch", r#"{"points":[{"latitude":-1e400}]}"#, "points[0].latitude", "number out"),
        ("/points", r#"[["x"]]"#, "[0]", "invalid type"),
        ("/batch", r#"{"points":[{"latitude":1},{"latitude":1,"x":2}]}"#, "points[1].x", "unknown"),
        ("/batch", r#"{"points":[{"latitude":1},{}]}"#, "points[1].latitude", "missing field"),
        ("/batch", r#"{"points":[{"latitude":[]}]}"#, "points[0].latitude", "invalid type"),
    ] {
        let (got, text) = field(&server.post(path, body).await);
        assert_eq!(got, name, "{body}: {text}");
        assert!(text.starts_with(message), "{body}: {text}");
        assert!(!text.contains(" at line "), "{body}: {text}");
    }
    for body in ["", "{", r#"{"latitude":NaN}"#, r#"{"latitude":1} {}"#, "\u{1}", "nul"] {
        server.post("/points", body).await.problem(400, "bad-request");
    }
    // A byte order mark is passed over, once and at the beginning.
    assert_eq!(server.post("/points", "\u{feff}{\"latitude\":1.5}").await.status, 200);
    assert_eq!(field(&server.post("/points", "\u{feff}{}").await).0, "latitude");
    server.post("/points", "{\u{feff}}").await.problem(400, "bad-request");
    // A long value does not come back whole.
    let long = format!(r#"{{"latitude":"{}"}}"#, "ä".repeat(5000));
    assert!(field(&server.post("/points", &long).await).1.len() < 300);
}

#[tokio::test]
async fn a_body_of_optional_fields_may_be_missing() {
    let server = Server::start(router(), HttpArgs::default()).await;
    let post =
        async |kind: &str, body: &str| server.client().await.ask("POST", "/note", kind, body).await;
    const JSON: &str = "content-type: application/json\r\n";
    for kind in ["", JSON, "content-type: text/plain\r\n"] {
        assert_eq!(post(kind, "").await.body, "{\"text\":null}", "{kind}");
    }
    assert_eq!(post(JSON, "null").await.body, "{\"text\":null}");
    // serde alone reads the fields of a struct from an array too.
    assert_eq!(post(JSON, "[null]").await.status, 422);
    assert_eq!(post(JSON, r#"{"text":"x"}"#).await.body, r#"{"text":"x"}"#);
    assert_eq!(field(&post(JSON, r#"{"txt":"x"}"#).await).0, "txt");
    post("", r#"{"text":"x"}"#).await.problem(415, "unsupported-media-type");
    post(JSON, " ").await.problem(400, "bad-request");
    let mut client = server.client().await;
    client
        .send("POST /note HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n")
        .await;
    assert_eq!(client.answer(false).await.expect("an answer").status, 200);
}

#[tokio::test]
async fn content_types() {
    let server = Server::start(router(), HttpArgs::default()).await;
    let post = async |kind: &str| {
        let body = r#"{"latitude":1}"#;
        server.client().await.ask("POST", "/points", kind, body).await
    };
    for good in ["application/json", "Application/JSON; charset=utf-8", "application/geo+json"] {
        assert_eq!(post(&format!("content-type: {good}\r\n")).await.status, 200, "{good}");
    }
    for bad in ["text/plain", "application/jsonp", "application/x-www-form-urlencoded", "json"] {
        let answer = post(&format!("content-type: {bad}\r\n")).await;
        answer.problem(415, "unsupported-media-type");
    }
    post("").await.problem(415, "unsupported-media-type");
}

#[tokio::test]
async fn a_route_can_have_its_own_size() {
    let server = Server::start(router(), HttpArgs::default()).await;
    let body = |bytes: usize| format!("{}{}", r#"{"latitude":1}"#, " ".repeat(bytes - 14));
    assert_eq!(server.post("/small", &body(64)).await.status, 200);
    let problem = server.post("/small", &body(65)).await.problem(413, "too-large");
    assert_eq!(problem["detail"], "At most 64 bytes are taken here.");
    assert_eq!(server.post("/points", &body(64 * 1024)).await.status, 200);
    server.post("/points", &body(64 * 1024 + 1)).await.problem(413, "too-large");
}

#[tokio::test]
async fn queries_and_paths() {
    let server = Server::start(router(), HttpArgs::default()).await;
    assert_eq!(server.get("/pages?page=2", "").await.body, "2");
    for (query, body) in [
        ("page=2&word=a%20b", "2 a b"),
        ("word=&page=2", "2"),
        ("page=2&word", "2"),
        ("page=&page=2&word=%3D&", "2 ="),
        ("page=2&colour=", "2"),
        ("page=2&&", "2"),
    ] {
        assert_eq!(server.get(&format!("/pages?{query}"), "").await.body, body, "{query}");
    }
    for (path, name) in [
        ("/pages?page=x", "page"),
        ("/pages?page=-1", "page"),
        ("/pages", "page"),
        ("/pages?page=", "page"),
        ("/pages?page=1&size=2", "size"),
        ("/pages?page=1&page=2", "page"),
        ("/drivers/seven", "driver_id"),
        ("/drivers/99999999999999999999", "driver_id"),
        ("/drivers/%ff", "driver_id"),
        ("/a/1/b/300", "right"),
    ] {
        assert_eq!(field(&server.get(path, "").await).0, name, "{path}");
    }
    assert_eq!(server.get("/drivers/-7", "").await.body, "-7");
}

proptest! {
    /// Whatever the bytes, the answer is a value or a 4xx, and parsing never panics.
    #[test]
    fn any_bytes_are_answered(body in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Err(problem) = platform::extract::from_json::<Batch>(&body) {
            prop_assert!(problem.status().is_client_error());
        }
    }

    #[test]
    fn any_nearly_right_json_is_answered(
        key in r#"[a-z]{0,10}|latitude|seq|ä"#,
        value in r#"-?[0-9]{1,400}|"[^"\\\p{C}]{0,300}"|null|true|\[\]|\{\}"#,
    ) {
        let body = format!(r#"{{"points":[{{"{key}":{value}}}]}}"#);
        if let Err(problem) = platform::extract::from_json::<Batch>(body.as_bytes()) {
            prop_assert!(problem.status().is_client_error());
            prop_assert!(serde_json::to_string(&problem).unwrap().len() < 1000);
        }
    }
}
