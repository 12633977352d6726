//! Where this service's dead letters are.

use contracts::streams::ORDER_EVENTS_STREAM;
use platform::dead_letters::{Kind, Table};

/// Positions and orders' events that could be neither stored nor applied.
pub const TABLE: Table = Table {
    name: "dead_letters",
    kinds: &[(Kind::OrderEvent, ORDER_EVENTS_STREAM), (Kind::Position, "")],
    more: "",
};
