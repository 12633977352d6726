//! logistics through its front door, on private real stores.

mod access;
mod cluster;
mod gps;
mod orders;
mod stores;
mod tracking;
mod world;
