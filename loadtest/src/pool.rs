//! A bounded set of keep-alive connections to one node, opened as they are needed.
//!
//! A job waits in the queue while all of them are busy. The connection that was used last is used
//! next, so that few are warm instead of all being lukewarm. A request is written once for each
//! time that its job is dispatched: whether it may be sent again is [`Work`]'s business.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    io,
    rc::Rc,
    task::{Poll, Waker},
    time::Instant,
};

use crate::client::{Connection, IDLE_MAX, Reply, Target};

/// What is sent to a node, and what becomes of it.
pub(crate) trait Work: 'static {
    /// One request that is to be made.
    type Job: 'static;
    /// What is known of a job from the moment that its request is on its way.
    type Sent;
    /// What is kept of an answer's headers.
    type Notes: Default;

    /// The node.
    fn target(&self) -> &Target;

    /// A connection was opened.
    fn opened(&self);

    /// Appends the job's request; nothing waits between this and the first byte on its way.
    fn begin(&self, job: &Self::Job, request: &mut Vec<u8>) -> Self::Sent;

    /// A header of the answer.
    fn note(_notes: &mut Self::Notes, _name: &str, _value: &[u8]) {}

    /// An answer came.
    fn answered(
        &self,
        job: Self::Job,
        sent: Self::Sent,
        reply: Reply,
        notes: &Self::Notes,
        body: &[u8],
    );

    /// The connection broke, or no answer came in time; without `sent` there was no connection.
    fn broken(&self, job: Self::Job, sent: Option<Self::Sent>, error: &io::Error);
}

/// The connections to a node and the jobs that wait for them.
pub(crate) struct Pool<W: Work>(Rc<Shared<W>>);

struct Shared<W: Work> {
    work: W,
    connections_max: usize,
    connections: Cell<usize>,
    queue: RefCell<VecDeque<W::Job>>,
    idle: RefCell<Vec<Waker>>,
    closed: Cell<bool>,
}

impl<W: Work> Pool<W> {
    pub(crate) fn new(work: W, connections_max: usize) -> Self {
        Self(Rc::new(Shared {
            work,
            connections_max,
            connections: Cell::new(0),
            queue: RefCell::default(),
            idle: RefCell::default(),
            closed: Cell::new(false),
        }))
    }

    /// Gives the job to an idle connection, to a new one, or to the queue.
    pub(crate) fn dispatch(&self, job: W::Job) {
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
    pub(crate) fn close(&self) {
        self.0.closed.set(true);
        self.0.idle.borrow_mut().drain(..).for_each(Waker::wake);
    }
}

impl<W: Work> Shared<W> {
    async fn serve(self: Rc<Self>) {
        let work = &self.work;
        let (mut kept, mut used) = (None::<Connection>, Instant::now());
        let mut request = Vec::new();
        while let Some(job) = self.next().await {
            let connection = match kept.take().filter(|_| used.elapsed() <= IDLE_MAX) {
                Some(connection) => Ok(connection),
                None => Connection::open(work.target()).await.inspect(|_| work.opened()),
            };
            let mut connection = match connection {
                Ok(connection) => connection,
                Err(error) => {
                    work.broken(job, None, &error);
                    continue;
                }
            };
            request.clear();
            let sent = work.begin(&job, &mut request);
            let mut notes = W::Notes::default();
            let note = |name: &str, value: &[u8]| W::note(&mut notes, name, value);
            match connection.exchange_noting(&request, note).await {
                Ok(reply) => {
                    work.answered(job, sent, reply, &notes, connection.body());
                    kept = Some(connection).filter(|_| !reply.close);
                }
                Err(error) => work.broken(job, Some(sent), &error),
            }
            used = Instant::now();
        }
    }

    async fn next(&self) -> Option<W::Job> {
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
