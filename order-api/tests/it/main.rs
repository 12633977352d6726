//! Through the front door, on private stores, with a menu-api and a gateway of the test's own.

mod breaker;
mod carts;
mod hang;
mod hostile;
mod idempotency;
mod lifecycle;
mod metrics;
mod orders;
mod outage;
mod payments;
mod races;
mod ratings;
mod refunds;
mod upgrade;
mod world;
