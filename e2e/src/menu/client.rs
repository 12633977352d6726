//! A caller that sees the headers of an answer.

use std::io;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const HEADERS_MAX: usize = 32;

/// Where an answer came from, as its `x-cache` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The process's memory.
    Hit,
    /// Redis.
    Shared,
    /// PostgreSQL.
    Miss,
    /// An old copy.
    Stale,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) source: Option<Source>,
    pub(super) has_retry_after: bool,
    pub(super) body: Vec<u8>,
}

/// One keep-alive connection to a node, opened when it is needed.
#[derive(Debug)]
pub(super) struct Client {
    port: u16,
    stream: Option<TcpStream>,
}

impl Client {
    pub(super) fn new(port: u16) -> Self {
        Self { port, stream: None }
    }

    /// `GET` of a path within the API, as nobody in particular. A connection that the server has
    /// closed meanwhile is replaced once.
    pub(super) async fn get(&mut self, path: &str) -> io::Result<Answer> {
        if let Some(mut kept) = self.stream.take()
            && kept.write_all(self.request(path).as_bytes()).await.is_ok()
            && let Ok(answer) = self.receive(kept).await
        {
            return Ok(answer);
        }
        let asked = self.ask(path).await?;
        self.receive(asked).await
    }

    /// The first half of [`Client::get`], on a new connection: returns when the request is sent.
    pub(super) async fn ask(&self, path: &str) -> io::Result<TcpStream> {
        let mut fresh = self.connect().await?;
        fresh.write_all(self.request(path).as_bytes()).await?;
        Ok(fresh)
    }

    /// `PUT` of JSON. Never repeated: after an error nobody knows whether it was done.
    pub(super) async fn put(&mut self, path: &str, token: &str, body: &str) -> io::Result<Answer> {
        let (port, length) = (self.port, body.len());
        let request = format!(
            "PUT /api/v1{path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        // On a fresh connection an end is never the end of an idle one.
        let mut fresh = self.connect().await?;
        fresh.write_all(request.as_bytes()).await?;
        self.receive(fresh).await
    }

    fn request(&self, path: &str) -> String {
        format!("GET /api/v1{path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\n\r\n", self.port)
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Reads the answer to what was sent. The connection is kept only after a whole answer: a
    /// caller that gives up drops it.
    pub(super) async fn receive(&mut self, mut stream: TcpStream) -> io::Result<Answer> {
        let mut received = Vec::with_capacity(4_096);
        let (mut answer, head, length) = loop {
            if stream.read_buf(&mut received).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(parsed) = parse(&received)? {
                break parsed;
            }
        };
        while received.len() < head + length {
            if stream.read_buf(&mut received).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        answer.body = received[head..head + length].to_vec();
        self.stream = Some(stream);
        Ok(answer)
    }
}

/// The answer without its body, the length of its head and of its body, once the head is complete.
fn parse(bytes: &[u8]) -> io::Result<Option<(Answer, usize, usize)>> {
    let invalid = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes).map_err(|_| invalid("not an HTTP/1.1 answer"))? {
        httparse::Status::Complete(head) => head,
        httparse::Status::Partial => return Ok(None),
    };
    let status = response.code.unwrap_or_default();
    let mut answer = Answer { status, source: None, has_retry_after: false, body: Vec::new() };
    let mut length = None;
    for header in response.headers.iter() {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            length = std::str::from_utf8(header.value).ok().and_then(|text| text.parse().ok());
        } else if is("x-cache") {
            answer.source = Some(match header.value {
                b"hit" => Source::Hit,
                b"shared" => Source::Shared,
                b"miss" => Source::Miss,
                b"stale" => Source::Stale,
                _ => return Err(invalid("an x-cache of another form")),
            });
        } else if is("retry-after") {
            answer.has_retry_after = true;
        }
    }
    let length = length.ok_or_else(|| invalid("an answer without a content length"))?;
    Ok(Some((answer, head, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_at_any_cut() {
        let whole = b"HTTP/1.1 503 Service Unavailable\r\nX-Cache: shared\r\nretry-after: 1\r\n\
                      Content-Length: 2\r\n\r\n{}";
        let head = whole.len() - 2;
        for cut in 0..head {
            assert!(matches!(parse(&whole[..cut]), Ok(None)), "cut at {cut}");
        }
        let (status, source) = (503, Some(Source::Shared));
        let answer = Answer { status, source, has_retry_after: true, body: Vec::new() };
        assert_eq!(parse(whole).unwrap(), Some((answer, head, 2)));
        assert!(parse(b"HTTP/1.1 200 OK\r\nx-cache: perhaps\r\n\r\n").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err(), "of no length");
    }
}
