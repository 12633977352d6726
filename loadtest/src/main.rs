//! `loadtest`: exit code 0 when every check and threshold held, 1 when one failed or the run could
//! not be made, 2 for a call that cannot work.

use std::{io::Write as _, process::ExitCode};

use clap::Parser;
use loadtest::{
    run::{self, command},
    scenario::{BadUsage, gps, menu, orders, push, replay},
    tokens,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Open-model load on Swift Eats, with checks that nothing was lost
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, clap::Subcommand)]
enum Scenario {
    /// An even stream of fixes from many drivers
    Gps(Box<gps::Args>),
    /// A recorded day, played back now
    Replay(Box<replay::Args>),
    /// Sockets that rest, or get positions published beside the services
    Push(Box<push::Args>),
    /// Readers of menus and operators who change them
    Menu(Box<menu::Args>),
    /// Customers who order and pay
    Orders(Box<orders::Args>),
    /// Any load, as a file describes it
    Run(Box<command::Args>),
    /// Write tokens for generators that cannot sign, such as k6
    Tokens(Box<tokens::Args>),
    /// Answer everything at once: what `run` measures itself against
    #[command(hide = true)]
    NoOpServer,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let stop = platform::run::shutdown_on_signal();
    let result = match &cli.scenario {
        Scenario::Gps(args) => gps::start(args, stop).await.map(|s| (s.to_text(), s.passed)),
        Scenario::Replay(args) => replay::start(args, stop).await.map(|s| (s.to_text(), s.passed)),
        Scenario::Push(args) => push::start(args, stop).await.map(|s| (s.to_text(), s.passed)),
        Scenario::Menu(args) => menu::start(args, stop).await.map(|s| (s.to_text(), s.passed)),
        Scenario::Orders(args) => orders::start(args, stop).await.map(|s| (s.to_text(), s.passed)),
        Scenario::Run(args) => command::start(args, stop).await.map(|s| (s.to_text(), s.passed())),
        Scenario::Tokens(args) => tokens::start(args).map(|text| (text, true)),
        Scenario::NoOpServer => run::serve_nothing().await.map(|()| (String::new(), true)),
    };
    let (text, code) = match result {
        Ok((text, passed)) => (text, u8::from(!passed)),
        Err(error) if error.is::<BadUsage>() => (format!("loadtest: {error:#}\n"), 2),
        Err(error) => (format!("loadtest: {error:#}\n"), 1),
    };
    // Whoever closed the pipe still gets the exit code.
    let _closed = std::io::stdout().write_all(text.as_bytes());
    ExitCode::from(code)
}
