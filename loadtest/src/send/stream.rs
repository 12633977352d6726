//! Sends over one WebSocket per driver, as a phone with a live connection does.
//!
//! The server acknowledges with `{"ack":n}`: the first `n` frames of this connection are durable.
//! `{"n":5,"error":{…}}` refuses the fifth frame, which thereby counts as handled. When a socket
//! breaks, what it had not acknowledged goes over the next one, unchanged.

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::poll_fn,
    pin::pin,
    rc::Rc,
    task::{Poll, Waker},
    time::Duration,
};

use anyhow::Context as _;
use futures_util::{SinkExt as _, StreamExt as _, stream::FuturesUnordered};
use serde::Deserialize;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{self, Message, client::IntoClientRequest as _, protocol::WebSocketConfig},
};

use super::{Engine, Job, Transport, is_for_now};
use crate::{client::Target, fix::FixWriter, pace::backoff, plan::Plan};

/// A socket that answers nothing for this long while frames wait for it is dead.
const ACK_TIMEOUT: Duration = Duration::from_secs(10);
/// How many sockets are opened at a time.
const OPENING_MAX: usize = 64;

/// A driver's open socket.
pub(crate) type Socket = WebSocketStream<TcpStream>;

/// Opens the sockets of all drivers, in the order of their indexes.
pub(super) async fn connect(
    target: &Target,
    plan: &dyn Plan,
    tokens: &[String],
) -> anyhow::Result<Vec<Socket>> {
    let drivers = plan.drivers();
    let mut sockets: Vec<Option<Socket>> = tokens.iter().map(|_| None).collect();
    let mut opening = FuturesUnordered::new();
    for (index, token) in tokens.iter().enumerate() {
        if opening.len() == OPENING_MAX
            && let Some((index, socket)) = opening.next().await
        {
            let socket: anyhow::Result<Socket> = socket;
            let slot: &mut Option<Socket> = &mut sockets[index];
            *slot = Some(socket?);
        }
        let path = format!("/drivers/{}/stream", drivers.id(index as u32));
        opening.push(async move {
            let socket = open(target, &path, token).await;
            (index, socket.with_context(|| format!("cannot open {path}")))
        });
    }
    while let Some((index, socket)) = opening.next().await {
        sockets[index] = Some(socket?);
    }
    Ok(sockets.into_iter().flatten().collect())
}

/// Opens one socket of the API with a bearer token.
async fn open(target: &Target, path: &str, token: &str) -> Result<Socket, tungstenite::Error> {
    let bearer = format!("Bearer {token}");
    open_with(target, path, [("authorization", bearer.as_str())]).await
}

/// The same with these headers.
pub(crate) async fn open_with<'a>(
    target: &Target,
    path: &str,
    headers: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Socket, tungstenite::Error> {
    let mut request =
        format!("ws://{}{}/api/v1{path}", target.authority, target.prefix).into_client_request()?;
    let format = |error: http::Error| tungstenite::Error::HttpFormat(error);
    for (name, value) in headers {
        let name = http::HeaderName::try_from(name).map_err(|error| format(error.into()))?;
        let value = http::HeaderValue::try_from(value).map_err(|error| format(error.into()))?;
        request.headers_mut().insert(name, value);
    }
    let stream = target.connect().await?;
    // The default buffers are 128 KiB each, for every one of thousands of sockets.
    let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(4096);
    let opening = client_async_with_config(request, stream, Some(config));
    let elapsed = |_| tungstenite::Error::Io(std::io::ErrorKind::TimedOut.into());
    Ok(timeout(ACK_TIMEOUT, opening).await.map_err(elapsed)??.0)
}

/// The drivers' tasks.
pub(super) struct Streams {
    engine: Rc<Engine>,
    lanes: Vec<Rc<Lane>>,
}

/// What waits to be sent over one driver's socket.
#[derive(Default)]
struct Lane(RefCell<(VecDeque<Job>, Option<Waker>)>);

impl Streams {
    pub(super) fn start(engine: &Rc<Engine>, sockets: impl Iterator<Item = Socket>) -> Self {
        let lanes = sockets
            .enumerate()
            .map(|(index, socket)| {
                let lane = Rc::new(Lane::default());
                tokio::task::spawn_local(drive(
                    Rc::clone(engine),
                    index,
                    Rc::clone(&lane),
                    Box::new(socket),
                ));
                lane
            })
            .collect();
        Self { engine: Rc::clone(engine), lanes }
    }

    pub(super) fn dispatch(&self, job: Job) {
        let engine = &self.engine;
        let driver = engine.plan.position(job.first, &engine.clock).driver_id;
        self.lanes[engine.plan.drivers().index(driver)].push(job);
    }
}

impl Lane {
    fn push(&self, job: Job) {
        let (queue, waker) = &mut *self.0.borrow_mut();
        queue.push_back(job);
        if let Some(waker) = waker.take() {
            waker.wake();
        }
    }

    fn pop(&self) -> Option<Job> {
        self.0.borrow_mut().0.pop_front()
    }

    async fn next(&self) -> Job {
        poll_fn(|context| {
            let (queue, waker) = &mut *self.0.borrow_mut();
            match queue.pop_front() {
                Some(job) => Poll::Ready(job),
                None => {
                    *waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// Keeps one driver connected for the whole run.
async fn drive(engine: Rc<Engine>, index: usize, lane: Rc<Lane>, first: Box<Socket>) {
    let (mut socket, mut attempt) = (Some(first), 0);
    loop {
        if let Some(open) = socket.take() {
            let mut frames = Frames::default();
            let end = converse(&engine, &lane, *open, &mut frames).await;
            attempt = if frames.acked > 0 { 1 } else { attempt + 1 };
            let unsettled = frames.pending.into_iter().filter(|frame| !frame.1);
            for (job, _) in unsettled {
                engine.again(job, end, None);
            }
        }
        tokio::time::sleep(backoff(attempt, None)).await;
        let Transport::Stream { tokens, .. } = &engine.settings.transport else { return };
        let driver = engine.plan.drivers().id(index as u32);
        let path = format!("/drivers/{driver}/stream");
        match open(&engine.settings.target, &path, &tokens[index]).await {
            Ok(open) => {
                engine.opened();
                socket = Some(Box::new(open));
            }
            Err(_) => {
                attempt += 1;
                engine.repeated("cannot reconnect", 0);
            }
        }
    }
}

/// The frames of one connection: `pending` starts after the first `acked`, and says of each
/// whether it was settled out of turn by an error.
#[derive(Default)]
struct Frames {
    acked: u64,
    pending: VecDeque<(Job, bool)>,
}

/// Sends and reads until the socket ends; answers why it did.
async fn converse(
    engine: &Engine,
    lane: &Lane,
    mut socket: Socket,
    frames: &mut Frames,
) -> &'static str {
    let mut writer = FixWriter::default();
    let mut heard = Instant::now();
    // Looked at when it goes off instead of being set anew for each frame.
    let mut overdue = pin!(sleep_until(heard + ACK_TIMEOUT));
    loop {
        tokio::select! {
            biased;
            job = lane.next() => {
                if frames.pending.is_empty() {
                    heard = Instant::now();
                }
                let mut next = Some(job);
                while let Some(job) = next {
                    engine.writing(&job);
                    frames.pending.push_back((job, false));
                    if socket.feed(frame(engine, &mut writer, &job)).await.is_err() {
                        return "socket broken";
                    }
                    next = lane.pop();
                }
                if socket.flush().await.is_err() {
                    return "socket broken";
                }
            }
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => {
                    heard = Instant::now();
                    frames.answered(engine, &text);
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return "socket closed",
                Some(Ok(_)) => {}
            },
            () = &mut overdue => {
                let now = Instant::now();
                if !frames.pending.is_empty() && now >= heard + ACK_TIMEOUT {
                    return "no acknowledgement";
                }
                let since = if frames.pending.is_empty() { now } else { heard };
                overdue.as_mut().reset(since + ACK_TIMEOUT);
            }
        }
    }
}

fn frame(engine: &Engine, writer: &mut FixWriter, job: &Job) -> Message {
    let position = engine.plan.position(job.first, &engine.clock);
    let carries = engine.plan.carries(false);
    if let Transport::Stream { binary: true, .. } = engine.settings.transport {
        let mut position = position;
        if !carries.event {
            position.event_id.0 = 0;
        }
        return Message::binary(position.encode_entry().to_vec());
    }
    let mut body = Vec::with_capacity(192);
    writer.write(&mut body, &position, carries);
    Message::text(String::from_utf8(body).unwrap_or_default())
}

#[derive(Deserialize)]
struct Answer {
    ack: Option<u64>,
    n: Option<u64>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    status: Option<u16>,
}

impl Frames {
    fn answered(&mut self, engine: &Engine, text: &str) {
        let Ok(answer) = serde_json::from_str::<Answer>(text) else {
            return engine.repeated("unreadable socket answer", 0);
        };
        if let (Some(n), Some(error)) = (answer.n, answer.error) {
            self.refused(engine, n, error.status.unwrap_or_default());
        }
        while self.acked < answer.ack.unwrap_or_default() {
            let Some((job, settled)) = self.pending.pop_front() else { break };
            self.acked += 1;
            if !settled {
                engine.accepted(job.first..job.first + 1, engine.due_us(&job));
                engine.settled();
            }
        }
        while let Some((_, true)) = self.pending.front() {
            self.pending.pop_front();
            self.acked += 1;
        }
    }

    fn refused(&mut self, engine: &Engine, n: u64, status: u16) {
        let at = n.checked_sub(self.acked + 1).and_then(|at| usize::try_from(at).ok());
        let Some((job, settled)) = at.and_then(|at| self.pending.get_mut(at)) else { return };
        if !std::mem::replace(settled, true) {
            if is_for_now(status) {
                engine.again(*job, &status.to_string(), None);
            } else {
                engine.rejected(job.first, job.attempt == 0, &status.to_string());
                engine.settled();
            }
        }
    }
}
