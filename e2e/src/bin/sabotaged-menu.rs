//! `sabotaged-menu`: a node of menu-api that breaks the promise which the environment variable
//! SABOTAGE names.

use anyhow::Context as _;
use clap::Parser;
use menu_api::Config;
use platform::{run::shutdown_on_signal, telemetry};
use tokio::net::TcpListener;

/// A node of menu-api that breaks a promise, to check the checks
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

#[derive(Clone, Copy, clap::ValueEnum)]
enum Role {
    /// Answers requests
    Serve,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { role: Role::Serve, listen, log, config } = Arguments::parse();
    let _telemetry = telemetry::init(&log);
    let shutdown = shutdown_on_signal();
    let listener =
        TcpListener::bind(&listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    Box::pin(menu_api::run(config, listener, shutdown)).await
}
