//! The metrics of this service.

use contracts::streams::{ORDER_EVENTS_STREAM, ORDERS_GROUP, PAYMENTS_GROUP, PAYMENTS_STREAM};
use platform::telemetry::{Metric, parts};

use crate::payment::reconcile::BREAKS;

const STREAMS: &[&str] = &[PAYMENTS_STREAM, ORDER_EVENTS_STREAM];

/// All of them; each exists from the start.
pub const METRICS: &[Metric] = &[
    Metric::counter("orders_accepted_total", "Orders stored"),
    Metric::histogram("order_batch_size", "Orders stored by one statement"),
    Metric::gauge("order_queue", "Orders that wait for a writer"),
    Metric::counter("payment_calls_total", "Calls of the gateway")
        .by("kind", &["charge", "refund"])
        .by("outcome", &["succeeded", "declined", "unknown"]),
    Metric::histogram("payment_call_seconds", "Time of a call of the gateway"),
    Metric::counter("payments_swept_total", "Payments taken without the bell"),
    Metric::counter("payment_results_late_total", "Results that came after their lease"),
    Metric::counter("payment_results_refused_total", "Results that do not fit their order"),
    Metric::counter("payment_ack_errors_total", "Acknowledgements of payments that failed"),
    Metric::counter("reconciliations_total", "Comparisons with the gateway's books"),
    Metric::counter(
        "reconciliation_breaks_total",
        "Differences between the gateway's books and ours",
    )
    .by("kind", BREAKS),
    Metric::counter("order_dead_letters_total", "Entries that cannot be read"),
    Metric::counter("menu_reads_failed_total", "Reads that menu-api did not answer"),
    Metric::counter("menu_reads_stale_total", "Orders priced by an old menu"),
    Metric::counter("delivery_events_refused_total", "Events of deliveries that came too late"),
    Metric::counter("cart_reads_total", "Carts read").by("from", &["redis", "postgres"]),
    Metric::counter("cart_copies_failed_total", "Copies of carts that Redis did not take"),
    parts::STREAM_APPLIED.by("group", &[ORDERS_GROUP]),
    parts::STREAM_APPLY_FAILURES.by("group", &[ORDERS_GROUP]),
    parts::STREAMS_LOST.by("group", &[ORDERS_GROUP, PAYMENTS_GROUP]),
    parts::STREAM_LOSSES,
    parts::STREAM_TRIMMED.by("stream", STREAMS),
    parts::STREAM_BACKLOG.by("stream", STREAMS),
    parts::OUTBOX_RELAYED,
    parts::OUTBOX_BACKLOG,
    parts::REDIS_UNCONFIRMED,
    parts::REDIS_SILENT,
    parts::PERMITS_IN_USE.by("of", &["reports"]),
    parts::PERMITS_REFUSED.by("of", &["reports"]),
    parts::DEAD_LETTERS_REDRIVEN.by("kind", &["delivery_event", "payment", "payment_entry"]),
    parts::DEAD_LETTERS_DELETED,
];
