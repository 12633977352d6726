//! The whole system on private local stores: for work, for tests and for the demo.

pub mod city;
pub mod exec;
pub mod stack;
