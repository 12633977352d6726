//! A bounded set of keep-alive connections to one node, opened as they are needed.
//!
//! A job waits in the queue while all of them are busy; the connection that was used last is used
//! next. Unlike a fix, a request is sent at most once: nobody asks for a menu again in its name.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    rc::Rc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use super::{
    engine::{Engine, Job},
    request::Notes,
};
use crate::client::Connection;

/// A connection that rested longer is replaced before use: the server may be about to close it.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// The connections to a node and the jobs that wait for them.
pub(super) struct Pool(Rc<Shared>);

struct Shared {
    engine: Rc<Engine>,
    node: usize,
    connections_max: usize,
    connections: Cell<usize>,
    queue: RefCell<VecDeque<Job>>,
    idle: RefCell<Vec<Waker>>,
    closed: Cell<bool>,
}

impl Pool {
    pub(super) fn new(engine: Rc<Engine>, node: usize, connections_max: usize) -> Self {
        Self(Rc::new(Shared {
            engine,
            node,
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
        let engine = &*self.engine;
        let (mut kept, mut used) = (None::<Connection>, Instant::now());
        let mut request = Vec::new();
        while let Some(job) = self.next().await {
            let connection = match kept.take().filter(|_| used.elapsed() <= IDLE_MAX) {
                Some(connection) => Ok(connection),
                None => {
                    Connection::open(engine.target(self.node)).await.inspect(|_| engine.opened())
                }
            };
            let mut connection = match connection {
                Ok(connection) => connection,
                Err(error) => {
                    engine.unsent(&job, &error);
                    continue;
                }
            };
            request.clear();
            // Nothing waits between this and the first byte on its way.
            let sent = engine.begin(&job, self.node, &mut request);
            let mut notes = Notes::default();
            match connection.exchange_noting(&request, |name, value| notes.take(name, value)).await
            {
                Ok(reply) => {
                    engine.answered(&job, sent, self.node, reply.status, &notes, connection.body());
                    kept = Some(connection).filter(|_| !reply.close);
                }
                Err(error) => engine.broken(&job, &sent, &error),
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
}
