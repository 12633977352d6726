//! Refusing a connection so that its client sees why.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// What a client hears when there is no room for its connection.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n\
    content-length: 0\r\nconnection: close\r\n\r\n";

/// Refused connections that are seen off at a time; more are only closed.
pub(super) const REFUSALS_MAX: usize = 64;
/// A refused client reads its answer and closes, or is cut.
const LINGER: Duration = Duration::from_secs(1);
/// The most that is read of what a refused client sends.
const UNREAD_MAX: u64 = 64 * 1024;

/// Sees off connections for which there is no room.
#[derive(Debug)]
pub(super) struct Refusals(Arc<Semaphore>);

impl Refusals {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(REFUSALS_MAX)))
    }

    /// A busy server says so instead of letting the client wait in the backlog.
    ///
    /// What the client has sent is read until it closes: a socket that is closed with unread input
    /// is reset, and the reset overtakes the answer.
    pub(super) fn refuse(&self, mut stream: TcpStream) {
        metrics::counter!("http_connections_refused_total").increment(1);
        // One try without waiting: the few bytes always fit into a new connection's buffer.
        let _ = stream.try_write(FULL);
        let Ok(permit) = Arc::clone(&self.0).try_acquire_owned() else { return };
        tokio::spawn(async move {
            let read_out = async {
                stream.shutdown().await?;
                let mut rest = stream.take(UNREAD_MAX);
                let mut buffer = [0; 4096];
                while rest.read(&mut buffer).await? > 0 {}
                Ok::<_, std::io::Error>(())
            };
            // A client that is gone needs no answer.
            let _ = tokio::time::timeout(LINGER, read_out).await;
            drop(permit);
        });
    }
}
