//! A menu service in memory that keeps its promises, or breaks one on purpose.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{self, Write as _},
    sync::{Arc, Mutex},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Response, body::Bytes, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

pub(super) const RESTAURANTS: usize = 40;
const ITEMS: i64 = 12;
/// How many snapshots back an old copy is.
const OLD: usize = 3;

/// What the service does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sabotage {
    Nothing,
    /// The second node answers old copies.
    OldCopies,
    /// The second node answers old copies, and says so.
    StaleCopies,
    /// The newest version with the content of an older one.
    OldContent,
    /// Every fifth write has the version of the one before.
    SharedVersions,
    /// Versions that nobody has made.
    FutureVersions,
    /// Every tenth request is taken and never answered.
    HangsUp,
    /// The hundredth read takes this long.
    Stalls(Duration),
}

#[derive(Debug, Clone)]
struct State {
    version: i64,
    profile: i64,
    menu: i64,
    status: i64,
    items: Vec<(bool, bool)>,
    name: String,
    capacity: Option<i64>,
}

#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Requests by method and path without the query.
    pub(super) requests: HashMap<String, u64>,
    /// Reads by query.
    pub(super) queries: HashMap<String, u64>,
    pub(super) reads: u64,
    pub(super) writes: u64,
    /// The most writes to one restaurant that were under way at once.
    pub(super) writers_max: usize,
    writing: HashMap<usize, usize>,
}

pub(super) struct Service {
    sabotage: Sabotage,
    /// By restaurant, the newest last.
    states: Mutex<Vec<Vec<State>>>,
    pub(super) seen: Mutex<Seen>,
}

impl Service {
    /// Starts two nodes on one state; answers their addresses.
    pub(super) async fn start(sabotage: Sabotage) -> (Arc<Self>, [String; 2]) {
        let first = State {
            version: 5,
            profile: 1,
            menu: 5,
            status: 4,
            items: vec![(true, true); ITEMS as usize],
            name: "open".into(),
            capacity: None,
        };
        let service = Arc::new(Self {
            sabotage,
            states: Mutex::new(vec![vec![first]; RESTAURANTS]),
            seen: Mutex::default(),
        });
        let mut urls = [String::new(), String::new()];
        for (node, url) in urls.iter_mut().enumerate() {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            *url = format!("http://{}", listener.local_addr().unwrap());
            tokio::spawn(Arc::clone(&service).serve(listener, node));
        }
        (service, urls)
    }

    async fn serve(self: Arc<Self>, listener: tokio::net::TcpListener, node: usize) {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let this = Arc::clone(&self);
            let service = service_fn(move |request| Arc::clone(&this).handle(request, node));
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    }

    async fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        node: usize,
    ) -> io::Result<Response<Full<Bytes>>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let path = parts.uri.path().strip_prefix("/api/v1").unwrap().to_owned();
        let total: u64 = {
            let seen = &mut *self.seen.lock().unwrap();
            *seen.requests.entry(format!("{} {path}", parts.method)).or_default() += 1;
            if let Some(query) = parts.uri.query() {
                *seen.queries.entry(query.to_owned()).or_default() += 1;
            }
            seen.requests.values().sum()
        };
        let set_up = path == "/restaurants" || path.starts_with("/operator");
        if self.sabotage == Sabotage::HangsUp && !set_up && total.is_multiple_of(10) {
            return Err(io::Error::other("on purpose"));
        }
        if set_up {
            let query = parts.uri.query().unwrap_or_default();
            let reads = self.seen.lock().unwrap().reads;
            let body = match path.as_str() {
                "/restaurants" => list(query),
                "/operator/cache/stats" if node == 0 => {
                    json!({"node": "a", "nodes": {"a": {"misses": reads}, "b": {"misses": 7}}})
                }
                "/operator/cache/stats" => json!({"node": "b", "nodes": {"b": {"misses": 7}}}),
                _ => json!({}),
            };
            return Ok(reply(200, &body.to_string(), &[("x-cache", "miss")]));
        }
        let mut steps = path.splitn(4, '/').skip(2);
        let id: usize = steps.next().unwrap().parse().unwrap();
        let rest = steps.next().unwrap_or_default().to_owned();
        if parts.method == Method::PUT {
            let token = parts.headers["authorization"].to_str().unwrap();
            assert!(token.len() > 100, "{token}");
            return Ok(self.write(id, &rest, &serde_json::from_slice(&body).unwrap()).await);
        }
        let reads = {
            let seen = &mut *self.seen.lock().unwrap();
            seen.reads += 1;
            seen.reads
        };
        if let Sabotage::Stalls(wait) = self.sabotage
            && reads == 100
        {
            tokio::time::sleep(wait).await;
        }
        let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok());
        Ok(self.read(id, &rest, node, header("if-none-match"), header("accept-encoding")))
    }

    fn read(
        &self,
        id: usize,
        document: &str,
        node: usize,
        tag: Option<&str>,
        accept: Option<&str>,
    ) -> Response<Full<Bytes>> {
        let states = self.states.lock().unwrap();
        let states = &states[id - 1];
        let (newest, old) = (states.last().unwrap(), &states[states.len().saturating_sub(1 + OLD)]);
        let (of, content) = match self.sabotage {
            Sabotage::OldCopies | Sabotage::StaleCopies if node == 1 => (old, old),
            Sabotage::OldContent => (newest, old),
            _ => (newest, newest),
        };
        let beyond =
            if self.sabotage == Sabotage::FutureVersions { states.len() as i64 } else { 0 };
        let (version, body) = of.document(id, document, content, beyond);
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        let etag = format!("W/\"{version}-{:016x}\"", hasher.finish());
        let is_stale = self.sabotage == Sabotage::StaleCopies && node == 1;
        let headers =
            [("etag", etag.as_str()), ("x-cache", if is_stale { "stale" } else { "hit" })];
        if tag == Some(etag.as_str()) {
            return reply(304, "", &headers);
        }
        if accept != Some("gzip") || body.len() < 1_000 {
            return reply(200, &body, &headers);
        }
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(body.as_bytes()).unwrap();
        let mut response = reply(200, "", &headers);
        response.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
        *response.body_mut() = Full::new(encoder.finish().unwrap().into());
        response
    }

    async fn write(&self, id: usize, path: &str, body: &Value) -> Response<Full<Bytes>> {
        {
            let seen = &mut *self.seen.lock().unwrap();
            seen.writes += 1;
            let writing = seen.writing.entry(id).or_default();
            *writing += 1;
            seen.writers_max = seen.writers_max.max(*writing);
        }
        // Long enough for others to see a write before it is answered.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let version = self.change(id, path, body);
        tokio::time::sleep(Duration::from_millis(1)).await;
        *self.seen.lock().unwrap().writing.entry(id).or_default() -= 1;
        let answer =
            json!({"success": true, "message": "", "restaurant_id": id, "version": version});
        reply(200, &answer.to_string(), &[])
    }

    fn change(&self, id: usize, path: &str, body: &Value) -> i64 {
        let mut states = self.states.lock().unwrap();
        let states = &mut states[id - 1];
        let mut next = states.last().unwrap().clone();
        let shares = self.sabotage == Sabotage::SharedVersions && states.len().is_multiple_of(5);
        next.version += i64::from(!shares);
        let set = |next: &mut State, item: i64, value: &Value| {
            next.items[(item - id as i64 * 100) as usize] =
                (value["available"].as_bool().unwrap(), value["in_stock"].as_bool().unwrap());
            next.menu = next.version;
        };
        match path.split('/').collect::<Vec<_>>()[..] {
            ["status"] => {
                next.name = body["status"].as_str().unwrap().to_owned();
                next.capacity = body["current_capacity"].as_i64();
                next.status = next.version;
            }
            ["menu", "items", "availability"] => {
                for item in body["items"].as_array().unwrap() {
                    set(&mut next, item["item_id"].as_i64().unwrap(), item);
                }
            }
            ["menu", "items", item, "availability"] => {
                set(&mut next, item.parse().unwrap(), body);
            }
            _ => unreachable!("{path}"),
        }
        let version = next.version;
        states.push(next);
        version
    }
}

impl State {
    fn document(&self, id: usize, document: &str, content: &Self, beyond: i64) -> (i64, String) {
        let status_now = |version: i64| {
            let (name, capacity) = (&content.name, json!(content.capacity));
            format!(
                r#"{{"restaurant_id":{id},"version":{version},"status":"{name}","current_capacity":{capacity},"is_open":true}}"#
            )
        };
        let menu = |version: i64| {
            let items: Vec<_> = (id as i64 * 100..)
                .zip(&content.items)
                .map(|(item, (available, in_stock))| {
                    format!(
                        r#"{{"item_id":{item},"name":"a dish of a fair length","options":[],"available":{available},"in_stock":{in_stock}}}"#
                    )
                })
                .collect();
            format!(
                r#"{{"restaurant_id":{id},"version":{version},"categories":[{{"items":[{}]}}]}}"#,
                items.join(",")
            )
        };
        let (menu_at, status_at) = (self.menu + beyond, self.status + beyond);
        match document {
            "menu" => (menu_at, menu(menu_at)),
            "status" => (status_at, status_now(status_at)),
            "menu-with-status" => {
                let version = menu_at.max(status_at);
                let (status, menu) = (status_now(status_at), menu(menu_at));
                let body = format!(
                    r#"{{"restaurant_id":{id},"version":{version},"status":{status},"menu":{menu}}}"#
                );
                (version, body)
            }
            "" => {
                let version = self.profile.max(status_at);
                (version, status_now(version))
            }
            _ => unreachable!("{document}"),
        }
    }
}

fn list(query: &str) -> Value {
    let uri: hyper::Uri = format!("/?{query}").parse().unwrap();
    let page = uri.query().unwrap().split('&').find_map(|part| part.strip_prefix("page="));
    let page: usize = page.map_or(1, |page| page.parse().unwrap());
    let of = |id: usize| {
        json!({
            "restaurant_id": id, "name": format!("Number {id}"), "cuisine_type": "thai",
            "city": "Town", "latitude": 37.7, "longitude": -122.4, "rating": null
        })
    };
    let restaurants: Vec<_> = (1..=RESTAURANTS).map(of).skip((page - 1) * 100).collect();
    json!({"restaurants": restaurants, "total": RESTAURANTS, "page": page, "page_size": 100})
}

fn reply(status: u16, body: &str, headers: &[(&str, &str)]) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(Full::new(Bytes::from(body.to_owned()))).unwrap()
}
