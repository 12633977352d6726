//! logistics
pub mod index;
