//! What happens to one request: it is written, and it is answered or not.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
};

use super::{
    Document, catalogue,
    check::{Change, End, WriteId},
    choose::Chooser,
    judge::{Asked, Judge},
    request::{Notes, Requests},
    send::Settings,
    stats::Stats,
    write::{self, Operator, Operators},
};
use crate::{
    client::{Caller, Reply, Target},
    pace::Clock,
    pool::Work,
    send::Live,
};

/// One request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    pub(super) due_us: u64,
    pub(super) task: Task,
    pub(super) is_measured: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Task {
    Read { restaurant: u32, document: Document, revalidate: bool, thorough: bool },
    List(u32),
    Write(Operator),
}

/// A job whose request is on its way.
pub(super) enum Sent {
    Read(Asked),
    List,
    Write { operator: Operator, id: WriteId, change: Change },
}

/// State shared by the tasks of the sending thread.
pub(super) struct Engine {
    pub(super) settings: Settings,
    pub(super) requests: Vec<Requests>,
    pub(super) clock: Clock,
    pub(super) live: Arc<Live>,
    pub(super) queries: Vec<Box<str>>,
    pub(super) judge: RefCell<Judge>,
    pub(super) chooser: RefCell<Chooser>,
    pub(super) operators: RefCell<Operators>,
    pub(super) stats: RefCell<Stats>,
    /// Jobs handed out and not settled.
    pub(super) open: Cell<u64>,
}

/// One of the nodes.
pub(super) struct Node {
    pub(super) engine: Rc<Engine>,
    pub(super) node: usize,
}

/// A request is sent at most once: nobody asks for a menu again in its name.
impl Work for Node {
    type Job = Job;
    type Sent = Sent;
    type Notes = Notes;

    fn target(&self) -> &Target {
        self.engine.target(self.node)
    }

    fn opened(&self) {
        self.engine.stats.borrow_mut().connections += 1;
    }

    fn begin(&self, job: &Job, request: &mut Vec<u8>) -> Sent {
        self.engine.begin(job, self.node, request)
    }

    fn note(notes: &mut Notes, name: &str, value: &[u8]) {
        notes.take(name, value);
    }

    fn answered(&self, job: Job, sent: Sent, reply: Reply, notes: &Notes, body: &[u8]) {
        self.engine.answered(&job, sent, self.node, reply.status, notes, body);
    }

    fn broken(&self, job: Job, sent: Option<Sent>, error: &io::Error) {
        match sent {
            Some(sent) => self.engine.broken(&job, &sent, error),
            None => self.engine.unsent(&job, error),
        }
    }
}

impl Engine {
    fn target(&self, node: usize) -> &Target {
        &self.settings.nodes[node]
    }

    /// Writes the job's request; from here on it counts as started.
    fn begin(&self, job: &Job, node: usize, request: &mut Vec<u8>) -> Sent {
        let now_us = self.clock.now_us();
        if job.is_measured {
            let waited_us = now_us.saturating_sub(job.due_us);
            self.stats.borrow_mut().wait_us.saturating_record(waited_us);
        }
        let requests = &self.requests[node];
        match job.task {
            Task::Read { restaurant, document, revalidate, thorough } => {
                let judge = self.judge.borrow();
                let asked = judge.asks(restaurant, document, revalidate, thorough);
                requests.document(request, judge.checker.id(restaurant), document, asked.tag);
                Sent::Read(asked)
            }
            Task::List(query) => {
                requests.list(request, &self.queries[query as usize]);
                Sent::List
            }
            Task::Write(operator) => {
                let mut operators = self.operators.borrow_mut();
                let change = operators.compose(operator, self.target(node), request);
                let restaurant = operators.restaurant(operator);
                self.chooser.borrow_mut().follow(restaurant, &change, None);
                let checker = &mut self.judge.borrow_mut().checker;
                let id = checker.write_begins(restaurant, change.clone(), now_us);
                Sent::Write { operator, id, change }
            }
        }
    }

    /// An answer came.
    fn answered(
        &self,
        job: &Job,
        sent: Sent,
        node: usize,
        status: u16,
        notes: &Notes,
        body: &[u8],
    ) {
        let now_us = self.clock.now_us();
        let (is_write, is_good) = (
            matches!(sent, Sent::Write { .. }),
            status == 200 || status == 304 && matches!(sent, Sent::Read(_)),
        );
        match sent {
            Sent::Read(asked) if is_good => {
                self.judge.borrow_mut().answered(&asked, status, notes, body, now_us);
            }
            Sent::Read(_) | Sent::List => {}
            Sent::Write { operator, id, change } => {
                let end = self.end_of_write(operator, status, body);
                self.judge.borrow_mut().checker.write_ends(id, end, now_us);
                let mut operators = self.operators.borrow_mut();
                operators.done(operator);
                if matches!(end, End::Made(_) | End::MadeForLater(_)) {
                    let restaurant = operators.restaurant(operator);
                    self.chooser.borrow_mut().follow(restaurant, &change, Some(node));
                }
            }
        }
        self.settled(is_good);
        if !job.is_measured {
            return;
        }
        let stats = &mut *self.stats.borrow_mut();
        stats.last_us = now_us;
        *stats.statuses.entry(status).or_default() += 1;
        let took_us = now_us.saturating_sub(job.due_us);
        match (is_good, is_write) {
            (true, false) => {
                stats.ok += 1;
                stats.read_us.saturating_record(took_us);
                stats.sources[notes.source as usize] += 1;
                stats.body_bytes += body.len() as u64;
            }
            (true, true) => {
                stats.ok += 1;
                stats.writes_ok += 1;
                stats.write_us.saturating_record(took_us);
            }
            (false, _) => {
                stats.failed += 1;
                stats.writes_failed += u64::from(is_write);
            }
        }
        if is_good {
            self.live.measured.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn end_of_write(&self, operator: Operator, status: u16, body: &[u8]) -> End {
        match status {
            200 => {}
            // The service may have gone on after it said so.
            408 => return End::Unknown,
            400..500 => return End::Refused,
            _ => return End::Unknown,
        }
        let restaurant = self.operators.borrow().restaurant(operator);
        let checker = &mut self.judge.borrow_mut().checker;
        let why = match serde_json::from_slice::<write::Answer>(body) {
            Ok(answer) if answer.restaurant_id != checker.id(restaurant) => {
                format!("it is of restaurant {}", answer.restaurant_id)
            }
            Ok(answer) if answer.success && answer.everywhere => {
                return End::Made(answer.version);
            }
            Ok(answer) if answer.success => return End::MadeForLater(answer.version),
            Ok(_) => "a 200 without success".to_owned(),
            Err(error) => error.to_string(),
        };
        checker.unreadable(restaurant, "the answer to a write", &why);
        End::Unknown
    }

    /// The connection broke, or no answer came in time.
    fn broken(&self, job: &Job, sent: &Sent, error: &io::Error) {
        if let Sent::Write { operator, id, .. } = *sent {
            self.judge.borrow_mut().checker.write_ends(id, End::Unknown, self.clock.now_us());
            self.operators.borrow_mut().done(operator);
        }
        self.failed(job, format!("{:?}", error.kind()));
    }

    /// No connection could be had.
    fn unsent(&self, job: &Job, error: &io::Error) {
        if let Task::Write(operator) = job.task {
            self.operators.borrow_mut().done(operator);
        }
        self.failed(job, format!("connecting: {:?}", error.kind()));
    }

    fn failed(&self, job: &Job, why: String) {
        self.settled(false);
        if job.is_measured {
            let stats = &mut *self.stats.borrow_mut();
            stats.last_us = self.clock.now_us();
            stats.writes_failed += u64::from(matches!(job.task, Task::Write(_)));
            stats.error(why);
        }
    }

    fn settled(&self, is_good: bool) {
        self.open.set(self.open.get().saturating_sub(1));
        let counter = if is_good { &self.live.accepted } else { &self.live.rejected };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Drops everything from the caches, for the next lap.
    pub(super) async fn drop_all(self: Rc<Self>) {
        let mut caller = Caller::new(self.settings.nodes[0].clone());
        let all = r#"{"all":true}"#;
        if catalogue::invalidate(&mut caller, &self.settings.admin, all).await.is_err() {
            self.stats.borrow_mut().invalidations_failed += 1;
        }
    }
}
