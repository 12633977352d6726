//! `make bench-system`: every load on the whole system, each on private stores, and what came of it
//! in `benches/RESULTS.md`.
//!
//! [`rows`] is the table as data, [`run`] runs a row by `devstack exec`, [`results`] writes. The
//! other commands are what a row runs within `devstack exec`, and may be called by hand: the results
//! have the exact command of each row.

mod bare;
mod fill;
mod growth;
mod menu;
mod observe;
mod results;
mod row;
mod rows;
mod run;
mod service;
mod start;
mod versions;
mod yardstick;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Parser;
use regex_automata::dfa::regex::Regex;

use crate::{
    row::{Row, When},
    run::Settings,
};

#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
/// Puts the whole system under its loads and writes benches/RESULTS.md
struct Cli {
    #[command(flatten)]
    table: TableArgs,
    #[command(subcommand)]
    inside: Option<Inside>,
}

#[derive(clap::Args)]
struct TableArgs {
    /// Only rows whose name this matches
    #[arg(long, value_name = "REGEX")]
    only: Option<String>,
    /// Show the rows and end
    #[arg(long)]
    list: bool,
    /// Half an hour of fixes and ten minutes of orders, too
    #[arg(long)]
    soak: bool,
    /// Growth, too: 50 M stored rows, which take 10 GB of disk and many minutes
    #[arg(long)]
    growth: bool,
    /// A few seconds each and a hundredth of the stored rows: tries the program, measures nothing
    #[arg(long)]
    quick: bool,
    /// Rows that `growth` stores; 50,000,000, or 500,000 with --quick
    #[arg(long)]
    rows: Option<u64>,
    /// Replay this recorded day, too
    #[arg(long, env = "TRACE", value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Where to write; benches/RESULTS.md, or bench-system/RESULTS.md beside the programs when not
    /// all rows are run, or run quickly
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The folder of devstack, loadtest and the services; this program's own when absent
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Record the services by `perf record` into this folder; only the first run of each row
    #[arg(long, value_name = "DIR")]
    perf: Option<PathBuf>,
    /// Seconds into a run when `--perf` begins: after the warm-up, and what is set up before it
    #[arg(long, value_name = "SECONDS", default_value_t = 8)]
    perf_after: u32,
}

#[derive(clap::Subcommand)]
enum Inside {
    /// Run a command, then tell the memory of the services around it
    Watch(observe::Args),
    /// Run a command with one logistics process
    Logistics(service::LogisticsArgs),
    /// Run a command with restaurants and menu-api processes
    Menu(menu::Args),
    /// The cost of XADD, XREADGROUP, COPY and XACK without anything around them
    Bare(bare::Args),
    /// Time until logistics has all current positions again
    Start(start::Args),
    /// Cost per event with more drivers and more stored rows
    Growth(growth::Args),
    /// Versions of the stores
    Versions,
}

fn main() -> anyhow::Result<ExitCode> {
    let Cli { table, inside } = Cli::parse();
    let Some(inside) = inside else { return self::table(table) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(async {
        match inside {
            Inside::Watch(args) => observe::watch(args).await,
            Inside::Logistics(args) => service::logistics(args).await,
            Inside::Menu(args) => menu::run(args).await,
            Inside::Bare(args) => bare::run(args).await.map(|()| 0),
            Inside::Start(args) => start::run(args).await.map(u8::from),
            Inside::Growth(args) => growth::run(args).await.map(u8::from),
            Inside::Versions => versions::show().await.map(|()| 0),
        }
    })?;
    Ok(ExitCode::from(code))
}

/// Runs the rows one after the other and writes the table after each.
fn table(args: TableArgs) -> anyhow::Result<ExitCode> {
    let rows = wanted(&args)?;
    if args.list {
        for row in &rows {
            print(&format!("{:<18}{}\n", row.name, row.path));
        }
        return Ok(ExitCode::SUCCESS);
    }
    anyhow::ensure!(!rows.is_empty(), "no row has such a name; --list shows them");
    let settings = Settings::new(&args)?;
    let is_whole = args.only.is_none() && !args.quick;
    let out = args.out.unwrap_or_else(|| match is_whole {
        true => "benches/RESULTS.md".into(),
        false => settings.raw.join("RESULTS.md"),
    });
    let mut results = results::Results::begin(&settings, out)?;
    for row in rows {
        results.add(row, run::row(&settings, row)?)?;
    }
    Ok(if results.all_correct() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The rows that the arguments ask for.
fn wanted(args: &TableArgs) -> anyhow::Result<Vec<&'static Row>> {
    let only = match &args.only {
        Some(only) => Some(Regex::new(only).with_context(|| format!("{only:?} is no regex"))?),
        None => None,
    };
    let is_wanted = |row: &&Row| {
        let is_named = only.as_ref().is_some_and(|only| only.is_match(row.name));
        let is_due = match row.when {
            When::Always => true,
            When::Soak => args.soak,
            When::Growth => args.growth || is_named,
            When::Trace => args.trace.is_some(),
        };
        is_due && (only.is_none() || is_named) || args.list && only.is_none()
    };
    Ok(rows::ROWS.iter().filter(is_wanted).collect())
}

/// Standard output, whose reader may have gone.
fn print(text: &str) {
    use std::io::Write as _;
    let _closed = std::io::stdout().write_all(text.as_bytes());
}
