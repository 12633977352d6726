//! The wish to end, from the terminal or from the parent.

use std::{
    os::unix::process::parent_id,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// One wish to end may arrive twice: from the terminal and through the parent.
const SAME_SIGNAL_WITHIN: Duration = Duration::from_millis(500);

/// The first SIGINT or SIGTERM cancels `stop`; a later one, or one that came because the parent
/// with the services has died, cancels `abandon`.
pub(super) fn obey(stop: CancellationToken, abandon: CancellationToken) -> anyhow::Result<()> {
    let listen = |kind| signal(kind).context("cannot listen to signals");
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let parent = parent_id();
    tokio::spawn(async move {
        let mut first = None::<Instant>;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            let again = first.is_some_and(|first| first.elapsed() > SAME_SIGNAL_WITHIN);
            if again || parent_id() != parent {
                abandon.cancel();
            }
            first.get_or_insert_with(Instant::now);
            stop.cancel();
        }
    });
    Ok(())
}
