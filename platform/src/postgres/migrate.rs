//! Migrations, beside other builds, long readers and processes that end in the midst.
//!
//! - A migration that this build does not know was applied by a later one, and is no reason not to
//!   start: what a later build adds, an earlier one can live with (CONTRIBUTING, "Queries and
//!   migrations").
//! - Where nothing is to be applied no lock is taken, so that a start does not wait for another
//!   process's migration, which may wait for a reader.
//! - A migration without a transaction builds one index, concurrently. One that was interrupted
//!   leaves an index that is kept up and never used; it is dropped and built again.

use std::time::Duration;

use anyhow::Context as _;
use sqlx::{
    AssertSqlSafe, PgConnection, PgPool,
    migrate::{Migrate as _, MigrateError, Migration, Migrator},
};

/// The table in which sqlx notes what was applied.
const TABLE: &str = "_sqlx_migrations";
/// Between two tries to get the lock of migrations. Each try ends soon: building an index waits for
/// all transactions, also for one that waits for that build.
const LOCK_AGAIN_AFTER: Duration = Duration::from_millis(250);
/// The limit of one try; below PostgreSQL's `deadlock_timeout`, which is a second.
const LOCK_WAIT: &str = "SET lock_timeout = '200ms'";
/// Building an index takes its time, and nobody waits for it.
const WITHOUT_LIMIT: &str = "SET lock_timeout = 0; SET statement_timeout = 0";
const WITH_LIMITS: &str = "RESET lock_timeout; RESET statement_timeout";

/// Brings the database to this build's form.
///
/// # Errors
/// PostgreSQL is away, busy or refuses, or what was applied under a migration's number differs.
pub async fn migrate(migrator: &Migrator, pool: &PgPool) -> anyhow::Result<()> {
    let mut connection = pool.acquire().await.context("the database cannot be migrated")?;
    // Its settings and its lock end with it, however this ends.
    connection.close_on_drop();
    apply(migrator, &mut connection).await.context("the database cannot be migrated")
}

/// Refuses a database that lacks something of this build.
///
/// # Errors
/// PostgreSQL is away, or something is to be migrated.
pub async fn expect_migrated(migrator: &Migrator, pool: &PgPool) -> anyhow::Result<()> {
    let mut connection = pool.acquire().await?;
    let pending = pending(migrator, &mut connection).await?;
    anyhow::ensure!(
        pending.is_empty(),
        "{} migrations are to be applied, and this process is set not to: run `migrate` first",
        pending.len()
    );
    Ok(())
}

async fn apply(migrator: &Migrator, connection: &mut PgConnection) -> Result<(), MigrateError> {
    if pending(migrator, connection).await?.is_empty() {
        return Ok(());
    }
    lock(connection).await?;
    connection.ensure_migrations_table(TABLE).await?;
    for migration in pending(migrator, connection).await? {
        if migration.no_tx {
            let index = concurrent_index(migration)?;
            sqlx::raw_sql(WITHOUT_LIMIT).execute(&mut *connection).await?;
            drop_unfinished(connection, index).await?;
        }
        connection.apply(TABLE, migration).await?;
        sqlx::raw_sql(WITH_LIMITS).execute(&mut *connection).await?;
        tracing::info!(version = migration.version, name = %migration.description, "migrated");
    }
    connection.unlock().await
}

/// Returns the migrations that were not yet applied, in their order.
async fn pending<'a>(
    migrator: &'a Migrator,
    connection: &mut PgConnection,
) -> Result<Vec<&'a Migration>, MigrateError> {
    let all = migrator.iter().filter(|migration| !migration.migration_type.is_down_migration());
    let is_new: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NULL")
        .bind(TABLE)
        .fetch_one(&mut *connection)
        .await?;
    if is_new {
        return Ok(all.collect());
    }
    if let Some(version) = connection.dirty_version(TABLE).await? {
        return Err(MigrateError::Dirty(version));
    }
    let applied = connection.list_applied_migrations(TABLE).await?;
    let mut pending = Vec::new();
    for migration in all {
        match applied.iter().find(|applied| applied.version == migration.version) {
            None => pending.push(migration),
            Some(applied) if applied.checksum == migration.checksum => {}
            Some(_) => return Err(MigrateError::VersionMismatch(migration.version)),
        }
    }
    Ok(pending)
}

/// Takes sqlx's own lock, which earlier builds take too.
async fn lock(connection: &mut PgConnection) -> Result<(), MigrateError> {
    sqlx::raw_sql(LOCK_WAIT).execute(&mut *connection).await?;
    let mut is_told = false;
    loop {
        match connection.lock().await {
            Ok(()) => break,
            Err(MigrateError::Execute(error)) if is_lock_timeout(&error) => {}
            Err(error) => return Err(error),
        }
        if !std::mem::replace(&mut is_told, true) {
            tracing::info!("another process migrates the database, waiting for it");
        }
        tokio::time::sleep(LOCK_AGAIN_AFTER).await;
    }
    sqlx::raw_sql(WITH_LIMITS).execute(&mut *connection).await?;
    Ok(())
}

fn is_lock_timeout(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if error.code().as_deref() == Some("55P03"))
}

/// The index that a migration without a transaction builds.
fn concurrent_index(migration: &Migration) -> Result<&str, MigrateError> {
    const FORM: &str = "INDEX CONCURRENTLY IF NOT EXISTS ";
    let sql = migration.sql.as_str().trim_end().trim_end_matches(';');
    let index = sql.split_once(FORM).and_then(|(_, behind)| behind.split_whitespace().next());
    match index {
        Some(index) if !sql.contains(';') => Ok(index),
        _ => Err(MigrateError::Execute(sqlx::Error::Protocol(format!(
            "migration {} has no transaction and is not one CREATE {FORM}…",
            migration.version
        )))),
    }
}

/// Drops an index whose building was interrupted.
async fn drop_unfinished(connection: &mut PgConnection, index: &str) -> Result<(), MigrateError> {
    let is_unfinished: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass($1) AND NOT indisvalid)",
    )
    .bind(index)
    .fetch_one(&mut *connection)
    .await?;
    if is_unfinished {
        tracing::warn!(index, "an index was not finished, building it again");
        let drop = format!("DROP INDEX CONCURRENTLY {index}");
        sqlx::raw_sql(AssertSqlSafe(drop)).execute(connection).await?;
    }
    Ok(())
}
