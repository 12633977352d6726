//! Reads and writes of restaurants that nobody else writes to, through both nodes, and what they
//! showed. `ledger.rs` judges each read, `windows.rs` all of them together.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde::Deserialize;
use serde_json::json;
use tokio::{sync::watch, task::JoinSet};

use super::{
    client::{Answer, Client, Source},
    ledger::{Change, Document, Ledger, Opened, Shown, Versions, Violation},
    windows::{Seen, What},
};

/// Each node is read this often, however slow it is,
const READ_EVERY: Duration = Duration::from_millis(25);
/// and written to this often, unless the write before has not ended.
const WRITE_EVERY: Duration = Duration::from_millis(200);
/// A read without an answer by then is given up.
const READ_MAX: Duration = Duration::from_secs(3);
/// A write without an answer by then has an unknown outcome.
const WRITE_MAX: Duration = Duration::from_secs(8);
/// Reads of a node that are not answered yet; more count as not answered at once. A node that is
/// stopped accepts nothing, and what listens for it has room for 128 connections.
const READS_MAX: usize = 24;
/// Reads that wait for a node that is stopped.
const LATE_READS: usize = 32;
/// A connection to it is made by the kernel, or not at all.
const CONNECT_MAX: Duration = Duration::from_secs(1);
const LATE_MAX: Duration = Duration::from_secs(30);
const EXAMPLES_MAX: usize = 3;

/// Requests per second in all; each write has two reads of its own.
pub(super) const RATE: u32 = 2 * (40 + 3 * 5);

/// A restaurant of ours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own {
    pub(super) versions: Versions,
    pub(super) item: i64,
}

/// What is read and written.
#[derive(Debug, Clone)]
pub(super) struct Targets {
    /// Written and read.
    pub(super) own: Vec<Own>,
    /// Read often, written by nobody.
    pub(super) hot: Vec<i64>,
    /// Read now and then; the load writes them.
    pub(super) others: Vec<i64>,
}

/// What it has seen.
#[derive(Debug, Default)]
pub(super) struct Testimony {
    pub(super) seen: Vec<Seen>,
    pub(super) violations: Vec<Violation>,
    /// Answers that no document of ours looks like.
    pub(super) odd: Vec<String>,
}

struct Shared {
    ports: [u16; 2],
    token: String,
    targets: Targets,
    ledger: Mutex<Ledger>,
    testimony: Mutex<Testimony>,
    /// The last capacity that was set.
    capacity: std::sync::atomic::AtomicI64,
}

/// A witness at work.
pub(super) struct Witness {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// As far as a body is looked at.
#[derive(Debug, Deserialize)]
struct Body {
    restaurant_id: i64,
    version: i64,
    current_capacity: Option<i64>,
}

impl Witness {
    /// Starts to read and write.
    pub(super) fn start(
        ports: [u16; 2],
        token: String,
        targets: Targets,
        rng: &mut StdRng,
    ) -> Self {
        let own: Vec<Versions> = targets.own.iter().map(|own| own.versions).collect();
        let shared = Arc::new(Shared {
            ports,
            token,
            ledger: Mutex::new(Ledger::new(&own, Instant::now())),
            targets,
            testimony: Mutex::default(),
            capacity: 0.into(),
        });
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for node in 0..2 {
            let readers = Arc::clone(&shared);
            tasks.spawn(readers.reads(node, StdRng::from_rng(rng), stopped.clone()));
            let writers = Arc::clone(&shared);
            tasks.spawn(writers.writes(node, StdRng::from_rng(rng), stopped.clone()));
        }
        Self { shared, stop, tasks }
    }

    /// Sends reads to a node that does not run at present, and returns when they are sent: they
    /// are the first that it answers, and began after all that was written meanwhile.
    pub(super) async fn read_late(&mut self, node: usize) -> anyhow::Result<()> {
        for n in 0..LATE_READS {
            let shared = Arc::clone(&self.shared);
            let own = &shared.targets.own;
            let restaurant = own[n % own.len()].versions.restaurant;
            let document = Document::ALL[n / own.len() % Document::ALL.len()];
            let mut client = Client::new(shared.ports[node]);
            let opened = lock(&shared.ledger).open(restaurant, document, Instant::now());
            let path = document.path(restaurant);
            let asked = tokio::time::timeout(CONNECT_MAX, client.ask(&path)).await??;
            self.tasks.spawn(async move {
                let answered = tokio::time::timeout(LATE_MAX, client.receive(asked)).await;
                if let Ok(Ok(answer)) = answered {
                    shared.judge(restaurant, document, opened, &answer);
                }
            });
        }
        Ok(())
    }

    /// Ends when the last answer is there.
    pub(super) async fn conclude(mut self) -> anyhow::Result<Testimony> {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended?;
        }
        Ok(std::mem::take(&mut lock(&self.shared.testimony)))
    }
}

impl Shared {
    async fn reads(self: Arc<Self>, node: usize, mut rng: StdRng, mut stop: watch::Receiver<bool>) {
        let idle = Arc::new(Mutex::new(Vec::<Client>::new()));
        let mut reads = JoinSet::new();
        let mut due = tokio::time::interval(READ_EVERY);
        loop {
            let due = tokio::select! {
                due = due.tick() => due.into_std(),
                _ = stop.wait_for(|stop| *stop) => break,
            };
            while reads.try_join_next().is_some() {}
            let document = *Document::ALL.choose(&mut rng).unwrap_or(&Document::Menu);
            let Targets { own, hot, others } = &self.targets;
            let (restaurant, what) = match rng.random_range(0..10) {
                0..4 => (own.choose(&mut rng).map(|own| own.versions.restaurant), What::Read),
                4..8 => (hot.choose(&mut rng).copied(), What::Hot),
                _ => (others.choose(&mut rng).copied(), What::Read),
            };
            let Some(restaurant) = restaurant else { continue };
            if reads.len() >= READS_MAX {
                let (status, source) = (None, None);
                self.note(Seen { due, took: READ_MAX, node, what, status, source });
                continue;
            }
            let (shared, idle) = (Arc::clone(&self), Arc::clone(&idle));
            reads.spawn(async move {
                let kept = lock(&idle).pop();
                let mut client = kept.unwrap_or_else(|| Client::new(shared.ports[node]));
                let answer = shared.read(&mut client, restaurant, document, READ_MAX).await;
                let (status, source) = answer;
                shared.note(Seen { due, took: due.elapsed(), node, what, status, source });
                lock(&idle).push(client);
            });
        }
        reads.join_all().await;
    }

    async fn writes(
        self: Arc<Self>,
        node: usize,
        mut rng: StdRng,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut client = Client::new(self.ports[node]);
        let mut readers = JoinSet::new();
        let phase = WRITE_EVERY.mul_f64(rng.random());
        let mut due = tokio::time::interval_at((Instant::now() + phase).into(), WRITE_EVERY);
        // A writer that had to wait does not make up for it.
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = due.tick() => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
            while readers.try_join_next().is_some() {}
            let Some(own) = self.targets.own.choose(&mut rng) else { break };
            let restaurant = own.versions.restaurant;
            let (change, path, body) = if rng.random_bool(0.7) {
                let capacity = self.capacity.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
                let status = ["open", "busy", "closed"].choose(&mut rng);
                let body = json!({"status": status, "current_capacity": capacity});
                (Change::Status { capacity }, "status".to_owned(), body)
            } else {
                let path = format!("menu/items/{}/availability", own.item);
                let body =
                    json!({"available": rng.random::<bool>(), "in_stock": rng.random::<bool>()});
                (Change::Item, path, body)
            };
            let path = format!("/restaurants/{restaurant}/{path}");
            lock(&self.ledger).begin(restaurant);
            let begun = Instant::now();
            let body = body.to_string();
            let put = client.put(&path, &self.token, &body);
            let answer = tokio::time::timeout(WRITE_MAX, put).await;
            let status = match &answer {
                Ok(Ok(answer)) => Some(answer.status),
                _ => None,
            };
            let (due, took) = (begun, begun.elapsed());
            self.note(Seen { due, took, node, what: What::Write, status, source: None });
            let Ok(Ok(answer)) = answer else { continue };
            if answer.status != 200 {
                self.check_refusal(&answer);
                continue;
            }
            let Ok(done) = serde_json::from_slice::<Body>(&answer.body) else {
                self.odd(&path, &answer);
                continue;
            };
            let broken =
                lock(&self.ledger).written(restaurant, change, done.version, Instant::now());
            lock(&self.testimony).violations.extend(broken);
            // The reads for which this promise was made.
            let document = match change {
                Change::Status { .. } => Document::Status,
                Change::Item => Document::Menu,
            };
            for asked in [1 - node, node] {
                let (shared, port) = (Arc::clone(&self), self.ports[asked]);
                // One that is stopped answers when it goes on, and nobody writes less for that.
                readers.spawn(async move {
                    shared.read(&mut Client::new(port), restaurant, document, LATE_MAX).await
                });
            }
        }
        readers.join_all().await;
    }

    /// One read, judged; its status and source.
    async fn read(
        &self,
        client: &mut Client,
        restaurant: i64,
        document: Document,
        patience: Duration,
    ) -> (Option<u16>, Option<Source>) {
        let path = document.path(restaurant);
        let opened = lock(&self.ledger).open(restaurant, document, Instant::now());
        let Ok(Ok(answer)) = tokio::time::timeout(patience, client.get(&path)).await else {
            return (None, None);
        };
        self.judge(restaurant, document, opened, &answer);
        (Some(answer.status), answer.source)
    }

    fn judge(&self, restaurant: i64, document: Document, opened: Opened, answer: &Answer) {
        if answer.status != 200 {
            self.check_refusal(answer);
            return;
        }
        let body = serde_json::from_slice::<Body>(&answer.body).ok();
        let body = body.filter(|body| body.restaurant_id == restaurant);
        let (Some(body), Some(source)) = (body, answer.source) else {
            self.odd(&document.path(restaurant), answer);
            return;
        };
        let shown = Shown {
            version: body.version,
            capacity: body.current_capacity,
            is_stale: source == Source::Stale,
        };
        let now = Instant::now();
        let broken = lock(&self.ledger).close(restaurant, document, opened, shown, now);
        lock(&self.testimony).violations.extend(broken);
    }

    fn note(&self, seen: Seen) {
        lock(&self.testimony).seen.push(seen);
    }

    /// I13: what is not possible just now says when to come again.
    fn check_refusal(&self, answer: &Answer) {
        if answer.status == 503 && !answer.has_retry_after {
            self.odd("503 without retry-after", answer);
        }
    }

    fn odd(&self, what: &str, answer: &Answer) {
        let mut testimony = lock(&self.testimony);
        if testimony.odd.len() < EXAMPLES_MAX {
            let body: String = String::from_utf8_lossy(&answer.body).chars().take(200).collect();
            let (status, source) = (answer.status, answer.source);
            testimony.odd.push(format!("{what}: {status}, {source:?}, {body}"));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
