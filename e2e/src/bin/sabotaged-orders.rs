//! `sabotaged-orders`: order-api that breaks the promise which the environment variable SABOTAGE
//! names, or dies at the place which DIE_AT names.

use anyhow::Context as _;
use clap::Parser;
use order_api::{Config, Role};
use platform::{run::shutdown_on_signal, telemetry};
use tokio::net::TcpListener;

/// Order-api that breaks a promise or dies on demand, to check the checks
#[derive(Parser)]
struct Arguments {
    /// What this process does
    role: Role,
    /// Address to listen on
    #[arg(long)]
    listen: String,
    #[command(flatten)]
    log: telemetry::LogArgs,
    #[command(flatten)]
    config: Config,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { role, listen, log, config } = Arguments::parse();
    let _telemetry = telemetry::init(&log);
    let shutdown = shutdown_on_signal();
    let listener =
        TcpListener::bind(&listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    Box::pin(order_api::run(config, role, listener, shutdown)).await
}
