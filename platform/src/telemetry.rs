//! Logs, metrics and, with the feature `otlp`, traces.

mod metric;
pub mod parts;
mod process;

use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

#[cfg(feature = "otlp")]
mod otlp;

#[cfg(feature = "stores")]
pub use metric::differences;
pub use metric::{Metric, PLATFORM, register};

/// Upper bounds of every histogram whose name ends in `_seconds`.
const SECONDS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0,
];

/// Upper bounds of every histogram whose name ends in `_size`: entries of a batch, and the like.
const SIZES: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0];

/// How logs are written; they go to stderr.
#[derive(clap::Args, Clone, Debug)]
pub struct LogArgs {
    /// What to log: a level, or levels by target (`info,logistics=debug`)
    #[arg(long = "log", env = "RUST_LOG", default_value = "info")]
    pub log: String,
    /// Lines for people, or one JSON object per event
    #[arg(long = "log-format", env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Pretty)]
    pub log_format: LogFormat,
    /// OpenTelemetry collector for traces over HTTP (`http://localhost:4318/v1/traces`); spans of
    /// requests are made where the log level of `http` is debug
    #[cfg(feature = "otlp")]
    #[arg(long = "otlp-endpoint", env = "OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
}

/// Form of the log.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// For machines.
    Json,
}

/// Keeps telemetry going; the last spans are sent when it is dropped.
#[must_use = "dropping it ends the sending of traces"]
pub struct TelemetryGuard {
    #[cfg(feature = "otlp")]
    provider: Option<opentelemetry_sdk::trace::SdkTracerProvider>,
}

#[cfg(feature = "otlp")]
impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.provider.take().map(|provider| provider.shutdown()) {
            tracing::warn!(%error, "the last traces may be lost");
        }
    }
}

/// Starts logs and metrics of this process, and makes panics part of the log. Only the first call
/// does; the services that share a process in devstack all make it.
pub fn init(args: &LogArgs) -> TelemetryGuard {
    metrics();
    // A filter with a mistake in it loses that part, not the whole service.
    let mut filter = EnvFilter::builder().parse_lossy(&args.log);
    if !args.log.contains("redis") {
        // It calls every step of a failover an error; our own words for what follows are enough.
        if let Ok(off) = "redis=off".parse() {
            filter = filter.add_directive(off);
        }
    }
    // Colours are for people: a file of them is hard to search.
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = tracing_subscriber::fmt::layer().with_ansi(colours).with_writer(std::io::stderr);
    let lines = match args.log_format {
        LogFormat::Pretty => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let registry = tracing_subscriber::registry().with(filter).with(lines);

    #[cfg(feature = "otlp")]
    let (installed, guard) = {
        let (layer, provider) = otlp::layer(args.otlp_endpoint.as_deref());
        (registry.with(layer).try_init(), TelemetryGuard { provider })
    };
    #[cfg(not(feature = "otlp"))]
    let (installed, guard) = (registry.try_init(), TelemetryGuard {});

    if installed.is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            let location = panic.location().map(tracing::field::display);
            let message = panic.payload_as_str().unwrap_or("(not a text)");
            tracing::error!(location, message, "a panic");
        }));
    }
    guard
}

/// The metrics of this process.
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// The text form that Prometheus reads, with what /proc says of this process.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = self.handle.render();
        process::render(&mut text);
        text
    }
}

/// The metrics of this process; the first call installs the recorder.
pub fn metrics() -> &'static Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS.get_or_init(|| {
        let builder = PrometheusBuilder::new();
        // Refused only when the list of bounds is empty, and these are not.
        let builder = builder
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)
            .and_then(|b| b.set_buckets_for_metric(Matcher::Suffix("_size".to_owned()), SIZES))
            .expect("the bounds are not empty");
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another metrics recorder was there first; /metrics stays empty");
        }
        PLATFORM.iter().for_each(Metric::register);
        let upkeep = handle.clone();
        // Samples of a histogram wait in memory until somebody sums them up. A thread, because
        // the first caller's runtime may end before the process does.
        let spawned = std::thread::Builder::new().name("metrics".to_owned()).spawn(move || {
            loop {
                std::thread::sleep(Duration::from_secs(5));
                upkeep.run_upkeep();
            }
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "histograms are only summed up when /metrics is read");
        }
        Metrics { handle }
    })
}
