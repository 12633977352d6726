//! PostgreSQL that does not answer, and processes that hold what others need.

use std::time::{Duration, Instant};

use platform::{
    postgres::{self, Limits},
    stores::Timescaledb,
};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::world::{World, until};

/// Longer than a loop may be silent.
const HANG: Duration = Duration::from_secs(13);

/// One fix of a driver, which must be accepted.
async fn send(world: &World, driver_id: i64) {
    let fix = json!({"latitude": 1.0, "longitude": 1.0});
    let path = format!("/api/v1/drivers/{driver_id}/location");
    let answer = world.post(&path, &world.driver(driver_id), &fix).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
}

/// For how long a loop has been kept from its work. Its gauge is that of all worlds in this process.
async fn blocked_s(world: &World, name: &str) -> Option<u64> {
    world.get("/readyz", "").await.json()["blocked_s"][name].as_u64()
}

/// Checks `/readyz` while PostgreSQL hangs: always ready, with a fix accepted each time, and of
/// these dependencies at last that they are down.
async fn until_seen_and_longer(world: &World, dependencies: &[&str]) -> i64 {
    let (since, mut sent, mut seen) = (Instant::now(), 0, false);
    while since.elapsed() < HANG || !seen {
        let ready = world.get("/readyz", "").await;
        assert_eq!(ready.status, 200, "after {:?}: {}", since.elapsed(), ready.text());
        send(world, 100 + sent % 50).await;
        sent += 1;
        let ready = ready.json();
        seen = dependencies.iter().all(|name| ready["dependencies"][name]["status"] == "down");
        assert!(seen || since.elapsed() < 3 * HANG, "it is not seen: {ready}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    sent
}

async fn until_all_is_well(world: &World, rows: i64) {
    world.until_stored(rows).await;
    until("the dependencies are up", async || {
        let ready = world.get("/readyz", "").await.json();
        ["history", "database"].iter().all(|name| ready["dependencies"][name]["status"] == "up")
    })
    .await;
    assert_eq!(blocked_s(world, "history writer").await, None);
    until("everything is acknowledged", async || world.pending().await == 0).await;
}

#[tokio::test]
async fn postgresql_that_is_frozen_makes_nobody_unready_and_is_seen() {
    let world = World::start().await;
    send(&world, 1).await;
    world.until_stored(1).await;
    world.postgres.suspend();
    let sent = until_seen_and_longer(&world, &["history", "database"]).await;
    assert!(blocked_s(&world, "history writer").await.is_some_and(|blocked| blocked >= 3));
    world.postgres.resume();
    until_all_is_well(&world, 1 + sent).await;
}

#[tokio::test]
async fn postgresql_that_is_frozen_within_a_statement_makes_nobody_unready_and_is_seen() {
    let world = World::start().await;
    let db = world.db().await;
    let mut tx = db.begin().await.unwrap();
    sqlx::query("LOCK TABLE gps_positions IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *tx)
        .await
        .unwrap();
    send(&world, 1).await;
    until("the writer waits for the lock", async || waiting(&db, "logistics background").await > 0)
        .await;
    world.postgres.suspend();
    let sent = until_seen_and_longer(&world, &["history", "database"]).await;
    world.postgres.resume();
    // The server may have ended it by now.
    let _ = tx.rollback().await;
    until_all_is_well(&world, 1 + sent).await;
}

#[tokio::test]
async fn a_lock_that_is_held_long_is_seen_and_makes_nobody_unready() {
    let world = World::start().await;
    let mut holder = PgConnection::connect(&world.postgres.url("logistics")).await.unwrap();
    let mut tx = holder.begin().await.unwrap();
    sqlx::query("LOCK TABLE gps_positions IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *tx)
        .await
        .unwrap();
    let sent = until_seen_and_longer(&world, &["history"]).await;
    tx.rollback().await.unwrap();
    until_all_is_well(&world, sent).await;
}

/// Statements of this application that wait for a lock.
async fn waiting(db: &PgPool, application: &str) -> i64 {
    sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity
         WHERE application_name = $1 AND wait_event_type = 'Lock'",
    )
    .bind(application)
    .fetch_one(db)
    .await
    .unwrap()
}

/// A transaction as a worker that froze has left it: on a connection with its settings, with a row
/// of driver 7 inserted.
async fn frozen_worker(world: &World) -> (PgPool, sqlx::Transaction<'static, sqlx::Postgres>) {
    world.until_room().await;
    let url = world.postgres.url("logistics").into();
    let pool = postgres::pool(&url, "frozen", 1, Limits::BACKGROUND).unwrap();
    let mut tx = pool.begin().await.unwrap();
    sqlx::query(
        "INSERT INTO gps_positions (driver_id, recorded_at, event_id, seq, lat_e7, lon_e7,
                                    received_at)
         VALUES (7, date_trunc('second', now()), 1, 0, 0, 0, now())",
    )
    .execute(&mut *tx)
    .await
    .unwrap();
    (pool, tx)
}

/// Sends the row that the frozen worker holds and one of another driver, whose way must get there.
async fn others_go_on(world: &World, recorded_at: &Value) {
    let fix = json!({"latitude": 1.0, "longitude": 1.0, "recorded_at": recorded_at,
                     "event_id": "0000000000000001"});
    let answer = world.post("/api/v1/drivers/7/location", &world.driver(7), &fix).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    send(world, 8).await;
    until("the history of others goes on", async || {
        let route = world.get("/api/v1/drivers/8/route", &world.driver(8)).await;
        route.status == 200 && route.json()["locations"].as_array().unwrap().len() == 1
    })
    .await;
    until("both are stored once", async || world.stored().await == 2).await;
}

async fn time_of_the_row(tx: &mut PgConnection) -> Value {
    let at: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar("SELECT recorded_at FROM gps_positions WHERE driver_id = 7")
            .fetch_one(tx)
            .await
            .unwrap();
    json!(at)
}

#[tokio::test]
async fn a_worker_frozen_between_its_statements_does_not_stop_the_history_of_others() {
    let world = World::start().await;
    let (_pool, mut tx) = frozen_worker(&world).await;
    let recorded_at = time_of_the_row(&mut tx).await;
    others_go_on(&world, &recorded_at).await;
}

#[tokio::test]
async fn a_worker_frozen_within_its_copy_does_not_stop_the_history_of_others() {
    let world = World::start_with(Timescaledb::Off, &[]).await;
    let (_pool, mut tx) = frozen_worker(&world).await;
    let recorded_at = time_of_the_row(&mut tx).await;
    let copy = tx.copy_in_raw("COPY gps_positions FROM STDIN (FORMAT binary)").await.unwrap();
    others_go_on(&world, &recorded_at).await;
    drop(copy);
}

#[tokio::test]
async fn a_process_frozen_in_a_delivery_does_not_stop_it_nor_anybody_else() {
    let world = World::start().await;
    let admin = world.admin();
    let driver = json!({"driver_id": 7, "vehicle": "scooter", "capacity": 2});
    let registered = world.post("/api/v1/drivers", &admin, &driver).await;
    assert!(registered.status < 300, "{}", registered.text());
    world.until_room().await;
    let url = world.postgres.url("logistics").into();
    let pool = postgres::pool(&url, "frozen", 1, Limits::BACKGROUND).unwrap();
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("SELECT FROM drivers WHERE driver_id = 7 FOR UPDATE")
        .execute(&mut *tx)
        .await
        .unwrap();
    let online = json!({"state": "online"});
    let token = world.driver(7);
    let path = "/api/v1/drivers/7/status";
    // More than there are connections for requests.
    let waiting = (0..40).map(|_| world.put(path, &token, &online));
    for answer in futures_util::future::join_all(waiting).await {
        assert!([200, 503, 504].contains(&answer.status), "{}", answer.text());
    }
    until("it can be changed again", async || world.put(path, &token, &online).await.status == 200)
        .await;
    assert_eq!(world.get("/api/v1/drivers", &admin).await.status, 200);
    drop(tx);
}

#[tokio::test]
async fn a_request_that_is_given_up_leaves_no_statement_behind() {
    let world = World::start_with(Timescaledb::Auto, &["--http-request-timeout", "1s"]).await;
    let db = world.db().await;
    let mut holder = PgConnection::connect(&world.postgres.url("logistics")).await.unwrap();
    let mut tx = holder.begin().await.unwrap();
    sqlx::query("LOCK TABLE drivers IN ACCESS EXCLUSIVE MODE").execute(&mut *tx).await.unwrap();
    let token = world.driver(7);
    let asking = (0..4).map(|_| world.get("/api/v1/drivers/7", &token));
    let (answers, ()) = tokio::join!(
        futures_util::future::join_all(asking),
        until("they wait", async || waiting(&db, "logistics").await > 0)
    );
    for answer in answers {
        assert!([503, 504].contains(&answer.status), "{}", answer.text());
    }
    // A client that goes away.
    tokio::select! {
        answer = world.get("/api/v1/drivers/7", &token) => panic!("{answer:?}"),
        () = until("it waits", async || waiting(&db, "logistics").await > 0) => {}
    }
    until("nothing waits", async || waiting(&db, "logistics").await == 0).await;
    // The lock was there all the while.
    sqlx::query("SELECT count(*) FROM drivers").execute(&mut *tx).await.unwrap();
    tx.rollback().await.unwrap();
    until("the next is answered", async || {
        world.get("/api/v1/drivers/7", &token).await.status == 404
    })
    .await;
}

#[tokio::test]
async fn reports_of_one_driver_starve_nobody() {
    let world = World::start().await;
    world.until_room().await;
    // An hour's sum of so many takes a while.
    sqlx::query(
        "INSERT INTO gps_positions (driver_id, recorded_at, event_id, seq, lat_e7, lon_e7,
                                    received_at)
         SELECT 7, date_trunc('hour', now()) + n * interval '1 ms', n, 0, n, n, now()
         FROM generate_series(1, 100000) n",
    )
    .execute(&world.db().await)
    .await
    .unwrap();
    let (own, admin) = (world.driver(7), world.admin());
    let reports = (0..64).map(|n| {
        let path = if n % 2 == 0 { "/api/v1/drivers/7/hours" } else { "/api/v1/drivers/7/route" };
        world.get(path, &own)
    });
    let mut done = false;
    let (answers, ()) = tokio::join!(
        async {
            let answers = futures_util::future::join_all(reports).await;
            done = true;
            answers
        },
        async {
            for driver_id in 100..110 {
                assert_eq!(world.get("/api/v1/drivers", &admin).await.status, 200);
                let other = world.get("/api/v1/drivers/8/hours", &world.driver(8)).await;
                assert_eq!(other.status, 200, "{}", other.text());
                send(&world, driver_id).await;
            }
            world.until_stored(100_010).await;
        }
    );
    assert!(done);
    let of = |status: u16| answers.iter().filter(|answer| answer.status == status).count();
    assert!(of(200) > 0, "none is answered");
    assert_eq!(of(200) + of(429), 64, "{:?}", answers.iter().map(|a| a.status).collect::<Vec<_>>());
    let busy = answers.iter().find(|answer| answer.status == 429);
    assert!(busy.is_none_or(|answer| answer.headers.contains_key("retry-after")));
}
