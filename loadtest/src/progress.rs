//! How a run is going: a bar on a terminal, a line every five seconds elsewhere; on stderr.

use std::{
    io::{IsTerminal as _, Write as _},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

use crate::send::Live;

/// A running display.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    task: JoinHandle<()>,
}

impl Progress {
    /// Shows `live` on the way to `total` events.
    pub fn of(total: u64, live: Arc<Live>) -> Self {
        let mut before = 0;
        Self::start(total, move |elapsed| {
            (live.issued.load(Ordering::Relaxed), line(&live, &mut before, elapsed))
        })
    }

    /// Shows how far it is on the way to `total`, and a line in words; both are asked for with the
    /// time since they were asked for last.
    pub fn start(
        total: u64,
        mut look: impl FnMut(Duration) -> (u64, String) + Send + 'static,
    ) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let bar = if is_terminal {
            let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  {elapsed}  {msg}");
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(5))
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        } else {
            ProgressBar::hidden()
        };
        let every = Duration::from_secs(if is_terminal { 1 } else { 5 });
        let shown = bar.clone();
        let task = tokio::spawn(async move {
            let mut then = Instant::now();
            loop {
                tokio::time::sleep(every).await;
                let (position, line) = look(then.elapsed());
                then = Instant::now();
                if is_terminal {
                    shown.set_position(position);
                    shown.set_message(line);
                } else {
                    let _nobody_reads = writeln!(std::io::stderr(), "{line}");
                }
            }
        });
        Self { bar, task }
    }

    /// Takes it away.
    pub fn finish(self) {
        self.task.abort();
        self.bar.finish_and_clear();
    }
}

fn line(live: &Live, before: &mut u64, elapsed: Duration) -> String {
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let (issued, accepted, rejected) =
        (read(&live.issued), read(&live.accepted), read(&live.rejected));
    let rate = (accepted - std::mem::replace(before, accepted)) as f64 / elapsed.as_secs_f64();
    let open = issued.saturating_sub(accepted + rejected);
    let repeated = read(&live.repeated);
    format!(
        "{rate:.0} accepted/s, {accepted} in all, {open} open, {rejected} refused, {repeated} repeated"
    )
}
