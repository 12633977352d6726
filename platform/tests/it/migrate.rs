//! Migrations beside other builds, other processes, and after a process that ended in the midst.

use std::{path::Path, time::Duration};

use platform::{
    postgres::{self, Limits},
    stores::{PostgresOptions, PostgresServer, Timescaledb},
};
use sqlx::{
    PgPool,
    migrate::{Migrate as _, Migrator},
};
use tempfile::TempDir;

use crate::kit::DEADLINE;

struct World {
    postgres: PostgresServer,
    dir: TempDir,
}

impl World {
    async fn start() -> Self {
        let dir = platform::stores::temp_dir().unwrap();
        let options = PostgresOptions { timescaledb: Timescaledb::Off };
        let postgres = PostgresServer::start(&dir.path().join("postgres"), options).await.unwrap();
        postgres.create_database("things").await.unwrap();
        Self { postgres, dir }
    }

    fn db(&self) -> PgPool {
        postgres::pool(&self.postgres.url("things").into(), "test", 4, Limits::MAINTENANCE).unwrap()
    }

    /// A build with these migrations, in their order.
    async fn build(&self, name: &str, migrations: &[&str]) -> Migrator {
        let dir = self.dir.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        for (sql, version) in migrations.iter().zip(1..) {
            std::fs::write(dir.join(format!("{version:04}_step.sql")), sql).unwrap();
        }
        Migrator::new(Path::new(&dir)).await.unwrap()
    }
}

const TABLE: &str = "CREATE TABLE things (id bigint PRIMARY KEY, name text)";
const EXPAND: &str = "ALTER TABLE things ADD COLUMN colour text";
const INDEX: &str = "-- no-transaction\n\
                     CREATE INDEX CONCURRENTLY IF NOT EXISTS things_by_name ON things (name);\n";

async fn indexes(db: &PgPool) -> Vec<(String, bool)> {
    sqlx::query_as(
        "SELECT c.relname::text, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
         WHERE i.indrelid = 'things'::regclass AND NOT i.indisprimary",
    )
    .fetch_all(db)
    .await
    .unwrap()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting)
        .await
        .unwrap_or_else(|_| panic!("in vain until {what}"));
}

#[tokio::test]
async fn the_build_before_starts_on_the_schema_of_the_build_after() {
    let world = World::start().await;
    let before = world.build("before", &[TABLE]).await;
    let after = world.build("after", &[TABLE, EXPAND]).await;
    let other = world.build("other", &["CREATE TABLE others ()"]).await;
    let db = world.db();
    for build in [&before, &after, &before, &after] {
        postgres::migrate(build, &db).await.unwrap();
    }
    sqlx::query("INSERT INTO things (id, name, colour) VALUES (1, 'a', 'red')")
        .execute(&db)
        .await
        .unwrap();
    postgres::expect_migrated(&after, &db).await.unwrap();
    // What was applied under a number is what this build has under it.
    let error = postgres::migrate(&other, &db).await.unwrap_err();
    assert!(
        format!("{error:#}").contains("was previously applied but has been modified"),
        "{error:#}"
    );
}

#[tokio::test]
async fn where_nothing_is_to_be_applied_no_other_process_is_waited_for() {
    let world = World::start().await;
    let (before, after) =
        (world.build("before", &[TABLE]).await, world.build("after", &[TABLE, EXPAND]).await);
    let db = world.db();
    postgres::migrate(&before, &db).await.unwrap();
    assert!(postgres::expect_migrated(&after, &db).await.is_err());
    let mut busy = db.acquire().await.unwrap();
    busy.lock().await.unwrap();
    tokio::time::timeout(DEADLINE, postgres::migrate(&before, &db)).await.unwrap().unwrap();
    // Where something is, the other process goes first.
    let waiting = tokio::spawn({
        let db = db.clone();
        async move { postgres::migrate(&after, &db).await }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!waiting.is_finished());
    busy.unlock().await.unwrap();
    tokio::time::timeout(DEADLINE, waiting).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn an_index_that_was_not_finished_is_built_again() {
    let world = World::start().await;
    let (before, after) =
        (world.build("before", &[TABLE]).await, world.build("after", &[TABLE, INDEX]).await);
    let db = world.db();
    postgres::migrate(&before, &db).await.unwrap();
    // Building waits for whoever has written before it began.
    let mut writer = db.begin().await.unwrap();
    sqlx::query("INSERT INTO things VALUES (1, 'a')").execute(&mut *writer).await.unwrap();
    let building = tokio::spawn({
        let (db, after) = (db.clone(), world.build("interrupted", &[TABLE, INDEX]).await);
        async move { postgres::migrate(&after, &db).await }
    });
    until("the index is being built", async || indexes(&db).await.len() == 1).await;
    building.abort();
    until("nobody builds it any more", async || {
        let building: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE query LIKE '%CREATE INDEX CONCURRENTLY%' AND pid <> pg_backend_pid()
                   AND state = 'active'",
        )
        .fetch_one(&db)
        .await
        .unwrap();
        building == 0
    })
    .await;
    writer.rollback().await.unwrap();
    assert_eq!(indexes(&db).await, [("things_by_name".to_owned(), false)]);

    // Several processes start at once.
    let (first, second, third) = tokio::join!(
        postgres::migrate(&after, &db),
        postgres::migrate(&after, &db),
        postgres::migrate(&after, &db),
    );
    first.and(second).and(third).unwrap();
    assert_eq!(indexes(&db).await, [("things_by_name".to_owned(), true)]);
}

#[tokio::test]
async fn a_migration_without_a_transaction_builds_one_index() {
    let world = World::start().await;
    let build = world.build("bad", &[TABLE, "-- no-transaction\nDROP TABLE things"]).await;
    let error = postgres::migrate(&build, &world.db()).await.unwrap_err();
    assert!(format!("{error:#}").contains("is not one CREATE INDEX CONCURRENTLY"), "{error:#}");
}
