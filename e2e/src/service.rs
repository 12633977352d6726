//! A process of a service: started, asked, hindered, killed.

use std::{
    path::{Path, PathBuf},
    process::ExitStatus,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use loadtest::client::{Connection, Target};
use platform::stores::{Launch, Process, Signal, free_port};

use crate::world::{World, tail};

/// A start takes no longer.
const READY_MAX: Duration = Duration::from_secs(30);
/// A stop must take no longer.
pub(crate) const STOP_MAX: Duration = Duration::from_secs(15);
/// An answer of a process that lives takes no longer.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Between two looks.
const STEP: Duration = Duration::from_millis(10);

/// One process of the service.
pub(crate) struct Service {
    pub(crate) port: u16,
    name: String,
    role: &'static str,
    program: PathBuf,
    env: Vec<(&'static str, String)>,
    log: PathBuf,
    process: Process,
}

impl Service {
    /// Starts `logistics <role>` on a free port and waits until it is ready.
    pub(crate) async fn start(
        world: &World,
        name: &str,
        role: &'static str,
    ) -> anyhow::Result<Self> {
        Self::start_program(world, &world.programs.logistics, name, role, &[]).await
    }

    /// The same with another program, whose `settings` win over those of the world.
    pub(crate) async fn start_program(
        world: &World,
        program: &Path,
        name: &str,
        role: &'static str,
        settings: &[(&'static str, String)],
    ) -> anyhow::Result<Self> {
        let (log, env) = (world.log(name), [world.env(), settings].concat());
        let (program, port) = (program.to_owned(), free_port()?);
        let process = spawn(&program, role, port, &env, log.clone())?;
        let service = Self { port, name: name.to_owned(), role, program, env, log, process };
        service.until_ready().await?;
        Ok(service)
    }

    /// Where it answers.
    pub(crate) fn target(&self) -> Target {
        Target { authority: format!("127.0.0.1:{}", self.port), prefix: String::new() }
    }

    /// kill -9; returns when it is gone.
    pub(crate) async fn kill(&self) {
        self.process.signal(Signal::KILL);
        self.process.wait().await;
    }

    /// Starts it again on the same address after its end, without waiting until it is ready.
    pub(crate) fn start_again(&mut self) -> anyhow::Result<()> {
        self.process = spawn(&self.program, self.role, self.port, &self.env, self.log.clone())?;
        Ok(())
    }

    /// SIGTERM; how it ended and how long that took.
    pub(crate) async fn terminate(&self) -> anyhow::Result<(ExitStatus, Duration)> {
        let asked = Instant::now();
        self.process.signal(Signal::TERM);
        ensure!(
            self.process.wait_for(STOP_MAX * 2).await,
            "{} does not end after SIGTERM",
            self.name
        );
        Ok((self.process.wait().await, asked.elapsed()))
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// From its next start on it does not know this setting.
    pub(crate) fn forget(&mut self, name: &str) {
        self.env.retain(|(known, _)| *known != name);
    }

    /// How it ended; `None` when it still runs after `limit`.
    pub(crate) async fn ended(&self, limit: Duration) -> Option<ExitStatus> {
        self.process.wait_for(limit).await;
        self.process.exited()
    }

    /// Whether it still runs.
    pub(crate) fn runs(&self) -> bool {
        self.process.exited().is_none()
    }

    /// Waits until `/readyz` says 200.
    pub(crate) async fn until_ready(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        while !is_ready(self.port).await {
            if let Some(status) = self.process.exited() {
                bail!("{} ended ({status}):\n    {}", self.name, tail(&self.log, 10));
            }
            ensure!(
                started.elapsed() < READY_MAX,
                "{} is not ready after {READY_MAX:?}:\n    {}",
                self.name,
                tail(&self.log, 10)
            );
            tokio::time::sleep(STEP).await;
        }
        Ok(())
    }

    /// A sum over all series of one metric; 0 when there is none.
    pub(crate) async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let (_, body) = get(self.port, "/metrics").await?;
        let body = String::from_utf8_lossy(&body).into_owned();
        let series = body.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let named = series.split('{').next() == Some(name);
            named.then(|| value.parse::<f64>().ok())?
        });
        Ok(series.sum())
    }

    /// What must not be in its log: a panic, or an error line.
    pub(crate) fn bad_log_lines(&self) -> Vec<String> {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let bad = |line: &&str| line.contains("a panic") || line.contains("ERROR");
        text.lines().filter(bad).take(3).map(|line| format!("{}: {line}", self.name)).collect()
    }
}

impl Drop for Service {
    /// A round that ends with an error must not leave anything behind for the next one.
    fn drop(&mut self) {
        self.process.signal(Signal::KILL);
    }
}

fn spawn(
    program: &PathBuf,
    role: &str,
    port: u16,
    env: &[(&'static str, String)],
    log: PathBuf,
) -> anyhow::Result<Process> {
    let listen = format!("127.0.0.1:{port}");
    let launch = Launch::new(program)
        .args([role.to_owned(), "--listen".to_owned(), listen])
        .envs(env.iter().cloned())
        .server(log);
    Process::spawn(&launch)
}

/// `GET` of a path outside the API, on a connection of its own.
pub(crate) async fn get(port: u16, path: &str) -> anyhow::Result<(u16, Vec<u8>)> {
    let authority = format!("127.0.0.1:{port}");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n");
    let target = Target { authority, prefix: String::new() };
    let answer = async {
        let mut connection = Connection::open(&target).await?;
        let reply = connection.exchange(request.as_bytes()).await?;
        anyhow::Ok((reply.status, connection.body().to_vec()))
    };
    tokio::time::timeout(ANSWER_MAX, answer).await?
}

/// Whether `/readyz` says 200 now.
pub(crate) async fn is_ready(port: u16) -> bool {
    matches!(get(port, "/readyz").await, Ok((200, _)))
}
