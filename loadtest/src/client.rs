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

mod answer;
mod caller;

pub use answer::Reply;
use answer::{Length, invalid, parse, within_limit};
pub use caller::Caller;

/// A request without an answer for this long has an unknown outcome.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
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

/// A keep-alive connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    body: std::ops::Range<usize>,
    first_byte: Option<Instant>,
    sent_bytes: usize,
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
            sent_bytes: 0,
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
            self.write(request).await?;
            self.read(note).await
        })
        .await?
    }

    /// Whether the server has closed it between two requests, or has said what nobody has asked for;
    /// as far as that has come here. It costs no call of the system as long as nothing has.
    pub fn is_closed(&self) -> bool {
        let nothing = self.stream.try_read(&mut [0]);
        !nothing.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The body of the last answer.
    pub fn body(&self) -> &[u8] {
        &self.received[self.body.clone()]
    }

    /// How many bytes of the last request have left this process.
    pub fn sent_bytes(&self) -> usize {
        self.sent_bytes
    }

    /// When the first byte of the last answer came.
    pub fn first_byte(&self) -> Option<Instant> {
        self.first_byte
    }

    /// How many bytes the last answer had, as they were sent.
    pub fn received_bytes(&self) -> usize {
        self.received_bytes
    }

    async fn write(&mut self, request: &[u8]) -> io::Result<()> {
        (self.sent_bytes, self.first_byte) = (0, None);
        while self.sent_bytes < request.len() {
            match self.stream.write(&request[self.sent_bytes..]).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                more => self.sent_bytes += more,
            }
        }
        Ok(())
    }

    async fn read(&mut self, mut note: impl FnMut(&str, &[u8])) -> io::Result<Reply> {
        self.received.clear();
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
    async fn it_is_seen_that_a_connection_was_closed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut connection = Connection::open(&Target::parse(&url).unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        let request = b"GET / HTTP/1.1\r\n\r\n";
        assert_eq!(connection.exchange(request).await.unwrap().status, 200);
        assert_eq!(connection.sent_bytes(), request.len());
        assert!(!connection.is_closed());
        drop(server);
        while !connection.is_closed() {
            tokio::task::yield_now().await;
        }
        assert!(connection.exchange(request).await.is_err());
        assert!(connection.first_byte().is_none(), "nothing of an answer has come");
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
}
