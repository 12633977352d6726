//! Metrics of parts of the platform that not every service has. A service's table names those of
//! the parts it uses, with its groups and streams.

use super::Metric;

/// Of consumers that apply entries, by `group`.
pub const STREAM_APPLIED: Metric =
    Metric::counter("stream_applied_total", "Entries of streams applied");
/// By `group`.
pub const STREAM_APPLY_FAILURES: Metric = Metric::counter(
    "stream_apply_failures_total",
    "Batches of entries that could not be applied and are tried again",
);
/// Of every consumer, by `group`.
pub const STREAMS_LOST: Metric =
    Metric::gauge("streams_lost", "Streams of a cluster that cannot be read now");
/// Of every consumer.
pub const STREAM_LOSSES: Metric =
    Metric::counter("stream_losses_total", "Times that a stream of a cluster could not be read");
/// Of what trims streams, by `stream`.
pub const STREAM_TRIMMED: Metric =
    Metric::counter("stream_trimmed_total", "Entries removed that every group has read");
/// By `stream`.
pub const STREAM_BACKLOG: Metric =
    Metric::gauge("stream_backlog_entries", "Entries that some group has not finished");
/// Of a relay.
pub const OUTBOX_RELAYED: Metric =
    Metric::counter("outbox_relayed_total", "Entries moved from the outbox to streams");
/// Of a relay.
pub const OUTBOX_BACKLOG: Metric =
    Metric::gauge("outbox_backlog", "Rows of the outbox that wait for their streams");
/// Of writes that replicas confirm.
pub const REDIS_UNCONFIRMED: Metric =
    Metric::counter("redis_unconfirmed_writes_total", "Writes that too few replicas had in time");
/// Of everything that speaks to Redis, by what the connection did.
pub const REDIS_SILENT: Metric = Metric::counter(
    "redis_silent_connections_total",
    "Connections to Redis that were given up because no answer came",
)
.by("work", &["commands", "blocking_reads", "subscription"]);
/// Of permits, by `of`.
pub const PERMITS_IN_USE: Metric = Metric::gauge("permits_in_use", "Permits in use");
/// Of permits, by `of`, and whether the caller had too many or all together.
pub const PERMITS_REFUSED: Metric =
    Metric::counter("permits_refused_total", "Requests turned away for lack of a permit")
        .by("reason", &["own", "all"]);
/// Of dead letters, by `kind`.
pub const DEAD_LETTERS_REDRIVEN: Metric =
    Metric::counter("dead_letters_redriven_total", "Dead letters redriven");
/// Of dead letters.
pub const DEAD_LETTERS_DELETED: Metric =
    Metric::counter("dead_letters_deleted_total", "Dead letters deleted after their retention");
