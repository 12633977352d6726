//! A server of a few paths that answers as slowly and as badly as it is told.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Bytes, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// How it answers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Manners {
    /// Before each answer.
    pub(super) slow: Duration,
    /// Every so many requests are answered 500.
    pub(super) fails: Option<usize>,
}

/// A request as it came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Came {
    /// Method and path with the query.
    pub(super) line: String,
    pub(super) authorization: String,
    pub(super) tenant: String,
    pub(super) body: String,
}

#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) url: String,
    came: Arc<Mutex<Vec<Came>>>,
}

impl Server {
    pub(super) async fn start(manners: Manners) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Self::at(url);
        let seen = Arc::clone(&server.came);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let seen = Arc::clone(&seen);
                let service =
                    service_fn(move |request| answer(request, Arc::clone(&seen), manners));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        server
    }

    /// One that closes its first connection when its second request comes, without a word; after
    /// that it behaves.
    pub(super) async fn start_with_a_broken_connection() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self::at(format!("http://{}", listener.local_addr().unwrap()));
        let seen = Arc::clone(&server.came);
        tokio::spawn(async move {
            let mut left = 1;
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut request).await {
                    let text = String::from_utf8_lossy(&request[..length]);
                    let line = text.lines().next().unwrap_or_default().to_owned();
                    seen.lock().unwrap().push(Came { line, ..Came::default() });
                    if left == 0 {
                        break;
                    }
                    left -= 1;
                    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                }
                left = usize::MAX;
            }
        });
        server
    }

    /// One that nobody has started.
    pub(super) fn at(url: String) -> Self {
        Self { url, came: Arc::default() }
    }

    /// All requests so far.
    pub(super) fn came(&self) -> Vec<Came> {
        self.came.lock().unwrap().clone()
    }
}

async fn answer(
    request: Request<Incoming>,
    seen: Arc<Mutex<Vec<Came>>>,
    manners: Manners,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let header = |name: &str| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let line = format!("{} {}", request.method(), request.uri());
    let (authorization, tenant) = (header("authorization"), header("x-tenant"));
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let number = {
        let mut seen = seen.lock().unwrap();
        let body = String::from_utf8_lossy(&body).into_owned();
        seen.push(Came { line, authorization, tenant, body });
        seen.len()
    };
    tokio::time::sleep(manners.slow).await;
    let is_bad = manners.fails.is_some_and(|every| number.is_multiple_of(every));
    let body = format!(r#"{{"number":{number},"nested":{{"id":"n-{number}"}}}}"#);
    let response =
        Response::builder().status(if is_bad { 500 } else { 200 }).header("x-kind", "test");
    Ok(response.body(Full::new(Bytes::from(body))).unwrap())
}
