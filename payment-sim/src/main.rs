//! `payment-sim serve | audit LEDGER | health`

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use payment_sim::{Config, ledger};
use platform::{probe, run::shutdown_on_signal, settings, telemetry};
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A double of the payment gateway, with a ledger of its own and faults on demand
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: telemetry::LogArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Answer requests
    Serve(Box<Serve>),
    /// Print the sums of a ledger as JSON; fails when an order was charged twice
    Audit {
        /// File of a simulator, which may be running
        ledger: PathBuf,
    },
    /// Ask the process that listens on that address whether it is ready, and end
    Health(Listen),
}

#[derive(Args)]
struct Listen {
    /// Address to listen on
    #[arg(long, env = "PAYMENT_SIM_LISTEN", default_value = "127.0.0.1:8010")]
    listen: String,
}

#[derive(Args)]
struct Serve {
    #[command(flatten)]
    address: Listen,
    #[command(flatten)]
    config: Config,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { command, log } = settings::parse();
    let _telemetry = telemetry::init(&log);
    match run(command).await {
        Ok(code) => code,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "payment-sim ends");
            // 1 says that an order was charged twice.
            ExitCode::from(2)
        }
    }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(serve) => {
            let Serve { address: Listen { listen }, config } = *serve;
            let shutdown = shutdown_on_signal();
            let listener = TcpListener::bind(&listen)
                .await
                .with_context(|| format!("cannot listen on {listen}"))?;
            payment_sim::run(config, listener, shutdown).await?;
        }
        Command::Health(Listen { listen }) => probe::is_ready(&listen)?,
        Command::Audit { ledger: path } => {
            let contents = ledger::read(&path)?;
            let summary = contents.state.summary();
            let mut json = serde_json::to_value(&summary)?;
            json["torn_bytes"] = contents.torn_bytes.into();
            writeln!(std::io::stdout(), "{json:#}")?;
            if !summary.orders_charged_twice.is_empty() {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
