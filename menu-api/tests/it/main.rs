//! menu-api through its front door, on private real stores.

mod access;
mod coherence;
mod hang;
mod hostile;
mod lists;
mod menus;
mod metrics;
mod outage;
mod ratings;
mod silent;
mod upgrade;
mod world;
