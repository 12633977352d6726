//! Scenario files: any load on the public API, in k6's words.
//!
//! [`mod@file`] is read whole and checked; [`ramp`] says when iterations are due, [`lane`] has virtual
//! users begin them, and [`engine`] runs all scenarios of a file. What users do is a [`flow`], by
//! an [`agent`]'s requests; [`metrics`] keeps what was measured and [`seconds`] what each second was
//! like. [`summary`] is what is written of it, [`page`] the report to look at, and [`calibrate`]
//! measures the generator itself.

mod agent;
mod calibrate;
mod chart;
mod check;
pub mod command;
mod data;
mod engine;
mod executor;
pub mod expression;
mod file;
mod flow;
mod lane;
mod leave;
pub mod metrics;
mod page;
pub mod ramp;
mod requests;
pub mod seconds;
mod state;
pub mod summary;
mod target;
mod template;
mod text;
mod town;

pub use calibrate::serve as serve_nothing;
