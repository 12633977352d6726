//! Connections to Redis that fail fast, reconnect by themselves and never wait without a limit.
//!
//! [`Redis`] is one server or a Redis Cluster, as its URL says; who uses a [`Connection`] need not
//! know which. On a cluster a pipeline goes out in parts, one for each hash slot, all at once, and
//! a part that fails leaves the others' answers as they are.

mod cluster;
mod slots;
mod write;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::FutureExt as _;
use redis::{
    AsyncConnectionConfig, Client, Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value,
    aio::{
        ConnectionLike, ConnectionManager, ConnectionManagerConfig, MultiplexedConnection, PubSub,
    },
};
use secrecy::{ExposeSecret as _, SecretString};

use self::cluster::{Link, Seeds};

/// A caller is told within this time that Redis cannot be reached.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(250);
/// A command without an answer for this long has an unknown outcome.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How writes to the `queue` Redis are confirmed.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct QueueArgs {
    /// Replicas that must have what is added to a stream before it counts as added. With 0 a
    /// failover forgets what had not reached the replica
    #[arg(long = "queue-replicas-min", env = "REDIS_QUEUE_REPLICAS_MIN", default_value_t = 0)]
    pub replicas_min: u32,
}

/// One Redis, or a cluster of them; nothing is connected yet.
#[derive(Clone)]
pub struct Redis {
    server: Server,
    replicas_min: u32,
}

#[derive(Clone)]
enum Server {
    One(Client),
    Cluster(Seeds),
}

impl From<Client> for Redis {
    fn from(client: Client) -> Self {
        Self { server: Server::One(client), replicas_min: 0 }
    }
}

impl Redis {
    /// Reads a URL: `redis://` or `redis+unix://` is one server, and
    /// `redis-cluster://[user:password@]host:port,host:port,…` names some nodes of a cluster.
    ///
    /// The error does not repeat the URL, which may hold a password.
    pub fn open(url: &SecretString) -> anyhow::Result<Self> {
        let server = match Seeds::of_url(url.expose_secret()) {
            Some(seeds) => Server::Cluster(seeds?),
            None => Server::One(client(url)?),
        };
        Ok(Self { server, replicas_min: 0 })
    }

    /// Makes [`Connection::write`] wait for so many replicas.
    #[must_use]
    pub fn confirmed_by(self, QueueArgs { replicas_min }: QueueArgs) -> Self {
        Self { replicas_min, ..self }
    }

    /// Whether there are several masters.
    pub fn is_cluster(&self) -> bool {
        matches!(self.server, Server::Cluster(_))
    }

    /// Whether one command may name all these keys.
    pub fn are_together(&self, keys: &[String]) -> bool {
        !self.is_cluster() || slots::are_one(keys)
    }

    /// A shared, lazily connected, reconnecting connection for ordinary commands; see [`manager`].
    pub fn connection(&self) -> anyhow::Result<Connection> {
        let way = match &self.server {
            Server::One(client) => Way::Shared(manager(client)?),
            Server::Cluster(seeds) => Way::Cluster(Link::new(seeds, RESPONSE_TIMEOUT)?),
        };
        Ok(Connection { way, replicas_min: self.replicas_min })
    }

    /// A connection of its own for blocking reads; see [`blocking`]. Of a cluster it is connected
    /// when first used, and one error is none of the other masters.
    pub async fn blocking(&self, response_timeout: Duration) -> RedisResult<Connection> {
        let way = match &self.server {
            Server::One(client) => Way::Own(blocking(client, response_timeout).await?),
            Server::Cluster(seeds) => Way::Cluster(Link::new(seeds, response_timeout)?),
        };
        Ok(Connection { way, replicas_min: self.replicas_min })
    }

    /// A connection of its own for subscriptions; see [`pubsub`]. Every node of a cluster hears
    /// what is published on any of them, so it is one of the nodes, and another one at each call.
    pub async fn pubsub(&self) -> RedisResult<PubSub> {
        match &self.server {
            Server::One(client) => pubsub(client).await,
            Server::Cluster(seeds) => seeds.pubsub().await,
        }
    }
}

impl std::fmt::Debug for Redis {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").field("is_cluster", &self.is_cluster()).finish_non_exhaustive()
    }
}

/// A connection to a [`Redis`]; clones share it.
#[derive(Clone)]
pub struct Connection {
    way: Way,
    replicas_min: u32,
}

#[derive(Clone)]
enum Way {
    Shared(ConnectionManager),
    Own(MultiplexedConnection),
    Cluster(Link),
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("is_cluster", &self.is_cluster()).finish_non_exhaustive()
    }
}

impl Connection {
    /// Whether there are several masters, of which one may fail alone.
    pub fn is_cluster(&self) -> bool {
        matches!(self.way, Way::Cluster(_))
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match &mut self.way {
            Way::Shared(connection) => connection.req_packed_command(command),
            Way::Own(connection) => connection.req_packed_command(command),
            Way::Cluster(link) => link.command(command).boxed(),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match &mut self.way {
            Way::Shared(connection) => connection.req_packed_commands(pipeline, offset, count),
            Way::Own(connection) => connection.req_packed_commands(pipeline, offset, count),
            Way::Cluster(link) => link.pipeline(pipeline, offset, count).boxed(),
        }
    }

    fn get_db(&self) -> i64 {
        match &self.way {
            Way::Shared(connection) => connection.get_db(),
            Way::Own(connection) => connection.get_db(),
            Way::Cluster(_) => 0,
        }
    }
}

/// Reads a `redis://`, `rediss://` or `redis+unix://` URL; nothing is connected yet. For what has
/// to be one server.
///
/// The error does not repeat the URL, which may hold a password.
pub fn client(url: &SecretString) -> anyhow::Result<Client> {
    let url = url.expose_secret();
    ensure!(!cluster::is_cluster(url), "this Redis has to be one server, not a cluster");
    Client::open(url).context("the Redis URL is not valid")
}

/// A shared, lazily connected, reconnecting connection for ordinary commands.
///
/// A command that is in flight when the connection breaks fails with an unknown outcome; it is
/// never sent again by itself. While Redis is away each command makes one attempt to connect and
/// fails fast: back-off belongs to those who loop.
pub fn manager(client: &Client) -> anyhow::Result<ConnectionManager> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT))
        .set_number_of_retries(0);
    ConnectionManager::new_lazy_with_config(client.clone(), config)
        .context("the Redis connection cannot be set up")
}

/// A connection of its own for blocking reads, whose only time limit is `response_timeout`.
///
/// It does not reconnect: whoever reads drops it on the first error and asks for a new one.
pub async fn blocking(
    client: &Client,
    response_timeout: Duration,
) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(response_timeout));
    client.get_multiplexed_async_connection_with_config(&config).await
}

/// A connection of its own for subscriptions; like [`blocking`] it ends with its first error.
pub async fn pubsub(client: &Client) -> RedisResult<PubSub> {
    tokio::time::timeout(CONNECT_TIMEOUT, client.get_async_pubsub())
        .await
        .unwrap_or_else(|_| Err(timed_out()))
}

fn timed_out() -> RedisError {
    RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut))
}
