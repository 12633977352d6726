//! The accept loop. Not `platform`'s, because each connection here has a tap.

use std::{io, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use platform::run;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service as _;

use crate::wire::Wire;

/// A connection that sends no header for this long is closed.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);
/// How long answers may take that were begun before the end.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves until `shutdown`; what is then still running has five seconds.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    connections_max: usize,
    shutdown: CancellationToken,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(64 * 1024);
    // Without `with_state` axum would prepare the routes anew for every request.
    let (http, router) = (Arc::new(http), router.with_state(()));
    let room = Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS)));
    let cut = CancellationToken::new();
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
        // A gateway that is full lets its callers wait for nothing either.
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
        let _ = stream.set_nodelay(true);
        let (http, router, stop) = (Arc::clone(&http), router.clone(), shutdown.child_token());
        let cut = cut.child_token();
        connections.spawn(async move {
            tokio::select! {
                () = connection(&http, router, stream, stop) => {}
                () = cut.cancelled() => {}
            }
            drop(permit);
        });
    }
    drop(listener);
    connections.close();
    if !run::drain("payment requests", DRAIN, connections.wait()).await {
        cut.cancel();
        connections.wait().await;
    }
}

async fn connection(
    http: &http1::Builder,
    router: Router,
    stream: TcpStream,
    stop: CancellationToken,
) {
    let (wire, tap) = Wire::new(stream);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(tap.clone());
        // A router is always ready.
        router.clone().call(request)
    });
    let connection = http.serve_connection(TokioIo::new(wire), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        biased;
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // Callers go away, and many connections are broken on purpose.
        tracing::debug!(%error, "a connection ended");
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
