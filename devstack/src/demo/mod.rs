//! `devstack demo`: a town on the whole system, and a view of how the system takes it.
//!
//! The stores and the services run in this process; the town is a child of it ([`town`]), so that
//! the CPU time of an event is the system's own. Everything of the town goes through the public
//! API with real tokens: phones post fixes, customers watch over sockets, drivers change the
//! status of deliveries.
//!
//! - [`feed`] says what happens: [`crate::city`], or a recorded trace.
//! - [`devices`] sends fixes and accounts for each.
//! - [`customers`] order, pay and watch: [`orders`] is the life of an order, [`socket`] the watching,
//!   and [`calls`] how people talk to the services.
//! - [`menus`] lets people look for food, and operators sell it out.
//! - [`figures`] and [`latencies`] gather, from [`scrape`] and their own counters; [`show`] shows,
//!   in [`view`] or in lines ([`words`]); [`summary`] judges.

mod calls;
mod customers;
mod devices;
mod feed;
mod figures;
mod latencies;
mod menus;
mod orders;
mod scrape;
mod show;
mod signals;
mod socket;
mod summary;
pub mod town;
mod view;
mod words;

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::Parser as _;
use rustix::stdio::dup2_stderr;

use crate::exec::{self, ExecArgs};

/// Fixes per second unless told otherwise.
const RATE: f64 = 400.0;
/// Drivers unless told otherwise.
const DRIVERS: usize = 2_000;
/// The service takes five fixes per second of a driver; a phone stays well below.
const PHONE_RATE_MAX: f64 = 4.0;

/// Where the services log while the view has the terminal.
const LOG_FILE: &str = ".devstack/demo.log";

/// Shows the whole system at work: a simulated town on private stores, which are thrown away.
///
/// Drivers move along streets, lose their network and send what they missed; customers order, pay
/// and watch, and some call it off and get their money back. Others look at lists and menus, and
/// operators sell items out. At the end it checks that nothing was lost, nothing is there twice,
/// every current position is the newest, no menu was shown older than a write that was answered,
/// and every order was charged once; the exit code is 1 when it is not so.
#[derive(clap::Args, Clone, Debug)]
pub struct DemoArgs {
    #[command(flatten)]
    town: TownArgs,
    /// Keep TimescaleDB out: history then lives in native partitions
    #[arg(long)]
    no_timescaledb: bool,
}

/// Runs stores, services and the town; answers the town's exit code.
///
/// # Errors
/// The settings do not fit each other, or something cannot be started.
pub async fn demo(args: DemoArgs) -> anyhow::Result<u8> {
    let started_us = loadtest::pace::wall_us();
    // Before anything is started for it.
    args.town.load()?;
    let exe = std::env::current_exe().context("this program's own file is not known")?;
    let mut command = vec!["devstack".to_owned(), "--services".to_owned()];
    if args.no_timescaledb {
        command.push("--no-timescaledb".to_owned());
    }
    let exe = exe.to_str().context("this program's path is not text")?;
    command.extend(["--".to_owned(), exe.to_owned(), "city".to_owned()]);
    command.push(format!("--started-us={started_us}"));
    command.extend(args.town.to_args()?);
    let Exec { exec: command } = Exec::parse_from(command);
    let log = if io::stdout().is_terminal() && !args.town.plain {
        LogToFile::open(Path::new(LOG_FILE)).ok()
    } else {
        None
    };
    // Boxed: with all services in it this future is large.
    let code = Box::pin(exec::exec(command)).await;
    if let Some(log) = log {
        log.close();
    }
    code
}

/// `devstack exec`, so that the demo is what anybody can do with it.
#[derive(clap::Parser)]
struct Exec {
    #[command(flatten)]
    exec: ExecArgs,
}

/// Sends what is written to stderr, by this process and its children, to a file: a line of a log
/// in the middle of the view would stay there.
struct LogToFile {
    stderr: std::os::fd::OwnedFd,
    path: PathBuf,
}

impl LogToFile {
    fn open(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = File::create(path)?;
        let stderr = rustix::io::dup(io::stderr())?;
        dup2_stderr(&file)?;
        Ok(Self { stderr, path: path.to_owned() })
    }

    fn close(self) {
        let restored = dup2_stderr(&self.stderr).is_ok();
        if restored && std::fs::metadata(&self.path).is_ok_and(|file| file.len() > 0) {
            // Without a stderr there is nobody to tell.
            let _ =
                writeln!(io::stderr(), "what the services logged is in {}", self.path.display());
        }
    }
}

/// What the town is like.
#[derive(clap::Args, Clone, Debug)]
pub struct TownArgs {
    /// End after this time (60s, 5m); otherwise q or Ctrl-C ends it
    #[arg(long = "for", value_name = "TIME", value_parser = loadtest::pace::parse_duration)]
    time: Option<Duration>,
    /// Drivers of the town; 2000, or one per fix and second when the rate is higher
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    drivers: Option<u32>,
    /// Fixes per second of all drivers together [default: 400, a fix of each driver every 5 s]
    #[arg(long, value_name = "R", value_parser = loadtest::pace::parse_rate)]
    rate: Option<f64>,
    /// Customers, each with one order at a time
    #[arg(long, value_name = "N", default_value_t = 200)]
    customers: usize,
    /// Requests per second of people who look for food: a fifth lists near their place, the others
    /// menus, restaurants and statuses, and one in a hundred an operator's write; with 0 there are
    /// only those who order
    #[arg(long, value_name = "R", default_value_t = 100.0, value_parser = parse_menu_rate)]
    menu_rate: f64,
    /// Decides the streets, the drivers, the menus and everything that chance decides
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Replay this trace (unix_seconds,driver_id,latitude,longitude,occupied) as if it happened
    /// now, at the speed that makes the rate, instead of the simulated drivers
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Print a line every two seconds instead of the view, as when the output is not a terminal
    #[arg(long)]
    plain: bool,
}

/// A rate, or 0.
fn parse_menu_rate(text: &str) -> Result<f64, String> {
    if text.parse() == Ok(0.0) { Ok(0.0) } else { loadtest::pace::parse_rate(text) }
}

impl TownArgs {
    /// How many drivers there are, and their fixes per second together.
    fn load(&self) -> anyhow::Result<(usize, f64)> {
        let drivers = self.drivers.map(|drivers| drivers as usize);
        let rate = match (self.rate, drivers) {
            (Some(rate), _) => rate,
            (None, Some(drivers)) => drivers as f64 * RATE / DRIVERS as f64,
            (None, None) => RATE,
        };
        let drivers = drivers.unwrap_or(DRIVERS.max(rate.ceil() as usize));
        anyhow::ensure!(
            rate <= drivers as f64 * PHONE_RATE_MAX,
            "{rate} fixes per second are too many for {drivers} drivers: at most {PHONE_RATE_MAX} each"
        );
        Ok((drivers, rate))
    }

    /// The same again as arguments.
    fn to_args(&self) -> anyhow::Result<Vec<String>> {
        let mut args =
            vec![format!("--customers={}", self.customers), format!("--seed={}", self.seed)];
        args.push(format!("--menu-rate={}", self.menu_rate));
        if let Some(time) = self.time {
            args.push(format!("--for={}ms", time.as_millis()));
        }
        if let Some(drivers) = self.drivers {
            args.push(format!("--drivers={drivers}"));
        }
        if let Some(rate) = self.rate {
            args.push(format!("--rate={rate}"));
        }
        if let Some(trace) = &self.trace {
            let trace = trace.to_str().context("the trace's path is not text")?;
            args.push(format!("--trace={trace}"));
        }
        if self.plain {
            args.push("--plain".to_owned());
        }
        Ok(args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        town: TownArgs,
    }

    fn parse(args: &[&str]) -> TownArgs {
        Cli::parse_from([&["demo"], args].concat()).town
    }

    #[test]
    fn drivers_and_rate_fit_each_other() {
        assert_eq!(parse(&[]).load().unwrap(), (2_000, 400.0));
        assert_eq!(parse(&["--drivers", "500"]).load().unwrap(), (500, 100.0));
        assert_eq!(parse(&["--rate", "20000"]).load().unwrap(), (20_000, 20_000.0));
        assert_eq!(parse(&["--rate", "100"]).load().unwrap(), (2_000, 100.0));
        assert!(parse(&["--rate", "500", "--drivers", "100"]).load().is_err());
    }

    #[test]
    fn the_child_gets_the_same_arguments() {
        for args in [
            &[][..],
            &["--for", "1.5s", "--drivers", "7", "--rate", "3.25", "--customers", "2"],
            &["--seed", "9", "--trace", "/a file", "--plain", "--menu-rate", "0"],
            &["--menu-rate", "12.5"],
        ] {
            let args = parse(args);
            let again = args.to_args().unwrap();
            let again = Cli::parse_from([&["demo".to_owned()], again.as_slice()].concat()).town;
            assert_eq!(format!("{args:?}"), format!("{again:?}"));
        }
    }
}
