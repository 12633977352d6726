//! The HTTP server: our own accept loop, and the layers that every service wears.
//!
//! axum's `serve` has no limit for connections, no time limit for a request's header and no end to
//! its graceful shutdown; hence the loop. It speaks HTTP/1.1 with upgrades, over TLS when it is given
//! a certificate.
//!
//! On shutdown it stops accepting, closes idle connections, lets running requests finish, and cuts
//! what is left after the grace. Sockets that were upgraded are not waited for: whoever holds them
//! closes them with a reason.

mod args;
mod client;
mod cors;
mod descriptors;
mod edge;
mod origins;
mod refuse;
mod request_id;
mod room;
mod slow;
mod tls;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::Router;
use axum::body::Body;
use http::{HeaderValue, Request, Response, header::CONNECTION};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::set_header::SetResponseHeaderLayer;

pub use args::HttpArgs;
pub use client::{ClientAddress, Network, TrustedProxies};
pub use descriptors::raise_descriptors;
pub use edge::layers;
pub use origins::Origins;
pub(crate) use request_id::reading_a_body;
pub use request_id::{RequestId, current_request_id};

use self::client::{PEER, Peer};
use self::refuse::Refusals;
use self::room::{Connection, Room};
pub(crate) use self::slow::REASONS as CLOSED_REASONS;
use self::slow::{Closed, Watched};
use self::tls::Tls;
use crate::{health::Health, problem::Problem, run};

/// What a service answers: at first that it is starting, then everything.
///
/// The address answers probes and tells clients to come back while stores are waited for.
pub struct Apps {
    starting: Router,
    ready: OnceLock<Router>,
    connections_max: usize,
}

impl Apps {
    /// Answers health, and 503 to everything else.
    pub fn starting(health: &Health, args: &HttpArgs) -> Arc<Self> {
        let starting = Router::new().fallback(async || {
            Problem::unavailable("The service is starting.", Duration::from_secs(1))
        });
        // Closed after every answer, so that a client's next request meets the whole service.
        let close =
            SetResponseHeaderLayer::overriding(CONNECTION, HeaderValue::from_static("close"));
        let starting = layers(starting, health, args).layer(close);
        let connections_max = args.max_connections;
        Arc::new(Self { starting, ready: OnceLock::new(), connections_max })
    }

    /// One that is ready from the first moment.
    pub fn ready(app: Router) -> Arc<Self> {
        let connections_max = HttpArgs::default().max_connections;
        let apps = Self { starting: Router::new(), ready: OnceLock::new(), connections_max };
        apps.set_ready(app);
        Arc::new(apps)
    }

    /// From now on new connections meet `app`; only the first call counts.
    pub fn set_ready(&self, app: Router) {
        // Without `with_state` axum would prepare the routes anew for every request.
        let _ = self.ready.set(app.with_state(()));
    }

    /// The most connections and sockets at a time, after [`start`] has made it fit.
    #[must_use]
    pub fn connections_max(&self) -> usize {
        self.connections_max
    }

    fn current(&self) -> Router {
        self.ready.get().unwrap_or(&self.starting).clone()
    }
}

/// Serves until `shutdown`, then drains for at most `args.shutdown_grace`.
///
/// # Errors
/// When the certificate cannot be used. Failures of single connections and of accepting are logged,
/// and it goes on.
pub async fn serve(
    listener: TcpListener,
    apps: Arc<Apps>,
    args: &HttpArgs,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let server = Server::new(apps, args, &shutdown).map_err(io::Error::other)?;
    server.run(listener, shutdown).await
}

/// Spawns [`serve`] for a service that is starting: it answers health, and the rest once
/// [`Apps::set_ready`] was called. `databases` is how many connections the pools of the service may
/// hold, which are kept free of clients.
///
/// # Errors
/// When the settings cannot work, or have no room in the limit of descriptors.
pub fn start(
    listener: TcpListener,
    health: &Health,
    args: &HttpArgs,
    databases: usize,
    shutdown: &CancellationToken,
) -> anyhow::Result<(Arc<Apps>, JoinHandle<io::Result<()>>)> {
    args.validate()?;
    let limit = raise_descriptors();
    let max_connections =
        descriptors::connections_that_fit(args.max_connections, databases, limit)?;
    let args = HttpArgs { max_connections, ..args.clone() };
    let apps = Apps::starting(health, &args);
    let server = Server::new(Arc::clone(&apps), &args, shutdown).context("HTTPS")?;
    let serving = tokio::spawn(server.run(listener, shutdown.clone()));
    Ok((apps, serving))
}

/// Waits for a spawned [`serve`] to end. From the moment of `shutdown`, which is answered, the
/// service is no longer ready.
///
/// # Errors
/// Those of `serve`.
pub async fn ended(
    serving: JoinHandle<io::Result<()>>,
    health: &Health,
    shutdown: &CancellationToken,
) -> anyhow::Result<Instant> {
    let stopping = tokio::spawn({
        let (health, shutdown) = (health.clone(), shutdown.clone());
        async move {
            shutdown.cancelled().await;
            health.set_ready(false);
            Instant::now()
        }
    });
    serving.await??;
    Ok(stopping.await?)
}

struct Server {
    http: http1::Builder,
    apps: Arc<Apps>,
    tls: Option<Arc<Tls>>,
    room: Room,
    refusals: Refusals,
    trusted: Arc<TrustedProxies>,
    header_timeout: Duration,
    write_timeout: Duration,
    shutdown_grace: Duration,
    /// Ends what is still running after the grace.
    cut: CancellationToken,
}

impl Server {
    fn new(
        apps: Arc<Apps>,
        args: &HttpArgs,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Arc<Self>> {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(args.header_timeout)
            .max_buf_size(64 * 1024);
        let tls = args.tls_files()?;
        let tls = tls.map(|(cert, key)| Tls::load(cert, key, shutdown.clone())).transpose()?;
        Ok(Arc::new(Self {
            http,
            apps,
            tls,
            room: Room::new(args.max_connections),
            refusals: Refusals::new(),
            trusted: Arc::new(args.trusted_proxies.clone()),
            header_timeout: args.header_timeout,
            write_timeout: args.write_timeout,
            shutdown_grace: args.shutdown_grace,
            cut: CancellationToken::new(),
        }))
    }

    async fn run(
        self: Arc<Self>,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> io::Result<()> {
        let connections = TaskTracker::new();
        loop {
            let (stream, peer) = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        wait_out(&error).await;
                        continue;
                    }
                },
            };
            let Some((permit, connection)) = self.room.enter().await else {
                self.refusals.refuse(stream);
                continue;
            };
            // Answers are small and whole: waiting for more to send would only delay them.
            let _ = stream.set_nodelay(true);
            let stream = Watched::new(stream, Arc::clone(&connection), self.write_timeout, permit);
            let peer = Peer { address: peer.ip(), trusted: Arc::clone(&self.trusted) };
            let server = Arc::clone(&self);
            // A child has its own lock, so that connections do not meet on the parent's.
            let stop = shutdown.child_token();
            connections.spawn(PEER.scope(peer, async move {
                match &server.tls {
                    None => server.connection(stream, &connection, stop).await,
                    Some(tls) => match server.handshake(tls, stream, &connection).await {
                        Some(stream) => server.connection(stream, &connection, stop).await,
                        None => Closed::Handshake.count(),
                    },
                }
                server.room.forget(&connection);
            }));
        }
        drop(listener);
        connections.close();
        if !run::drain("http requests", self.shutdown_grace, connections.wait()).await {
            self.cut.cancel();
            connections.wait().await;
        }
        Ok(())
    }

    /// A TLS stream, or nothing when the client cannot or does not come to it in time.
    async fn handshake(
        &self,
        tls: &Tls,
        stream: Watched,
        connection: &Connection,
    ) -> Option<Pin<Box<tokio_rustls::server::TlsStream<Watched>>>> {
        let accepting = tokio::time::timeout(self.header_timeout, tls.acceptor().accept(stream));
        tokio::select! {
            accepted = accepting => match accepted {
                Ok(Ok(stream)) => Some(Box::pin(stream)),
                Ok(Err(error)) => {
                    tracing::debug!(target: "http", %error, "a TLS handshake failed");
                    None
                }
                Err(_) => None,
            },
            () = connection.asked_to_give_way() => None,
            () = self.cut.cancelled() => None,
        }
    }

    async fn connection<I>(&self, stream: I, about: &Arc<Connection>, stop: CancellationToken)
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = Answers {
            inner: TowerToHyperService::new(self.apps.current()),
            connection: Arc::clone(about),
        };
        let serving = self.http.serve_connection(TokioIo::new(stream), service).with_upgrades();
        tokio::pin!(serving);
        let mut is_stopping = false;
        let result = loop {
            tokio::select! {
                biased;
                result = serving.as_mut() => break result,
                () = about.asked_to_give_way() => {
                    // A request may have come since.
                    if about.is_idle() {
                        return Closed::Room.count();
                    }
                }
                () = stop.cancelled(), if !is_stopping => {
                    is_stopping = true;
                    serving.as_mut().graceful_shutdown();
                }
                () = self.cut.cancelled(), if is_stopping => return,
            }
        };
        let Err(error) = result else { return };
        if error.is_timeout() {
            if about.is_partial() { Closed::Header } else { Closed::Idle }.count();
        }
        // Clients go away, send nonsense or nothing: that is their business.
        tracing::debug!(target: "http", %error, "a connection ended");
    }
}

/// The service of one connection, which notes when it is at work.
struct Answers {
    inner: TowerToHyperService<Router>,
    connection: Arc<Connection>,
}

impl Service<Request<Incoming>> for Answers {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Answering<<TowerToHyperService<Router> as Service<Request<Incoming>>>::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.connection.begin();
        Answering { inner: self.inner.call(request), connection: Arc::clone(&self.connection) }
    }
}

pin_project! {
    struct Answering<F> {
        #[pin]
        inner: F,
        connection: Arc<Connection>,
    }
}

impl<F, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(cx));
        // What is made while it is sent, such as a stream of events, is work until the connection
        // has its next request. What is complete is written at once, or seen to be blocked.
        if answer
            .as_ref()
            .is_ok_and(|answer| hyper::body::Body::size_hint(answer.body()).exact().is_some())
        {
            this.connection.answered();
        }
        Poll::Ready(answer)
    }
}

/// An aborted connection is nothing; a lack of descriptors ends only when others close theirs.
async fn wait_out(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};

    if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
    {
        return;
    }
    tracing::error!(%error, "no connection can be accepted");
    tokio::time::sleep(Duration::from_millis(100)).await;
}
