//! A command under which the services are watched: their memory, and by `perf` when asked for.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use loadtest::cpu::Processes;
use platform::stores::{Launch, Process};

use crate::print;

/// The folder for files that may be used again.
pub(crate) const FILES: &str = "BENCH_SYSTEM_FILES";
/// The file that `perf record` is to write.
pub(crate) const PERF: &str = "BENCH_SYSTEM_PERF";
/// And when it is to begin, in seconds.
pub(crate) const PERF_AFTER: &str = "BENCH_SYSTEM_PERF_AFTER";
/// The processes under test, as loadtest reads them.
pub(crate) const PROCESSES: &str = "DEVSTACK_PROCESSES";

/// How long it records: less than the shortest run takes after its warm-up.
const PERF_SECONDS: &str = "8";
/// Samples a second and core, no divisor of the services' ticks.
const PERF_HZ: &str = "199";

/// Settings of `bench-system watch`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The command and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Runs a command beside the services of `devstack exec --services`; answers its exit code.
pub(crate) async fn watch(args: Args) -> anyhow::Result<u8> {
    run(&args.command, Vec::new(), var(PROCESSES)?).await
}

/// Runs a command with further variables beside these processes; answers its exit code.
pub(crate) async fn run(
    command: &[String],
    mut env: Vec<(&'static str, String)>,
    processes: String,
) -> anyhow::Result<u8> {
    let watched = Processes::parse(&processes).context("DEVSTACK_PROCESSES is not understood")?;
    env.push((PROCESSES, processes));
    let before = watched.service_memory();
    let recording = std::env::var_os(PERF).map(|file| record(watched.services(), file.into()));
    let (program, args) = command.split_first().context("no command")?;
    let child = Process::spawn(&Launch::new(program).args(args).envs(env).death_signal("TERM"))?;
    let recorded = async {
        match recording {
            Some(recording) => recording.await,
            None => Ok(()),
        }
    };
    let (status, recorded) = tokio::join!(child.wait(), recorded);
    if let Some((before, after)) = before.zip(watched.service_memory()) {
        let mb = |bytes: u64| bytes / 1_000_000;
        print(&format!(
            "  memory of the services {} MB before, at most {} MB\n",
            mb(before.resident),
            mb(after.peak)
        ));
    }
    recorded?;
    Ok(status.code().map_or(1, |code| u8::try_from(code).unwrap_or(1)))
}

/// Records call graphs of these processes for some seconds.
///
/// The services have no frame pointers, so that the stacks themselves are recorded and unwound
/// later by the unwinding tables that every Rust program has.
async fn record(pids: &[u32], file: PathBuf) -> anyhow::Result<()> {
    let after = var(PERF_AFTER)?.parse().context("BENCH_SYSTEM_PERF_AFTER is no number")?;
    tokio::time::sleep(Duration::from_secs(after)).await;
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let args = ["record", "--quiet", "-F", PERF_HZ, "--call-graph", "dwarf,16384", "-p"];
    let launch = Launch::new("perf").args(args).args([
        pids.join(","),
        "-o".to_owned(),
        file.display().to_string(),
        "--".to_owned(),
        "sleep".to_owned(),
        PERF_SECONDS.to_owned(),
    ]);
    let status = Process::spawn(&launch)?.wait().await;
    anyhow::ensure!(status.success(), "perf record failed: {status}");
    Ok(())
}

/// A variable of `devstack exec`.
pub(crate) fn var(name: &str) -> anyhow::Result<String> {
    std::env::var(name).with_context(|| format!("there is no {name}: run this by `devstack exec`"))
}
