//! payment-sim through its front door.

mod behaviour;
mod durability;
mod idempotency;
mod lists;
mod modes;
mod refunds;
mod world;
