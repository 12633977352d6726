//! platform
pub mod postgres;
pub mod redis;
pub mod stream;
#[cfg(feature = "stores")]
pub mod stores;
