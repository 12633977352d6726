//! logistics through its front door, on private real stores.

mod access;
mod gps;
mod stores;
mod tracking;
mod world;
