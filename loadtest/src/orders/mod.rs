//! Load of orders, and a check that each of them was taken once and paid once (I4, I5, I6, I8).
//!
//! [`kitchens`] makes the restaurants, [`basket`] says what arrival number n orders under which key;
//! [`send`] sends it when it is due, and [`engine`] is what happens to each request; [`settle`] sees
//! the payments end; [`books`] are the orders of the service and the ledger of the gateway, which
//! [`mod@judge`] compares with what was answered; [`report`] says what was found.

pub mod basket;
pub mod books;
mod engine;
pub mod judge;
pub mod kitchens;
pub mod report;
pub mod send;
pub mod settle;
mod stats;
