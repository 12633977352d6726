//! Sends over a bounded set of keep-alive connections, opened as they are needed.
//!
//! A job waits in the queue while all of them are busy. The connection that was used last is used
//! next, so that few are warm instead of all being lukewarm.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    io,
    rc::Rc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use contracts::position::Position;
use serde::Deserialize;

use super::{Engine, Job, Transport, is_for_now};
use crate::{
    client::{Connection, Reply, complete},
    fix::FixWriter,
};

/// A connection that rested longer is replaced before use: the server may be about to close it.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// The connections and the jobs that wait for them.
pub(super) struct Pool(Rc<Shared>);

struct Shared {
    engine: Rc<Engine>,
    heads: Heads,
    connections_max: usize,
    connections: Cell<usize>,
    queue: RefCell<VecDeque<Job>>,
    idle: RefCell<Vec<Waker>>,
    closed: Cell<bool>,
}

enum Heads {
    Drivers(Vec<Box<[u8]>>),
    Fleet(Box<[u8]>),
}

impl Pool {
    pub(super) fn new(engine: Rc<Engine>) -> Self {
        let target = &engine.settings.target;
        let (heads, connections_max) = match &engine.settings.transport {
            Transport::Single { tokens, connections } => {
                let drivers = engine.plan.drivers();
                let head = |(index, token): (usize, &String)| {
                    let path = format!("/drivers/{}/location", drivers.id(index as u32));
                    target.head("POST", &path, token)
                };
                (Heads::Drivers(tokens.iter().enumerate().map(head).collect()), *connections)
            }
            Transport::Batch { token, connections, .. } => {
                (Heads::Fleet(target.head("POST", "/locations", token)), *connections)
            }
            Transport::Stream { .. } => unreachable!("sockets do not use the pool"),
        };
        Self(Rc::new(Shared {
            engine,
            heads,
            connections_max,
            connections: Cell::new(0),
            queue: RefCell::default(),
            idle: RefCell::default(),
            closed: Cell::new(false),
        }))
    }

    /// Gives the job to an idle connection, to a new one, or to the queue.
    pub(super) fn dispatch(&self, job: Job) {
        let pool = &self.0;
        pool.queue.borrow_mut().push_back(job);
        if let Some(waker) = pool.idle.borrow_mut().pop() {
            waker.wake();
        } else if pool.connections.get() < pool.connections_max {
            pool.connections.set(pool.connections.get() + 1);
            tokio::task::spawn_local(Rc::clone(pool).serve());
        }
    }

    /// Lets the idle connections end.
    pub(super) fn close(&self) {
        self.0.closed.set(true);
        self.0.idle.borrow_mut().drain(..).for_each(Waker::wake);
    }
}

impl Shared {
    async fn serve(self: Rc<Self>) {
        let (mut connection, mut used) = (None::<Connection>, Instant::now());
        let (mut writer, mut body, mut request) = (FixWriter::default(), Vec::new(), Vec::new());
        while let Some(job) = self.next().await {
            self.write(&job, &mut writer, &mut body, &mut request);
            if used.elapsed() > IDLE_MAX {
                connection = None;
            }
            match self.attempt(&mut connection, &job, &request).await {
                Ok(reply) => {
                    let body = connection.as_ref().map_or(&[][..], Connection::body);
                    self.settle(job, reply, body);
                    if reply.close {
                        connection = None;
                    }
                }
                Err(error) => {
                    connection = None;
                    self.engine.again(job, &format!("{:?}", error.kind()), None);
                }
            }
            used = Instant::now();
        }
    }

    async fn next(&self) -> Option<Job> {
        poll_fn(|context| match self.queue.borrow_mut().pop_front() {
            Some(job) => Poll::Ready(Some(job)),
            None if self.closed.get() => Poll::Ready(None),
            None => {
                self.idle.borrow_mut().push(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    async fn attempt(
        &self,
        connection: &mut Option<Connection>,
        job: &Job,
        request: &[u8],
    ) -> io::Result<Reply> {
        let open = match connection {
            Some(open) => open,
            None => {
                let fresh = Connection::open(&self.engine.settings.target).await?;
                self.engine.opened();
                connection.insert(fresh)
            }
        };
        self.engine.writing(job);
        open.exchange(request).await
    }

    fn write(&self, job: &Job, writer: &mut FixWriter, body: &mut Vec<u8>, request: &mut Vec<u8>) {
        let engine = &*self.engine;
        let position = |n| -> Position { engine.plan.position(n, &engine.clock) };
        body.clear();
        request.clear();
        match &self.heads {
            Heads::Drivers(heads) => {
                let position = position(job.first);
                writer.write(body, &position, engine.plan.carries(false));
                complete(request, &heads[engine.plan.drivers().index(position.driver_id)], body);
            }
            Heads::Fleet(head) => {
                body.extend_from_slice(b"{\"points\":[");
                for n in job.first..job.first + u64::from(job.count) {
                    if n > job.first {
                        body.push(b',');
                    }
                    writer.write(body, &position(n), engine.plan.carries(true));
                }
                body.extend_from_slice(b"]}");
                complete(request, head, body);
            }
        }
    }

    fn settle(&self, job: Job, reply: Reply, body: &[u8]) {
        let (engine, due_us) = (&*self.engine, self.engine.due_us(&job));
        let events = job.first..job.first + u64::from(job.count);
        if reply.status != 202 {
            let status = reply.status.to_string();
            if is_for_now(reply.status) {
                return engine.again(job, &status, reply.retry_after);
            }
            events.for_each(|n| engine.rejected(n, job.attempt == 0, &status));
            return engine.settled();
        }
        if matches!(self.heads, Heads::Drivers(_)) {
            engine.accepted(events, due_us);
            return engine.settled();
        }
        match serde_json::from_slice::<BatchReply<'_>>(body) {
            Ok(batch) if batch.results.len() == job.count as usize => {
                if batch.results.iter().all(PointResult::is_accepted) {
                    engine.accepted(events, due_us);
                } else {
                    for (n, result) in events.zip(&batch.results) {
                        if result.is_accepted() {
                            engine.accepted(n..n + 1, due_us);
                        } else {
                            let why = result.reason.as_deref().unwrap_or("rejected");
                            engine.rejected(n, job.attempt == 0, why);
                        }
                    }
                }
                engine.settled();
            }
            _ => engine.again(job, "unreadable batch answer", None),
        }
    }
}

#[derive(Deserialize)]
struct BatchReply<'a> {
    #[serde(borrow)]
    results: Vec<PointResult<'a>>,
}

#[derive(Deserialize)]
struct PointResult<'a> {
    status: &'a str,
    #[serde(borrow, default)]
    reason: Option<std::borrow::Cow<'a, str>>,
}

impl PointResult<'_> {
    /// A duplicate is an earlier attempt of the same event that is already durable.
    fn is_accepted(&self) -> bool {
        matches!(self.status, "accepted" | "duplicate")
    }
}
