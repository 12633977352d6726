//! Copies of carts in Redis, for reads: asked for at most 50 ms, and not at all while it fails.
//!
//! `cart:{<customer_id>}` is a hash with `version` and `cart`, the cart as JSON. A write deletes it,
//! commits, and then puts the new cart there; a read that misses puts there what it read. A script
//! stores only what is newer than what is there, so a slow reader never brings an old cart back.
//!
//! What can go wrong is the deleting. When Redis cannot be reached for a write, neither the
//! deletion nor the new copy comes through, and once it answers again the copy from before is read
//! until its time to live has passed. The same holds when a process dies between the commit and the
//! new copy, and a read came in between. Such a cart is only ever shown: writes and checkouts read
//! PostgreSQL.

use std::time::{Duration, Instant};

use contracts::ids::CustomerId;
use platform::{
    breaker::{Breaker, Settings},
    redis::Connection,
};
use redis::{AsyncCommands as _, Client, Script};
use tokio::time::timeout;

use super::Cart;

/// A copy is not worth more: PostgreSQL is hardly slower.
const PATIENCE: Duration = Duration::from_millis(50);

const KEEP: &str = r"
local kept = redis.call('HGET', KEYS[1], 'version')
if kept and tonumber(kept) >= tonumber(ARGV[1]) then
    return 0
end
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'cart', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
";

/// See the module.
pub struct Copies {
    redis: Connection,
    breaker: Breaker,
    keep: Script,
    ttl: Duration,
}

impl Copies {
    /// Connects when first used; copies live for `ttl`.
    pub fn new(client: &Client, ttl: Duration) -> Self {
        let settings = Settings {
            window: Duration::from_secs(2),
            failures_min: 5,
            failure_share: 0.5,
            open_for: Duration::from_millis(500),
            open_max: Duration::from_secs(2),
        };
        Self {
            redis: platform::redis::connection(client),
            breaker: Breaker::new(settings, rand::random(), Instant::now()),
            keep: Script::new(KEEP),
            ttl,
        }
    }

    /// The copy of a customer's cart, when there is one that can be read.
    pub async fn get(&self, customer: CustomerId) -> Option<Cart> {
        let mut redis = self.redis.clone();
        let copy = redis.hget::<_, _, Option<String>>(key(customer), "cart");
        let copy = self.guarded(copy).await??;
        // What this build cannot read is as good as not there.
        serde_json::from_str(&copy).ok()
    }

    /// Puts a copy there, unless one that is as new is there.
    pub async fn keep(&self, customer: CustomerId, cart: &Cart) {
        let Ok(json) = serde_json::to_string(cart) else { return };
        let mut redis = self.redis.clone();
        let ttl_ms = (self.ttl.as_millis() as u64).max(1);
        let mut call = self.keep.key(key(customer));
        call.arg(cart.version).arg(json).arg(ttl_ms);
        self.guarded(call.invoke_async::<i64>(&mut redis)).await;
    }

    /// Deletes the copy.
    pub async fn forget(&self, customer: CustomerId) {
        let mut redis = self.redis.clone();
        self.guarded(redis.del::<_, i64>(key(customer))).await;
    }

    /// Within the time limit and the breaker; `None` when Redis did not answer.
    async fn guarded<T>(&self, call: impl Future<Output = redis::RedisResult<T>>) -> Option<T> {
        let permit = self.breaker.try_acquire(Instant::now()).ok()?;
        match timeout(PATIENCE, call).await {
            Ok(Ok(answer)) => {
                permit.success(Instant::now());
                return Some(answer);
            }
            Ok(Err(error)) => tracing::debug!(%error, "a copy of a cart failed"),
            Err(_) => tracing::debug!("a copy of a cart took too long"),
        }
        permit.failure(Instant::now());
        metrics::counter!("cart_copies_failed_total").increment(1);
        None
    }
}

/// With a hash tag, so that all of a customer's keys stay together in a cluster.
fn key(customer: CustomerId) -> String {
    format!("cart:{{{customer}}}")
}
