//! `logistics api | worker | all | migrate | health`

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use logistics::{Config, Role};
use platform::{probe, run::shutdown_on_signal, settings, telemetry};
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// GPS ingest, history, drivers nearby, deliveries and order tracking
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// What to do
    command: Command,
    /// Address to listen on
    #[arg(long, env = "LOGISTICS_LISTEN", default_value = "127.0.0.1:8002")]
    listen: String,
    #[command(flatten)]
    log: telemetry::LogArgs,
    #[command(flatten)]
    config: Config,
}

#[derive(Clone, Copy, ValueEnum)]
enum Command {
    /// Answer requests and sockets
    Api,
    /// Move fixes from the streams to history, and events between orders and deliveries
    Worker,
    /// Both in one process
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
            tracing::error!(error = format!("{error:#}"), "logistics ends");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command, listen: &str, config: Config) -> anyhow::Result<()> {
    let role = match command {
        Command::Api => Role::Api,
        Command::Worker => Role::Worker,
        Command::All => Role::All,
        Command::Health => return probe::is_ready(listen),
        Command::Migrate => return logistics::migrate(&config).await,
    };
    let shutdown = shutdown_on_signal();
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    logistics::run(config, role, listener, shutdown).await
}
