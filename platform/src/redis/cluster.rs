//! A Redis Cluster: which nodes it has, what goes where, and when to look again.
//!
//! redis-rs follows the slots and connects to the masters. It is told to try nothing twice, as it
//! would send again what may have been done: whoever gets an error decides. A failover shows as
//! errors of the slots that it moves, for as long as it takes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::future::join_all;
use redis::{
    Client, Cmd, Pipeline, RedisError, RedisResult, Value,
    aio::{ConnectionLike as _, PubSub},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    cluster_routing::Slot,
};
use tokio::sync::Mutex;

use super::{
    CONNECT_TIMEOUT,
    slots::{self, Part},
    timed_out,
};

/// What such a URL begins with.
const SCHEME: &str = "redis-cluster://";
/// Connecting takes longer only when every node is silent.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Without a good answer for this long, the nodes are looked for from the beginning. Left alone,
/// redis-rs asks those that it knows, without a pause. Also how long a connection is kept at least
/// when a node says that it is cut off.
const ANSWERS_MISSING_MAX: Duration = Duration::from_secs(2);

/// Some nodes of a cluster, from which the others are found.
#[derive(Clone)]
pub(super) struct Seeds {
    nodes: Arc<[Client]>,
    next: Arc<AtomicUsize>,
}

/// Whether a URL names a cluster.
pub(super) fn is_cluster(url: &str) -> bool {
    url.starts_with(SCHEME)
}

impl Seeds {
    /// Reads `redis-cluster://[user:password@]host:port,host:port,…`; `None` for another scheme.
    pub(super) fn of_url(url: &str) -> Option<anyhow::Result<Self>> {
        let rest = url.strip_prefix(SCHEME)?.trim_end_matches('/');
        let (login, hosts) = match rest.rsplit_once('@') {
            Some((login, hosts)) => (format!("{login}@"), hosts),
            None => (String::new(), rest),
        };
        let open = |host: &str| Client::open(format!("redis://{login}{}", host.trim()));
        let nodes: RedisResult<_> = hosts.split(',').map(open).collect();
        Some(nodes.context("the Redis Cluster URL is not valid").map(|nodes| Self {
            nodes,
            // Processes that start together do not all listen to one node.
            next: Arc::new(AtomicUsize::new(std::process::id() as usize)),
        }))
    }

    /// A subscriber at one of the nodes that answer; a later call begins with the next one, so
    /// that a node which only seems to live is left.
    pub(super) async fn pubsub(&self) -> RedisResult<PubSub> {
        let mut failure = timed_out();
        for _ in 0..self.nodes.len() {
            let next = self.next.fetch_add(1, Ordering::Relaxed) % self.nodes.len();
            match super::pubsub(&self.nodes[next]).await {
                Ok(pubsub) => return Ok(pubsub),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

/// A shared, lazily connected, reconnecting connection to all masters.
#[derive(Clone)]
pub(super) struct Link(Arc<Shared>);

struct Shared {
    client: ClusterClient,
    current: Mutex<Current>,
    since: Instant,
    /// When the last good answer came, milliseconds after `since`.
    answered_ms: AtomicU64,
}

/// A connection and its number.
pub(super) type Open = (ClusterConnection, u64);

#[derive(Default)]
struct Current {
    connection: Option<ClusterConnection>,
    /// Counts connections, so that an error ends the one that it came from.
    number: u64,
    /// When the last one was made.
    made_at: Option<Instant>,
}

impl Link {
    pub(super) fn new(seeds: &Seeds, response_timeout: Duration) -> RedisResult<Self> {
        let nodes = seeds.nodes.iter().map(|node| node.get_connection_info().clone());
        let client = ClusterClient::builder(nodes)
            .connection_timeout(CONNECT_TIMEOUT)
            .response_timeout(response_timeout)
            .retries(0)
            .build()?;
        Ok(Self(Arc::new(Shared {
            client,
            current: Mutex::default(),
            since: Instant::now(),
            answered_ms: AtomicU64::new(0),
        })))
    }

    /// One command, to where its key is.
    pub(super) async fn command(&self, command: &Cmd) -> RedisResult<Value> {
        let (mut connection, number) = self.connection().await?;
        let result = connection.req_packed_command(command).await;
        self.judged(number, result).await
    }

    /// A pipeline, in parts; a transaction must be of one slot. When some parts fail, their
    /// commands' answers are errors.
    pub(super) async fn pipeline(
        &self,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        if offset > 0 {
            let (mut connection, number) = self.connection().await?;
            let result = connection.req_packed_commands(pipeline, offset, count).await;
            return self.judged(number, result).await;
        }
        let open = self.connection().await?;
        let parts = slots::split(pipeline);
        let sent = parts
            .iter()
            .map(|Part { slot, pipeline, .. }| self.send(open.clone(), *slot, pipeline));
        let results = join_all(sent).await;
        let mut answers = vec![Value::Nil; pipeline.len()];
        let mut failures = Vec::new();
        for (part, result) in parts.iter().zip(results) {
            match result {
                Ok(values) => {
                    for (place, value) in part.places.iter().zip(values) {
                        answers[*place] = value;
                    }
                }
                Err(error) => {
                    for place in &part.places {
                        answers[*place] = refusal("UNANSWERED", &error);
                    }
                    failures.push(error);
                }
            }
        }
        match failures.pop() {
            Some(error) if failures.len() + 1 == parts.len() => Err(error),
            _ => Ok(answers),
        }
    }

    /// What belongs to one slot, over one connection.
    pub(super) async fn send(
        &self,
        (mut connection, number): Open,
        slot: Slot,
        pipeline: &Pipeline,
    ) -> RedisResult<Vec<Value>> {
        let (route, count) = (slots::route(slot), pipeline.len());
        let result = connection.route_pipeline(pipeline.clone(), 0, count, route).await;
        self.judged(number, result).await
    }

    /// The connection; a new one when there is none. To be asked for once for all parts of a call:
    /// where nobody answers, each of them would try to connect, one after the other.
    pub(super) async fn connection(&self) -> RedisResult<Open> {
        let mut current = self.0.current.lock().await;
        if let Some(connection) = &current.connection {
            return Ok((connection.clone(), current.number));
        }
        let connecting = tokio::time::timeout(CONNECT_MAX, self.0.client.get_async_connection());
        let connection = connecting.await.unwrap_or_else(|_| Err(timed_out()))?;
        self.answered();
        current.number += 1;
        current.connection = Some(connection.clone());
        current.made_at = Some(Instant::now());
        Ok((connection, current.number))
    }

    /// Notes how it went. redis-rs looks for the slots again when a node refuses or closes, but
    /// neither when one is silent, and would be asked for as long as its host does not speak, nor
    /// when one says that it is cut off from the others, which may have replaced it.
    async fn judged<T>(&self, number: u64, result: RedisResult<T>) -> RedisResult<T> {
        let Err(error) = &result else {
            self.answered();
            return result;
        };
        let is_silent = error.is_timeout() || self.silent_for() > ANSWERS_MISSING_MAX;
        let is_cut_off = matches!(error.code(), Some("CLUSTERDOWN" | "MASTERDOWN"));
        if is_silent || is_cut_off {
            let mut current = self.0.current.lock().await;
            let is_old = current.made_at.is_none_or(|at| at.elapsed() > ANSWERS_MISSING_MAX);
            if current.number == number && (is_silent || is_old) {
                current.connection = None;
            }
        }
        result
    }

    fn answered(&self) {
        self.0.answered_ms.store(self.0.since.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn silent_for(&self) -> Duration {
        let answered = Duration::from_millis(self.0.answered_ms.load(Ordering::Relaxed));
        self.0.since.elapsed().saturating_sub(answered)
    }
}

/// An error in the place of an answer.
pub(super) fn refusal(code: &str, reason: impl std::fmt::Display) -> Value {
    let line = format!("-{code} {reason}").replace(['\r', '\n'], " ");
    redis::parse_redis_value(format!("{line}\r\n").as_bytes()).unwrap_or(Value::Nil)
}

/// The same as an error.
pub(super) fn refused(code: &str, reason: impl std::fmt::Display) -> RedisError {
    match refusal(code, reason).extract_error() {
        Err(error) => error,
        Ok(_) => timed_out(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_of_a_cluster_names_nodes_and_one_login() {
        let addresses = |url: &str| -> Option<Vec<String>> {
            let seeds = Seeds::of_url(url)?.expect("a good URL");
            let address = |node: &Client| node.get_connection_info().addr().to_string();
            Some(seeds.nodes.iter().map(address).collect())
        };
        assert_eq!(addresses("redis://a:7000"), None);
        let nodes = addresses("redis-cluster://user:se@cret@a:7000,b:7001,[::1]:7002/").unwrap();
        assert_eq!(nodes, ["a:7000", "b:7001", "::1:7002"]);
        for bad in ["redis-cluster://", "redis-cluster://a:7000,", "redis-cluster://a:x"] {
            assert!(Seeds::of_url(bad).is_some_and(|seeds| seeds.is_err()), "{bad}");
        }
    }

    #[test]
    fn a_refusal_is_an_error_with_its_code() {
        assert!(matches!(refusal("UNANSWERED", "gone\r\n-x"), Value::ServerError(_)));
        assert_eq!(refused("NOREPLICAS", "0 of 1").code(), Some("NOREPLICAS"));
    }
}
