//! What crosses a process: ids, stream and channel names, and wire forms.
//!
//! Nothing here performs I/O, so that any service, tool or consumer can depend on it.

pub mod events;
pub mod frame;
pub mod ids;
pub mod money;
pub mod order;
pub mod position;
pub mod received;
pub mod streams;
