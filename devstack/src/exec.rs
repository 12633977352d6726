//! `devstack exec`: a command with a private set of stores around it.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use anyhow::Context;
use platform::stores::{Launch, Process, Signal};
use tokio::signal::unix::{self, SignalKind};

use crate::services::{Nodes, Ports, Services};
use crate::stack::{Place, Stack, StackArgs};

/// Runs a command with private stores, and ends them with it.
///
/// The command finds them through DATABASE_URL, ORDER_DATABASE_URL, LOGISTICS_DATABASE_URL,
/// MENU_DATABASE_URL, REDIS_QUEUE_URL, REDIS_LIVE_URL and REDIS_CACHE_URL, the services through
/// ORDER_URL, MENU_URL, LOGISTICS_URL and PAYMENT_GATEWAY_URL with PAYMENT_GATEWAY_KEY, all nodes of
/// them through ORDER_URLS, MENU_URLS and LOGISTICS_URLS, separated by commas, and keys for
/// their tokens through AUTH_SIGNING_KEY_FILE, AUTH_VERIFY_KEY_FILES,
/// AUTH_TRACKING_SIGNING_KEY_FILE and AUTH_TRACKING_VERIFY_KEY_FILES. DEVSTACK_PROCESSES names the
/// process ids. The exit code is the command's own; 128 + n when signal n ended it.
#[derive(clap::Args, Clone, Debug)]
pub struct ExecArgs {
    #[command(flatten)]
    stack: StackArgs,
    /// Start all services too, on free ports.
    #[arg(long)]
    services: bool,
    #[command(flatten)]
    nodes: Nodes,
    /// Keep the data in this folder instead of a temporary one.
    #[arg(long, value_name = "DIR")]
    data: Option<std::path::PathBuf>,
    /// The command and its arguments, after `--`.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Starts the stores, runs the command, stops the stores; answers the exit code.
///
/// # Errors
/// A store does not start or the command cannot be started.
pub async fn exec(args: ExecArgs) -> anyhow::Result<u8> {
    let _telemetry = crate::logs::init("warn");
    let mut signals = Signals::listen()?;
    let place = args.data.map_or(Place::Temporary, Place::Folder);
    let started = async {
        let stack = Stack::start(&place, &args.stack).await?;
        let services = match args.services {
            true => Some(Services::start_nodes(&stack, Ports::default(), args.nodes).await?),
            false => None,
        };
        anyhow::Ok((stack, services))
    };
    let (stack, services) = tokio::select! {
        started = started => started?,
        // Dropping the start ends what was started so far.
        signal = signals.next() => return Ok(exit_code_of_signal(signal)),
    };
    let status = run(&args.command, env(&stack, services.as_ref()), &mut signals).await;
    let stopped = match services {
        Some(services) => services.stop().await,
        None => Ok(()),
    };
    stack.stop().await;
    // The command's own failure says more than that of a service which it may have caused.
    let code = exit_code(status?);
    if code == 0 {
        stopped?;
    }
    Ok(code)
}

fn env(stack: &Stack, services: Option<&Services>) -> Vec<(&'static str, String)> {
    let mut env = stack.env();
    let mut processes = stack.processes();
    if let Some(services) = services {
        env.extend(services.env());
        processes = format!("service={};{processes}", std::process::id());
    }
    env.push(("DEVSTACK_PROCESSES", processes));
    env
}

async fn run(
    command: &[String],
    env: Vec<(&'static str, String)>,
    signals: &mut Signals,
) -> anyhow::Result<ExitStatus> {
    let (program, args) = command.split_first().context("no command")?;
    // TERM, so that a test runner can still end its own children.
    let launch = Launch::new(program).args(args).envs(env).death_signal("TERM");
    let child = Process::spawn(&launch)?;
    loop {
        tokio::select! {
            status = child.wait() => return Ok(status),
            signal = signals.next() => {
                // A terminal sends Ctrl-C to the whole foreground group, the command included; a
                // second one would make most test runners give up their orderly end.
                if signal != Signal::INT || !is_in_foreground() {
                    child.signal(signal);
                }
            }
        }
    }
}

/// Whether our process group is the one that gets the terminal's Ctrl-C.
fn is_in_foreground() -> bool {
    let Ok(terminal) = std::fs::File::open("/dev/tty") else { return false };
    rustix::termios::tcgetpgrp(terminal).is_ok_and(|group| group == rustix::process::getpgrp())
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(1)
}

pub(crate) fn exit_code_of_signal(signal: Signal) -> u8 {
    u8::try_from(128 + signal.as_raw()).unwrap_or(1)
}

/// The signals that ask us to end.
pub(crate) struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hang_up: unix::Signal,
}

impl Signals {
    /// From here on these signals no longer end the process by themselves.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let listen = |kind| unix::signal(kind).context("cannot listen to signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.hang_up.recv() => Signal::HUP,
        }
    }
}
