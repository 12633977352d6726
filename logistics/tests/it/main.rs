//! logistics through its front door, on private real stores.

mod access;
mod cluster;
mod current;
mod gps;
mod hang;
mod metrics;
mod orders;
mod silent;
mod sockets;
mod stores;
mod tracking;
mod world;
