//! Hungry people: customers look at lists, menus and statuses, operators sell items out, and every
//! answer is checked (I10).
//!
//! [`restaurants`] makes what there is to eat and tells it to the service, while the first fixes
//! are on their way already; [`visits`] asks and writes, and hands every answer to the checker of
//! `loadtest menu`, which knows what it may say; [`figures`] counts.

pub(super) mod figures;
mod restaurants;
mod visits;

use std::{sync::Arc, time::Duration};

use loadtest::{
    client::Target,
    menu::{Document, check::Findings},
    pace::{Clock, even_due_us},
};
use platform::auth::Signer;
use secrecy::SecretString;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::visits::{Errand, Town};
use super::{
    figures::{Figures, count, read},
    orders::Kitchens,
};
use crate::city::plane::Spot;

/// Errands under way at once; those that find so many are given up.
const AT_ONCE_MAX: usize = 256;
/// How long the last look at what was written may take.
const LAST_LOOK_WITHIN: Duration = Duration::from_secs(10);

/// What became of it.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// Nobody was to look around.
    Off,
    /// It ended before there was anything to eat, so there is nothing to judge.
    TooShort,
    /// What the check found.
    Checked(Findings),
    /// Why nobody could ask.
    Failed(String),
}

/// Everything that customers and operators need to begin.
pub(super) struct Menus {
    /// Menu-api.
    pub(super) target: Target,
    /// Its database, for the import.
    pub(super) database_url: SecretString,
    pub(super) signer: Arc<Signer>,
    pub(super) figures: Arc<Figures>,
    /// Errands per second; with 0 nobody looks around, and customers still order.
    pub(super) rate: f64,
    pub(super) seed: u64,
    /// Where the town's restaurants are; without any they stay where they were generated.
    pub(super) spots: Vec<Spot>,
    /// Told where there is something to eat.
    pub(super) kitchens: watch::Sender<Option<Arc<Kitchens>>>,
}

impl Menus {
    /// Runs until `stop`, then looks a last time; `abandon` ends that too.
    pub(super) async fn run(self, stop: CancellationToken, abandon: &CancellationToken) -> Outcome {
        // A task of its own: the town's is busy with fixes.
        match abandon.run_until_cancelled(tokio::spawn(self.live(stop))).await {
            None => Outcome::TooShort,
            Some(Ok(outcome)) => outcome,
            Some(Err(error)) => Outcome::Failed(format!("the customers broke down: {error}")),
        }
    }

    async fn live(self, stop: CancellationToken) -> Outcome {
        let Self { target, database_url, signer, figures, rate, seed, spots, kitchens } = self;
        let opening = async {
            restaurants::import(&database_url, seed, spots.clone()).await?;
            restaurants::learn(&target, &signer, seed, &spots).await
        };
        let (world, mut open) = match stop.run_until_cancelled(opening).await {
            None if rate <= 0.0 => return Outcome::Off,
            None => return Outcome::TooShort,
            Some(Ok(opened)) => opened,
            Some(Err(error)) => {
                figures.note(format!("menus: {error:#}"));
                return Outcome::Failed(format!("{error:#}"));
            }
        };
        if rate <= 0.0 {
            kitchens.send_replace(Some(Arc::new(open)));
            return Outcome::Off;
        }
        count(&figures.menus.restaurants, world.ids.len());
        let town = Arc::new(Town::new(target, world, seed, figures));
        let checked = Arc::clone(&town);
        open.rated = Some(Box::new(move |restaurant| checked.rated(restaurant)));
        kitchens.send_replace(Some(Arc::new(open)));
        browse(&town, rate, &stop).await;
        look_last(&town).await;
        Outcome::Checked(town.findings())
    }
}

/// Sends errands when they are due, and waits for the last answers.
async fn browse(town: &Arc<Town>, rate: f64, stop: &CancellationToken) {
    let (tasks, clock) = (TaskTracker::new(), Clock::start());
    for n in 0.. {
        // The timer's resolution is a millisecond: what is nearer goes now.
        match even_due_us(n, rate).saturating_sub(clock.now_us()) {
            ..500 => tokio::task::yield_now().await,
            wait_us => {
                let wait = tokio::time::sleep(Duration::from_micros(wait_us));
                let _ = stop.run_until_cancelled(wait).await;
            }
        }
        if stop.is_cancelled() {
            break;
        }
        if tasks.len() >= AT_ONCE_MAX {
            count(&town.figures.menus.failed, 1);
            town.figures.note(format!("menus: {AT_ONCE_MAX} requests wait, one was given up"));
        } else if let Some(errand) = town.next() {
            let town = Arc::clone(town);
            tasks.spawn(async move { town.run(errand).await });
        }
    }
    tasks.close();
    // An exchange ends by itself within seconds.
    tasks.wait().await;
}

/// Once all is quiet, every document of every restaurant that is written to, with its content: an
/// old copy that nobody has asked for since would be missed otherwise.
async fn look_last(town: &Town) {
    let look = async {
        for restaurant in town.written() {
            for document in Document::ALL {
                let thorough = true;
                town.run(Errand::Read { restaurant, document, revalidate: false, thorough }).await;
            }
        }
    };
    let failed = read(&town.figures.menus.failed);
    let ended = tokio::time::timeout(LAST_LOOK_WITHIN, look).await;
    if ended.is_err() || read(&town.figures.menus.failed) > failed {
        town.figures.note("menus: not everything could be looked at a last time".into());
    }
}
