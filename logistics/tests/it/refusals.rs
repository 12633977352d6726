//! Rows that the history refuses, alone or all together, and which of them become dead letters.

use chrono::{DateTime, TimeDelta, Utc};
use contracts::streams::{HISTORY_GROUP, gps_stream};
use platform::stores::Timescaledb;
use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool};

use crate::{
    partitions::position,
    world::{World, until},
};

/// From here on the history answers rows for which `condition` holds with this SQLSTATE.
async fn refuse(db: &PgPool, condition: &str, code: &str) {
    // Unlike a row, a number that was taken from a sequence survives the refusal.
    let sql = format!(
        "CREATE SEQUENCE refusals;
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             PERFORM nextval('refusals');
             RAISE EXCEPTION 'refused by the test' USING ERRCODE = '{code}';
         END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON gps_positions
             FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION refuse();"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(db).await.unwrap();
}

async fn dead_letters(world: &World) -> serde_json::Value {
    world.get("/api/v1/dead-letters", &world.admin()).await.json()
}

async fn send(world: &World, drivers: std::ops::Range<i64>) {
    for driver_id in drivers {
        let path = format!("/api/v1/drivers/{driver_id}/location");
        let fix = json!({"latitude": 1.0, "longitude": 1.0});
        let answer = world.post(&path, &world.driver(driver_id), &fix).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
    }
}

#[tokio::test]
async fn a_row_that_meets_a_limit_of_the_server_is_a_dead_letter_and_stops_no_other() {
    // 53400: too much to decompress; 53200: out of memory or locks.
    for code in ["53400", "53200"] {
        let world = World::start_with(Timescaledb::Off, &[]).await;
        refuse(&world.db().await, "NEW.driver_id IN (7, 13)", code).await;
        send(&world, 1..20).await;
        world.until_stored(17).await;
        until("both are dead letters", async || dead_letters(&world).await["total"] == 2).await;
        let reason = dead_letters(&world).await["dead_letters"][0]["reason"].to_string();
        assert!(reason.contains("refused by the test"), "{reason}");
        until("everything is acknowledged", async || world.pending().await == 0).await;
        send(&world, 20..25).await;
        world.until_stored(22).await;
    }
}

#[tokio::test]
async fn a_server_that_is_at_its_limits_for_all_makes_no_dead_letters() {
    let world = World::start_with(Timescaledb::Off, &[]).await;
    let db = world.db().await;
    refuse(&db, "true", "53200").await;
    send(&world, 1..20).await;
    until("batches and pieces of them were refused", async || {
        let refusals: i64 =
            sqlx::query_scalar("SELECT last_value FROM refusals").fetch_one(&db).await.unwrap();
        refusals > 30
    })
    .await;
    sqlx::raw_sql("DROP TRIGGER refuse ON gps_positions").execute(&db).await.unwrap();
    world.until_stored(19).await;
    until("everything is acknowledged", async || world.pending().await == 0).await;
    assert_eq!(dead_letters(&world).await["total"], 0);
}

/// As when workers are ended in turn while the history hangs.
#[tokio::test]
async fn what_was_delivered_often_is_stored_all_the_same() {
    let mut world = World::start_with(Timescaledb::Off, &[]).await;
    world.stop_service().await;
    let now = Utc::now();
    world.add(&[1, 2, 3].map(|driver_id| position(driver_id, now))).await;
    let mut queue = world.queue_connection().await;
    let stream = gps_stream(0);
    let (_, entries): (redis::Value, Vec<(String, redis::Value)>) = {
        let read: Vec<(redis::Value, Vec<(String, redis::Value)>)> = redis::cmd("XREADGROUP")
            .arg("GROUP")
            .arg(HISTORY_GROUP)
            .arg("killed")
            .arg("STREAMS")
            .arg(&stream)
            .arg(">")
            .query_async(&mut queue)
            .await
            .unwrap();
        read.into_iter().next().unwrap()
    };
    assert_eq!(entries.len(), 3);
    for (id, _) in &entries {
        let _: redis::Value = redis::cmd("XCLAIM")
            .arg(&stream)
            .arg(HISTORY_GROUP)
            .arg("killed")
            .arg(0)
            .arg(id)
            .arg("IDLE")
            .arg(60_000)
            .arg("RETRYCOUNT")
            .arg(6)
            .query_async(&mut queue)
            .await
            .unwrap();
    }
    world.start_service().await;
    world.until_ready().await;
    world.until_stored(3).await;
    until("everything is acknowledged", async || world.pending().await == 0).await;
    assert_eq!(dead_letters(&world).await["total"], 0);
}

#[tokio::test]
async fn rows_of_long_ago_make_the_hours_they_need_and_no_others() {
    for timescaledb in [Timescaledb::Off, Timescaledb::Auto] {
        let world = World::start_with(timescaledb, &["--retention", "20000h"]).await;
        let db = world.db().await;
        let now = Utc::now();
        let days = |days: i64| -> DateTime<Utc> { now - TimeDelta::days(days) };
        world.add(&[position(1, days(400)), position(2, days(182)), position(3, now)]).await;
        world.until_stored(3).await;
        let tables: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_inherits WHERE inhparent = 'gps_positions'::regclass",
        )
        .fetch_one(&db)
        .await
        .unwrap();
        assert!(tables < 40, "{tables} partitions");
    }
}
