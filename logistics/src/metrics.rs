//! The metrics of this service.

use contracts::streams::{DELIVERIES_GROUP, DELIVERY_EVENTS_STREAM, HISTORY_GROUP};
use platform::telemetry::{Metric, parts};

use crate::tracking::session::ENDINGS;

/// All of them; each exists from the start.
pub const METRICS: &[Metric] = &[
    Metric::counter("gps_accepted_total", "Fixes acknowledged to devices"),
    Metric::counter("gps_append_errors_total", "Appends that failed or that Redis refused"),
    Metric::counter(
        "gps_append_detours_total",
        "Fixes appended to the stream of another master, as their own was away",
    ),
    Metric::gauge("gps_append_queue", "Requests that wait for the writer"),
    Metric::gauge("gps_backlog_bytes", "Bytes that the streams take in Redis"),
    Metric::gauge("gps_backlog_entries", "Entries not yet in history, of all streams"),
    Metric::counter("gps_stored_total", "Rows written to the history"),
    Metric::counter("gps_duplicates_total", "Rows that the history had already"),
    Metric::counter("gps_dead_letters_total", "Entries that cannot be stored"),
    Metric::histogram("gps_history_lag_seconds", "Time from acceptance to commit"),
    Metric::histogram("gps_history_batch_size", "Rows of a batch"),
    Metric::counter(
        "gps_history_errors_total",
        "Batches that could not be written and are tried again",
    ),
    Metric::counter("gps_ack_errors_total", "Acknowledgements that failed"),
    Metric::counter("gps_claimed_total", "Entries taken over from a worker that died"),
    Metric::counter("gps_parked_total", "Entries put off because history did not keep up"),
    Metric::counter("gps_trimmed_total", "Entries removed from the streams"),
    Metric::counter("gps_live_moved_total", "Positions that moved forward in live"),
    Metric::counter("gps_live_errors_total", "Failures to send to live"),
    Metric::counter("gps_live_gaps_total", "Missed frames, and shards that fell silent"),
    Metric::counter("gps_live_resubscriptions_total", "Times that the channels were lost"),
    Metric::counter("gps_live_load_failures_total", "Loads of a shard that failed"),
    Metric::gauge("drivers_known", "Drivers with a position"),
    Metric::gauge("drivers_active", "Drivers heard of lately"),
    Metric::gauge(
        "drivers_clock_off",
        "Active drivers whose newest fix came from a clock that is off",
    ),
    Metric::gauge("gps_partitions_expired", "Partitions past their retention that are still there"),
    Metric::gauge("driver_streams", "Sockets of drivers open"),
    Metric::gauge("tracking_sockets", "Sockets of customers open"),
    Metric::counter("tracking_endings_total", "Sockets of customers ended").by("reason", ENDINGS),
    Metric::counter("tracking_listen_failures_total", "Connections for notifications lost"),
    Metric::counter("tracking_event_read_failures_total", "Events that could not be read"),
    Metric::counter(
        "order_event_dead_letters_total",
        "Events of orders that cannot be applied; such an order may lack its delivery",
    ),
    parts::STREAM_APPLIED.by("group", &[DELIVERIES_GROUP]),
    parts::STREAM_APPLY_FAILURES.by("group", &[DELIVERIES_GROUP]),
    parts::STREAMS_LOST.by("group", &[HISTORY_GROUP, DELIVERIES_GROUP]),
    parts::STREAM_LOSSES,
    parts::STREAM_TRIMMED.by("stream", &[DELIVERY_EVENTS_STREAM]),
    parts::STREAM_BACKLOG.by("stream", &[DELIVERY_EVENTS_STREAM]),
    parts::OUTBOX_RELAYED,
    parts::OUTBOX_BACKLOG,
    parts::REDIS_UNCONFIRMED,
    parts::REDIS_SILENT,
    parts::PERMITS_IN_USE.by("of", &["reports"]),
    parts::PERMITS_REFUSED.by("of", &["reports"]),
    parts::DEAD_LETTERS_REDRIVEN.by("kind", &["position", "order_event"]),
    parts::DEAD_LETTERS_DELETED,
];
