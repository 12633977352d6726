//! What can be called: the gateway under `/v1`, the simulator under `/admin`, and health.

mod admin;
mod calls;
mod errors;
mod faults;
mod gateway;
mod reply;

use std::{ops::Deref, sync::Arc, time::Duration};

use axum::{Router, routing::any};
use platform::health::Health;
use secrecy::SecretString;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{ledger::Ledger, settings::Behaviour, traffic::Traffic};

/// What handlers work with.
#[allow(missing_docs)]
pub struct Parts {
    pub ledger: Arc<Ledger>,
    pub behaviour: Behaviour,
    pub traffic: Arc<Traffic>,
    pub api_key: SecretString,
    /// Effects that go on when their caller goes away.
    pub tasks: TaskTracker,
    /// Cancelled when nobody is to be kept waiting any more.
    pub stopping: CancellationToken,
}

#[derive(Clone)]
struct App(Arc<Parts>);

impl Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl App {
    /// Waits, but not for longer than the simulator runs.
    async fn pause(&self, time: Duration) {
        if time.is_zero() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = self.stopping.cancelled() => {}
        }
    }
}

/// All routes.
pub fn router(parts: Parts, health: &Health, has_admin: bool) -> Router {
    let app = App(Arc::new(parts));
    let mut router = Router::new().route("/v1/{*path}", any(gateway::call));
    if has_admin {
        router = router.nest("/admin", admin::router());
    }
    health.router().merge(router.fallback(gateway::unrecognized).with_state(app))
}
