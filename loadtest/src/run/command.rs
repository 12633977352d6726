//! `loadtest run`: a scenario file, from its check to its report.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    calibrate,
    engine::{self, Snapshot},
    executor::humane,
    file::Script,
    state::Signers,
    summary::{Cpu, CpuAt, Summary},
    target::Auth,
    text::time,
};
use crate::{
    cpu::{self, Processes, Usage},
    progress::Progress,
    report::{write, write_summary},
    scenario::{BadUsage, System},
};

/// How often CPU time is read: the kernel counts it in 1/100 s.
const READ_EVERY: Duration = Duration::from_secs(1);

/// Settings of `loadtest run`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The scenario file; loadtest/README.md says what can be in it
    file: PathBuf,
    /// Only say whether the file can work, and what it would do
    #[arg(long)]
    check: bool,
    /// Every random choice but ids and keys follows from it; instead of the file's own
    #[arg(long)]
    seed: Option<u64>,
    /// Write the summary as JSON to this file
    #[arg(long)]
    summary: Option<PathBuf>,
    /// Write a report to look at to this file
    #[arg(long)]
    html: Option<PathBuf>,
    /// Do not measure first how much the generator itself can send on this machine
    #[arg(long)]
    no_calibration: bool,
    #[command(flatten)]
    system: System,
}

/// What came of it.
#[derive(Debug)]
pub enum Done {
    /// The file can work; what it would do.
    Checked(String),
    /// It was run.
    Ran(Box<Summary>),
}

impl Done {
    /// For people.
    pub fn to_text(&self) -> String {
        match self {
            Self::Checked(text) => text.clone(),
            Self::Ran(summary) => summary.to_text(),
        }
    }

    /// Whether all that was asked for holds.
    pub fn passed(&self) -> bool {
        match self {
            Self::Checked(_) => true,
            Self::Ran(summary) => summary.passed,
        }
    }
}

/// Checks the file, and runs it unless that was all; `stop` ends the load early, and what was
/// measured is told all the same.
///
/// # Errors
/// The call or the file cannot work ([`BadUsage`]), or the run could not be made.
pub async fn start(args: &Args, stop: CancellationToken) -> anyhow::Result<Done> {
    let mut script = Script::load(&args.file).map_err(BadUsage)?;
    script.seed = args.seed.unwrap_or(script.seed);
    let signed = script.targets.auth == Auth::Signed;
    let signers = Signers {
        access: (signed && script.has_identities()).then(|| args.system.signer()).transpose()?,
        tracking: (signed && script.has_watchers())
            .then(|| args.system.tracking_signer())
            .transpose()?,
    };
    let processes = args.system.processes()?;
    for path in args.summary.iter().chain(&args.html) {
        writable(path)?;
    }
    if args.check {
        return Ok(Done::Checked(script.describe()));
    }
    say(&script.describe());
    let calibration = match args.no_calibration {
        true => None,
        false => Some(calibrate::measure(&stop).await.context("the generator measures itself")?),
    };
    let snapshot = Arc::<Mutex<Snapshot>>::default();
    let (begun, begins) = tokio::sync::oneshot::channel();
    let (duration, max_vus) = (script.duration(), script.max_vus());
    let running = tokio::spawn(engine::run(script, signers, Arc::clone(&snapshot), begun, stop));
    let over = CancellationToken::new();
    // Without a beginning the run has failed, and says why below.
    let watching = match begins.await {
        Ok(()) => {
            let progress = progress(duration, max_vus, Arc::clone(&snapshot));
            Some((progress, tokio::spawn(read_cpu(processes, over.clone()))))
        }
        Err(_) => None,
    };
    let outcome = running.await.context("the task of the run failed")?;
    over.cancel();
    let mut cpu = Vec::new();
    if let Some((progress, reading)) = watching {
        progress.finish();
        cpu = reading.await.context("the CPU time cannot be read")?;
    }
    let summary = Summary::new(&outcome?, cpu, calibration);
    write_summary(args.summary.as_deref(), &summary)?;
    if let Some(path) = &args.html {
        write(path, &summary.to_html()?)?;
    }
    Ok(Done::Ran(Box::new(summary)))
}

/// It would be a pity to learn this after the run.
fn writable(path: &Path) -> Result<(), BadUsage> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let is_folder = folder.is_none_or(Path::is_dir) && !path.is_dir();
    let message = || BadUsage(format!("{} cannot be written", path.display()));
    if is_folder { Ok(()) } else { Err(message()) }
}

fn say(text: &str) {
    use std::io::Write as _;
    let _nobody_reads = std::io::stderr().write_all(text.as_bytes());
}

fn progress(duration: Duration, max_vus: u32, snapshot: Arc<Mutex<Snapshot>>) -> Progress {
    let started = Instant::now();
    Progress::start(duration.as_secs().max(1), move |_| {
        let elapsed = started.elapsed();
        let snapshot = snapshot.lock().clone();
        let mut line = format!("running ({})", humane(Duration::from_secs(elapsed.as_secs())));
        if let Some(second) = snapshot.second {
            let slot = second.all;
            line += &format!(
                ", {:03}/{max_vus:03} VUs, {} complete and {} dropped iterations, {:.0} requests/s, \
                 p95 {}, {} failed",
                slot.vus,
                snapshot.iterations,
                snapshot.dropped,
                second.per_s(slot.requests),
                time(f64::from(slot.p95_ms)),
                snapshot.failed
            );
        }
        (elapsed.as_secs(), line)
    })
}

/// Reads every second how many cores were busy.
async fn read_cpu(processes: Option<Processes>, over: CancellationToken) -> Vec<CpuAt> {
    let usage = || processes.as_ref().and_then(|processes| processes.usage(&[]));
    let (started, mut seconds) = (Instant::now(), Vec::new());
    let (mut then, mut own_before, mut before) = (Instant::now(), cpu::own(), usage());
    loop {
        let is_over = over.run_until_cancelled(tokio::time::sleep(READ_EVERY)).await.is_none();
        let (now, own, after) = (Instant::now(), cpu::own(), usage());
        let length_s = (now - then).as_secs_f64().max(1e-6);
        let cores = |us: u64| us as f64 * 1e-6 / length_s;
        let own_used = own.zip(own_before).map(|(after, before)| after.saturating_sub(before));
        let used =
            after.zip(before).and_then(|(after, before): (Usage, Usage)| after.since(before));
        seconds.push(CpuAt {
            at_s: (now - started).as_secs_f64(),
            system: used.map(|used| Cpu {
                service: cores(used.service_us),
                redis: cores(used.redis_us),
                postgres: cores(used.postgres_us),
            }),
            generator: own_used.map_or(0.0, |used| cores(used.as_micros() as u64)),
        });
        if is_over {
            return seconds;
        }
        (then, own_before, before) = (now, own, after);
    }
}
