//! `devstack`: see `devstack --help`.

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use devstack::{demo, exec, keys, token, up};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    Up(up::UpArgs),
    Exec(exec::ExecArgs),
    Token(token::TokenArgs),
    Keys(keys::KeysArgs),
    Demo(demo::DemoArgs),
    #[command(hide = true)]
    City(demo::town::CityArgs),
}

fn print(text: &str) -> anyhow::Result<u8> {
    writeln!(std::io::stdout(), "{text}")?;
    Ok(0)
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Up(args) => up::up(args).await,
        Command::Exec(args) => exec::exec(args).await,
        Command::Demo(args) => demo::demo(args).await,
        Command::City(args) => Box::pin(demo::town::run(args)).await,
        Command::Token(args) => token::token(&args).and_then(|token| print(&token)),
        Command::Keys(args) => keys::keys(&args).and_then(|files| print(&files)),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("devstack: {error:#}");
            ExitCode::FAILURE
        }
    }
}
