//! The HTTP side of the platform through a real listener.

mod access;
#[cfg(target_os = "linux")]
mod cost;
mod extract;
mod health;
mod kit;
mod layers;
mod serve;
