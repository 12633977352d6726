//! Promises broken on demand and places where a process dies, so that the checks of `chaos` can be
//! checked.
//!
//! Compiled in only with the feature `sabotage`. The environment variable `SABOTAGE` names the
//! promise that this process breaks; `DIE_AT` = `PLACE:N` kills it, as `kill -9` does, when it comes
//! to that place for the N-th time.

use std::sync::{
    LazyLock,
    atomic::{AtomicU64, Ordering},
};

/// Whether this process breaks the promise of that name.
pub fn is(name: &str) -> bool {
    static NAME: LazyLock<String> = LazyLock::new(|| std::env::var("SABOTAGE").unwrap_or_default());
    *NAME == name
}

/// The process may have to die here.
pub fn point(place: &str) {
    static DIE_AT: LazyLock<Option<(String, u64)>> = LazyLock::new(|| {
        let wanted = std::env::var("DIE_AT").ok()?;
        let (place, n) = wanted.split_once(':')?;
        Some((place.to_owned(), n.parse().ok()?))
    });
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let Some((wanted, n)) = &*DIE_AT else { return };
    if wanted == place && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *n {
        eprintln!("dies at {place}:{n}");
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // Nothing after this place may happen, also not in the moment until the signal is there.
        loop {
            std::thread::park();
        }
    }
}
