//! Promises broken on demand, so that the checks of `chaos` can be checked.
//!
//! Compiled in only with the feature `sabotage`, which nothing but `chaos sabotage` asks for. The
//! environment variable `SABOTAGE` names the promise that this process breaks; without it, it keeps
//! them all. Either way readers are slow between reading and storing, as they are at times in
//! reality: that is when the promises count. `no-invalidation` is in `coherence`.

use std::{sync::LazyLock, time::Duration};

use platform::redis::Connection;

/// Whether this process breaks the promise of that name.
pub(crate) fn is(name: &str) -> bool {
    static NAME: LazyLock<String> = LazyLock::new(|| std::env::var("SABOTAGE").unwrap_or_default());
    *NAME == name
}

/// A reader that was interrupted for a while.
pub(crate) async fn slow_reader() {
    tokio::time::sleep(Duration::from_millis(rand::random_range(0..30))).await;
}

/// `no-version`: memory takes in what is older than what was announced.
pub(crate) fn floor(floor: i64) -> i64 {
    if is("no-version") { 0 } else { floor }
}

/// `set-after-del`: stores what was read, whatever happened meanwhile. `no-lease`: stores it unless
/// something newer is there, which after an invalidation nothing is.
pub(crate) async fn fill(
    redis: &mut Connection,
    key: &str,
    value: &[u8],
    ttl_ms: u64,
) -> Option<bool> {
    if is("no-lease") {
        let there: Vec<u8> =
            redis::cmd("GETRANGE").arg(key).arg(0).arg(7).query_async(redis).await.ok()?;
        if there.len() == 8 && there[..] > value[..8] {
            return Some(false);
        }
    } else if !is("set-after-del") {
        return None;
    }
    let set = redis::cmd("SET").arg(key).arg(value).arg("PX").arg(ttl_ms).exec_async(redis).await;
    Some(set.is_ok())
}
