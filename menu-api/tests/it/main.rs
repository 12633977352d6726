//! menu-api through its front door, on private real stores.

mod access;
mod coherence;
mod hang;
mod hostile;
mod lists;
mod menus;
mod outage;
mod ratings;
mod upgrade;
mod world;
