//! Private Redis and PostgreSQL servers, for development, tests and the demo.
//!
//! Every server owns one folder: `lock` (held while it is in use, so two never share data),
//! `server.pid`, `server.log`, `data/` and, when the path is short enough, `socket/`. Servers listen
//! on loopback and on a unix socket that only their own account can open. They end with the process
//! that started them (see `process.rs`), and a start first ends what an earlier process left behind
//! in the same folder.
//!
//! Absent on purpose: no use in production, no TLS, no remote access, no shared instances.

mod cluster;
mod install;
mod leftover;
mod owner;
mod postgres;
mod process;
pub mod proxy;
mod redis;

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

pub use self::cluster::{RedisCluster, Standing};
pub use self::postgres::{PostgresOptions, PostgresServer, Timescaledb};
use self::process::Account;
pub use self::process::{Launch, Process};
pub use self::redis::{RedisRole, RedisServer};
pub use rustix::process::Signal;

/// Unix socket paths end at 107 bytes on Linux and 103 on macOS.
const SOCKET_PATH_LEN_MAX: usize = 100;

/// How many lines of a server's log a failed start shows.
const LOG_TAIL_LINES: usize = 20;

/// A server's folder, held for as long as this lives.
struct Home {
    dir: PathBuf,
    lock: File,
}

impl Home {
    /// Creates the folder when needed and takes it.
    fn claim(dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        let lock = take(&dir.join("lock"))?
            .with_context(|| format!("{} is in use by another process", dir.display()))?;
        Ok(Self { dir, lock })
    }

    fn log(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("server.pid")
    }

    /// Ends what an earlier process left running: `own` is the server's own pid file, `marker` what
    /// its command line must contain.
    fn leftover(&self, own: &Path, marker: &str) -> Option<u32> {
        leftover::noted(&self.pid_file(), marker).or_else(|| leftover::own_note(own, marker))
    }

    /// The end of the log as it was written since `from`, for the message of a failed start.
    fn log_tail(&self, from: u64) -> String {
        let bytes = std::fs::read(self.log()).unwrap_or_default();
        let new = bytes.get(usize::try_from(from).unwrap_or(0)..).unwrap_or_default();
        let text = String::from_utf8_lossy(new);
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
        format!("{} ends with:\n  {}", self.log().display(), tail.join("\n  "))
    }

    fn log_len(&self) -> u64 {
        std::fs::metadata(self.log()).map_or(0, |meta| meta.len())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Also closed with the file; said here because it is what the folder's safety rests on.
        let _ = self.lock.unlock();
    }
}

/// A temporary folder in which servers can be started also by root: unlike that of `tempfile` it can
/// be entered by the account that runs PostgreSQL. What is inside is not readable for others.
///
/// # Errors
/// The system's folder for temporary files is not writable.
pub fn temp_dir() -> std::io::Result<tempfile::TempDir> {
    let mode = std::fs::Permissions::from_mode(0o711);
    tempfile::Builder::new().prefix("swift-eats-").permissions(mode).tempdir()
}

/// Takes a lock file; `None` when another process holds it. The lock ends with the process, however
/// it ends.
///
/// # Errors
/// The file cannot be created or locked.
pub fn take(path: &Path) -> anyhow::Result<Option<File>> {
    let file = process::append(path).with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) => Err(error).context("cannot lock"),
    }
}

/// Returns whether somebody has [`take`]n this file.
pub fn is_taken(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    matches!(file.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock))
}

/// Ends the servers that a killed process left behind in these folders (those of `RedisServer` or
/// `PostgresServer`), without starting new ones. Folders in use are left alone.
///
/// # Errors
/// A leftover server cannot be ended.
pub fn clean_up(dir: &Path) -> anyhow::Result<()> {
    if !dir.join("lock").exists() {
        return Ok(());
    }
    let Ok(home) = Home::claim(dir) else { return Ok(()) };
    redis::clean_up(&home)?;
    postgres::clean_up(&home)?;
    Ok(())
}

/// Where the data of a PostgreSQL folder really is, when its account could not reach the folder.
pub fn moved_data(dir: &Path) -> Option<PathBuf> {
    let place = std::fs::read_to_string(dir.join(postgres::MOVED)).ok()?;
    let place = PathBuf::from(place.trim());
    place.is_dir().then_some(place)
}

/// A folder for sockets that only their server's account (or we) can enter.
struct SocketDir {
    path: PathBuf,
    /// Not in the server's own folder, so that nobody else would remove it.
    apart: bool,
}

impl SocketDir {
    /// In `place` when the path of `name` stays within the limits of unix sockets, else a short one
    /// under `/tmp` that is the same at every start.
    fn create(place: &Path, account: Option<Account>, name: &str) -> anyhow::Result<Self> {
        let near = place.join("socket");
        let apart = near.as_os_str().len() + 1 + name.len() > SOCKET_PATH_LEN_MAX;
        let short = || PathBuf::from(format!("/tmp/swift-eats-{:016x}", hash(place)));
        let path = if apart { short() } else { near };
        private_dir(&path, account)?;
        Ok(Self { path, apart })
    }
}

impl Drop for SocketDir {
    fn drop(&mut self) {
        if self.apart {
            // A folder that stays is taken again by the next start.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Creates a folder of mode 0700 for `account` (or us), and refuses one that somebody else made.
fn private_dir(dir: &Path, account: Option<Account>) -> anyhow::Result<()> {
    let owner = account.map_or(rustix::process::geteuid().as_raw(), |account| account.uid);
    match std::fs::create_dir(dir) {
        Ok(()) => {
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
            if let Some(Account { uid, gid }) = account {
                std::os::unix::fs::chown(dir, Some(uid), Some(gid))?;
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot create {}", dir.display()));
        }
    }
    let meta = std::fs::symlink_metadata(dir)?;
    let ours = meta.is_dir() && meta.uid() == owner && meta.mode().trailing_zeros() >= 6;
    ensure!(
        ours,
        "{} exists and is not a private folder of user {owner}; remove it and start again",
        dir.display()
    );
    Ok(())
}

fn hash(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

/// A TCP port on loopback that is free now. Somebody may take it before we do, so starts that fail
/// on it are repeated with another one.
///
/// # Errors
/// The system has no free port.
pub fn free_port() -> anyhow::Result<u16> {
    let probe = TcpListener::bind(("127.0.0.1", 0)).context("no free port on 127.0.0.1")?;
    Ok(probe.local_addr()?.port())
}

/// The folders in which programs are looked for beyond `PATH`, most preferred first.
fn program_dirs() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    dirs.extend(versioned("/usr/lib/postgresql", "", "bin"));
    dirs.extend(versioned("/usr", "pgsql-", "bin"));
    for prefix in ["/opt/homebrew", "/usr/local", "/home/linuxbrew/.linuxbrew"] {
        dirs.push(Path::new(prefix).join("bin"));
        dirs.extend(versioned(&format!("{prefix}/opt"), "postgresql@", "bin"));
    }
    dirs.extend(["/usr/bin", "/usr/sbin"].map(PathBuf::from));
    dirs
}

/// `parent/{prefix}{number}/{leaf}` for every number there is, greatest first.
fn versioned(parent: &str, prefix: &str, leaf: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let numbered = entries.filter_map(|entry| {
        let name = entry.file_name();
        let number: u32 = name.to_str()?.strip_prefix(prefix)?.parse().ok()?;
        Some((number, entry.path().join(leaf)))
    });
    let mut found: Vec<(u32, PathBuf)> = numbered.collect();
    found.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
    found.into_iter().map(|(_, dir)| dir).collect()
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_long_paths_get_a_short_folder_that_stays_the_same() {
        let root = tempfile::tempdir().expect("a folder");
        let long = root.path().join("x".repeat(120));
        std::fs::create_dir(&long).expect("a long folder");

        let short = SocketDir::create(&long, None, "redis.sock").expect("a socket folder");
        assert!(short.path.join("redis.sock").as_os_str().len() <= SOCKET_PATH_LEN_MAX);
        let again = SocketDir::create(&long, None, "redis.sock").expect("the same again");
        assert_eq!(short.path, again.path);
        drop(again);
        assert!(!short.path.exists(), "left behind");

        let near = SocketDir::create(root.path(), None, "redis.sock").expect("a socket folder");
        assert!(near.path.starts_with(root.path()));
    }

    #[test]
    fn a_socket_folder_that_others_can_enter_is_refused() {
        let root = tempfile::tempdir().expect("a folder");
        let open = root.path().join("socket");
        std::fs::create_dir(&open).expect("a folder");
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).expect("its mode");
        assert!(SocketDir::create(root.path(), None, "redis.sock").is_err());
    }

    #[test]
    fn a_folder_has_one_user_at_a_time() {
        let root = tempfile::tempdir().expect("a folder");
        let held = Home::claim(root.path()).expect("free");
        assert!(Home::claim(root.path()).is_err(), "taken twice");
        drop(held);
        Home::claim(root.path()).expect("free again");
    }
}
