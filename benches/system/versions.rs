//! Versions of the stores of `devstack exec`.

use platform::postgres::{self, Limits};
use secrecy::SecretString;

use crate::{observe, print};

/// `Redis 7.0.15, PostgreSQL 15.4, TimescaleDB 2.28.3`.
pub(crate) async fn show() -> anyhow::Result<()> {
    let url = SecretString::from(observe::var("REDIS_QUEUE_URL")?);
    let mut redis = platform::redis::client(&url)?.get_multiplexed_async_connection().await?;
    let info: String = redis::cmd("INFO").arg("server").query_async(&mut redis).await?;
    let redis = info.lines().find_map(|line| line.strip_prefix("redis_version:"));

    let url = SecretString::from(observe::var("LOGISTICS_DATABASE_URL")?);
    let db = postgres::pool(&url, "bench-system", 1, Limits::TOOL)?;
    let postgres: String = sqlx::query_scalar("SHOW server_version").fetch_one(&db).await?;
    let postgres = postgres.split(' ').next().unwrap_or(&postgres);
    // What CREATE EXTENSION would take, when the server has it loaded.
    let timescale: Option<String> = sqlx::query_scalar(
        "SELECT default_version FROM pg_available_extensions WHERE name = 'timescaledb'
            AND current_setting('shared_preload_libraries') LIKE '%timescaledb%'",
    )
    .fetch_optional(&db)
    .await?;
    let timescale = timescale.map_or("no TimescaleDB".to_owned(), |v| format!("TimescaleDB {v}"));
    let redis = redis.unwrap_or("of unknown version");
    print(&format!("Redis {redis}, PostgreSQL {postgres}, {timescale}\n"));
    Ok(())
}
