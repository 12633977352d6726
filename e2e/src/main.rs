//! `chaos`: breaks things on purpose and checks that what was promised still holds.
//!
//! Everything is private to the call: stores of its own, the release binaries as processes of
//! their own, all ended with it. The invariants I1 to I3 (every acknowledged fix stored once, no
//! backlog left, current positions equal the newest fixes and the index of every process equals
//! them) are checked after every round by `loadtest` and by `check.rs`; I10 (no reader of a menu is
//! shown anything old) all the time by `loadtest` and by `menu/witness.rs`. A run prints its seed;
//! `--seed` makes the same faults at the same moments.
//!
//! - `chaos gps`: kill -9 of each process again and again under load, and the other faults that
//!   the GPS path must survive; with `--cluster` a Redis Cluster that loses its masters.
//! - `chaos menu`: the same of two nodes that serve menus (I10), their stores and their links.
//! - `chaos orders`: orders and their payments (I4 to I9), with processes that die where it hurts,
//!   stores and a gateway that go away, and all who want different things at once.
//! - `chaos fuzz`: a million bad bodies, paths, queries, headers and frames at every way in.
//! - `chaos sabotage`: builds services that break a promise each, and demands that the checks
//!   notice every one.
//!
//! Exit code 0 when everything held, 1 when something did not, 2 for a call that cannot work.

mod balance;
mod check;
mod fuzz;
mod gps;
mod link;
mod load;
mod menu;
mod orders;
mod probe;
mod report;
mod sabotage;
mod service;
mod trap;
mod watch;
mod world;

use std::process::ExitCode;

use clap::Parser;

/// Breaks Swift Eats on purpose and checks that its promises hold
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Kill and hinder every process of the GPS path under load
    Gps(gps::Args),
    /// Break what two nodes with menus depend on, under load
    Menu(menu::Args),
    /// Kill and hinder everything that an order and its payment need, under load
    Orders(orders::Args),
    /// Throw bad bodies, paths, queries and headers at every way in
    Fuzz(fuzz::Args),
    /// Show that the checks notice broken promises
    Sabotage(sabotage::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let _telemetry = devstack::logs::init("warn,sqlx=error");
    let stop = platform::run::shutdown_on_signal();
    let work = async {
        match cli.command {
            Command::Gps(args) => Box::pin(gps::run(args)).await,
            Command::Menu(args) => Box::pin(menu::run(args)).await,
            Command::Orders(args) => Box::pin(orders::run(args)).await,
            Command::Fuzz(args) => Box::pin(fuzz::run(args)).await,
            Command::Sabotage(args) => Box::pin(sabotage::run(args)).await,
        }
    };
    // Dropping the work ends every process that it started.
    let result = tokio::select! {
        result = work => result,
        () = stop.cancelled() => Err(anyhow::anyhow!("interrupted")),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}
