//! The metrics of this service.

use contracts::streams::RATINGS_GROUP;
use platform::telemetry::{Metric, parts};

/// All of them; each exists from the start.
pub fn all() -> Vec<Metric> {
    [crate::stats::METRICS, OTHERS].concat()
}

const OTHERS: &[Metric] = &[
    Metric::gauge("menu_cache_bytes", "Bytes that memory holds"),
    Metric::gauge("menu_cache_documents", "Documents that memory holds"),
    Metric::counter(
        "menu_database_busy_total",
        "Reads refused because as many as may are reading the database",
    ),
    Metric::counter("menu_announcements_total", "Writes announced to all nodes"),
    Metric::counter("menu_announcements_failed_total", "Announcements that failed"),
    Metric::histogram("menu_announcement_seconds", "Time of a write's way to all nodes"),
    Metric::gauge("menu_unannounced", "Changes that wait for Redis"),
    Metric::counter("ratings_refused_total", "Ratings that cannot be shown"),
    parts::STREAM_APPLIED.by("group", &[RATINGS_GROUP]),
    parts::STREAM_APPLY_FAILURES.by("group", &[RATINGS_GROUP]),
    parts::STREAMS_LOST.by("group", &[RATINGS_GROUP]),
    parts::STREAM_LOSSES,
    parts::REDIS_SILENT,
    parts::PERMITS_IN_USE.by("of", &["writes"]),
    parts::PERMITS_REFUSED.by("of", &["writes"]),
];
