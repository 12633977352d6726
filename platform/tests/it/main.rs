//! The HTTP side of the platform through a real listener.

mod access;
mod extract;
mod health;
mod kit;
mod layers;
mod serve;
