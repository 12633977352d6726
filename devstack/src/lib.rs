//! The whole system on private local stores: for work, for tests and for the demo.

pub mod city;
pub mod demo;
pub mod exec;
pub mod keys;
pub mod logs;
pub mod services;
pub mod stack;
pub mod token;
pub mod up;
