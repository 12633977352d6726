//! Connections to Redis that fail fast, reconnect by themselves and never wait without a limit.
//!
//! [`Redis`] is one server or a Redis Cluster, as its URL says; who uses a [`Connection`] need not
//! know which. A connection whose peer is silent is given up within two seconds and replaced
//! (`link.rs`), and so is a subscription (`subscription.rs`). On a cluster a pipeline goes out in parts, one for each hash slot, all at once, and
//! a part that fails leaves the others' answers as they are.

mod cluster;
mod link;
mod server;
mod slots;
mod subscription;
mod write;

use std::time::Duration;

use anyhow::ensure;
use futures_util::{FutureExt as _, TryFutureExt as _};
use redis::{
    AsyncConnectionConfig, Client, Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};
use secrecy::{ExposeSecret as _, SecretString};

use self::{
    cluster::{Masters, Seeds},
    link::{Link, Work},
    server::Server,
};
pub use self::{link::SILENT_MAX, subscription::Subscription};
use crate::health::Dependency;

/// A caller is told within this time that Redis cannot be reached.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(250);

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
    place: Place,
    replicas_min: u32,
}

#[derive(Clone)]
enum Place {
    One(Client),
    Cluster(Seeds),
}

impl From<Client> for Redis {
    fn from(client: Client) -> Self {
        Self { place: Place::One(client), replicas_min: 0 }
    }
}

impl Redis {
    /// Reads a URL: `redis://`, `rediss://` or `redis+unix://` is one server, and
    /// `redis-cluster://[user:password@]host:port,host:port,…` (or `rediss-cluster://`) names some
    /// nodes of a cluster. `?sslrootcert=FILE` names the authority of servers that speak TLS.
    ///
    /// The error does not repeat the URL, which may hold a password.
    pub fn open(url: &SecretString) -> anyhow::Result<Self> {
        let place = match Seeds::of_url(url.expose_secret()) {
            Some(seeds) => Place::Cluster(seeds?),
            None => Place::One(client(url)?),
        };
        Ok(Self { place, replicas_min: 0 })
    }

    /// Makes [`Connection::write`] wait for so many replicas.
    #[must_use]
    pub fn confirmed_by(self, QueueArgs { replicas_min }: QueueArgs) -> Self {
        Self { replicas_min, ..self }
    }

    /// Whether there are several masters.
    pub fn is_cluster(&self) -> bool {
        matches!(self.place, Place::Cluster(_))
    }

    /// Whether one command may name all these keys.
    pub fn are_together(&self, keys: &[String]) -> bool {
        !self.is_cluster() || slots::are_one(keys)
    }

    /// A shared, lazily connected, reconnecting connection for ordinary commands; see
    /// [`connection`].
    pub fn connection(&self) -> anyhow::Result<Connection> {
        let way = match &self.place {
            Place::One(client) => Way::Shared(Link::new(Server::new(client.clone()))),
            Place::Cluster(seeds) => Way::Cluster(Link::to_masters(seeds, SILENT_MAX)?),
        };
        Ok(Connection { way, replicas_min: self.replicas_min })
    }

    /// A connection of its own for blocking reads; see [`blocking`]. Of a cluster it is connected
    /// when first used, and one error is none of the other masters.
    pub async fn blocking(&self, response_timeout: Duration) -> RedisResult<Connection> {
        let way = match &self.place {
            Place::One(client) => Way::Own(blocking(client, response_timeout).await?),
            Place::Cluster(seeds) => Way::Cluster(Link::to_masters(seeds, response_timeout)?),
        };
        Ok(Connection { way, replicas_min: self.replicas_min })
    }

    /// A connection of its own for subscriptions; see [`pubsub`]. Every node of a cluster hears
    /// what is published on any of them, so it is one of the nodes, and another one at each call.
    pub async fn pubsub(&self) -> RedisResult<Subscription> {
        match &self.place {
            Place::One(client) => pubsub(client).await,
            Place::Cluster(seeds) => seeds.pubsub().await,
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
    Shared(Link<Server>),
    Own(MultiplexedConnection),
    Cluster(Link<Masters>),
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

    /// Connects now, and keeps `dependency` up to date also while nobody sends anything. Of a
    /// cluster, of which a part may be away, only its users can say.
    #[must_use]
    pub fn reporting_to(self, dependency: Dependency) -> Self {
        if let Way::Shared(link) = &self.way {
            link.report_to(dependency);
        }
        self
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match &mut self.way {
            Way::Shared(link) => link.command(command).boxed(),
            Way::Own(own) => own.req_packed_command(command).inspect_err(note_silence).boxed(),
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
            Way::Shared(link) => link.pipeline(pipeline, offset, count).boxed(),
            Way::Own(own) => {
                own.req_packed_commands(pipeline, offset, count).inspect_err(note_silence).boxed()
            }
            Way::Cluster(link) => link.pipeline(pipeline, offset, count).boxed(),
        }
    }

    fn get_db(&self) -> i64 {
        match &self.way {
            Way::Own(connection) => connection.get_db(),
            Way::Shared(_) | Way::Cluster(_) => 0,
        }
    }
}

/// A blocking read is the only work of its connection, which its reader replaces.
fn note_silence(error: &RedisError) {
    if error.is_timeout() {
        Work::BlockingReads.silent().increment(1);
    }
}

/// Reads a `redis://`, `rediss://` or `redis+unix://` URL; nothing is connected yet. For what has
/// to be one server.
///
/// The error does not repeat the URL, which may hold a password.
pub fn client(url: &SecretString) -> anyhow::Result<Client> {
    let url = url.expose_secret();
    ensure!(!cluster::is_cluster(url), "this Redis has to be one server, not a cluster");
    let (url, authority) = server::authority(url)?;
    server::client(&url, authority.as_ref())
}

/// A shared, lazily connected, reconnecting connection for ordinary commands.
///
/// A command that is in flight when the connection breaks fails with an unknown outcome; it is
/// never sent again by itself. While Redis is away each command fails with the attempt to connect
/// that is under way: back-off belongs to those who loop.
pub fn connection(client: &Client) -> Connection {
    Connection { way: Way::Shared(Link::new(Server::new(client.clone()))), replicas_min: 0 }
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
pub async fn pubsub(client: &Client) -> RedisResult<Subscription> {
    tokio::time::timeout(CONNECT_TIMEOUT, client.get_async_pubsub())
        .await
        .unwrap_or_else(|_| Err(timed_out()))
        .map(Subscription::new)
}

fn timed_out() -> RedisError {
    RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut))
}
