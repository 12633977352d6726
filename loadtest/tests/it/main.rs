//! The generator against a server that misbehaves on purpose, and the check against real stores
//! that were tampered with.

mod check;
mod cli;
mod menu;
mod orders;
mod run;
mod send;
