//! The customers and what they share with drivers, restaurants and the company; what becomes of
//! each order is in [`super::orders`].

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, OnceLock},
    time::Duration,
};

use contracts::ids::OrderId;
use loadtest::client::Target;
use parking_lot::Mutex;
use platform::auth::{Role, Signer};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    calls::{Call, Calls},
    figures::{Figures, count},
    orders::{
        Kitchens,
        books::{Books, Outcome},
    },
};
use crate::city::OrderNo;

/// Registrations under way at once.
const REGISTER_AT_ONCE: usize = 8;

/// Everything about orders, and what the sockets need to know of the phones.
pub(super) struct Customers {
    shared: Arc<Shared>,
    orders: Mutex<HashMap<OrderNo, Order>>,
    tasks: TaskTracker,
    registered: watch::Sender<usize>,
}

#[derive(Debug)]
struct Order {
    /// Once its driver has it.
    id: Arc<OnceLock<OrderId>>,
    steps: mpsc::Sender<&'static str>,
}

/// What the tasks of all orders share.
pub(super) struct Shared {
    pub(super) orders: Calls,
    pub(super) menus: Calls,
    pub(super) logistics: Calls,
    pub(super) signer: Arc<Signer>,
    pub(super) figures: Arc<Figures>,
    /// Where there is something to eat, once it is known.
    pub(super) kitchens: watch::Receiver<Option<Arc<Kitchens>>>,
    /// The company's token.
    pub(super) company: String,
    /// Ends every socket.
    pub(super) closing: CancellationToken,
    /// Fixes that went up late, by driver and microsecond: when they reach a customer, the time
    /// since they were taken says nothing of the way.
    late: Mutex<HashSet<(i64, i64)>>,
}

/// The services that people talk to.
#[derive(Debug, Clone)]
pub(super) struct Targets {
    pub(super) orders: Target,
    pub(super) menus: Target,
    pub(super) logistics: Target,
    /// The payment gateway's double, for the checks at the end.
    pub(super) payments: Target,
}

/// One order, as its task knows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ordered {
    pub(super) order: OrderNo,
    /// The town's number.
    pub(super) restaurant: usize,
    /// Ids as in the API.
    pub(super) customer: i64,
    pub(super) driver: i64,
}

impl Customers {
    pub(super) fn new(
        targets: &Targets,
        signer: Arc<Signer>,
        figures: Arc<Figures>,
        kitchens: watch::Receiver<Option<Arc<Kitchens>>>,
    ) -> Self {
        let company = signer.access(Role::Admin, 1, &[], Duration::from_secs(24 * 3_600));
        let calls = |target: &Target| Calls::new(target.clone(), Arc::clone(&figures));
        let shared = Arc::new(Shared {
            orders: calls(&targets.orders),
            menus: calls(&targets.menus),
            logistics: calls(&targets.logistics),
            signer,
            figures,
            kitchens,
            company,
            closing: CancellationToken::new(),
            late: Mutex::default(),
        });
        Self {
            shared,
            orders: Mutex::default(),
            tasks: TaskTracker::new(),
            registered: watch::Sender::new(0),
        }
    }

    /// Registers drivers `1..=vehicles.len()` and brings them online; an order waits for its own.
    /// The restaurants come first, because all orders wait for these.
    pub(super) async fn register(&self, vehicles: Vec<&'static str>) {
        self.shared.kitchens().await;
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
        let id = Arc::new(OnceLock::new());
        self.orders.lock().insert(ordered.order, Order { id: Arc::clone(&id), steps });
        count(&self.shared.figures.deliveries, 1);
        let shared = Arc::clone(&self.shared);
        let mut registered = self.registered.subscribe();
        self.tasks.spawn(async move {
            let closing = shared.closing.clone();
            let life = async {
                // The sender lives as long as the town.
                let _ = registered.wait_for(|known| *known as i64 >= ordered.driver).await;
                shared.live(ordered, id, todo).await;
            };
            // Dropping the socket of an order that is under way is what a customer does who
            // puts the phone away; an order that ended says goodbye.
            let _ = closing.run_until_cancelled(life).await;
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

    /// The id that an order has in the API, once its driver knows it.
    pub(super) fn id(&self, order: OrderNo) -> Option<OrderId> {
        self.orders.lock().get(&order).and_then(|order| order.id.get().copied())
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

    /// Compares the books with what customers were told, once nobody orders any more.
    pub(super) async fn check(&self, payments: &Target) -> Outcome {
        let Shared { orders, company, figures, .. } = &*self.shared;
        Books { orders, payments, admin: company }.check(&figures.orders).await
    }
}

impl Shared {
    /// Whether a position of a driver went up late; asked once each.
    pub(super) fn was_late(&self, driver: i64, recorded_us: i64) -> bool {
        self.late.lock().remove(&(driver, recorded_us))
    }

    async fn register(&self, driver: i64, vehicle: &str) {
        let body = format!(r#"{{"driver_id":{driver},"vehicle":"{vehicle}"}}"#);
        self.company("POST", "/drivers", &body, &[200, 201]).await;
        let path = format!("/drivers/{driver}/status");
        self.company("PUT", &path, r#"{"state":"online"}"#, &[200]).await;
    }

    async fn company(&self, method: &str, path: &str, body: &str, good: &[u16]) -> bool {
        let call = Call { method, path, token: &self.company, body, key: None };
        self.logistics.done(call, good).await
    }
}
