//! Both Redis clients on the same unix socket.

use benches::stores::Redis;
use fred::{
    clients::Client,
    interfaces::ClientLike as _,
    types::config::{Config, ServerConfig},
};
use redis::aio::MultiplexedConnection;

/// A connection of redis-rs, and a client of fred.
pub(crate) async fn clients(redis: &Redis) -> anyhow::Result<(MultiplexedConnection, Client)> {
    let url = redis.url();
    let ours = redis::Client::open(url.as_str())?.get_multiplexed_async_connection().await?;
    let path = url.trim_start_matches("redis+unix://");
    let config = Config { server: ServerConfig::new_unix_socket(path), ..Config::default() };
    let other = Client::new(config, None, None, None);
    other.init().await?;
    Ok((ours, other))
}
