//! Connections whose client does not read, or does not send.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::room::{Connection, Permit};

/// Why the server closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// A request's header was begun and not completed in time.
    Header,
    /// No request came for as long.
    Idle,
    /// A request's body did not come in time.
    Body,
    /// Nothing could be written for too long.
    Write,
    /// The TLS handshake failed or took too long.
    Handshake,
    /// It was idle, and another one needed its place.
    Room,
}

/// The names of all reasons, for the metric.
pub(crate) const REASONS: &[&str] = &[
    Closed::Header.name(),
    Closed::Idle.name(),
    Closed::Body.name(),
    Closed::Write.name(),
    Closed::Handshake.name(),
    Closed::Room.name(),
];

impl Closed {
    const fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Idle => "idle",
            Self::Body => "body",
            Self::Write => "write",
            Self::Handshake => "handshake",
            Self::Room => "room",
        }
    }

    pub(super) fn count(self) {
        metrics::counter!("http_connections_closed_total", "reason" => self.name()).increment(1);
    }
}

/// A connection's bytes, and its permit for as long as they flow.
///
/// Writing fails when the client has taken nothing for `write_timeout`: hyper has no such limit, and
/// this one holds for pages, downloads and event streams as for sockets.
pub(super) struct Watched {
    stream: TcpStream,
    connection: Arc<Connection>,
    write_timeout: Duration,
    /// Runs while a write is blocked.
    blocked: Option<Pin<Box<Sleep>>>,
    has_given_up: bool,
    _permit: Permit,
}

impl Watched {
    pub(super) fn new(
        stream: TcpStream,
        connection: Arc<Connection>,
        write_timeout: Duration,
        permit: Permit,
    ) -> Self {
        Self {
            stream,
            connection,
            write_timeout,
            blocked: None,
            has_given_up: false,
            _permit: permit,
        }
    }

    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if write.is_ready() {
            if self.blocked.take().is_some() {
                self.connection.set_blocked(false);
            }
            return write;
        }
        let limit = self.write_timeout;
        let timer = self.blocked.get_or_insert_with(|| {
            self.connection.set_blocked(true);
            Box::pin(tokio::time::sleep(limit))
        });
        ready!(timer.as_mut().poll(cx));
        if !self.has_given_up {
            self.has_given_up = true;
            Closed::Write.count();
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.connection.heard();
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(cx, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.watch(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A TCP stream holds nothing back, so a flush says nothing about the client.
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
