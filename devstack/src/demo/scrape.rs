//! Reads what the service says about itself: `/metrics` and `/readyz`.

use std::io;

use loadtest::client::{Connection, Target};

/// The figures of one reading of `/metrics`, in the Prometheus text form.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Metrics {
    /// Fixes acknowledged since the service started.
    pub(super) accepted: f64,
    /// Fixes written to history since then.
    pub(super) stored: f64,
    /// Fixes that were in the history already.
    pub(super) duplicates: f64,
    /// Entries of the streams that are not in the history yet.
    pub(super) backlog: f64,
    /// Customers' sockets.
    pub(super) sockets: f64,
    /// From acceptance to history.
    pub(super) lag: Distribution,
}

/// A histogram or a summary, as the service exports it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Distribution {
    /// Upper bounds in seconds, rising, and how many were at or below each since the start.
    buckets: Vec<(f64, f64)>,
    /// Quantiles that the service computed by itself, and their seconds.
    quantiles: Vec<(f64, f64)>,
}

impl Metrics {
    /// Reads the text; what is not there stays 0.
    pub(super) fn parse(text: &str) -> Self {
        let mut metrics = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            match name {
                "gps_accepted_total" => metrics.accepted += value,
                "gps_stored_total" => metrics.stored += value,
                "gps_duplicates_total" => metrics.duplicates += value,
                "gps_backlog_entries" => metrics.backlog += value,
                "tracking_sockets" => metrics.sockets += value,
                "gps_history_lag_seconds_bucket" => {
                    if let Some(bound) = label(labels, "le") {
                        metrics.lag.buckets.push((bound, value));
                    }
                }
                "gps_history_lag_seconds" => {
                    if let Some(quantile) = label(labels, "quantile") {
                        metrics.lag.quantiles.push((quantile, value));
                    }
                }
                _ => {}
            }
        }
        metrics.lag.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        metrics
    }
}

/// The number in a label; `+Inf` is one.
fn label(labels: &str, name: &str) -> Option<f64> {
    let (_, rest) = labels.split_once(&format!("{name}=\""))?;
    rest.split_once('"')?.0.parse().ok()
}

impl Distribution {
    /// A quantile (0 to 1) in seconds of what was counted after `earlier`, between the bounds of
    /// its bucket in proportion; `None` when nothing was.
    ///
    /// A summary has no counts to subtract: its own sliding window is answered as it stands.
    pub(super) fn quantile_since(&self, earlier: &Self, quantile: f64) -> Option<f64> {
        if self.buckets.is_empty() {
            let (_, seconds) = self.quantiles.iter().find(|(q, _)| (q - quantile).abs() < 1e-9)?;
            return seconds.is_finite().then_some(*seconds);
        }
        let before = |at: usize| earlier.buckets.get(at).map_or(0.0, |(_, count)| *count);
        let counts = self
            .buckets
            .iter()
            .enumerate()
            .map(|(at, (bound, count))| (*bound, count - before(at)));
        let total = self.buckets.len().checked_sub(1).map(|at| self.buckets[at].1 - before(at))?;
        if total <= 0.0 {
            return None;
        }
        let wanted = quantile * total;
        let (mut low, mut below) = (0.0, 0.0);
        for (bound, count) in counts {
            if count >= wanted && count > below {
                // Nothing is known above the last finite bound.
                let high = if bound.is_finite() { bound } else { low };
                return Some(low + (high - low) * (wanted - below) / (count - below));
            }
            (low, below) = (bound, count);
        }
        Some(low)
    }
}

/// Asks the service for its own pages over one kept connection.
#[derive(Debug)]
pub(super) struct Pages {
    target: Target,
    connection: Option<Connection>,
}

impl Pages {
    pub(super) fn new(target: Target) -> Self {
        Self { target, connection: None }
    }

    /// The figures as they are now.
    pub(super) async fn metrics(&mut self) -> io::Result<Metrics> {
        let body = self.get("/metrics").await?;
        Ok(Metrics::parse(&String::from_utf8_lossy(&body)))
    }

    /// What keeps the history: `timescaledb` or `partitions`, if the service says so.
    pub(super) async fn history_kind(&mut self) -> io::Result<Option<String>> {
        let body = self.get("/readyz").await?;
        Ok(history_kind(&serde_json::from_slice(&body).unwrap_or_default()))
    }

    async fn get(&mut self, path: &str) -> io::Result<Vec<u8>> {
        let Target { authority, prefix } = &self.target;
        let request = format!("GET {prefix}{path} HTTP/1.1\r\nhost: {authority}\r\n\r\n");
        let kept = match self.connection.take() {
            Some(mut kept) => kept.exchange(request.as_bytes()).await.is_ok().then_some(kept),
            None => None,
        };
        let connection = match kept {
            Some(kept) => kept,
            None => {
                let mut fresh = Connection::open(&self.target).await?;
                fresh.exchange(request.as_bytes()).await?;
                fresh
            }
        };
        Ok(self.connection.insert(connection).body().to_vec())
    }
}

/// The first text in the page that names a kind of history, wherever the service puts it.
fn history_kind(page: &serde_json::Value) -> Option<String> {
    match page {
        serde_json::Value::String(text) if text == "timescaledb" || text == "partitions" => {
            Some(text.clone())
        }
        serde_json::Value::Object(fields) => fields.values().find_map(history_kind),
        serde_json::Value::Array(items) => items.iter().find_map(history_kind),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(value: Option<f64>, expected: f64) -> bool {
        value.is_some_and(|value| (value - expected).abs() < 1e-9)
    }

    const PAGE: &str = "\
# TYPE gps_accepted_total counter
gps_accepted_total 120
gps_stored_total{kind=\"a\"} 60
gps_stored_total{kind=\"b\"} 40
gps_backlog_entries 20
tracking_sockets 7
gps_history_lag_seconds_bucket{le=\"0.01\"} 50
gps_history_lag_seconds_bucket{le=\"0.1\"} 100
gps_history_lag_seconds_bucket{le=\"+Inf\"} 100
gps_history_lag_seconds_sum 2.5
";

    #[test]
    fn a_page_is_read() {
        let metrics = Metrics::parse(PAGE);
        assert_eq!(
            [metrics.accepted, metrics.stored, metrics.backlog, metrics.sockets],
            [120.0, 100.0, 20.0, 7.0]
        );
        let nothing = Distribution::default();
        assert!(close(metrics.lag.quantile_since(&nothing, 0.25), 0.005));
        assert!(close(metrics.lag.quantile_since(&nothing, 0.75), 0.055));
        assert_eq!(metrics.lag.quantile_since(&metrics.lag, 0.5), None);
        assert_eq!(Metrics::parse(""), Metrics::default());
    }

    #[test]
    fn a_quantile_is_of_what_came_since() {
        let at = |counts: [f64; 3]| Distribution {
            buckets: [0.01, 0.1, f64::INFINITY].into_iter().zip(counts).collect(),
            quantiles: Vec::new(),
        };
        // A thousand quick ones before, ten slow ones since.
        let (before, now) = (at([1_000.0; 3]), at([1_000.0, 1_010.0, 1_010.0]));
        assert!(close(now.quantile_since(&before, 0.5), 0.055));
        // Beyond the last bound the bound is all that is known.
        assert_eq!(at([0.0, 0.0, 5.0]).quantile_since(&at([0.0; 3]), 0.5), Some(0.1));
    }

    #[test]
    fn a_summary_is_taken_as_it_is() {
        let page = "gps_history_lag_seconds{quantile=\"0.99\"} 0.25\n";
        let lag = Metrics::parse(page).lag;
        assert_eq!(lag.quantile_since(&lag, 0.99), Some(0.25));
        assert_eq!(lag.quantile_since(&lag, 0.5), None);
    }

    #[test]
    fn the_kind_of_history_is_found() {
        let page = serde_json::json!({"dependencies": [{"history": {"kind": "partitions"}}]});
        assert_eq!(history_kind(&page).as_deref(), Some("partitions"));
        assert_eq!(history_kind(&serde_json::json!({"status": "ready"})), None);
    }
}
