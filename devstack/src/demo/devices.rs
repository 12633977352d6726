//! The drivers' phones on the network: fixes become requests, and every fix is accounted for.
//!
//! A phone's requests always go over the same lane, one connection with one request at a time, so
//! they arrive in order. What is refused for now, or breaks, is sent again after a back-off,
//! unchanged: the event id makes it the same event.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use contracts::position::Position;
use loadtest::{
    check::Ledger,
    client::{Connection, Reply, Target, complete},
    fix::{Carries, FixWriter},
    pace::backoff,
};
use parking_lot::Mutex;
use platform::auth::{Role, Signer};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::figures::{Figures, count};

/// Connections of all phones together.
const LANES: usize = 48;
/// Requests that may wait in one lane; then the town waits.
const LANE_QUEUE_MAX: usize = 1_024;
/// Points of one batch at most: about 200 bytes each, and a body holds 64 KiB.
const BATCH_MAX: usize = 250;
/// A connection that rested longer is replaced before use: the server may be closing it.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// Longer than any demo is watched.
const TOKEN_FOR: Duration = Duration::from_secs(24 * 3_600);

/// The sending side; dropping it lets the lanes end when they have sent everything.
pub(super) struct Devices {
    lanes: Vec<mpsc::Sender<Job>>,
    tasks: TaskTracker,
    abandon: CancellationToken,
    shared: Arc<Shared>,
}

struct Shared {
    target: Target,
    signer: Arc<Signer>,
    figures: Arc<Figures>,
    ledger: Mutex<Ledger>,
}

/// Fixes of one phone that travel together.
struct Job {
    positions: Vec<Position>,
    attempt: u32,
}

impl Devices {
    /// Connects when there is something to send.
    pub(super) fn new(target: Target, signer: Arc<Signer>, figures: Arc<Figures>) -> Self {
        let ledger = Mutex::new(Ledger::default());
        let shared = Arc::new(Shared { target, signer, figures, ledger });
        let (tasks, abandon) = (TaskTracker::new(), CancellationToken::new());
        let lane = |_| {
            let (sender, jobs) = mpsc::channel(LANE_QUEUE_MAX);
            let lane = Lane {
                shared: Arc::clone(&shared),
                waiting: BTreeMap::new(),
                retries: 0,
                abandon: abandon.clone(),
                connection: None,
                used: Instant::now(),
                heads: HashMap::new(),
                writer: FixWriter::default(),
                request: Vec::new(),
                body: Vec::new(),
            };
            tasks.spawn(lane.run(jobs));
            sender
        };
        Self { lanes: (0..LANES).map(lane).collect(), tasks, abandon, shared }
    }

    /// Sends fixes of one driver; waits while the driver's lane is full.
    pub(super) async fn send(&self, positions: Vec<Position>) {
        let Some(first) = positions.first() else { return };
        // Driver ids are positive.
        let lane = &self.lanes[first.driver_id.get() as usize % self.lanes.len()];
        count(&self.shared.figures.sent, positions.len());
        for part in positions.chunks(BATCH_MAX) {
            // A lane ends only after this sender is gone.
            let _ = lane.send(Job { positions: part.to_vec(), attempt: 0 }).await;
        }
    }

    /// Waits until everything is acknowledged or refused, at most for `grace`; what is not by
    /// then may or may not be stored. Answers what was sent.
    pub(super) async fn finish(self, grace: Duration) -> Ledger {
        let Self { lanes, tasks, abandon, shared } = self;
        drop(lanes);
        tasks.close();
        if tokio::time::timeout(grace, tasks.wait()).await.is_err() {
            abandon.cancel();
            tasks.wait().await;
        }
        std::mem::take(&mut *shared.ledger.lock())
    }
}

/// One connection and the phones that use it.
struct Lane {
    shared: Arc<Shared>,
    /// What is sent again, by when and by number.
    waiting: BTreeMap<(Instant, u64), Job>,
    retries: u64,
    abandon: CancellationToken,
    connection: Option<Connection>,
    used: Instant,
    /// By driver: the heads of a single fix's request and of a batch's.
    heads: HashMap<i64, [Box<[u8]>; 2]>,
    writer: FixWriter,
    request: Vec<u8>,
    body: Vec<u8>,
}

impl Lane {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut open = true;
        while open || !self.waiting.is_empty() {
            let due = self.waiting.first_key_value().map(|((due, _), _)| *due);
            let wait = due.map(|due| due.saturating_duration_since(Instant::now()));
            let job = tokio::select! {
                () = self.abandon.cancelled() => break,
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {
                    self.waiting.pop_first().map(|(_, job)| job)
                }
                job = jobs.recv(), if open => {
                    open = job.is_some();
                    job
                }
            };
            if let Some(job) = job {
                self.attempt(job).await;
            }
        }
        std::mem::take(&mut self.waiting).values().for_each(|job| self.unsure(job));
        while let Ok(job) = jobs.try_recv() {
            self.unsure(&job);
        }
    }

    async fn attempt(&mut self, job: Job) {
        self.write(&job);
        match self.exchange().await {
            Ok(reply) => self.settle(job, reply),
            Err(_) => {
                self.connection = None;
                self.send_again(job, None);
            }
        }
    }

    fn write(&mut self, job: &Job) {
        let driver = job.positions[0].driver_id;
        let heads = self.heads.entry(driver.get()).or_insert_with(|| {
            let token = self.shared.signer.access(Role::Driver, driver.get(), &[], TOKEN_FOR);
            ["location", "locations"].map(|what| {
                self.shared.target.head("POST", &format!("/drivers/{driver}/{what}"), &token)
            })
        });
        let carries = Carries { driver: false, event: true };
        self.request.clear();
        self.body.clear();
        if let [position] = job.positions.as_slice() {
            self.writer.write(&mut self.body, position, carries);
            complete(&mut self.request, &heads[0], &self.body);
            return;
        }
        self.body.extend_from_slice(b"{\"points\":[");
        for (at, position) in job.positions.iter().enumerate() {
            if at > 0 {
                self.body.push(b',');
            }
            self.writer.write(&mut self.body, position, carries);
        }
        self.body.extend_from_slice(b"]}");
        complete(&mut self.request, &heads[1], &self.body);
    }

    async fn exchange(&mut self) -> io::Result<Reply> {
        if self.used.elapsed() > IDLE_MAX {
            self.connection = None;
        }
        let connection = match &mut self.connection {
            Some(open) => open,
            None => self.connection.insert(Connection::open(&self.shared.target).await?),
        };
        let reply = tokio::select! {
            reply = connection.exchange(&self.request) => reply?,
            () = self.abandon.cancelled() => return Err(io::ErrorKind::TimedOut.into()),
        };
        self.used = Instant::now();
        Ok(reply)
    }

    fn settle(&mut self, job: Job, reply: Reply) {
        let Some(connection) = &self.connection else { return };
        let body = connection.body();
        match reply.status {
            202 if job.positions.len() == 1 => self.accepted(&job.positions),
            202 => match serde_json::from_slice::<Batch<'_>>(body) {
                Ok(batch) if batch.results.len() == job.positions.len() => {
                    self.settle_batch(&job, &batch);
                }
                _ => {
                    self.shared.figures.note("an answer to a batch could not be read".into());
                    self.unsure(&job);
                }
            },
            429 | 500..=599 => {
                self.shared.figures.note(format!("the service answered {}", reply.status));
                self.send_again(job, reply.retry_after);
            }
            status => {
                let body = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
                self.refused(&job, job.positions.len(), &format!("{status} {body}"));
            }
        }
        if reply.close {
            self.connection = None;
        }
    }

    fn settle_batch(&self, job: &Job, batch: &Batch<'_>) {
        for (position, result) in job.positions.iter().zip(&batch.results) {
            // A duplicate is an earlier attempt that arrived.
            if matches!(result.status, "accepted" | "duplicate") {
                self.accepted(std::slice::from_ref(position));
            } else {
                self.refused(job, 1, result.reason.as_deref().unwrap_or(result.status));
            }
        }
    }

    fn accepted(&self, positions: &[Position]) {
        let mut ledger = self.shared.ledger.lock();
        positions.iter().for_each(|position| ledger.accepted(position));
        count(&self.shared.figures.acknowledged, positions.len());
    }

    fn refused(&self, job: &Job, fixes: usize, why: &str) {
        // An earlier attempt, of which no answer came, may have been taken.
        if job.attempt > 0 {
            self.unsure(job);
        }
        count(&self.shared.figures.refused, fixes);
        self.shared.figures.note(format!("a fix was refused: {why}"));
    }

    fn unsure(&self, job: &Job) {
        let mut ledger = self.shared.ledger.lock();
        job.positions.iter().for_each(|position| ledger.unsure(position));
    }

    /// Keeps the job for later, without holding up the lane's other phones.
    fn send_again(&mut self, mut job: Job, retry_after: Option<Duration>) {
        count(&self.shared.figures.retried, 1);
        job.attempt += 1;
        self.retries += 1;
        let due = Instant::now() + backoff(job.attempt, retry_after);
        self.waiting.insert((due, self.retries), job);
    }
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    results: Vec<PointResult<'a>>,
}

#[derive(Deserialize)]
struct PointResult<'a> {
    status: &'a str,
    #[serde(borrow, default)]
    reason: Option<std::borrow::Cow<'a, str>>,
}
