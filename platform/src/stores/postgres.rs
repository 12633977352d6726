//! A private PostgreSQL server, with TimescaleDB when this machine has it.
//!
//! PostgreSQL refuses to run as root, so as root its data belongs to the account `postgres` (or
//! `nobody`). When that account cannot reach the wanted folder (a clone under `/root`), the data is
//! kept in `/var/tmp` and `moved` in the wanted folder says where.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use parking_lot::Mutex;
use rustix::process::Signal;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection, Executor};

use super::install::{self, Install};
use super::process::{Account, Launch, Process};
use super::{Home, SocketDir, free_port, hash, leftover, moved_data, private_dir};

/// Recovery after a crash replays up to `max_wal_size` of log.
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// The superuser of the database server.
const USER: &str = "swift";

/// The file that says where the data is when it is not in the wanted folder.
pub(super) const MOVED: &str = "moved";

/// Settings for a server that shares a machine with everything else. Durability is PostgreSQL's
/// default: `fsync` and `synchronous_commit` stay on, so a figure measured here includes them.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("unix_socket_permissions", "0700"),
    ("max_connections", "200"),
    ("max_worker_processes", "32"),
    ("shared_buffers", "256MB"),
    ("effective_cache_size", "1GB"),
    ("maintenance_work_mem", "128MB"),
    ("max_wal_size", "4GB"),
    ("min_wal_size", "256MB"),
    ("checkpoint_timeout", "15min"),
    ("random_page_cost", "1.1"),
    // Our queries are short; compiling them costs more than running them.
    ("jit", "off"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("log_line_prefix", "%m [%p] %d "),
    ("log_lock_waits", "on"),
];

const TIMESCALEDB_SETTINGS: &[(&str, &str)] = &[
    ("shared_preload_libraries", "timescaledb"),
    ("timescaledb.telemetry_level", "off"),
    ("timescaledb.max_background_workers", "16"),
];

/// Whether TimescaleDB is preloaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timescaledb {
    /// When its library is installed.
    #[default]
    Auto,
    /// Never, as on a machine without it.
    Off,
}

/// How to start PostgreSQL.
#[derive(Clone, Copy, Debug, Default)]
pub struct PostgresOptions {
    /// Whether TimescaleDB is preloaded. Data that uses it cannot be opened without it.
    pub timescaledb: Timescaledb,
}

/// A running PostgreSQL. Dropping it kills the server; `stop` lets it finish.
pub struct PostgresServer {
    home: Home,
    place: PathBuf,
    install: Install,
    account: Option<Account>,
    socket_dir: SocketDir,
    port: Mutex<u16>,
    process: Mutex<Option<Process>>,
}

impl PostgresServer {
    /// Starts a server in `dir`, on what data there is, or on a new cluster.
    ///
    /// # Errors
    /// There is no PostgreSQL on this machine, or none of the data's version, the folder is in use,
    /// or the server does not come up; the message then has the end of its log.
    pub async fn start(dir: &Path, options: PostgresOptions) -> anyhow::Result<Self> {
        let account = Account::to_drop_to()?;
        let home = Home::claim(dir)?;
        clean_up(&home)?;
        let place = find_place(&home, account)?;
        let wanted = std::fs::read_to_string(place.join("data/PG_VERSION")).ok();
        let wanted = wanted.and_then(|text| text.trim().parse().ok());
        let install = install::find(wanted, options.timescaledb == Timescaledb::Auto)?;
        let socket_dir = SocketDir::create(&place, account, ".s.PGSQL.65535.lock")?;
        let port = Mutex::new(free_port()?);
        let process = Mutex::new(None);
        let server = Self { home, place, install, account, socket_dir, port, process };
        if wanted.is_none() {
            server.create_cluster().await?;
        }
        for _ in 0..3 {
            match server.launch().await {
                Err(error) if error.to_string().contains("Address already in use") => {
                    *server.port.lock() = free_port()?;
                }
                Err(error) => return Err(error),
                Ok(()) => {
                    server.close_template().await?;
                    return Ok(server);
                }
            }
        }
        bail!("no port on 127.0.0.1 stays free long enough to start PostgreSQL")
    }

    /// The URL of a database over the unix socket, which only this account and root can open.
    pub fn url(&self, database: &str) -> String {
        self.url_of(USER, database)
    }

    pub(super) fn url_of(&self, user: &str, database: &str) -> String {
        let (port, dir) = (*self.port.lock(), self.socket_dir.path.display());
        format!("postgres://{user}@localhost:{port}/{database}?host={dir}")
    }

    /// The URL of a database over TCP on loopback, with the password of this folder.
    ///
    /// # Errors
    /// The password's file is gone.
    pub fn tcp_url(&self, database: &str) -> anyhow::Result<String> {
        let password = std::fs::read_to_string(self.home.dir.join("password"))?;
        let port = *self.port.lock();
        Ok(format!("postgres://{USER}:{}@127.0.0.1:{port}/{database}", password.trim()))
    }

    /// The process id of the postmaster; 0 while it does not run.
    pub fn pid(&self) -> u32 {
        self.running().map_or(0, |process| process.pid())
    }

    /// Whether TimescaleDB is preloaded, so that `CREATE EXTENSION timescaledb` works.
    pub fn has_timescaledb(&self) -> bool {
        self.install.timescaledb
    }

    /// The folder that holds the data: the one given at start, or one under `/var/tmp`.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Creates a database unless it is there.
    ///
    /// # Errors
    /// PostgreSQL refuses, for example for a name that is no plain identifier.
    pub async fn create_database(&self, name: &str) -> anyhow::Result<()> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        ensure!(!name.is_empty() && name.chars().all(plain), "{name:?} is no name for a database");
        let mut connection = self.connect().await?;
        let exists = sqlx::query("SELECT FROM pg_database WHERE datname = $1")
            .bind(name)
            .fetch_optional(&mut connection)
            .await?;
        if exists.is_none() {
            let create = format!("CREATE DATABASE {name}");
            connection.execute(AssertSqlSafe(create)).await?;
        }
        connection.close().await?;
        Ok(())
    }

    /// Kills the postmaster and all its children with -9 and returns when they are gone.
    pub fn kill(&self) {
        let Some(process) = self.process.lock().take() else { return };
        // Suspended first, so that it starts no child that we do not see.
        process.signal(Signal::STOP);
        let children = leftover::children(process.pid());
        process.signal(Signal::KILL);
        leftover::kill(&children, KILL_LIMIT);
        process.wait_blocking(KILL_LIMIT);
    }

    /// Starts it again on the same data and addresses, after stopping it when it runs.
    ///
    /// # Errors
    /// As `start`.
    pub async fn restart(&self) -> anyhow::Result<()> {
        self.stop().await;
        self.launch().await
    }

    /// Freezes the whole server: connections stay open and nothing answers.
    pub fn suspend(&self) {
        self.signal_all(Signal::STOP);
    }

    /// Ends `suspend`.
    pub fn resume(&self) {
        self.signal_all(Signal::CONT);
    }

    /// Shuts it down in order ("fast": open transactions are rolled back, everything is written);
    /// kills it when that takes over 30 s.
    pub async fn stop(&self) {
        self.end(Signal::INT).await;
    }

    /// Shuts it down at once, without writing its buffers: for data that is thrown away, or that
    /// recovery may rebuild from its log at the next start.
    pub async fn stop_now(&self) {
        self.end(Signal::QUIT).await;
    }

    async fn end(&self, signal: Signal) {
        let Some(process) = self.running() else { return };
        self.resume();
        process.signal(signal);
        if process.wait_for(STOP_LIMIT).await {
            self.process.lock().take();
        } else {
            tracing::warn!(pid = process.pid(), "postgres does not stop, killing it");
            self.kill();
        }
    }

    fn signal_all(&self, signal: Signal) {
        let Some(process) = self.running() else { return };
        process.signal(signal);
        for child in leftover::children(process.pid()) {
            leftover::signal(child, signal);
        }
    }

    fn running(&self) -> Option<Process> {
        self.process.lock().clone()
    }

    fn data(&self) -> PathBuf {
        self.place.join("data")
    }

    /// Made under another name and renamed when complete, so that a start that was killed half way
    /// leaves nothing that looks like a cluster.
    async fn create_cluster(&self) -> anyhow::Result<()> {
        let unfinished = self.place.join("data.new");
        if unfinished.exists() {
            std::fs::remove_dir_all(&unfinished)?;
        }
        private_dir(&unfinished, self.account)?;
        let password = self.place.join("password.new");
        write_private(&password, &uuid::Uuid::new_v4().simple().to_string(), self.account)?;

        let args = [
            format!("--pgdata={}", unfinished.display()),
            format!("--username={USER}"),
            format!("--pwfile={}", password.display()),
            "--auth-local=trust".to_owned(),
            "--auth-host=scram-sha-256".to_owned(),
            "--encoding=UTF8".to_owned(),
            "--locale=C".to_owned(),
            // A crash right here costs a repeated initdb, not data.
            "--no-sync".to_owned(),
        ];
        let log_from = self.home.log_len();
        let program = self.install.bin.join("initdb");
        let launch = Launch::new(program).args(args).account(self.account).server(self.home.log());
        let status = Process::spawn(&launch)?.wait().await;
        ensure!(status.success(), "initdb failed ({status}); {}", self.home.log_tail(log_from));

        let main = unfinished.join("postgresql.conf");
        let mut text = std::fs::read_to_string(&main)?;
        text.push_str("\ninclude = 'swift-eats.conf'\n");
        write_private(&main, &text, self.account)?;
        let kept = std::fs::read_to_string(&password)?;
        write_private(&self.home.dir.join("password"), &kept, None)?;
        std::fs::remove_file(&password)?;
        std::fs::rename(&unfinished, self.data())?;
        Ok(())
    }

    fn write_settings(&self) -> anyhow::Result<()> {
        let port = self.port.lock().to_string();
        let sockets = self.socket_dir.path.display().to_string();
        let compression = if self.install.lz4 { "lz4" } else { "on" };
        let own = [
            ("port", port.as_str()),
            ("unix_socket_directories", &sockets),
            ("wal_compression", compression),
        ];
        let timescaledb = if self.install.timescaledb { TIMESCALEDB_SETTINGS } else { &[] };
        let all = own.iter().chain(SETTINGS).chain(timescaledb);
        let lines = all.map(|(key, value)| format!("{key} = '{}'\n", value.replace('\'', "''")));
        write_private(
            &self.data().join("swift-eats.conf"),
            &lines.collect::<String>(),
            self.account,
        )
    }

    async fn launch(&self) -> anyhow::Result<()> {
        self.write_settings()?;
        let log_from = self.home.log_len();
        let data = self.data();
        let launch = Launch::new(self.install.bin.join("postgres"))
            .args(["-D".to_owned(), data.display().to_string()])
            // "Immediate shutdown": takes the children along, which KILL would not.
            .death_signal("QUIT")
            .account(self.account)
            .server(self.home.log());
        let process = Process::spawn(&launch)?;
        *self.process.lock() = Some(process.clone());
        leftover::note(&self.home.pid_file(), process.pid())?;

        let deadline = Instant::now() + START_LIMIT;
        while self.connect().await.is_err() {
            if let Some(status) = process.exited() {
                let tail = self.home.log_tail(log_from);
                bail!("PostgreSQL ended at its start ({status}); {tail}");
            }
            if Instant::now() >= deadline {
                self.kill();
                bail!("PostgreSQL does not answer in time; {}", self.home.log_tail(log_from));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// TimescaleDB's launcher visits every database that takes connections, and CREATE DATABASE fails
    /// while somebody is in its template. Copying works from a closed one too.
    async fn close_template(&self) -> sqlx::Result<()> {
        let mut connection = self.connect().await?;
        connection.execute("ALTER DATABASE template1 ALLOW_CONNECTIONS false").await?;
        connection.close().await
    }

    async fn connect(&self) -> sqlx::Result<PgConnection> {
        let options = PgConnectOptions::new_without_pgpass()
            .socket(&self.socket_dir.path)
            .port(*self.port.lock())
            .username(USER)
            .database("postgres");
        PgConnection::connect_with(&options).await
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ends a postmaster that was left behind and, where the system can tell, children of one.
pub(super) fn clean_up(home: &Home) -> anyhow::Result<()> {
    let place = moved_data(&home.dir).unwrap_or_else(|| home.dir.clone());
    let data = place.join("data");
    let marker = format!("postgres -D {}", data.display());
    let mut left = Vec::new();
    if let Some(pid) = home.leftover(&data.join("postmaster.pid"), &marker) {
        leftover::signal(pid, Signal::STOP);
        left.push(pid);
        left.extend(leftover::children(pid));
    }
    left.extend(leftover::orphans("postgres", &data));
    if left.is_empty() {
        return Ok(());
    }
    tracing::info!(pids = ?left, dir = %home.dir.display(), "ending a postgres that was left behind");
    ensure!(
        leftover::kill(&left, KILL_LIMIT),
        "postgres processes {left:?} were left behind and do not end"
    );
    Ok(())
}

/// The folder for the data: `home` when the server's account can get there.
fn find_place(home: &Home, account: Option<Account>) -> anyhow::Result<PathBuf> {
    let Some(account) = account else { return Ok(home.dir.clone()) };
    if let Some(place) = moved_data(&home.dir) {
        return Ok(place);
    }
    let reachable = |dir: &Path| dir.metadata().is_ok_and(|meta| can_enter(&meta, account));
    if home.dir.parent().into_iter().flat_map(Path::ancestors).all(reachable) {
        std::os::unix::fs::chown(&home.dir, Some(account.uid), Some(account.gid))?;
        return Ok(home.dir.clone());
    }
    let place = PathBuf::from(format!("/var/tmp/swift-eats-postgres-{:016x}", hash(&home.dir)));
    private_dir(&place, Some(account))?;
    std::fs::write(home.dir.join(MOVED), place.display().to_string())?;
    tracing::info!(place = %place.display(), "the account that runs PostgreSQL cannot enter the data folder; its data is kept elsewhere");
    Ok(place)
}

fn can_enter(meta: &std::fs::Metadata, account: Account) -> bool {
    let bit = if meta.uid() == account.uid {
        0o100
    } else if meta.gid() == account.gid {
        0o010
    } else {
        0o001
    };
    meta.mode() & bit != 0
}

/// Writes a file of mode 0600 for `account` (or us), in one step.
fn write_private(path: &Path, text: &str, account: Option<Account>) -> anyhow::Result<()> {
    let dir = path.parent().context("a file has a folder")?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    if let Some(Account { uid, gid }) = account {
        std::os::unix::fs::fchown(file.as_file(), Some(uid), Some(gid))?;
    }
    file.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}
