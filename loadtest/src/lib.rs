//! Load that comes when it is due, real traces played back now, and checks of what was promised.
//!
//! A run is a [`plan`] whose every event is known by its number; [`send`] sends it, [`sockets`]
//! watch it arrive at customers, [`probe`] at the history, [`cpu`] at the machine's expense;
//! [`check`] compares the stores with the plan, and [`report`] says what was found. [`menu`] has
//! readers and operators instead, and checks every answer while it comes; [`orders`] has customers
//! who order, and compares the service's orders with the ledger of the payment gateway. [`run`] is
//! any load, as a file describes it; [`tokens`] are for generators that are not this one.

pub mod check;
#[cfg(test)]
mod cli;
pub mod client;
pub mod cpu;
pub mod fix;
pub mod menu;
pub mod orders;
pub mod pace;
pub mod plan;
mod pool;
pub mod probe;
pub mod progress;
pub mod report;
pub mod run;
pub mod scenario;
pub mod send;
pub mod sockets;
pub mod tokens;
pub mod trace;
