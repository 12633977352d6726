//! Questions that go together: are these copies right still?
//!
//! One round is under way at a time. What is asked for meanwhile goes with the next one, which
//! begins after it was asked for; so a round's answer is never older than the question. menu-api
//! answers a round from memory, at once, and says of which copies it is sure; about the others it
//! is asked one by one. So it is when a round fails, unless that took its whole time: then nothing
//! else would come in time either.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use contracts::ids::RestaurantId;
use platform::breaker::State;
use reqwest::StatusCode;
use rustc_hash::FxHashSet;
use serde::Deserialize;
use tokio::sync::oneshot;

use super::{Kept, Menus, Odd};

/// Copies in one round; menu-api takes no more.
const ROUND_MAX: usize = 200;
/// So many in one round mean that more come soon: the next one waits for them this long, as a
/// question costs nearly the same about one as about dozens.
const BUSY: (usize, Duration) = (3, Duration::from_millis(2));

/// menu-api does not answer.
pub(super) struct Unanswered;

/// Who waits for the next round.
#[derive(Default)]
pub(super) struct Rounds {
    waiting: Vec<Question>,
    is_running: bool,
}

struct Question {
    restaurant: RestaurantId,
    kept: Arc<Kept>,
    etag: String,
    answer: oneshot::Sender<Result<bool, Unanswered>>,
}

impl Menus {
    /// Whether a copy is known to be right at a moment after this call.
    pub(super) async fn confirm(
        &self,
        restaurant: RestaurantId,
        kept: Option<&Arc<Kept>>,
    ) -> Result<bool, Unanswered> {
        let Some(kept) = kept else { return Ok(false) };
        let etag = kept.etag.as_ref().and_then(|etag| etag.to_str().ok());
        let Some(etag) = etag.filter(|etag| !etag.contains(',')) else { return Ok(false) };
        let (sender, answer) = oneshot::channel();
        let kept = Arc::clone(kept);
        let question = Question { restaurant, kept, etag: etag.to_owned(), answer: sender };
        let begins = {
            let mut rounds = self.0.rounds.lock();
            // Behind a probe nobody waits.
            if rounds.is_running && self.0.breaker.state(Instant::now()) != State::Closed {
                return Err(Unanswered);
            }
            rounds.waiting.push(question);
            !std::mem::replace(&mut rounds.is_running, true)
        };
        if begins {
            tokio::spawn(self.clone().run_rounds());
        }
        answer.await.unwrap_or(Ok(false))
    }

    /// Rounds until nobody waits.
    async fn run_rounds(self) {
        loop {
            let round = {
                let mut rounds = self.0.rounds.lock();
                let count = rounds.waiting.len().min(ROUND_MAX);
                if count == 0 {
                    rounds.is_running = false;
                    return;
                }
                rounds.waiting.drain(..count).collect::<Vec<_>>()
            };
            let is_busy = round.len() >= BUSY.0;
            let asked_at = Instant::now();
            let unchanged = self.answer(&round).await;
            for Question { restaurant, kept, answer, .. } in round {
                let told = unchanged.as_ref().map(|unchanged| unchanged.contains(&restaurant));
                if told == Some(true) {
                    *kept.confirmed_at.lock() = asked_at;
                }
                // Whoever waited may be gone.
                let _gone = answer.send(told.ok_or(Unanswered));
            }
            if is_busy {
                tokio::time::sleep(BUSY.1).await;
            }
        }
    }

    /// Those of the round that are right; `None` when menu-api is as good as away.
    async fn answer(&self, round: &[Question]) -> Option<FxHashSet<RestaurantId>> {
        let error = match self.calling(self.unchanged(round)).await? {
            Ok(unchanged) => return Some(unchanged),
            Err(error) => error,
        };
        if !error.downcast_ref().is_some_and(reqwest::Error::is_timeout) {
            return Some(FxHashSet::default());
        }
        // As many as would have failed one by one.
        for _ in 1..round.len() {
            if let Ok(permit) = self.0.breaker.try_acquire(Instant::now()) {
                permit.failure(Instant::now());
            }
        }
        None
    }

    /// Asks once.
    async fn unchanged(&self, round: &[Question]) -> anyhow::Result<FxHashSet<RestaurantId>> {
        let copies: Vec<String> = round
            .iter()
            .map(|Question { restaurant, etag, .. }| format!("{restaurant}:{etag}"))
            .collect();
        let mut url = self.0.url.clone();
        url.set_path("/api/v1/menus/unchanged");
        url.query_pairs_mut().append_pair("copies", &copies.join(","));
        let response = self.0.http.get(url).send().await?;
        match response.status() {
            StatusCode::OK => {
                let answered: Answered = serde_json::from_slice(&response.bytes().await?)
                    .map_err(|_| Odd("an answer that is no list of menus"))?;
                Ok(answered.unchanged.into_iter().collect())
            }
            status if status.is_server_error() => anyhow::bail!("menu-api answered {status}"),
            // One that does not know the question is asked one by one.
            _ => Ok(FxHashSet::default()),
        }
    }
}

#[derive(Deserialize)]
struct Answered {
    unchanged: Vec<RestaurantId>,
}
