//! Connections to Redis that fail fast, reconnect by themselves and never wait without a limit.

use std::time::Duration;

use anyhow::Context as _;
use redis::{
    AsyncConnectionConfig, Client, RedisResult,
    aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection, PubSub},
};
use secrecy::{ExposeSecret as _, SecretString};

/// A caller is told within this time that Redis cannot be reached.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(250);
/// A command without an answer for this long has an unknown outcome.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads a `redis://`, `rediss://` or `redis+unix://` URL; nothing is connected yet.
///
/// The error does not repeat the URL, which may hold a password.
pub fn client(url: &SecretString) -> anyhow::Result<Client> {
    Client::open(url.expose_secret()).context("the Redis URL is not valid")
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
    tokio::time::timeout(CONNECT_TIMEOUT, client.get_async_pubsub()).await.unwrap_or_else(|_| {
        Err(redis::RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut)))
    })
}
