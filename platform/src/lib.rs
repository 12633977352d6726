//! How a service runs: start and drain, HTTP, identity, telemetry, stores.
//!
//! Nothing here knows what is delivered.

pub mod access;
pub mod auth;
mod authority;
pub mod breaker;
pub mod dead_letters;
pub mod docs;
pub mod extract;
pub mod health;
pub mod outbox;
pub mod permits;
pub mod postgres;
pub mod probe;
pub mod problem;
pub mod queue_settings;
pub mod redis;
pub mod run;
#[cfg(feature = "sabotage")]
pub mod sabotage;
pub mod serve;
pub mod settings;
#[cfg(feature = "stores")]
pub mod stores;
pub mod stream;
pub mod telemetry;
