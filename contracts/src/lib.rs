//! What crosses a process: ids, stream and channel names, and wire forms.
//!
//! Nothing here performs I/O, so that any service, tool or consumer can depend on it.

pub mod frame;
pub mod ids;
pub mod money;
pub mod position;
pub mod streams;
