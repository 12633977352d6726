//! The HTTP side of the platform through a real listener, and streams on real stores.

mod access;
#[cfg(feature = "stores")]
mod cluster;
#[cfg(target_os = "linux")]
mod cost;
#[cfg(feature = "stores")]
mod database;
mod extract;
#[cfg(feature = "stores")]
mod follow;
mod health;
mod kit;
mod layers;
#[cfg(feature = "stores")]
mod migrate;
#[cfg(feature = "stores")]
mod outbox;
#[cfg(feature = "stores")]
mod queue_settings;
mod serve;
#[cfg(feature = "stores")]
mod silent;
mod slow;
#[cfg(feature = "stores")]
mod store_tls;
mod tls;
