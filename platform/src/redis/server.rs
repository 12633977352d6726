//! One server: its URL, and the connection that all callers share.

use std::time::Duration;

use anyhow::Context as _;
use redis::{
    AsyncConnectionConfig, Client, Cmd, IntoConnectionInfo as _, Pipeline, RedisResult,
    TlsCertificates, Value,
    aio::MultiplexedConnection,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};

use super::{
    CONNECT_TIMEOUT,
    link::{Connect, Link, SILENT_MAX},
};

/// The settings of sockets: what is not acknowledged in time, or a probe of an idle connection,
/// ends a connection whose host has vanished, also when nobody waits for an answer.
pub(super) fn tcp_settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new().with_time(SILENT_MAX).with_interval(Duration::from_secs(1));
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(SILENT_MAX);
    settings
}

/// The authority that a URL names, as redis-rs wants it, and the rest of the URL.
pub(super) fn authority(url: &str) -> anyhow::Result<(String, Option<TlsCertificates>)> {
    let (url, pem) = crate::authority::of_url(url)?;
    Ok((url, pem.map(|pem| TlsCertificates { client_tls: None, root_cert: Some(pem) })))
}

/// A client of one server; the error does not repeat the URL.
pub(super) fn client(url: &str, authority: Option<&TlsCertificates>) -> anyhow::Result<Client> {
    let info = url.into_connection_info().context("the Redis URL is not valid")?;
    let info = info.set_tcp_settings(tcp_settings());
    let client = match authority {
        Some(authority) => Client::build_with_tls(info, authority.clone()),
        None => Client::open(info),
    };
    client.context("the Redis URL is not valid")
}

/// The target of a [`Link`] to one server.
pub(super) struct Server {
    client: Client,
    config: AsyncConnectionConfig,
}

impl Server {
    pub(super) fn new(client: Client) -> Self {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(SILENT_MAX));
        Self { client, config }
    }
}

impl Connect for Server {
    type Connection = MultiplexedConnection;
    const IS_PINGED: bool = true;

    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        self.client.get_multiplexed_async_connection_with_config(&self.config).await
    }

    async fn ping(mut connection: MultiplexedConnection) -> RedisResult<()> {
        redis::cmd("PING").query_async(&mut connection).await
    }
}

impl Link<Server> {
    pub(super) async fn command(&self, command: &Cmd) -> RedisResult<Value> {
        let open = self.open().await?;
        let result = open.connection.clone().send_packed_command(command).await;
        if let Err(error) = &result
            && is_the_end(error)
        {
            self.give_up(&open, error);
        }
        result
    }

    pub(super) async fn pipeline(
        &self,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let open = self.open().await?;
        let result = open.connection.clone().send_packed_commands(pipeline, offset, count).await;
        if let Err(error) = &result
            && is_the_end(error)
        {
            self.give_up(&open, error);
        }
        result
    }
}

/// Returns true when a connection with this error is of no more use. A server answers in order:
/// when one answer does not come, none behind it does.
fn is_the_end(error: &redis::RedisError) -> bool {
    error.is_timeout() || error.is_unrecoverable_error()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_without_tls_is_refused() {
        let pem = TlsCertificates { client_tls: None, root_cert: Some(Vec::new()) };
        assert!(client("redis://h:1", Some(&pem)).is_err());
        assert!(client("rediss://h:1", Some(&pem)).is_ok());
    }
}
