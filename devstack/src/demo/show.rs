//! What the viewer sees while the town runs: pictures in a terminal, lines anywhere else.

use std::{
    io::{self, Write as _},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    feed::{Ground, Marker},
    figures::{Figures, Snapshot},
    view::{Picture, View},
    words::{line, short},
};

/// A picture this often.
const PICTURE_EVERY: Duration = Duration::from_millis(200);
/// A line this often.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// How soon the first stored event is told.
const FIRST_WITHIN: Duration = Duration::from_millis(20);

/// What the town's tasks leave for the viewer.
pub(super) struct Stage {
    pub(super) title: String,
    pub(super) ground: Ground,
    pub(super) markers: Mutex<Vec<Marker>>,
    pub(super) phase: Mutex<&'static str>,
    pub(super) snapshot: Mutex<Snapshot>,
    pub(super) figures: std::sync::Arc<Figures>,
    /// When the demo was started.
    pub(super) started: Instant,
    /// When it ends by itself.
    pub(super) ends: Option<Instant>,
}

/// Draws until it is told to stop, then gives the terminal back.
pub(super) async fn pictures(
    stage: &Stage,
    mut view: View,
    stop: &CancellationToken,
) -> io::Result<()> {
    while !stop.is_cancelled() {
        let (snapshot, markers) = (stage.snapshot.lock().clone(), stage.markers.lock().clone());
        view.draw(&Picture {
            title: &stage.title,
            phase: *stage.phase.lock(),
            uptime: stage.started.elapsed(),
            left: stage.ends.map(|ends| ends.saturating_duration_since(Instant::now())),
            snapshot: &snapshot,
            figures: &stage.figures,
            ground: &stage.ground,
            markers: &markers,
        })?;
        pause(PICTURE_EVERY, stop).await;
    }
    Ok(())
}

/// Prints until it is told to stop.
pub(super) async fn lines(stage: &Stage, stop: &CancellationToken) -> io::Result<()> {
    writeln!(io::stdout(), "Swift Eats: {}", stage.title)?;
    let (mut next_line, mut told_first, mut seen) = (Instant::now() + LINE_EVERY, false, 0);
    let mut phase = *stage.phase.lock();
    while !stop.is_cancelled() {
        let now = *stage.phase.lock();
        if std::mem::replace(&mut phase, now) != now {
            writeln!(io::stdout(), "{now}")?;
        }
        let snapshot = stage.snapshot.lock().clone();
        if let Some(first) = snapshot.first_stored
            && !std::mem::replace(&mut told_first, true)
        {
            writeln!(io::stdout(), "first event stored {} after the start", short(first))?;
        }
        if Instant::now() >= next_line {
            next_line += LINE_EVERY;
            for note in stage.figures.notes_since(&mut seen) {
                writeln!(io::stdout(), "note: {note}")?;
            }
            let line = line(&snapshot, &stage.figures, stage.started.elapsed());
            writeln!(io::stdout(), "{line}")?;
        }
        pause(if told_first { LINE_EVERY / 10 } else { FIRST_WITHIN }, stop).await;
    }
    for note in stage.figures.notes_since(&mut seen) {
        writeln!(io::stdout(), "note: {note}")?;
    }
    Ok(())
}

async fn pause(time: Duration, stop: &CancellationToken) {
    let _ = stop.run_until_cancelled(tokio::time::sleep(time)).await;
}
