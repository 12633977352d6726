//! A small HTTP/1.1 client: one keep-alive connection, one request at a time, no allocation per
//! request.
//!
//! The generator shares its machine with what it measures, so its own cost matters: a comparison
//! with hyper's client is in `tests/client_cost.rs`. Bodies come with a content length, in chunks, or
//! up to the end of the connection.

use std::{
    fmt::Write as _,
    io,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// A request without an answer for this long has an unknown outcome.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// More than any answer to a fix or a page of a route.
const RESPONSE_MAX: usize = 16 << 20;
const HEADERS_MAX: usize = 64;
/// A connection that rested longer is replaced before use: the server may be about to close it.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(5);

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `host:port`, as in the Host header.
    pub authority: String,
    /// What stands before `/api/v1`, without a trailing slash; usually empty.
    pub prefix: String,
}

/// An address that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadUrl(String);

impl std::fmt::Display for BadUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} is not an http:// address", self.0)
    }
}

impl std::error::Error for BadUrl {}

impl Target {
    /// Reads `http://host[:port][/prefix]`. TLS is left to whatever stands before the service.
    pub fn parse(url: &str) -> Result<Self, BadUrl> {
        let bad = || BadUrl(url.to_owned());
        let uri: http::Uri = url.parse().map_err(|_| bad())?;
        let (Some("http"), Some(host)) = (uri.scheme_str(), uri.host()) else { return Err(bad()) };
        Ok(Self {
            authority: format!("{host}:{}", uri.port_u16().unwrap_or(80)),
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// The start of every request of one kind and caller, up to the content length's value.
    pub fn head(&self, method: &str, path: &str, token: &str) -> Box<[u8]> {
        self.head_at(method, &format!("/api/v1{path}"), token)
    }

    /// The same of a path that is not under `/api/v1`.
    pub fn head_at(&self, method: &str, path: &str, token: &str) -> Box<[u8]> {
        let mut head = String::new();
        let _infallible = write!(
            head,
            "{method} {}{path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: ",
            self.prefix, self.authority
        );
        head.into_bytes().into()
    }

    /// Opens a TCP connection with TCP_NODELAY.
    pub async fn connect(&self) -> io::Result<TcpStream> {
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.authority)).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Completes a head from [`Target::head`] with its body, appending to `out`.
pub fn complete(out: &mut Vec<u8>, head: &[u8], body: &[u8]) {
    complete_with(out, head, format_args!(""), body);
}

/// The same with further headers, each with its line end.
pub fn complete_with(
    out: &mut Vec<u8>,
    head: &[u8],
    headers: std::fmt::Arguments<'_>,
    body: &[u8],
) {
    use std::io::Write as _;
    out.extend_from_slice(head);
    let _infallible = write!(out, "{}\r\n{headers}\r\n", body.len());
    out.extend_from_slice(body);
}

/// What came back, apart from the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// Seconds of a Retry-After header.
    pub retry_after: Option<Duration>,
    /// The server closes the connection after this answer.
    pub close: bool,
}

/// A keep-alive connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    body: std::ops::Range<usize>,
    first_byte: Option<Instant>,
    received_bytes: usize,
}

impl Connection {
    /// Connects.
    pub async fn open(target: &Target) -> io::Result<Self> {
        Ok(Self {
            stream: target.connect().await?,
            received: Vec::with_capacity(4096),
            body: 0..0,
            first_byte: None,
            received_bytes: 0,
        })
    }

    /// Sends one request and reads its answer, within ten seconds. After an error the connection
    /// must not be used again, and whether the server acted is unknown.
    pub async fn exchange(&mut self, request: &[u8]) -> io::Result<Reply> {
        self.exchange_noting(request, |_, _| {}).await
    }

    /// The same, and shows each header of the answer to `note`.
    pub async fn exchange_noting(
        &mut self,
        request: &[u8],
        note: impl FnMut(&str, &[u8]),
    ) -> io::Result<Reply> {
        timeout(RESPONSE_TIMEOUT, async {
            self.stream.write_all(request).await?;
            self.read(note).await
        })
        .await?
    }

    /// The body of the last answer.
    pub fn body(&self) -> &[u8] {
        &self.received[self.body.clone()]
    }

    /// When the first byte of the last answer came.
    pub fn first_byte(&self) -> Option<Instant> {
        self.first_byte
    }

    /// How many bytes the last answer had, as they were sent.
    pub fn received_bytes(&self) -> usize {
        self.received_bytes
    }

    async fn read(&mut self, mut note: impl FnMut(&str, &[u8])) -> io::Result<Reply> {
        self.received.clear();
        self.first_byte = None;
        loop {
            self.more().await?;
            self.first_byte.get_or_insert_with(Instant::now);
            let Some((mut reply, head, length)) = parse(&self.received, &mut note)? else {
                continue;
            };
            self.body = match length {
                Length::Bytes(body) => {
                    while self.received.len() < head + body {
                        self.more().await?;
                    }
                    self.received_bytes = head + body;
                    head..head + body
                }
                Length::Chunks => head..self.read_chunks(head).await?,
                Length::UntilTheEnd => {
                    reply.close = true;
                    while self.stream.read_buf(&mut self.received).await? > 0 {
                        within_limit(self.received.len() - head)?;
                    }
                    self.received_bytes = self.received.len();
                    head..self.received.len()
                }
            };
            return Ok(reply);
        }
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.received).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Reads a body in chunks and moves them together; answers where it ends. Trailers are skipped.
    async fn read_chunks(&mut self, head: usize) -> io::Result<usize> {
        // What was read lies from `next` on, and the body so far between `head` and `end`.
        let (mut end, mut next) = (head, head);
        loop {
            let (line, size) = loop {
                match httparse::parse_chunk_size(&self.received[next..]) {
                    Ok(httparse::Status::Complete(found)) => break found,
                    Ok(httparse::Status::Partial) => self.more().await?,
                    Err(_) => return Err(invalid("a chunk without a size")),
                }
            };
            next += line;
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            within_limit(size.saturating_add(end - head))?;
            if size == 0 {
                break;
            }
            while self.received.len() < next + size + 2 {
                self.more().await?;
            }
            self.received.copy_within(next..next + size, end);
            end += size;
            next += size + 2;
        }
        // The end is an empty line, before which there may be trailers.
        loop {
            while let Some(line) = self.received[next..].iter().position(|byte| *byte == b'\n') {
                let is_empty = matches!(&self.received[next..next + line], b"" | b"\r");
                next += line + 1;
                if is_empty {
                    self.received_bytes = next;
                    return Ok(end);
                }
            }
            within_limit(self.received.len() - head)?;
            self.more().await?;
        }
    }
}

/// How long a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    Bytes(usize),
    Chunks,
    UntilTheEnd,
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn within_limit(length: usize) -> io::Result<()> {
    if length > RESPONSE_MAX { Err(invalid("an answer beyond the limit")) } else { Ok(()) }
}

/// The reply, the head's length and the body's length, once the head is complete.
fn parse(
    bytes: &[u8],
    mut note: impl FnMut(&str, &[u8]),
) -> io::Result<Option<(Reply, usize, Length)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes).map_err(|_| invalid("not an HTTP/1.1 answer"))? {
        httparse::Status::Complete(head) => head,
        httparse::Status::Partial => return Ok(None),
    };
    let status = response.code.unwrap_or_default();
    let mut reply = Reply { status, retry_after: None, close: response.version == Some(0) };
    let (mut length, mut is_chunked) = (None, false);
    for header in response.headers.iter() {
        note(header.name, header.value);
        let text = std::str::from_utf8(header.value).unwrap_or_default();
        if header.name.eq_ignore_ascii_case("content-length") {
            length = Some(text.parse::<usize>().map_err(|_| invalid("not a content length"))?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            is_chunked = text.to_ascii_lowercase().ends_with("chunked");
        } else if header.name.eq_ignore_ascii_case("retry-after") {
            reply.retry_after = text.parse().ok().map(Duration::from_secs);
        } else if header.name.eq_ignore_ascii_case("connection") {
            reply.close |= text.eq_ignore_ascii_case("close");
        }
    }
    let length = match (length, status) {
        (_, 204 | 304) => Length::Bytes(0),
        _ if is_chunked => Length::Chunks,
        (Some(length), _) => Length::Bytes(length),
        (None, _) => Length::UntilTheEnd,
    };
    if let Length::Bytes(length) = length {
        within_limit(length)?;
    }
    Ok(Some((reply, head, length)))
}

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
    use super::*;

    #[test]
    fn an_address_is_read_or_refused() {
        let target = Target::parse("http://127.0.0.1:8002/").unwrap();
        assert_eq!(target, Target { authority: "127.0.0.1:8002".into(), prefix: String::new() });
        assert_eq!(Target::parse("http://gps.test/a/").unwrap().prefix, "/a");
        assert_eq!(Target::parse("http://gps.test").unwrap().authority, "gps.test:80");
        assert!(Target::parse("https://gps.test").is_err());
        assert!(Target::parse("gps.test:80").is_err());
    }

    #[test]
    fn an_answer_is_complete_at_any_cut() {
        let whole = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nConnection: close\r\n\
                      Content-Length: 4\r\n\r\nbusy";
        let head = whole.len() - 4;
        let mut noted = Vec::new();
        let mut note = |name: &str, value: &[u8]| noted.push((name.to_owned(), value.to_vec()));
        for cut in 0..head {
            assert!(matches!(parse(&whole[..cut], &mut note), Ok(None)), "cut at {cut}");
        }
        let reply = Reply { status: 503, retry_after: Some(Duration::from_secs(2)), close: true };
        assert_eq!(parse(whole, note).unwrap(), Some((reply, head, Length::Bytes(4))));
        assert_eq!(noted.len(), 3, "each header once, when all are there: {noted:?}");
        assert_eq!(noted[0], ("Retry-After".to_owned(), b"2".to_vec()));
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for answer in [
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: five\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
        ] {
            assert!(parse(answer.as_bytes(), |_, _| {}).is_err(), "{answer:?}");
        }
    }

    /// What a connection makes of two answers that come in pieces of `size` bytes.
    async fn read_in_pieces(bytes: &'static [u8], size: usize) -> Vec<(u16, bool, Vec<u8>, usize)> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut asked = [0; 64];
            while let Ok(1..) = stream.read(&mut asked).await {
                for piece in bytes.chunks(size) {
                    stream.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
                if !bytes.ends_with(b"\r\n") {
                    return;
                }
            }
        });
        let mut connection = Connection::open(&Target::parse(&url).unwrap()).await.unwrap();
        let mut seen = Vec::new();
        for _ in 0..2 {
            let Ok(reply) = connection.exchange(b"GET / HTTP/1.1\r\n\r\n").await else { break };
            assert!(connection.first_byte().is_some());
            let bytes = connection.received_bytes();
            seen.push((reply.status, reply.close, connection.body().to_vec(), bytes));
        }
        seen
    }

    #[tokio::test]
    async fn bodies_come_in_chunks_or_until_the_end() {
        let chunked: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                              5;x=y\r\nhello\r\nb\r\n, my world!\r\n0\r\nTrailer: 1\r\n\r\n";
        for size in [1, 2, 7, 1_000] {
            let whole = (200, false, b"hello, my world!".to_vec(), chunked.len());
            assert_eq!(read_in_pieces(chunked, size).await, [whole.clone(), whole], "{size}");
        }
        let ended: &[u8] = b"HTTP/1.1 200 OK\r\n\r\nall of it";
        let whole = (200, true, b"all of it".to_vec(), ended.len());
        assert_eq!(read_in_pieces(ended, 3).await, [whole]);
        let cut: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel";
        assert_eq!(read_in_pieces(cut, 100).await, []);
        let broken: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
        assert_eq!(read_in_pieces(broken, 100).await, []);
    }

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
