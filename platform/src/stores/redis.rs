//! A private Redis (or Valkey) server in one of the three roles.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use parking_lot::Mutex;
use rustix::process::Signal;

use super::process::{Launch, Process};
use super::{Home, SocketDir, free_port, is_program, leftover, private_dir, program_dirs};

/// Loading a large append-only file takes about a second per few hundred megabytes.
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(10);
const KILL_LIMIT: Duration = Duration::from_secs(5);

const ABSENT: &str = "no redis-server or valkey-server found (looked in PATH, /usr/bin, Homebrew): \
    install it with `apt-get install redis-server`, `dnf install valkey` or `brew install redis`";

const NO_PORT: &str = "no port on 127.0.0.1 stays free long enough to start Redis";

/// Whether a start failed because somebody else took a port.
pub(super) fn is_port_taken(error: &anyhow::Error) -> bool {
    error.to_string() == NO_PORT
}

/// What a Redis is for. The roles are separate servers because their failure modes differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisRole {
    /// Streams: an acknowledged write is on disk, and a full server refuses instead of forgetting.
    Queue,
    /// Current positions and pub/sub: can be rebuilt, nothing on disk.
    Live,
    /// Menus: the least recently used entry makes room, nothing on disk.
    Cache,
}

impl RedisRole {
    fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Queue => &[
                ("appendonly", "yes"),
                ("appendfsync", "always"),
                ("maxmemory", "1gb"),
                ("maxmemory-policy", "noeviction"),
            ],
            Self::Live => {
                &[("appendonly", "no"), ("maxmemory", "512mb"), ("maxmemory-policy", "noeviction")]
            }
            Self::Cache => {
                &[("appendonly", "no"), ("maxmemory", "256mb"), ("maxmemory-policy", "allkeys-lru")]
            }
        }
    }
}

/// A running Redis. Dropping it kills the server; `stop` lets it finish.
pub struct RedisServer {
    home: Home,
    program: PathBuf,
    settings: Vec<(String, String)>,
    socket: PathBuf,
    port: Mutex<u16>,
    process: Mutex<Option<Process>>,
    _socket_dir: SocketDir,
}

impl RedisServer {
    /// Starts a server with the role's settings in `dir`, on what data there is.
    ///
    /// # Errors
    /// There is no suitable server on this machine, the folder is in use, or the server does not
    /// come up; the message then has the end of its log.
    pub async fn start(role: RedisRole, dir: &Path) -> anyhow::Result<Self> {
        Self::start_with(role, dir, &[]).await
    }

    /// `start` with more settings, in the words of `redis.conf`; they win over the role's.
    ///
    /// # Errors
    /// As `start`.
    pub async fn start_with(
        role: RedisRole,
        dir: &Path,
        extra: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let program = find()?;
        let home = Home::claim(dir)?;
        clean_up(&home)?;
        private_dir(&home.dir.join("data"), None)?;
        let socket_dir = SocketDir::create(&home.dir, None, "redis.sock")?;
        let socket = socket_dir.path.join("redis.sock");
        let owned = |&(key, value): &(&str, &str)| (key.to_owned(), value.to_owned());
        let settings = role.settings().iter().chain(extra).map(owned).collect();
        let port = Mutex::new(free_port()?);
        let process = Mutex::new(None);
        let server =
            Self { home, program, settings, socket, port, process, _socket_dir: socket_dir };
        for _ in 0..3 {
            match server.launch().await {
                Err(error) if error.to_string().contains("Address already in use") => {
                    *server.port.lock() = free_port()?;
                }
                result => return result.map(|()| server),
            }
        }
        bail!(NO_PORT)
    }

    /// The URL of the unix socket.
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket.display())
    }

    /// The URL of the same server over TCP on loopback.
    pub fn tcp_url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port.lock())
    }

    /// The port on loopback.
    pub(super) fn port(&self) -> u16 {
        *self.port.lock()
    }

    /// A setting that it was started with.
    pub(super) fn setting(&self, name: &str) -> Option<&str> {
        self.settings.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The process id; 0 while it does not run.
    pub fn pid(&self) -> u32 {
        self.running().map_or(0, |process| process.pid())
    }

    /// Kills it with -9 and returns when it is gone. The data folder stays as the crash left it.
    pub fn kill(&self) {
        if let Some(process) = self.process.lock().take() {
            process.signal(Signal::KILL);
            process.wait_blocking(KILL_LIMIT);
        }
    }

    /// Starts it again on the same data, addresses and settings, after stopping it when it runs.
    ///
    /// # Errors
    /// As `start`.
    pub async fn restart(&self) -> anyhow::Result<()> {
        self.stop().await;
        self.launch().await
    }

    /// Freezes the server: connections stay open and nothing answers.
    pub fn suspend(&self) {
        if let Some(process) = self.running() {
            process.signal(Signal::STOP);
        }
    }

    /// Ends `suspend`.
    pub fn resume(&self) {
        if let Some(process) = self.running() {
            process.signal(Signal::CONT);
        }
    }

    /// Shuts it down in order; kills it when that takes over 10 s.
    pub async fn stop(&self) {
        let Some(process) = self.process.lock().take() else { return };
        process.signal(Signal::CONT);
        process.signal(Signal::TERM);
        if !process.wait_for(STOP_LIMIT).await {
            tracing::warn!(pid = process.pid(), "redis does not stop, killing it");
            process.signal(Signal::KILL);
            process.wait().await;
        }
    }

    fn running(&self) -> Option<Process> {
        self.process.lock().clone()
    }

    async fn launch(&self) -> anyhow::Result<()> {
        let conf = self.write_conf()?;
        let log_from = self.home.log_len();
        let _ = std::fs::remove_file(&self.socket);
        let launch = Launch::new(&self.program).args([conf]).server(self.home.log());
        let process = Process::spawn(&launch)?;
        *self.process.lock() = Some(process.clone());
        leftover::note(&self.home.pid_file(), process.pid())?;

        let deadline = Instant::now() + START_LIMIT;
        while !answers(&self.socket) {
            if let Some(status) = process.exited() {
                bail!("redis ended at its start ({status}); {}", self.home.log_tail(log_from));
            }
            if Instant::now() >= deadline {
                self.kill();
                bail!("redis does not answer in time; {}", self.home.log_tail(log_from));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    fn write_conf(&self) -> anyhow::Result<String> {
        let port = self.port.lock().to_string();
        let (data, own) = (self.home.dir.join("data"), own_pid_file(&self.home));
        let socket = text(&self.socket)?;
        let fixed = [
            ("bind", "127.0.0.1"),
            ("port", port.as_str()),
            ("unixsocket", socket),
            ("unixsocketperm", "700"),
            ("dir", text(&data)?),
            ("pidfile", text(&own)?),
            ("daemonize", "no"),
            ("logfile", ""),
            // Keeps the configuration's path in the command line, by which leftovers are known.
            ("set-proc-title", "no"),
            // Durability is the append-only file's business; snapshots would only cost forks.
            ("save", ""),
        ];
        let settings = self.settings.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let lines = fixed.into_iter().chain(settings).map(|(key, value)| {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"");
            format!("{key} \"{value}\"\n")
        });
        let conf = conf(&self.home);
        std::fs::write(&conf, lines.collect::<String>())?;
        Ok(text(&conf)?.to_owned())
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn conf(home: &Home) -> PathBuf {
    home.dir.join("redis.conf")
}

fn own_pid_file(home: &Home) -> PathBuf {
    home.dir.join("redis.pid")
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

pub(super) fn clean_up(home: &Home) -> anyhow::Result<()> {
    let conf = conf(home);
    let Some(pid) = home.leftover(&own_pid_file(home), text(&conf)?) else { return Ok(()) };
    tracing::info!(pid, dir = %home.dir.display(), "ending a redis that was left behind");
    ensure!(leftover::kill(&[pid], KILL_LIMIT), "redis {pid} was left behind and does not end");
    Ok(())
}

/// Whether the server answers PING; while it loads its data it says so instead.
fn answers(socket: &Path) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"PING\r\n")?;
        let mut reply = [0; 5];
        stream.read_exact(&mut reply)?;
        Ok(&reply == b"+PONG")
    };
    ask().unwrap_or(false)
}

fn find() -> anyhow::Result<PathBuf> {
    let dirs = program_dirs();
    for name in ["redis-server", "valkey-server"] {
        let Some(program) = dirs.iter().map(|dir| dir.join(name)).find(|path| is_program(path))
        else {
            continue;
        };
        let output = Command::new(&program).arg("--version").output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let Some(major) = major_version(&said) else { return Ok(program) };
        ensure!(
            major >= 7,
            "{} is version {major}, and 7.0 or newer is needed (packages.redis.io has it for older systems)",
            program.display()
        );
        return Ok(program);
    }
    bail!(ABSENT)
}

/// The first number after `v=` in `Redis server v=7.0.15 sha=…`.
fn major_version(said: &str) -> Option<u32> {
    let (_, rest) = said.split_once("v=")?;
    rest.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(major_version("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc"), Some(7));
        assert_eq!(major_version("Valkey server v=8.1.1 sha=0"), Some(8));
        assert_eq!(major_version("something else"), None);
    }
}
