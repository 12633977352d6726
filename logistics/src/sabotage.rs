//! Promises broken on demand, so that the checks of `chaos` can be checked.
//!
//! Compiled in only with the feature `sabotage`, which nothing but `chaos sabotage` asks for. The
//! environment variable `SABOTAGE` names the promise that this process breaks; without it, it keeps
//! them all. Where a hook is nothing but a condition it asks [`is`]: `reply-first` in `ingest`,
//! `no-resend` in `live`.

use std::sync::LazyLock;

use contracts::streams::HISTORY_GROUP;
use platform::{
    redis::Redis,
    stream::{Acker, Entry},
};
use redis::Pipeline;
use sqlx::PgConnection;

/// Whether this process breaks the promise of that name.
pub(crate) fn is(name: &str) -> bool {
    static NAME: LazyLock<String> = LazyLock::new(|| std::env::var("SABOTAGE").unwrap_or_default());
    *NAME == name
}

/// `ack-first`: acknowledges entries that are not written yet.
pub(crate) async fn ack_first(acker: &mut Acker, entries: &[Entry]) {
    if is("ack-first") {
        // Whether this one works shows in what is lost.
        let _ = acker.ack(entries).await;
    }
}

/// `no-ack`: forgets the last of what is to be acknowledged.
pub(crate) fn acknowledged(entries: &[Entry]) -> &[Entry] {
    if is("no-ack") { entries.split_last().map_or(&[], |(_, rest)| rest) } else { entries }
}

/// `group-at-end`: creates groups behind what waits in their streams.
pub(crate) async fn group_at_end(queue: &Redis, streams: &[String]) {
    if !is("group-at-end") {
        return;
    }
    let Ok(mut queue) = queue.connection() else { return };
    for stream in streams {
        let mut create = redis::cmd("XGROUP");
        create.arg("CREATE").arg(stream).arg(HISTORY_GROUP).arg("$").arg("MKSTREAM");
        // A group that exists stays as it is.
        let _ = create.query_async::<()>(&mut queue).await;
    }
}

/// `maxlen`: limits streams by length, whether or not somebody has read them. Comes between the
/// stream's name and the entry's id.
pub(crate) fn maxlen(append: &mut Pipeline) {
    if is("maxlen") {
        append.arg("MAXLEN").arg("~").arg(100);
    }
}

/// `no-key`: leaves the history without its unique key.
pub(crate) async fn no_key(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    if is("no-key") {
        sqlx::raw_sql(
            "ALTER TABLE gps_positions DROP CONSTRAINT IF EXISTS gps_positions_pkey;
             CREATE INDEX IF NOT EXISTS gps_positions_no_key
                 ON gps_positions (driver_id, recorded_at, event_id)",
        )
        .execute(connection)
        .await?;
    }
    Ok(())
}

/// `live-old-wins`: the script without its comparison.
pub(crate) fn live_script(text: &str) -> String {
    const COMPARISON: &str = "not current[i] or newer(positions, at + 8, current[i])";
    assert!(text.contains(COMPARISON), "the script compares in other words now");
    if is("live-old-wins") { text.replace(COMPARISON, "true") } else { text.to_owned() }
}

/// `no-reload`: positions that were loaded after a gap are thrown away.
pub(crate) fn loaded(positions: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    if is("no-reload") { Vec::new() } else { positions }
}

/// `panic`: checking a fix far in the north panics.
pub(crate) fn panic_at(latitude: f64) {
    assert!(!is("panic") || latitude < 89.0, "sabotage");
}
