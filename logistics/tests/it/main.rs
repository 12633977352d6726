//! logistics through its front door, on private real stores.

mod access;
mod cluster;
mod current;
mod dead_letters;
mod gps;
mod hang;
mod metrics;
mod orders;
mod partitions;
mod positions;
mod refusals;
mod silent;
mod sockets;
mod stores;
mod tracking;
mod upgrade;
mod world;
