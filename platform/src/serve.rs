//! The HTTP server: our own accept loop, and the layers that every service wears.
//!
//! axum's `serve` has no limit for connections, no time limit for a request's header and no end to
//! its graceful shutdown; hence the loop. It speaks HTTP/1.1 with upgrades.
//!
//! On shutdown it stops accepting, closes idle connections, lets running requests finish, and cuts
//! what is left after the grace. Sockets that were upgraded are not waited for: whoever holds them
//! closes them with a reason.

mod edge;
mod request_id;

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use http::{HeaderValue, header::CONNECTION};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::set_header::SetResponseHeaderLayer;

pub use edge::layers;
pub use request_id::{RequestId, current_request_id};

use crate::{health::Health, problem::Problem, run};

/// What a client hears when there is no room for its connection.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n\
    content-length: 0\r\nconnection: close\r\n\r\n";

/// Settings of the HTTP server
#[derive(clap::Args, Clone, Debug)]
pub struct HttpArgs {
    /// A request that has no answer after this is answered with 504
    #[arg(
        long = "http-request-timeout",
        env = "HTTP_REQUEST_TIMEOUT",
        default_value = "10s",
        value_parser = run::parse_duration
    )]
    pub request_timeout: Duration,
    /// A connection that sends no complete request header for this long is closed; so this is
    /// also how long it may be idle between two requests
    #[arg(
        long = "http-header-timeout",
        env = "HTTP_HEADER_TIMEOUT",
        default_value = "30s",
        value_parser = run::parse_duration
    )]
    pub header_timeout: Duration,
    /// Connections at a time, sockets not counted; one more is answered with 503
    #[arg(long = "http-max-connections", env = "HTTP_MAX_CONNECTIONS", default_value_t = 50_000)]
    pub max_connections: usize,
    /// Largest request body in bytes, whatever a route allows by itself
    #[arg(long = "http-max-body-bytes", env = "HTTP_MAX_BODY_BYTES", default_value_t = 1 << 20)]
    pub max_body_bytes: usize,
    /// How long running requests may take to finish after SIGTERM
    #[arg(
        long = "http-shutdown-grace",
        env = "HTTP_SHUTDOWN_GRACE",
        default_value = "10s",
        value_parser = run::parse_duration
    )]
    pub shutdown_grace: Duration,
    /// Origins whose pages may call the API (`https://app.example`), separated by commas
    #[arg(long = "http-cors-origins", env = "HTTP_CORS_ORIGINS", value_delimiter = ',')]
    pub cors_origins: Vec<String>,
}

impl Default for HttpArgs {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(30),
            max_connections: 50_000,
            max_body_bytes: 1 << 20,
            shutdown_grace: Duration::from_secs(10),
            cors_origins: Vec::new(),
        }
    }
}

/// What a service answers: at first that it is starting, then everything.
///
/// The address answers probes and tells clients to come back while stores are waited for.
pub struct Apps {
    starting: Router,
    ready: OnceLock<Router>,
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
        Arc::new(Self { starting, ready: OnceLock::new() })
    }

    /// One that is ready from the first moment.
    pub fn ready(app: Router) -> Arc<Self> {
        let apps = Self { starting: Router::new(), ready: OnceLock::new() };
        apps.set_ready(app);
        Arc::new(apps)
    }

    /// From now on new connections meet `app`; only the first call counts.
    pub fn set_ready(&self, app: Router) {
        // Without `with_state` axum would prepare the routes anew for every request.
        let _ = self.ready.set(app.with_state(()));
    }

    fn current(&self) -> Router {
        self.ready.get().unwrap_or(&self.starting).clone()
    }
}

/// Serves until `shutdown`, then drains for at most `args.shutdown_grace`.
///
/// # Errors
/// None at present: failures of single connections and of accepting are logged, and it goes on.
pub async fn serve(
    listener: TcpListener,
    apps: Arc<Apps>,
    args: &HttpArgs,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(args.header_timeout).max_buf_size(64 * 1024);
    let server = Arc::new(Server { http, apps, cut: CancellationToken::new() });
    let room = Arc::new(Semaphore::new(args.max_connections.min(Semaphore::MAX_PERMITS)));
    let open = metrics::gauge!("http_connections");
    let connections = TaskTracker::new();

    loop {
        let stream = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    wait_out(&error).await;
                    continue;
                }
            },
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            turn_away(&stream);
            continue;
        };
        // Answers are small and whole: waiting for more to send would only delay them.
        let _ = stream.set_nodelay(true);
        let server = Arc::clone(&server);
        let open = open.clone();
        // A child has its own lock, so that connections do not meet on the parent's.
        let stop = shutdown.child_token();
        connections.spawn(async move {
            open.increment(1.0);
            server.connection(stream, stop).await;
            open.decrement(1.0);
            drop(permit);
        });
    }
    drop(listener);
    connections.close();
    if !run::drain("http requests", args.shutdown_grace, connections.wait()).await {
        server.cut.cancel();
        connections.wait().await;
    }
    Ok(())
}

/// Spawns [`serve`] for a service that is starting: it answers health, and the rest once it is told
/// [`Apps::set_ready`].
pub fn start(
    listener: TcpListener,
    health: &Health,
    args: &HttpArgs,
    shutdown: &CancellationToken,
) -> (Arc<Apps>, JoinHandle<io::Result<()>>) {
    let apps = Apps::starting(health, args);
    let serving = tokio::spawn({
        let (apps, args, shutdown) = (Arc::clone(&apps), args.clone(), shutdown.clone());
        async move { serve(listener, apps, &args, shutdown).await }
    });
    (apps, serving)
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
    /// Ends what is still running after the grace.
    cut: CancellationToken,
}

impl Server {
    async fn connection(&self, stream: TcpStream, stop: CancellationToken) {
        let service = TowerToHyperService::new(self.apps.current());
        let connection = self.http.serve_connection(TokioIo::new(stream), service).with_upgrades();
        tokio::pin!(connection);
        let result = tokio::select! {
            biased;
            result = connection.as_mut() => result,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    result = connection => result,
                    () = self.cut.cancelled() => return,
                }
            }
        };
        if let Err(error) = result {
            // Clients go away, send nonsense or nothing: that is their business.
            tracing::debug!(target: "http", %error, "a connection ended");
        }
    }
}

/// A busy server says so instead of letting the client wait in the backlog. One try without
/// waiting: the few bytes always fit into a new connection's buffer.
fn turn_away(stream: &TcpStream) {
    metrics::counter!("http_connections_refused_total").increment(1);
    let _ = stream.try_write(FULL);
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
