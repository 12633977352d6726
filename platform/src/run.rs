//! How a process ends: a signal becomes a cancelled token, and every ending is bounded.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that SIGTERM or SIGINT cancels. A second signal ends the process at once, for whoever
/// does not want to wait for the drain.
///
/// Must be called inside a tokio runtime.
#[must_use]
pub fn shutdown_on_signal() -> CancellationToken {
    let token = CancellationToken::new();
    let cancelled = token.clone();
    // Registered here and not in the task, so that no signal can come in between.
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut term), Ok(mut int)) => {
            tokio::spawn(async move {
                let name = next(&mut term, &mut int).await.0;
                tracing::info!(signal = name, "stopping");
                cancelled.cancel();
                let (name, status) = next(&mut term, &mut int).await;
                tracing::warn!(signal = name, "a second signal: ending at once");
                std::process::exit(status);
            });
        }
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "signals cannot be watched; only a kill ends this process");
        }
    }
    token
}

async fn next(term: &mut Signal, int: &mut Signal) -> (&'static str, i32) {
    tokio::select! {
        _ = term.recv() => ("SIGTERM", 128 + 15),
        _ = int.recv() => ("SIGINT", 128 + 2),
    }
}

/// Waits for `fut`, but no longer than `grace`; true when it ended in time. What is over its time
/// is dropped and logged, because an ending that waits for ever is killed at a worse moment.
pub async fn drain(name: &str, grace: Duration, fut: impl Future) -> bool {
    let start = Instant::now();
    if tokio::time::timeout(grace, fut).await.is_ok() {
        tracing::debug!(name, drain_ms = start.elapsed().as_millis() as u64, "drained");
        return true;
    }
    tracing::warn!(name, grace_ms = grace.as_millis() as u64, "did not end in time: cut off");
    false
}

/// Runs a task to its end, and logs the error that it ended with.
pub async fn logged(task: &'static str, work: impl Future<Output = anyhow::Result<()>>) {
    if let Err(error) = work.await {
        tracing::error!(task, error = format!("{error:#}"), "ended");
    }
}

/// No setting is longer, so that clocks and calendars can reckon with it.
const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Reads a setting like `250ms`, `10s`, `2m` or `1h`.
///
/// # Errors
/// A sentence for the person who wrote the setting.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("write a whole number and ms, s, m or h: 250ms, 10s".to_owned()),
    };
    let number: u64 =
        number.parse().map_err(|_| "the number is missing or too large".to_owned())?;
    number
        .checked_mul(unit_ms)
        .map(Duration::from_millis)
        .filter(|duration| *duration <= DURATION_MAX)
        .ok_or_else(|| "100 years are the most".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        for bad in ["", "10", "s", "-1s", "1.5s", "1 s", "99999999999999999999s"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
        assert!(parse_duration("18446744073709551615h").is_err());
        assert!(parse_duration("876000h").is_ok() && parse_duration("876001h").is_err());
    }

    #[tokio::test]
    async fn drain_tells_who_was_over_time() {
        assert!(drain("quick", Duration::from_secs(60), async {}).await);
        assert!(!drain("stuck", Duration::ZERO, std::future::pending::<()>()).await);
    }
}
