//! Child processes that never outlive us, and never more than they should.
//!
//! Three things make a store end with the process that started it:
//! - `stop`, `kill` and `Drop` of its server;
//! - on Linux the kernel's parent-death signal, set through `setpriv`, for the case that we are
//!   killed with -9;
//! - a pid file (`leftover.rs`), with which the next start in the same folder ends what the first
//!   two could not, for example on macOS or when the server was suspended.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, LazyLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::Context;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::sync::watch;

/// The account a server runs as when it refuses to run as root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Account {
    /// Looks an account up by name; `None` when there is none of that name.
    fn named(name: &str) -> Option<Self> {
        let number = |flag: &str| -> Option<u32> {
            let output =
                Command::new("id").args([flag, name]).stderr(Stdio::null()).output().ok()?;
            std::str::from_utf8(&output.stdout).ok()?.trim().parse().ok()
        };
        Some(Self { uid: number("-u")?, gid: number("-g")? })
    }

    /// The account to drop to, or `None` when we are not root and run servers as ourselves.
    ///
    /// # Errors
    /// We are root and the machine has neither an account `postgres` nor `nobody`.
    pub(super) fn to_drop_to() -> anyhow::Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let found = Self::named("postgres").or_else(|| Self::named("nobody"));
        found.map(Some).context("PostgreSQL refuses to run as root, and this machine has neither a user \"postgres\" nor \"nobody\" to run it as")
    }
}

/// How to start a child.
pub struct Launch {
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(&'static str, String)>,
    account: Option<Account>,
    death_signal: &'static str,
    log: Option<PathBuf>,
}

impl Launch {
    /// A child that is killed when we die, with our own input and output.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            account: None,
            death_signal: "KILL",
            log: None,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds environment variables to those we have.
    #[must_use]
    pub fn envs(mut self, env: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        self.env.extend(env);
        self
    }

    /// The signal (name without `SIG`) the child gets when we die without stopping it.
    #[must_use]
    pub fn death_signal(mut self, name: &'static str) -> Self {
        self.death_signal = name;
        self
    }

    pub(super) fn account(mut self, account: Option<Account>) -> Self {
        self.account = account;
        self
    }

    /// Makes the child a server: output appended to `log`, no input, in a process group of its own,
    /// so that Ctrl-C in the terminal reaches us and not the stores we still need while draining.
    #[must_use]
    pub fn server(mut self, log: impl Into<PathBuf>) -> Self {
        self.log = Some(log.into());
        self
    }

    fn command(&self) -> io::Result<Command> {
        let mut command = if let Some(setpriv) = setpriv() {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", self.death_signal]);
            if let Some(Account { uid, gid }) = self.account {
                command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}"));
                command.arg("--clear-groups");
            }
            command.arg("--").arg(&self.program);
            command
        } else {
            let mut command = Command::new(&self.program);
            if let Some(Account { uid, gid }) = self.account {
                // As root this also drops the supplementary groups.
                command.uid(uid).gid(gid);
            }
            command
        };
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(log) = &self.log {
            let log = append(log)?;
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            command.process_group(0).current_dir("/");
            // The caller's PGDATA, PGPORT and so on are meant for its own client, not for our server.
            let foreign = std::env::vars_os().map(|(name, _)| name);
            for name in foreign.filter(|name| name.as_encoded_bytes().starts_with(b"PG")) {
                command.env_remove(name);
            }
            command.env("LC_ALL", "C");
        }
        Ok(command)
    }
}

pub(super) fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// `setpriv` of util-linux, which can set the parent-death signal (that of busybox cannot).
fn setpriv() -> Option<&'static str> {
    static WORKS: LazyLock<bool> = LazyLock::new(|| {
        cfg!(target_os = "linux")
            && Command::new("setpriv")
                .args(["--pdeathsig", "KILL", "--", "true"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
    });
    WORKS.then_some("setpriv")
}

/// The parent-death signal fires when the *thread* that forked ends, so every child is forked by
/// this one thread, which lives as long as the process.
fn fork(command: Command) -> io::Result<Child> {
    type Request = (Command, mpsc::SyncSender<io::Result<Child>>);
    static SPAWNER: LazyLock<io::Result<mpsc::Sender<Request>>> = LazyLock::new(|| {
        let (requests, inbox) = mpsc::channel::<Request>();
        std::thread::Builder::new().name("store-spawner".into()).spawn(move || {
            for (mut command, reply) in inbox {
                // A caller that no longer waits drops its child handle; the pid file remains.
                let _ = reply.send(command.spawn());
            }
        })?;
        Ok(requests)
    });
    let spawner =
        SPAWNER.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
    let (reply, answer) = mpsc::sync_channel(1);
    let gone = || io::Error::other("the spawner thread is gone");
    spawner.send((command, reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

/// A running child. Cheap to clone; dropping it does not end the child.
#[derive(Clone)]
pub struct Process {
    pid: Pid,
    /// True once the pid may belong to somebody else. Held while signalling and while reaping, so
    /// that a signal never reaches a stranger that got the same number.
    reaped: Arc<Mutex<bool>>,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Process {
    /// Starts a child.
    ///
    /// # Errors
    /// What the operating system says, with the program's name.
    pub fn spawn(launch: &Launch) -> anyhow::Result<Self> {
        let name = launch.program.display();
        let mut child =
            launch.command().and_then(fork).with_context(|| format!("cannot start {name}"))?;
        let pid = Pid::from_child(&child);
        let reaped = Arc::new(Mutex::new(false));
        let (ended, exit) = watch::channel(None);
        let reaper = {
            let reaped = Arc::clone(&reaped);
            move || {
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
                // Waits without reaping, again when a signal interrupts it: the pid stays ours
                // until the lock is held.
                while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(pid), options) {}
                let mut reaped = reaped.lock();
                let status = child.wait();
                *reaped = true;
                let _ = ended.send(Some(status.unwrap_or(ExitStatus::from_raw(0))));
            }
        };
        std::thread::Builder::new()
            .name("store-reaper".into())
            .stack_size(64 * 1024)
            .spawn(reaper)
            .context("cannot start a thread")?;
        Ok(Self { pid, reaped, exit })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Sends a signal; false when the child has ended.
    pub fn signal(&self, signal: Signal) -> bool {
        let reaped = self.reaped.lock();
        !*reaped && kill_process(self.pid, signal).is_ok()
    }

    /// How it ended, or `None` while it runs.
    pub fn exited(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Waits for the end.
    pub async fn wait(&self) -> ExitStatus {
        let mut exit = self.exit.clone();
        // The sender is dropped only after it sent, so an error still leaves the status.
        let _ = exit.wait_for(Option::is_some).await;
        let status = *exit.borrow();
        status.unwrap_or(ExitStatus::from_raw(0))
    }

    /// Waits for the end, at most `limit`; false when it still runs.
    pub async fn wait_for(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.wait()).await.is_ok()
    }

    /// The same without a runtime, for `Drop` and for kills that take milliseconds.
    pub(super) fn wait_blocking(&self, limit: Duration) -> bool {
        until(limit, || self.exited().is_some())
    }
}

/// Polls until `done` or the limit is over; answers whether it was done.
pub(super) fn until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
