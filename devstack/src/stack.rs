//! The stores of one run: Redis servers and PostgreSQL in one folder.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use platform::stores::{
    self, PostgresOptions, PostgresServer, RedisCluster, RedisRole, RedisServer, Timescaledb,
};
use tempfile::TempDir;

use crate::keys::Keys;

/// Where `up` keeps its data and `token` finds its key.
pub const DEFAULT_FOLDER: &str = ".devstack";

/// The database of the logistics service.
const LOGISTICS_DATABASE: &str = "logistics";

/// The database of the order service.
const ORDER_DATABASE: &str = "orders";

/// The database of the menu service.
const MENU_DATABASE: &str = "menu";

/// Where tests connect to make databases of their own.
const MAINTENANCE_DATABASE: &str = "postgres";

/// Held while a stack uses the folder; its presence marks a temporary folder as one of ours.
const LOCK: &str = "stack.lock";

/// Where a stack keeps its data.
#[derive(Clone, Debug)]
pub enum Place {
    /// In a temporary folder that is removed at the end.
    Temporary,
    /// In this folder, which stays.
    Folder(PathBuf),
}

/// How to start the stores.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct StackArgs {
    /// Keep TimescaleDB out, as on a machine that does not have it; history then lives in native
    /// partitions.
    #[arg(long)]
    pub no_timescaledb: bool,
    /// Make the queue and the live Redis one Redis Cluster of three masters with a replica each.
    #[arg(long)]
    pub cluster: bool,
}

/// Running stores. `stop` ends them; so does dropping this, without ceremony.
pub struct Stack {
    /// Streams.
    pub queue: RedisServer,
    /// Current positions.
    pub live: RedisServer,
    /// Streams and current positions in the place of those two, which then idle.
    pub cluster: Option<RedisCluster>,
    /// Menus.
    pub cache: RedisServer,
    /// All databases.
    pub postgres: PostgresServer,
    keys: Keys,
    root: Root,
}

impl Stack {
    /// Starts the stores and creates the databases of the services.
    ///
    /// # Errors
    /// A server is not installed or does not come up, or the folder is in use.
    pub async fn start(place: &Place, args: &StackArgs) -> anyhow::Result<Self> {
        remove_abandoned(&std::env::temp_dir());
        let root = Root::open(place)?;
        let keys = Keys::in_folder(&root.dir)?;
        let options = PostgresOptions {
            timescaledb: if args.no_timescaledb { Timescaledb::Off } else { Timescaledb::Auto },
        };
        // Data that uses TimescaleDB cannot be opened without it, so each kind has its own.
        let postgres = if args.no_timescaledb { "postgres-plain" } else { "postgres" };
        let redis = async |role, name| RedisServer::start(role, &root.dir.join(name)).await;
        let cluster = async {
            if !args.cluster {
                return Ok(None);
            }
            let dir = root.dir.join("redis-cluster");
            RedisCluster::start(RedisRole::Queue, &dir).await.map(Some)
        };
        let (queue, live, cluster, cache, postgres) = tokio::try_join!(
            redis(RedisRole::Queue, "redis-queue"),
            redis(RedisRole::Live, "redis-live"),
            cluster,
            redis(RedisRole::Cache, "redis-cache"),
            async { PostgresServer::start(&root.dir.join(postgres), options).await },
        )?;
        let history: &[&str] = if postgres.has_timescaledb() { &["timescaledb"] } else { &[] };
        postgres.create_owned_database(LOGISTICS_DATABASE, history).await?;
        postgres.create_owned_database(MENU_DATABASE, &["pg_trgm"]).await?;
        postgres.create_owned_database(ORDER_DATABASE, &[]).await?;
        Ok(Self { queue, live, cluster, cache, postgres, keys, root })
    }

    /// The folder of this stack.
    pub fn dir(&self) -> &Path {
        &self.root.dir
    }

    /// The keys that sign and verify this stack's tokens.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The URL of the logistics database, as the role that owns it and can open no other.
    pub fn logistics_database_url(&self) -> String {
        self.postgres.owner_url(LOGISTICS_DATABASE)
    }

    /// The URL of the order database, the same way.
    pub fn order_database_url(&self) -> String {
        self.postgres.owner_url(ORDER_DATABASE)
    }

    /// The URL of the menu database, the same way.
    pub fn menu_database_url(&self) -> String {
        self.postgres.owner_url(MENU_DATABASE)
    }

    /// The URL of the streams.
    pub fn queue_url(&self) -> String {
        self.cluster.as_ref().map_or_else(|| self.queue.url(), RedisCluster::url)
    }

    /// The URL of the current positions.
    pub fn live_url(&self) -> String {
        self.cluster.as_ref().map_or_else(|| self.live.url(), RedisCluster::url)
    }

    /// The addresses, as environment variables that services, tests and tools read.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("DATABASE_URL", self.postgres.url(MAINTENANCE_DATABASE)),
            ("LOGISTICS_DATABASE_URL", self.logistics_database_url()),
            ("MENU_DATABASE_URL", self.menu_database_url()),
            ("ORDER_DATABASE_URL", self.order_database_url()),
            ("REDIS_QUEUE_URL", self.queue_url()),
            ("REDIS_LIVE_URL", self.live_url()),
            ("REDIS_CACHE_URL", self.cache.url()),
            ("AUTH_VERIFY_KEY_FILES", self.keys.access.verify.display().to_string()),
            ("AUTH_SIGNING_KEY_FILE", self.keys.access.signing.display().to_string()),
            ("AUTH_TRACKING_VERIFY_KEY_FILES", self.keys.tracking.verify.display().to_string()),
            ("AUTH_TRACKING_SIGNING_KEY_FILE", self.keys.tracking.signing.display().to_string()),
        ]
    }

    /// The process ids behind the stores: `redis=PID,PID,…;postgres=PID`.
    pub fn processes(&self) -> String {
        let cluster = self.cluster.iter().flat_map(RedisCluster::nodes);
        let servers = [&self.queue, &self.live, &self.cache].into_iter().chain(cluster);
        let redis: Vec<String> = servers.map(|redis| redis.pid().to_string()).collect();
        format!("redis={};postgres={}", redis.join(","), self.postgres.pid())
    }

    /// Ends the stores; in order when their data is kept, at once when it is thrown away.
    pub async fn stop(self) {
        let temporary = self.root.temporary.is_some();
        let postgres = async {
            if temporary {
                self.postgres.stop_now().await;
            } else {
                self.postgres.stop().await;
            }
        };
        let cluster = async {
            if let Some(cluster) = self.cluster {
                cluster.stop().await;
            }
        };
        tokio::join!(self.queue.stop(), self.live.stop(), self.cache.stop(), cluster, postgres);
    }
}

/// The folder of a stack, locked. Dropped last, after the servers in it.
struct Root {
    dir: PathBuf,
    temporary: Option<TempDir>,
    _lock: File,
}

impl Root {
    fn open(place: &Place) -> anyhow::Result<Self> {
        match place {
            Place::Temporary => {
                let folder = stores::temp_dir().context("no folder for temporary files")?;
                // Locked before it gets the name by which abandoned folders are known, so that no
                // other start takes this one for abandoned.
                let unnamed = folder.path().join("new");
                let lock = stores::take(&unnamed)?.context("a new file is locked")?;
                std::fs::rename(unnamed, folder.path().join(LOCK))?;
                let dir = folder.path().canonicalize()?;
                Ok(Self { dir, temporary: Some(folder), _lock: lock })
            }
            Place::Folder(dir) => {
                std::fs::create_dir_all(dir)
                    .with_context(|| format!("cannot create {}", dir.display()))?;
                let dir = dir.canonicalize()?;
                let Some(lock) = stores::take(&dir.join(LOCK))? else {
                    bail!(
                        "{} is in use by another devstack: stop that one, or use --ephemeral or another --data",
                        dir.display()
                    );
                };
                Ok(Self { dir, temporary: None, _lock: lock })
            }
        }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if self.temporary.is_some() {
            remove_moved(&self.dir);
        }
    }
}

/// Removes the temporary folders of stacks that were killed, with servers that still run in them.
fn remove_abandoned(temp_dir: &Path) {
    for entry in std::fs::read_dir(temp_dir).into_iter().flatten().flatten() {
        let dir = entry.path();
        let ours = entry.file_name().to_string_lossy().starts_with("swift-eats-")
            && dir.join(LOCK).symlink_metadata().is_ok_and(|meta| meta.is_file() && is_ours(&meta));
        if ours && let Err(error) = remove_if_abandoned(&dir) {
            tracing::warn!(dir = %dir.display(), "cannot remove what an earlier run left: {error:#}");
        }
    }
}

/// The folders of the stacks that run now: the default one when it is used, and temporary ones.
pub(crate) fn running() -> Vec<PathBuf> {
    let temporary = std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    let temporary = temporary
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("swift-eats-"))
        .map(|entry| entry.path());
    std::iter::once(PathBuf::from(DEFAULT_FOLDER))
        .chain(temporary)
        .filter(|dir| {
            let lock = dir.join(LOCK);
            lock.symlink_metadata().is_ok_and(|meta| meta.is_file() && is_ours(&meta))
                && stores::is_taken(&lock)
        })
        .collect()
}

fn is_ours(meta: &std::fs::Metadata) -> bool {
    // What we create belongs to us, so our own uid is read from a file of ours.
    let own = tempfile::tempfile().and_then(|file| file.metadata());
    own.is_ok_and(|own| own.uid() == meta.uid())
}

fn remove_if_abandoned(dir: &Path) -> anyhow::Result<()> {
    let Some(_lock) = stores::take(&dir.join(LOCK))? else { return Ok(()) };
    let dir = dir.canonicalize()?;
    for entry in std::fs::read_dir(&dir)?.flatten() {
        if entry.path().is_dir() {
            stores::clean_up(&entry.path())?;
        }
    }
    remove_moved(&dir);
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// Removes the PostgreSQL data that could not be kept inside the temporary folder `dir`.
fn remove_moved(dir: &Path) {
    for name in ["postgres", "postgres-plain"] {
        if let Some(place) = stores::moved_data(&dir.join(name))
            && let Err(error) = std::fs::remove_dir_all(&place)
        {
            tracing::warn!(place = %place.display(), "cannot remove temporary data: {error}");
        }
    }
}
