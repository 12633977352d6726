//! The metrics of this service.

use platform::telemetry::Metric;

/// All of them; each exists from the start.
pub const METRICS: &[Metric] = &[
    Metric::counter("payment_sim_requests_total", "Calls, by how they were answered")
        .by("mode", &[]),
    Metric::histogram("payment_sim_ledger_batch_size", "Effects written to the ledger at once"),
];
