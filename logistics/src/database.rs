//! The connections to PostgreSQL, by the kind of work: none of them can take those of another.

use platform::postgres::{self, Limits};
use sqlx::PgPool;

use crate::config::Config;

/// Connections of a worker's loops: the history's writer, the follower of orders and the relay
/// have one each, and one is spare for one that was given up.
pub(crate) const BACKGROUND: u32 = 4;
/// Retention and partitions have one, the newest positions at a start and the end of dead letters
/// the others.
const MAINTENANCE: u32 = 3;

/// A pool for each kind of work; clones share them.
#[derive(Debug, Clone)]
pub struct Database {
    /// Of requests and sockets.
    pub requests: PgPool,
    /// Of reads that look at a lot.
    pub reports: PgPool,
    /// Of the loops that move batches.
    pub background: PgPool,
    /// Of migrations, partitions and retention.
    pub maintenance: PgPool,
}

impl Database {
    /// Pools that share [`Config::database_connections`], maintenance apart.
    ///
    /// # Errors
    /// The URL is not valid.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let pool = |application: &str, connections, limits| {
            postgres::pool(&config.database_url, application, connections, limits)
        };
        let requests = config.database_connections - config.database_reports - BACKGROUND;
        Ok(Self {
            requests: pool("logistics", requests, Limits::requests(config.http.request_timeout))?,
            reports: pool("logistics reports", config.database_reports, Limits::REPORTS)?,
            background: pool("logistics background", BACKGROUND, Limits::BACKGROUND)?,
            maintenance: pool("logistics maintenance", MAINTENANCE, Limits::MAINTENANCE)?,
        })
    }

    /// One pool for all of it; for tools.
    pub fn of(pool: PgPool) -> Self {
        Self {
            requests: pool.clone(),
            reports: pool.clone(),
            background: pool.clone(),
            maintenance: pool,
        }
    }
}
