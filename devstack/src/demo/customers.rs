//! The customers: every order is created through the API, watched over a socket with a tracking
//! token, and moved on by its driver; the socket ends with the order.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use contracts::ids::OrderId;
use loadtest::client::{Caller, Target};
use parking_lot::Mutex;
use platform::auth::{Role, Signer};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    figures::{Figures, count},
    socket,
};
use crate::city::OrderNo;

/// Registrations under way at once.
const REGISTER_AT_ONCE: usize = 8;
/// Kept connections of the company's own calls.
const CALLERS_MAX: usize = 16;
/// A call that fails is tried again this often, a little later each time.
const ATTEMPTS: u32 = 6;
/// How long an ended order's socket may take to say so.
const LAST_STATUS_WITHIN: Duration = Duration::from_secs(15);

/// Everything about orders, and what the sockets need to know of the phones.
pub(super) struct Customers {
    shared: Arc<Shared>,
    orders: Mutex<HashMap<OrderNo, Order>>,
    tasks: TaskTracker,
    registered: watch::Sender<usize>,
}

#[derive(Debug)]
struct Order {
    id: OrderId,
    steps: mpsc::Sender<&'static str>,
}

/// What the tasks of all orders share.
pub(super) struct Shared {
    pub(super) target: Target,
    pub(super) signer: Arc<Signer>,
    pub(super) figures: Arc<Figures>,
    /// Ends every socket.
    pub(super) closing: CancellationToken,
    /// Fixes that went up late, by driver and microsecond: when they reach a customer, the time
    /// since they were taken says nothing of the way.
    late: Mutex<HashSet<(i64, i64)>>,
    callers: Mutex<Vec<Caller>>,
    company: String,
}

/// One order, as its task knows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ordered {
    pub(super) order: OrderNo,
    /// Ids as in the API.
    pub(super) customer: i64,
    pub(super) restaurant: i64,
    pub(super) driver: i64,
}

impl Customers {
    pub(super) fn new(target: Target, signer: Arc<Signer>, figures: Arc<Figures>) -> Self {
        let company = signer.access(Role::Admin, 1, &[], Duration::from_secs(24 * 3_600));
        let shared = Arc::new(Shared {
            target,
            signer,
            figures,
            closing: CancellationToken::new(),
            late: Mutex::default(),
            callers: Mutex::default(),
            company,
        });
        Self {
            shared,
            orders: Mutex::default(),
            tasks: TaskTracker::new(),
            registered: watch::Sender::new(0),
        }
    }

    /// Registers drivers `1..=vehicles.len()` and brings them online; an order waits for its own.
    pub(super) async fn register(&self, vehicles: Vec<&'static str>) {
        let vehicles: Vec<_> = (1_i64..).zip(vehicles).collect();
        for some in vehicles.chunks(REGISTER_AT_ONCE) {
            let some = some.iter().map(|(driver, vehicle)| self.shared.register(*driver, vehicle));
            futures_util::future::join_all(some).await;
            if self.shared.closing.is_cancelled() {
                return;
            }
            self.registered.send_modify(|registered| *registered += REGISTER_AT_ONCE);
        }
    }

    /// A new order; its task lives until it is delivered.
    pub(super) fn ordered(&self, ordered: Ordered) {
        let (steps, todo) = mpsc::channel(4);
        let id = OrderId::generate();
        self.orders.lock().insert(ordered.order, Order { id, steps });
        count(&self.shared.figures.deliveries, 1);
        let shared = Arc::clone(&self.shared);
        let registered = self.registered.subscribe();
        self.tasks.spawn(async move {
            let closing = shared.closing.clone();
            // Dropping the socket of an order that is under way is what a customer does who
            // puts the phone away; an order that ended says goodbye.
            let _ = closing.run_until_cancelled(shared.live(id, ordered, todo, registered)).await;
            shared.figures.deliveries.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        });
    }

    /// The driver picked the order up or delivered it: the order's task tells the service.
    pub(super) fn becomes(&self, order: OrderNo, status: &'static str) {
        if let Some(order) = self.orders.lock().get(&order)
            && order.steps.try_send(status).is_err()
        {
            // Its task gave up; the figures say so already.
        }
    }

    /// The id that an order has in the API.
    pub(super) fn id(&self, order: OrderNo) -> Option<OrderId> {
        self.orders.lock().get(&order).map(|order| order.id)
    }

    /// Fixes of a driver that go up late.
    pub(super) fn late(&self, driver: i64, recorded_us: impl Iterator<Item = i64>) {
        let mut late = self.shared.late.lock();
        if late.len() > 500_000 {
            // Hours old by now: nobody will see them any more.
            late.clear();
        }
        late.extend(recorded_us.map(|at_us| (driver, at_us)));
    }

    /// Ends the sockets and waits for the tasks.
    pub(super) async fn close(&self) {
        self.shared.closing.cancel();
        self.tasks.close();
        // A task looks at the token wherever it waits.
        let _ = tokio::time::timeout(Duration::from_secs(5), self.tasks.wait()).await;
    }
}

impl Shared {
    /// Whether a position of a driver went up late; asked once each.
    pub(super) fn was_late(&self, driver: i64, recorded_us: i64) -> bool {
        self.late.lock().remove(&(driver, recorded_us))
    }

    async fn register(&self, driver: i64, vehicle: &str) {
        let body = format!(r#"{{"driver_id":{driver},"vehicle":"{vehicle}"}}"#);
        self.company("POST", "/drivers", &body, &[201, 409]).await;
        let path = format!("/drivers/{driver}/status");
        self.company("PUT", &path, r#"{"state":"online"}"#, &[200]).await;
    }

    /// From the click to the door.
    async fn live(
        self: &Arc<Self>,
        id: OrderId,
        ordered: Ordered,
        mut todo: mpsc::Receiver<&'static str>,
        mut registered: watch::Receiver<usize>,
    ) {
        let Ordered { customer, restaurant, driver, .. } = ordered;
        // The sender lives as long as the town.
        let _ = registered.wait_for(|known| *known as i64 >= driver).await;
        let body = format!(
            r#"{{"order_id":"{id}","customer_id":{customer},"restaurant_id":{restaurant},"driver_id":{driver}}}"#
        );
        if !self.company("POST", "/deliveries", &body, &[201]).await {
            return;
        }
        let seen = tokio::spawn(socket::watch(Arc::clone(self), id, customer, driver));
        let token = self.signer.access(Role::Driver, driver, &[], Duration::from_secs(3_600));
        let path = format!("/deliveries/{id}/status");
        while let Some(status) = todo.recv().await {
            let body = format!(r#"{{"status":"{status}"}}"#);
            if !self.call("PUT", &path, &token, &body, &[200]).await {
                break;
            }
            if status == "delivered" {
                break;
            }
        }
        match tokio::time::timeout(LAST_STATUS_WITHIN, seen).await {
            Ok(Ok(true)) => count(&self.figures.delivered, 1),
            _ => {
                count(&self.figures.status_gaps, 1);
                self.figures.note(format!("the customer of {id} did not see the delivery"));
            }
        }
    }

    async fn company(&self, method: &str, path: &str, body: &str, good: &[u16]) -> bool {
        self.call(method, path, &self.company, body, good).await
    }

    /// One call, again while the service is away; what fails for good is noted.
    async fn call(&self, method: &str, path: &str, token: &str, body: &str, good: &[u16]) -> bool {
        let mut last = String::new();
        for attempt in 1..=ATTEMPTS {
            let mut caller =
                self.callers.lock().pop().unwrap_or_else(|| Caller::new(self.target.clone()));
            match caller.call(method, path, token, body.as_bytes()).await {
                Ok((status, answer)) => {
                    // What was done by an attempt whose answer got lost is done.
                    let done = good.contains(&status) || (attempt > 1 && status == 409);
                    let text = String::from_utf8_lossy(&answer[..answer.len().min(200)]);
                    last = format!("{status} {text}");
                    let mut callers = self.callers.lock();
                    if callers.len() < CALLERS_MAX {
                        callers.push(caller);
                    }
                    if done {
                        return true;
                    }
                    if !matches!(status, 429 | 500..) {
                        break;
                    }
                }
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(loadtest::pace::backoff(attempt, None)).await;
        }
        self.figures.note(format!("{method} {path}: {last}"));
        false
    }
}
