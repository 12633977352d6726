//! What stands behind a link to a store, and by which URL a process uses the link.

use std::path::Path;

use anyhow::Context as _;
use platform::stores::{
    PostgresServer, RedisServer,
    proxy::{Proxy, Upstream},
};

/// A Redis, over its port.
pub(crate) fn to_redis(redis: &RedisServer) -> anyhow::Result<Upstream> {
    let url = redis.tcp_url();
    let address = url.strip_prefix("redis://").context("the Redis has a port")?;
    Ok(Upstream::Tcp(address.to_owned()))
}

/// The URL of the Redis behind a link.
pub(crate) fn redis_through(link: &Proxy) -> String {
    format!("redis://127.0.0.1:{}", link.port)
}

/// A PostgreSQL, over its socket, which asks for no password.
pub(crate) fn to_postgres(postgres: &PostgresServer) -> anyhow::Result<Upstream> {
    let url = postgres.url("any");
    let (address, dir) = url.split_once("/any?host=").context("a URL with a socket")?;
    let (_, port) = address.rsplit_once(':').context("a URL with a port")?;
    Ok(Upstream::Unix(Path::new(dir).join(format!(".s.PGSQL.{port}"))))
}

/// The URL through a link of the database whose URL over the socket is `url`.
pub(crate) fn postgres_through(link: &Proxy, url: &str) -> anyhow::Result<String> {
    let (user, rest) = url.split_once('@').context("a URL with a user")?;
    let (_, database) = rest.split_once('/').context("a URL with a database")?;
    let (database, _) = database.split_once('?').unwrap_or((database, ""));
    Ok(format!("{user}@127.0.0.1:{}/{database}", link.port))
}
