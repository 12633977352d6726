//! Customers who watch their orders' drivers over WebSocket.
//!
//! Each watcher has its own customer, order and assigned driver. `push_ms` is receipt minus the
//! fix's timestamp, that is the whole way from the device's due time to the screen. Slow watchers
//! subscribe and never read again.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use chrono::DateTime;
use contracts::ids::OrderId;
use futures_util::{SinkExt as _, StreamExt as _};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use platform::auth::{Role, Signer};
use serde::Deserialize;
use tokio::{net::TcpSocket, task::JoinSet, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, Utf8Bytes, protocol::WebSocketConfig},
};
use tokio_util::sync::CancellationToken;

use crate::{
    client::{Caller, Target},
    pace::wall_us,
    plan::Drivers,
};

/// Sockets opened per second; a service may refuse faster arrivals.
const OPEN_PER_SECOND: f64 = 400.0;
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Parallel set-up requests.
const SETUP_LANES: usize = 16;
/// Customers of a load run; far from those of other uses.
const FIRST_CUSTOMER: i64 = 7_000_000_000;

/// Watchers whose sockets are open.
#[derive(Debug)]
pub struct Watchers {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    /// Sockets that do not read.
    pub slow: usize,
}

#[derive(Debug)]
struct Shared {
    /// Fixes recorded earlier are not measured; the far future until the run says otherwise.
    measure_from_us: AtomicI64,
    push_us: Mutex<Histogram<u64>>,
    updates: AtomicU64,
    reopened: AtomicU64,
    closed: CancellationToken,
    /// By watcher: the newest timestamp seen, µs since 1970; negative for those that do not read.
    newest_us: Vec<AtomicI64>,
    target: Target,
    signer: Arc<Signer>,
    orders: Vec<OrderId>,
}

/// What the watchers saw.
#[derive(Debug)]
pub struct Pushes {
    /// Device's due time to receipt, µs.
    pub push_us: Histogram<u64>,
    /// Location updates received.
    pub updates: u64,
    /// Sockets that had to be opened again.
    pub reopened: u64,
    /// Reading watchers by index: the newest timestamp each saw, µs since 1970, 0 for none.
    pub newest_us: Vec<Option<i64>>,
}

/// Orders of customers of their own, each with a driver, whose sockets are not open yet.
#[derive(Debug)]
pub struct Orders(Vec<OrderId>);

/// Registers the first `count` drivers and gives each an order.
pub async fn order(
    target: &Target,
    signer: &Signer,
    drivers: Drivers,
    count: u32,
) -> anyhow::Result<Orders> {
    let orders: Vec<_> = (0..count).map(|_| OrderId::generate()).collect();
    set_up(target, signer, drivers, &orders).await?;
    Ok(Orders(orders))
}

/// Opens the customers' sockets; every `1 / slow`-th does not read.
pub async fn open(
    target: &Target,
    signer: Arc<Signer>,
    Orders(orders): Orders,
    slow: f64,
) -> anyhow::Result<Watchers> {
    let count = orders.len();
    let shared = Arc::new(Shared {
        measure_from_us: AtomicI64::new(i64::MAX),
        push_us: Mutex::new(crate::send::histogram()),
        updates: AtomicU64::new(0),
        reopened: AtomicU64::new(0),
        closed: CancellationToken::new(),
        newest_us: orders.iter().map(|_| AtomicI64::new(0)).collect(),
        target: target.clone(),
        signer,
        orders,
    });
    let started = Instant::now();
    let mut opening = JoinSet::new();
    for index in 0..count {
        // Evenly spread: the watcher is slow when the running share passes a whole number.
        let is_slow = ((index + 1) as f64 * slow).floor() > (index as f64 * slow).floor();
        let due = started + Duration::from_secs_f64(index as f64 / OPEN_PER_SECOND);
        let shared = Arc::clone(&shared);
        opening.spawn(async move {
            tokio::time::sleep_until(due.into()).await;
            let socket = shared.subscribe(index, is_slow).await;
            (index, is_slow, socket)
        });
    }
    let (mut tasks, mut slow) = (JoinSet::new(), 0);
    while let Some(opened) = opening.join_next().await {
        let (index, is_slow, socket) = opened?;
        let socket = socket.with_context(|| format!("watcher {index} cannot subscribe"))?;
        let shared = Arc::clone(&shared);
        if is_slow {
            slow += 1;
            shared.newest_us[index].store(-1, Ordering::Relaxed);
            tasks.spawn(async move {
                let _held_open_and_unread = socket;
                shared.closed.cancelled().await;
            });
        } else {
            tasks.spawn(shared.watch(index, socket));
        }
    }
    Ok(Watchers { shared, tasks, slow })
}

/// Drivers that exist already are as good as new ones.
async fn set_up(
    target: &Target,
    signer: &Signer,
    drivers: Drivers,
    orders: &[OrderId],
) -> anyhow::Result<()> {
    let token: Arc<str> = signer.access(Role::Admin, 1, &[], Duration::from_secs(3600)).into();
    let mut lanes = JoinSet::new();
    for lane in 0..SETUP_LANES {
        let mut caller = Caller::new(target.clone());
        let token = Arc::clone(&token);
        let share: Vec<_> =
            orders.iter().copied().enumerate().skip(lane).step_by(SETUP_LANES).collect();
        lanes.spawn(async move {
            for (index, order) in share {
                let driver = drivers.id(index as u32);
                let body = format!(r#"{{"driver_id":{driver},"vehicle":"scooter"}}"#);
                expect(
                    caller.call("POST", "/drivers", &token, body.as_bytes()).await?,
                    &[201, 409],
                )
                .with_context(|| format!("driver {driver} cannot be registered"))?;
                let customer = FIRST_CUSTOMER + index as i64;
                let body = format!(
                    r#"{{"order_id":"{order}","customer_id":{customer},"driver_id":{driver}}}"#
                );
                expect(caller.call("POST", "/deliveries", &token, body.as_bytes()).await?, &[201])
                    .with_context(|| format!("no delivery for driver {driver}"))?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(lane) = lanes.join_next().await {
        lane??;
    }
    Ok(())
}

fn expect((status, body): (u16, &[u8]), good: &[u16]) -> anyhow::Result<()> {
    anyhow::ensure!(
        good.contains(&status),
        "status {status}: {}",
        String::from_utf8_lossy(&body[..body.len().min(300)])
    );
    Ok(())
}

pub(crate) type Socket = WebSocketStream<tokio::net::TcpStream>;

/// What a watcher reads; other fields and messages are not its business.
#[derive(Deserialize)]
pub(crate) struct Update<'a> {
    pub(crate) r#type: &'a str,
    #[serde(default)]
    pub(crate) timestamp: Option<&'a str>,
    #[serde(default)]
    location: Option<Location<'a>>,
    #[serde(default)]
    pub(crate) seq: Option<i64>,
    #[serde(default)]
    pub(crate) status: Option<&'a str>,
}

#[derive(Deserialize)]
struct Location<'a> {
    timestamp: &'a str,
}

/// Opens an order's socket and subscribes; answers the snapshot, too. With `slow` what is not read
/// is soon felt by the server.
pub(crate) async fn subscribe(
    target: &Target,
    order: OrderId,
    token: &str,
    slow: bool,
) -> anyhow::Result<(Socket, Utf8Bytes)> {
    let opening = async {
        let stream = if slow { small_window(target).await? } else { target.connect().await? };
        let uri = format!(
            "ws://{}{}/api/v1/drivers/orders/{order}/driver-location",
            target.authority, target.prefix
        );
        let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(0);
        let (mut socket, _) = client_async_with_config(uri, stream, Some(config)).await?;
        let subscribe = serde_json::json!({ "type": "subscribe", "token": token });
        socket.send(Message::text(subscribe.to_string())).await?;
        loop {
            match socket.next().await.context("closed before it was connected")?? {
                Message::Text(text) => {
                    let update: Update<'_> = serde_json::from_str(&text)?;
                    anyhow::ensure!(update.r#type == "connected", "answered {text}");
                    return Ok((socket, text));
                }
                Message::Close(frame) => anyhow::bail!("closed: {frame:?}"),
                _ => {}
            }
        }
    };
    timeout(OPEN_TIMEOUT, opening).await.context("no answer in time")?
}

impl Shared {
    /// Opens a socket, subscribes and reads the snapshot.
    async fn subscribe(&self, index: usize, slow: bool) -> anyhow::Result<Socket> {
        let order = self.orders[index];
        let token =
            self.signer.tracking(order.0, FIRST_CUSTOMER + index as i64, Duration::from_secs(60));
        let (socket, connected) = subscribe(&self.target, order, &token, slow).await?;
        let update: Update<'_> = serde_json::from_str(&connected)?;
        self.saw(index, update.location.map(|location| location.timestamp));
        Ok(socket)
    }

    async fn watch(self: Arc<Self>, index: usize, mut socket: Socket) {
        loop {
            tokio::select! {
                () = self.closed.cancelled() => {
                    let _closed_anyway = socket.close(None).await;
                    return;
                }
                message = socket.next() => match message {
                    Some(Ok(Message::Text(text))) => self.received(index, &text),
                    Some(Ok(Message::Close(_)) | Err(_)) | None => {
                        match self.reopen(index).await {
                            Some(open) => socket = open,
                            None => return,
                        }
                    }
                    Some(Ok(_)) => {}
                },
            }
        }
    }

    /// Opens the socket again, as often as it takes; `None` when the run is over.
    async fn reopen(&self, index: usize) -> Option<Socket> {
        for attempt in 1.. {
            tokio::select! {
                () = self.closed.cancelled() => return None,
                () = tokio::time::sleep(crate::pace::backoff(attempt, None)) => {}
            }
            if let Ok(socket) = self.subscribe(index, false).await {
                self.reopened.fetch_add(1, Ordering::Relaxed);
                return Some(socket);
            }
        }
        None
    }

    fn received(&self, index: usize, text: &str) {
        let now_us = wall_us();
        let Ok(update) = serde_json::from_str::<Update<'_>>(text) else { return };
        if update.r#type != "location_update" {
            return;
        }
        self.updates.fetch_add(1, Ordering::Relaxed);
        if let Some(at_us) = self.saw(index, update.timestamp)
            && at_us >= self.measure_from_us.load(Ordering::Relaxed)
        {
            self.push_us.lock().saturating_record((now_us - at_us).max(0) as u64);
        }
    }

    fn saw(&self, index: usize, timestamp: Option<&str>) -> Option<i64> {
        let at_us = DateTime::parse_from_rfc3339(timestamp?).ok()?.timestamp_micros();
        self.newest_us[index].fetch_max(at_us, Ordering::Relaxed);
        Some(at_us)
    }
}

/// A connection whose receive window fills at once, so that not reading is felt by the server.
async fn small_window(target: &Target) -> io::Result<tokio::net::TcpStream> {
    let address = tokio::net::lookup_host(&target.authority)
        .await?
        .next()
        .ok_or(io::ErrorKind::AddrNotAvailable)?;
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_recv_buffer_size(1024)?;
    socket.connect(address).await
}

impl Watchers {
    /// Measures the pushes of fixes recorded from now on at `from_us` or later.
    pub fn measure_from(&self, from_us: i64) {
        self.shared.measure_from_us.store(from_us, Ordering::Relaxed);
    }

    /// Waits until every reading watcher saw what `newest_us` says of its driver, or the deadline.
    pub async fn settle(&self, newest_us: impl Fn(usize) -> Option<i64>, deadline: Duration) {
        let started = Instant::now();
        let behind = |(index, seen): (usize, &AtomicI64)| {
            let seen = seen.load(Ordering::Relaxed);
            seen >= 0 && newest_us(index).is_some_and(|newest| newest != seen)
        };
        while started.elapsed() < deadline && self.shared.newest_us.iter().enumerate().any(behind) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Location updates received so far.
    pub fn updates(&self) -> u64 {
        self.shared.updates.load(Ordering::Relaxed)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shared.orders.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.shared.orders.is_empty()
    }

    /// Closes the sockets.
    pub async fn close(mut self) -> Pushes {
        self.shared.closed.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        // A server that does not answer a close is not worth more patience.
        let _cut = timeout(Duration::from_secs(5), all).await;
        let seen = |seen: &AtomicI64| Some(seen.load(Ordering::Relaxed)).filter(|at| *at >= 0);
        Pushes {
            push_us: self.shared.push_us.lock().clone(),
            updates: self.shared.updates.load(Ordering::Relaxed),
            reopened: self.shared.reopened.load(Ordering::Relaxed),
            newest_us: self.shared.newest_us.iter().map(seen).collect(),
        }
    }
}
