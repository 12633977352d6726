//! A link that can be broken: a TCP proxy whose mode is switched while connections are open.
//!
//! It behaves as a network does. What a black hole holds back arrives, in order, when it ends; a
//! connection that has lost bytes never carries any after them. A silent connection has lost its
//! peer without a sign: it stays open at both ends, for ever, and its server does not learn that
//! the client has closed it.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream, UnixStream},
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

/// Chunks under way in each direction of a connection.
const CHUNKS_MAX: usize = 256;
const CHUNK_BYTES: usize = 16 * 1024;
const BACKLOG: u32 = 1_024;
/// The first bytes of a connection, by which [`Proxy::silence`] recognises it.
const BEGINNING_BYTES: usize = 16 * 1024;

/// What stands behind the proxy.
#[derive(Debug, Clone)]
pub enum Upstream {
    /// A Unix socket.
    Unix(PathBuf),
    /// `host:port`
    Tcp(String),
}

/// What happens to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Everything is forwarded.
    Pass,
    /// Nobody listens, and what was open is closed.
    Refuse,
    /// All connections are closed, new ones as soon as they are accepted.
    Cut,
    /// The same by RST.
    Reset,
    /// Connections are accepted and stay open, and nothing is forwarded.
    BlackHole,
    /// Requests arrive, their answers do not. Connections are closed when this ends.
    DropReplies,
    /// Everything arrives this much later, each way.
    Delay(Duration),
    /// Each connection is closed after so many more bytes of answers.
    CutAfter(u64),
    /// The connections that exist now swallow everything, both ways, for ever; new ones work.
    Silent,
    /// As `Silent`, and so do those that are accepted until this ends. They stay silent after it.
    SilentAll,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    mode: Mode,
    /// Counts how often all connections had to end: a mode that lasts for a moment only must not
    /// be missed by any.
    ends: u64,
    reset: bool,
}

/// A connection that is open.
#[derive(Default)]
struct Open {
    /// The first bytes of its requests.
    beginning: Mutex<Vec<u8>>,
    silent: CancellationToken,
}

impl Open {
    fn hear(&self, requests: &[u8]) {
        let mut beginning = self.beginning.lock();
        let room = BEGINNING_BYTES.saturating_sub(beginning.len());
        beginning.extend_from_slice(&requests[..requests.len().min(room)]);
    }

    fn has_said(&self, word: &str) -> bool {
        self.beginning.lock().windows(word.len()).any(|bytes| bytes == word.as_bytes())
    }
}

/// The connections of a proxy, those that have ended among them.
type AllOpen = Arc<Mutex<Vec<Weak<Open>>>>;

/// Listens on a port of 127.0.0.1 until it is dropped.
pub struct Proxy {
    /// Where it listens, also while it refuses.
    pub port: u16,
    link: watch::Sender<Link>,
    open: AllOpen,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Starts to listen on a free port.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn start(upstream: Upstream) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (link, mode) = watch::channel(Link { mode: Mode::Pass, ends: 0, reset: false });
        let open = AllOpen::default();
        let task = tokio::spawn(accept(listener, address, upstream, mode, Arc::clone(&open)));
        Ok(Self { port: address.port(), link, open, task })
    }

    /// Switches; connections notice within a moment.
    pub fn set(&self, mode: Mode) {
        self.link.send_modify(|link| {
            let ends = matches!(mode, Mode::Refuse | Mode::Cut | Mode::Reset)
                || (link.mode == Mode::DropReplies && mode != Mode::DropReplies);
            link.ends += u64::from(ends);
            link.reset = mode == Mode::Reset;
            link.mode = mode;
        });
        if matches!(mode, Mode::Silent | Mode::SilentAll) {
            self.silence("");
        }
    }

    /// Makes those connections silent for ever whose first requests contain `word`, such as
    /// `SUBSCRIBE`, and answers how many they are. All others, and new ones, go on.
    pub fn silence(&self, word: &str) -> usize {
        let open = self.open.lock();
        let chosen = open
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|open| !open.silent.is_cancelled() && (word.is_empty() || open.has_said(word)));
        chosen.map(|open| open.silent.cancel()).count()
    }

    /// How many connections are open and carry what they are given.
    pub fn carrying(&self) -> usize {
        let open = self.open.lock();
        open.iter().filter_map(Weak::upgrade).filter(|open| !open.silent.is_cancelled()).count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    mut listener: TcpListener,
    address: SocketAddr,
    upstream: Upstream,
    mut link: watch::Receiver<Link>,
    all_open: AllOpen,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            changed = link.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            Ok((client, _)) = listener.accept() => {
                let open = Arc::new(Open::default());
                {
                    let mut all_open = all_open.lock();
                    all_open.retain(|open| open.strong_count() > 0);
                    all_open.push(Arc::downgrade(&open));
                }
                // After it is in the list: who switches now finds it there.
                if link.borrow().mode == Mode::SilentAll {
                    open.silent.cancel();
                }
                connections.spawn(connection(client, upstream.clone(), link.clone(), open));
            }
            Some(_) = connections.join_next() => {}
        }
        if link.borrow_and_update().mode == Mode::Refuse {
            drop(listener);
            match refuse(address, &mut link).await {
                Ok(again) => listener = again,
                Err(error) => {
                    eprintln!("the proxy on {address} ends: {error}");
                    return;
                }
            }
        }
    }
}

/// Keeps the port, without listening, until the mode is another.
async fn refuse(address: SocketAddr, link: &mut watch::Receiver<Link>) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    // Without a sender nobody is there who could connect.
    let _ended = link.wait_for(|link| link.mode != Mode::Refuse).await;
    socket.listen(BACKLOG)
}

async fn connection(
    mut client: TcpStream,
    upstream: Upstream,
    link: watch::Receiver<Link>,
    open: Arc<Open>,
) {
    let _ = client.set_nodelay(true);
    let ended = ended(link.clone());
    // How a connection ends is told to both sides by its ending.
    let carried = async {
        if open.silent.is_cancelled() {
            // Nobody is behind it.
            return swallow(&mut client, tokio::io::empty()).await;
        }
        wait_while(&mut link.clone(), Mode::BlackHole).await;
        match upstream {
            Upstream::Unix(path) => {
                let (replies, requests) = UnixStream::connect(path).await?.into_split();
                carry(&mut client, replies, requests, &link, &open).await
            }
            Upstream::Tcp(address) => {
                let server = TcpStream::connect(address).await?;
                server.set_nodelay(true)?;
                let (replies, requests) = server.into_split();
                carry(&mut client, replies, requests, &link, &open).await
            }
        }
    };
    let reset = tokio::select! {
        _ = carried => false,
        reset = ended => reset,
    };
    if reset {
        // Closing it then sends RST.
        let _ = client.set_zero_linger();
    }
}

/// Waits until the mode wants this connection to end; whether by RST.
async fn ended(mut link: watch::Receiver<Link>) -> bool {
    let born = link.borrow().ends;
    let ended = link.wait_for(|link| {
        link.ends != born || matches!(link.mode, Mode::Refuse | Mode::Cut | Mode::Reset)
    });
    ended.await.is_ok_and(|link| link.reset)
}

async fn wait_while(link: &mut watch::Receiver<Link>, mode: Mode) {
    // Without a sender the connection is about to be ended.
    let _ended = link.wait_for(|link| link.mode != mode).await;
}

async fn carry(
    client: &mut TcpStream,
    mut replies: impl AsyncRead + Unpin,
    mut requests: impl AsyncWrite + Unpin,
    link: &watch::Receiver<Link>,
    open: &Open,
) -> io::Result<()> {
    let carried = async {
        let (from_client, to_client) = client.split();
        tokio::try_join!(
            pump(from_client, &mut requests, link.clone(), Some(open)),
            pump(&mut replies, to_client, link.clone(), None),
        )
    };
    tokio::select! {
        biased;
        () = open.silent.cancelled() => {}
        carried = carried => return carried.map(drop),
    }
    // The server's end stays open for as long as `requests` lives.
    swallow(client, replies).await
}

/// Reads and drops what comes from both, until both have ended.
async fn swallow(client: &mut TcpStream, mut replies: impl AsyncRead + Unpin) -> io::Result<()> {
    let (mut nowhere, mut neither) = (tokio::io::sink(), tokio::io::sink());
    let client = tokio::io::copy(client, &mut nowhere);
    let replies = tokio::io::copy(&mut replies, &mut neither);
    let _ended = tokio::join!(client, replies);
    Ok(())
}

/// One direction, until its end is reached and passed on; requests are heard by `open`.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut link: watch::Receiver<Link>,
    open: Option<&Open>,
) -> io::Result<()> {
    let replies = open.is_none();
    let (queue, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_MAX);
    let arriving = link.clone();
    let read = async move {
        loop {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            if from.read_buf(&mut chunk).await? == 0 {
                return Ok(());
            }
            if let Some(open) = open {
                open.hear(&chunk);
            }
            let late = match arriving.borrow().mode {
                Mode::Delay(late) => late,
                _ => Duration::ZERO,
            };
            if queue.send((Instant::now() + late, chunk)).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async {
        let mut left = None;
        while let Some((at, chunk)) = due.recv().await {
            tokio::time::sleep_until(at.into()).await;
            wait_while(&mut link, Mode::BlackHole).await;
            let (mode, changed) = {
                let link = link.borrow_and_update();
                (link.mode, link.has_changed())
            };
            match mode {
                Mode::DropReplies if replies => {}
                Mode::CutAfter(bytes) if replies => {
                    let before = if changed { bytes } else { left.unwrap_or(bytes) };
                    let passing = chunk.len().min(usize::try_from(before).unwrap_or(usize::MAX));
                    to.write_all(&chunk[..passing]).await?;
                    let after = before - passing as u64;
                    if after == 0 {
                        return Err(io::ErrorKind::ConnectionAborted.into());
                    }
                    left = Some(after);
                }
                _ => {
                    left = None;
                    to.write_all(&chunk).await?;
                }
            }
        }
        to.shutdown().await
    };
    tokio::try_join!(read, write)?;
    Ok(())
}

#[cfg(test)]
mod tests;
