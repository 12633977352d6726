//! `menu-api serve | import FILE | generate | migrate | health`

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use menu_api::{Config, generate::GenerateArgs, import::ImportArgs};
use platform::{
    postgres::{self, Limits},
    probe,
    run::shutdown_on_signal,
    settings, telemetry,
};
use secrecy::SecretString;
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Restaurants and menus, cached and never stale after an operator's change
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
    /// Take restaurants and menus from a file
    Import {
        #[command(flatten)]
        import: ImportArgs,
        #[command(flatten)]
        database: Database,
    },
    /// Make up restaurants and menus, for tests and load
    Generate(GenerateArgs),
    /// Bring the database to this build's form and end
    Migrate(Database),
    /// Ask the process that listens on that address whether it is ready, and end
    Health(Listen),
}

#[derive(Args)]
struct Listen {
    /// Address to listen on
    #[arg(long, env = "MENU_LISTEN", default_value = "127.0.0.1:8001")]
    listen: String,
}

#[derive(Args)]
struct Serve {
    #[command(flatten)]
    address: Listen,
    #[command(flatten)]
    config: Config,
}

#[derive(Args)]
struct Database {
    /// PostgreSQL database of this service
    #[arg(long, env = "MENU_DATABASE_URL", hide_env_values = true)]
    database_url: SecretString,
}

impl Database {
    fn open(&self) -> anyhow::Result<sqlx::PgPool> {
        postgres::pool(&self.database_url, "menu-api tool", 4, Limits::TOOL)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { command, log } = settings::parse();
    let _telemetry = telemetry::init(&log);
    match run(command).await {
        Ok(code) => code,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "menu-api ends");
            ExitCode::FAILURE
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
            menu_api::run(config, listener, shutdown).await?;
        }
        Command::Import { import, database } => {
            let db = database.open()?;
            menu_api::migrate(&database.database_url).await?;
            let report = menu_api::import::import(&db, &import).await?;
            eprintln!("{report}");
            return Ok(if report.failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
        Command::Generate(generate) => menu_api::generate::generate(&generate)?,
        Command::Health(Listen { listen }) => probe::is_ready(&listen)?,
        Command::Migrate(database) => menu_api::migrate(&database.database_url).await?,
    }
    Ok(ExitCode::SUCCESS)
}
