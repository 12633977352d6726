//! Announcing: every caller's order goes out with those that wait with it.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use contracts::ids::RestaurantId;
use parking_lot::Mutex;
use platform::redis::Connection;
use redis::{Client, Script, Value};
use rustc_hash::FxHashMap;
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::timeout,
};

use super::{Announcement, Names, scripts};
use crate::{
    document::Kind,
    memory::{Change, Memory},
};

/// Orders in one announcement at most.
const ORDERS_MAX: usize = 256;
/// Orders that may wait for the announcer.
const WAITING_MAX: usize = 4_096;
/// Announcements whose acknowledgements are waited for at a time.
const UNDER_WAY_MAX: usize = 64;
/// Redis gets so many leases of time to take an announcement: a slow Redis, or a busy machine, must
/// not make a write answer before the others know.
const PUBLISH_LEASES: u32 = 3;
/// Added to what Redis says a lease has left: clocks do not run alike.
const DRIFT: Duration = Duration::from_millis(20);

/// What to announce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// A write made this old.
    Changed(Change),
    /// Drop it, though nothing has changed.
    Drop(Change),
    /// Drop one document.
    DropDocument(RestaurantId, Kind),
    /// Drop all lists.
    DropLists,
    /// Drop everything.
    DropAll,
}

/// What a node has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReport {
    /// Which one.
    pub node: String,
    /// Documents that it dropped from its memory; `None` when it did not answer while its lease
    /// ran. It cannot answer from memory any more either.
    pub dropped: Option<u64>,
}

/// How an announcement ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// No node shows anything older any more.
    Everywhere(Arc<[NodeReport]>),
    /// Redis is away. Nodes notice that by themselves, and it is announced later.
    Unknown,
}

struct Request {
    order: Order,
    done: oneshot::Sender<Outcome>,
}

/// A handle that announces.
#[derive(Clone)]
pub struct Announcer {
    requests: mpsc::Sender<Request>,
}

impl Announcer {
    /// Tells every node, and waits until none of them can show anything older.
    pub async fn announce(&self, order: Order) -> Outcome {
        let (done, outcome) = oneshot::channel();
        if self.requests.send(Request { order, done }).await.is_err() {
            return Outcome::Unknown;
        }
        outcome.await.unwrap_or(Outcome::Unknown)
    }
}

/// Acknowledgements as they arrive.
#[derive(Default)]
pub(super) struct Acks {
    /// By announcement. They may come before the script's answer says that it is ours.
    said: Mutex<FxHashMap<Number, Said>>,
    /// Counts them.
    arrived: watch::Sender<u64>,
}

/// An announcement: numbers begin again with each epoch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Number {
    pub(super) epoch: String,
    pub(super) seq: u64,
}

/// Documents that nodes have dropped.
struct Said {
    since: Instant,
    nodes: BTreeMap<String, u64>,
}

/// Announcements whose acknowledgements are kept; those of nodes that were too late are among them.
const SAID_MAX: usize = 1_024;

impl Acks {
    /// A node has done what the announcement says, and dropped so many documents.
    pub(super) fn arrive(&self, number: Number, node: &str, dropped: u64) {
        let mut said = self.said.lock();
        if said.len() >= SAID_MAX && !said.contains_key(&number) {
            let oldest = said.iter().min_by_key(|(_, said)| said.since);
            let oldest = oldest.map(|(number, _)| number.clone());
            oldest.map(|oldest| said.remove(&oldest));
        }
        let new = || Said { since: Instant::now(), nodes: BTreeMap::new() };
        said.entry(number).or_insert_with(new).nodes.insert(node.to_owned(), dropped);
        drop(said);
        self.arrived.send_modify(|count| *count += 1);
    }

    /// Waits until all `nodes` have acknowledged, or the lease of each that has not is over.
    async fn wait(&self, number: &Number, nodes: &[(String, Instant)]) -> Arc<[NodeReport]> {
        let mut arrived = self.arrived.subscribe();
        loop {
            let dropped = |node: &str| {
                self.said.lock().get(number).and_then(|said| said.nodes.get(node).copied())
            };
            let now = Instant::now();
            let next = nodes
                .iter()
                .filter(|(node, until)| *until > now && dropped(node).is_none())
                .map(|(_, until)| *until)
                .min();
            let Some(next) = next else {
                let report = |(node, _): &(String, Instant)| NodeReport {
                    dropped: dropped(node),
                    node: node.clone(),
                };
                let reports = nodes.iter().map(report).collect();
                self.said.lock().remove(number);
                return reports;
            };
            let _arrived_or_over = tokio::time::timeout_at(next.into(), arrived.changed()).await;
        }
    }
}

/// The task behind [`Announcer`]s.
pub(super) struct Work {
    pub(super) names: Names,
    pub(super) node: String,
    pub(super) lease: Duration,
    pub(super) acks: Arc<Acks>,
    memory: Arc<Memory>,
    requests: mpsc::Receiver<Request>,
    redis: Connection,
    script: Script,
}

/// An announcer, and the work that must run for it.
pub(super) fn announcer(
    client: &Client,
    names: Names,
    node: String,
    lease: Duration,
    acks: Arc<Acks>,
    memory: Arc<Memory>,
) -> (Announcer, Work) {
    let (requests, received) = mpsc::channel(WAITING_MAX);
    let work = Work {
        names,
        node,
        lease,
        acks,
        memory,
        requests: received,
        redis: platform::redis::connection(client),
        script: scripts::announce(),
    };
    (Announcer { requests }, work)
}

impl Work {
    /// Ends when every [`Announcer`] is gone.
    pub(super) async fn run(mut self) {
        let room = Arc::new(Semaphore::new(UNDER_WAY_MAX));
        let mut orders = Vec::new();
        while self.requests.recv_many(&mut orders, ORDERS_MAX).await > 0 {
            // Bounded by leases: each of those under way ends within one or two of them.
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            let requests = std::mem::take(&mut orders);
            let mut announcement = Announcement::default();
            requests.iter().for_each(|request| announcement.add(&request.order));
            metrics::counter!("menu_announcements_total").increment(1);
            let begun = Instant::now();
            // Whoever has lost its own lease knows that Redis is away, and does not wait for it.
            let patience = if self.memory.is_valid(begun) {
                self.lease * PUBLISH_LEASES
            } else {
                self.lease / 4
            };
            let published = match timeout(patience, self.publish(&announcement)).await {
                Ok(Ok(published)) => Some(published),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "changes could not be announced");
                    None
                }
                Err(_) => None,
            };
            let (acks, memory) = (Arc::clone(&self.acks), Arc::clone(&self.memory));
            tokio::spawn(async move {
                let outcome = match published {
                    Some(published) => {
                        if let Some(fence) = published.fence {
                            tokio::time::sleep_until(fence.into()).await;
                        }
                        Outcome::Everywhere(acks.wait(&published.number, &published.nodes).await)
                    }
                    None => {
                        metrics::counter!("menu_announcements_failed_total").increment(1);
                        Outcome::Unknown
                    }
                };
                metrics::histogram!("menu_announcement_seconds")
                    .record(begun.elapsed().as_secs_f64());
                for request in requests {
                    if let (Order::Changed(change), Outcome::Everywhere(_)) =
                        (&request.order, &outcome)
                    {
                        memory.told_everywhere(*change);
                    }
                    // Whoever does not wait any more has been cut off.
                    let _gone = request.done.send(outcome.clone());
                }
                drop(permit);
            });
        }
    }

    async fn publish(&mut self, announcement: &Announcement) -> anyhow::Result<Published> {
        let text = serde_json::to_string(announcement)?;
        #[cfg(feature = "sabotage")]
        if crate::sabotage::is("no-invalidation") {
            let number = Number { epoch: String::new(), seq: 0 };
            return Ok(Published { number, fence: None, nodes: Vec::new() });
        }
        let mut call = self.script.prepare_invoke();
        call.key(self.names.control()).key(self.names.stats());
        call.arg(super::node::random()).arg(self.lease.as_millis() as u64).arg(&self.node);
        call.arg(self.names.prefix()).arg(self.names.changes()).arg(text);
        call.arg(u8::from(announcement.lists)).arg(u8::from(announcement.all));
        for suffix in announcement.suffixes() {
            call.arg(suffix);
        }
        let answer: Vec<Value> = call.invoke_async(&mut self.redis).await?;
        let now = Instant::now();
        let mut parts = answer.into_iter();
        let (Some(epoch), Some(Value::Int(seq)), Some(fence)) =
            (parts.next(), parts.next(), parts.next())
        else {
            anyhow::bail!("the script's answer has another form");
        };
        let fence: i64 = redis::from_redis_value(fence)?;
        let after = |ms: i64| now + Duration::from_millis(ms.max(0).unsigned_abs()) + DRIFT;
        let mut nodes = Vec::new();
        while let (Some(node), Some(left)) = (parts.next(), parts.next()) {
            let left: i64 = redis::from_redis_value(left)?;
            nodes.push((redis::from_redis_value::<String>(node)?, after(left)));
        }
        Ok(Published {
            number: Number { epoch: redis::from_redis_value(epoch)?, seq: seq.unsigned_abs() },
            fence: (fence > 0).then(|| after(fence)),
            nodes,
        })
    }
}

struct Published {
    number: Number,
    fence: Option<Instant>,
    nodes: Vec<(String, Instant)>,
}
