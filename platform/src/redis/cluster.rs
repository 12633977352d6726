//! A Redis Cluster: which nodes it has, what goes where, and when to look again.
//!
//! redis-rs follows the slots and connects to the masters. It is told to try nothing twice, as it
//! would send again what may have been done: whoever gets an error decides. A failover shows as
//! errors of the slots that it moves, for as long as it takes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use futures_util::future::join_all;
use redis::{
    Client, Cmd, Pipeline, RedisError, RedisResult, TlsCertificates, Value,
    aio::ConnectionLike as _, cluster::ClusterClient, cluster_async::ClusterConnection,
    cluster_routing::Slot,
};

use super::{
    CONNECT_TIMEOUT, Subscription,
    link::{Connect, Link, Open, SILENT_MAX},
    server,
    slots::{self, Part},
    timed_out,
};

/// The schemes of a cluster's URL, each with that of its nodes' URLs.
const SCHEMES: [(&str, &str); 2] =
    [("redis-cluster://", "redis://"), ("rediss-cluster://", "rediss://")];
/// Connecting takes longer only when every node is silent.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// Some nodes of a cluster, from which the others are found.
#[derive(Clone)]
pub(super) struct Seeds {
    nodes: Arc<[Client]>,
    authority: Option<TlsCertificates>,
    next: Arc<AtomicUsize>,
}

/// Whether a URL names a cluster.
pub(super) fn is_cluster(url: &str) -> bool {
    SCHEMES.iter().any(|(scheme, _)| url.starts_with(scheme))
}

impl Seeds {
    /// Reads `redis-cluster://[user:password@]host:port,host:port,…`; `None` for another scheme.
    pub(super) fn of_url(url: &str) -> Option<anyhow::Result<Self>> {
        let (rest, scheme) =
            SCHEMES.iter().find_map(|(scheme, node)| Some((url.strip_prefix(scheme)?, *node)))?;
        Some(Self::of(rest, scheme))
    }

    fn of(rest: &str, scheme: &str) -> anyhow::Result<Self> {
        let (rest, authority) = server::authority(rest)?;
        let rest = rest.trim_end_matches('/');
        let (login, hosts) = match rest.rsplit_once('@') {
            Some((login, hosts)) => (format!("{login}@"), hosts),
            None => (String::new(), rest),
        };
        let open = |host: &str| {
            server::client(&format!("{scheme}{login}{}", host.trim()), authority.as_ref())
        };
        let nodes: anyhow::Result<_> = hosts.split(',').map(open).collect();
        Ok(Self {
            nodes: nodes.context("the Redis Cluster URL is not valid")?,
            authority,
            // Processes that start together do not all listen to one node.
            next: Arc::new(AtomicUsize::new(std::process::id() as usize)),
        })
    }

    /// A subscriber at one of the nodes that answer; a later call begins with the next one, so
    /// that a node which only seems to live is left.
    pub(super) async fn pubsub(&self) -> RedisResult<Subscription> {
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

/// The target of a [`Link`] to all masters.
pub(super) struct Masters(ClusterClient);

impl Connect for Masters {
    type Connection = ClusterConnection;
    /// One that is away must not take the connections to the others with it.
    const IS_PINGED: bool = false;

    async fn connect(&self) -> RedisResult<ClusterConnection> {
        let connecting = tokio::time::timeout(CONNECT_MAX, self.0.get_async_connection());
        connecting.await.unwrap_or_else(|_| Err(timed_out()))
    }

    async fn ping(_: ClusterConnection) -> RedisResult<()> {
        Ok(())
    }
}

impl Link<Masters> {
    pub(super) fn to_masters(seeds: &Seeds, response_timeout: Duration) -> RedisResult<Self> {
        let nodes = seeds.nodes.iter().map(|node| node.get_connection_info().clone());
        let mut client = ClusterClient::builder(nodes)
            .connection_timeout(CONNECT_TIMEOUT)
            .response_timeout(response_timeout)
            .tcp_settings(server::tcp_settings())
            .retries(0);
        if let Some(authority) = &seeds.authority {
            client = client.certs(authority.clone());
        }
        Ok(Self::new(Masters(client.build()?)))
    }

    /// One command, to where its key is.
    pub(super) async fn command(&self, command: &Cmd) -> RedisResult<Value> {
        let open = self.open().await?;
        let result = open.connection.clone().req_packed_command(command).await;
        self.judged(&open, result)
    }

    /// A pipeline, in parts; a transaction must be of one slot. When some parts fail, their
    /// commands' answers are errors.
    pub(super) async fn pipeline(
        &self,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        // Once for all parts of a call.
        let open = self.open().await?;
        if offset > 0 {
            let mut connection = open.connection.clone();
            let result = connection.req_packed_commands(pipeline, offset, count).await;
            return self.judged(&open, result);
        }
        let parts = slots::split(pipeline);
        let sent =
            parts.iter().map(|Part { slot, pipeline, .. }| self.send(&open, *slot, pipeline));
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
        open: &Arc<Open<ClusterConnection>>,
        slot: Slot,
        pipeline: &Pipeline,
    ) -> RedisResult<Vec<Value>> {
        let (route, count) = (slots::route(slot), pipeline.len());
        let mut connection = open.connection.clone();
        let result = connection.route_pipeline(pipeline.clone(), 0, count, route).await;
        self.judged(open, result)
    }

    /// Notes how it went. redis-rs looks for the slots again when a node refuses or closes, but
    /// neither when one is silent, and would be asked for as long as its host does not speak, nor
    /// when one says that it is cut off from the others, which may have replaced it. Without a good
    /// answer the nodes are looked for from the beginning, too: left alone, redis-rs asks those
    /// that it knows, without a pause.
    fn judged<T>(
        &self,
        open: &Arc<Open<ClusterConnection>>,
        result: RedisResult<T>,
    ) -> RedisResult<T> {
        let Err(error) = &result else {
            open.answered();
            return result;
        };
        let is_silent = error.is_timeout() || open.silent_for() > SILENT_MAX;
        let is_cut_off = matches!(error.code(), Some("CLUSTERDOWN" | "MASTERDOWN"));
        if is_silent || (is_cut_off && open.age() > SILENT_MAX) {
            self.give_up(open, error);
        }
        result
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
        assert_eq!(addresses("rediss-cluster://a:7000").unwrap(), ["a:7000"]);
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
