//! `devstack`: see `devstack --help`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use devstack::exec;

/// Swift Eats on private local stores: nothing to install but Redis and PostgreSQL, nothing left
/// behind.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Exec(exec::ExecArgs),
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Exec(args) => exec::exec(args).await,
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("devstack: {error:#}");
            ExitCode::FAILURE
        }
    }
}
