//! Calls that surround a load.

use std::io;

use super::{Connection, Target, complete};

/// An ordinary caller of the API for what surrounds a run: set-up, and reading back.
#[derive(Debug)]
pub struct Caller {
    target: Target,
    connection: Option<Connection>,
}

impl Caller {
    /// Connects when first used.
    pub fn new(target: Target) -> Self {
        Self { target, connection: None }
    }

    /// One request; connects again where that is needed. An idle connection that the server has
    /// closed meanwhile is replaced once, so only requests that may be repeated belong here.
    pub async fn call(
        &mut self,
        method: &str,
        path: &str,
        token: &str,
        body: &[u8],
    ) -> io::Result<(u16, &[u8])> {
        self.call_at(method, &format!("/api/v1{path}"), token, body).await
    }

    /// The same of a path that is not under `/api/v1`.
    pub async fn call_at(
        &mut self,
        method: &str,
        path: &str,
        token: &str,
        body: &[u8],
    ) -> io::Result<(u16, &[u8])> {
        let mut request = Vec::new();
        complete(&mut request, &self.target.head_at(method, path, token), body);
        let kept = match self.connection.take() {
            Some(mut kept) => kept.exchange(&request).await.ok().map(|reply| (kept, reply)),
            None => None,
        };
        let (connection, reply) = match kept {
            Some(done) => done,
            None => {
                let mut fresh = Connection::open(&self.target).await?;
                let reply = fresh.exchange(&request).await?;
                (fresh, reply)
            }
        };
        let connection = self.connection.insert(connection);
        Ok((reply.status, connection.body()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_closed_keep_alive_connection_is_replaced() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let mut requests = Vec::new();
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let n = stream.read(&mut request).await.unwrap();
                requests.push(String::from_utf8_lossy(&request[..n]).into_owned());
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n").await.unwrap();
                stream.write_all(b"ok").await.unwrap();
            }
            requests
        });
        let mut caller = Caller::new(Target::parse(&url).unwrap());
        for _ in 0..2 {
            let answer = caller.call("PUT", "/x", "t", b"{}").await.unwrap();
            assert_eq!(answer, (200, b"ok".as_slice()));
        }
        let requests = server.await.unwrap();
        assert!(requests[1].starts_with("PUT /api/v1/x HTTP/1.1\r\n"), "{requests:?}");
        assert!(requests[1].ends_with("content-length: 2\r\n\r\n{}"), "{requests:?}");
    }
}
