//! `order-api api | worker | relay | all | migrate | health`

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use order_api::{Config, Role};
use platform::{probe, run::shutdown_on_signal, settings, telemetry};
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Carts, orders, payments, refunds and ratings
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// What to do
    command: Command,
    /// Address to listen on
    #[arg(long, env = "ORDER_LISTEN", default_value = "127.0.0.1:8000")]
    listen: String,
    #[command(flatten)]
    log: telemetry::LogArgs,
    #[command(flatten)]
    config: Config,
}

#[derive(Clone, Copy, ValueEnum)]
enum Command {
    /// Answer requests
    Api,
    /// Make payments, and move orders with their deliveries
    Worker,
    /// Move the outbox to the streams
    Relay,
    /// All of it in one process
    All,
    /// Bring the database to this build's form and end
    Migrate,
    /// Ask the process that listens on that address whether it is ready, and end
    Health,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { command, listen, log, config } = settings::parse();
    let _telemetry = telemetry::init(&log);
    match run(command, &listen, config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "order-api ends");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command, listen: &str, config: Config) -> anyhow::Result<()> {
    let role = match command {
        Command::Api => Role::Api,
        Command::Worker => Role::Worker,
        Command::Relay => Role::Relay,
        Command::All => Role::All,
        Command::Health => return probe::is_ready(listen),
        Command::Migrate => {
            return order_api::migrate(&config.database_url).await;
        }
    };
    let shutdown = shutdown_on_signal();
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    Box::pin(order_api::run(config, role, listener, shutdown)).await
}
