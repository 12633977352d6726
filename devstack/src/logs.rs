//! Logs of the services that run inside devstack.

use clap::Parser;
use platform::telemetry::{self, LogArgs, TelemetryGuard};

#[derive(Parser)]
struct Logs {
    #[command(flatten)]
    args: LogArgs,
}

/// Starts logging to stderr as RUST_LOG and LOG_FORMAT say; without RUST_LOG at `level`, so that a
/// command's own output is not buried.
pub fn init(level: &str) -> TelemetryGuard {
    let mut logs = Logs::parse_from(["devstack"]);
    if std::env::var_os("RUST_LOG").is_none() {
        level.clone_into(&mut logs.args.log);
    }
    telemetry::init(&logs.args)
}
