//! The flow `menu`: customers look for restaurants and read their menus.

use std::{rc::Rc, time::Duration};

use anyhow::Context as _;
use futures_util::future::LocalBoxFuture;
use rand::{Rng as _, seq::IndexedRandom as _};
use rustc_hash::FxHashMap;
use serde::Deserialize;

use super::{Flow, Turn, User};
use crate::{
    menu::{
        Document, What,
        body::{self, Prefix},
        lists::queries,
        popularity::Zipf,
    },
    run::{
        agent::{Agent, Call, Endpoint},
        file::{Share, Span},
        metrics::Name,
        state::Run,
        target::Service,
        town::list,
    },
};

/// Restaurants that are read, at most.
const RESTAURANTS_MAX: usize = 1_000;
/// Different searches.
const QUERIES: usize = 1_000;
/// Documents that one customer remembers.
const REMEMBERED_MAX: usize = 1_000;

/// Settings of the flow `menu`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::run) struct Settings {
    /// Which documents: mix, menu, restaurant, status, menu-with-status.
    what: What,
    /// Documents of an iteration.
    documents: u32,
    /// Searches before them.
    lists: u32,
    /// How many of the documents that are known are asked for by their ETag.
    revalidate: Share,
    /// Popularity by Zipf's law with this exponent; 0 makes all restaurants alike.
    zipf: f64,
    /// Between two requests.
    think: Span,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            what: What::Mix,
            documents: 3,
            lists: 1,
            revalidate: Share(0.3),
            zipf: 1.0,
            think: Span(Duration::ZERO),
        }
    }
}

impl Settings {
    /// Whether they go together.
    ///
    /// # Errors
    /// What does not.
    pub(in crate::run) fn check(&self) -> Result<(), String> {
        let documents = if self.what == What::List { 0 } else { self.documents };
        if documents.saturating_add(self.lists) == 0 {
            return Err("there is neither a list nor a document to read".into());
        }
        if !(0.0..=10.0).contains(&self.zipf) {
            return Err("zipf is 0 to 10".into());
        }
        Ok(())
    }
}

/// The flow.
pub(in crate::run) struct Menus(Rc<Shared>);

struct Shared {
    settings: Settings,
    restaurants: Vec<i64>,
    popularity: Zipf,
    queries: Vec<Box<str>>,
    list: Endpoint,
    documents: [Endpoint; 4],
    answers: Name,
    asked: Name,
    forward: Name,
}

pub(in crate::run) async fn prepare(settings: &Settings, run: &Rc<Run>) -> anyhow::Result<Menus> {
    let (town, mut agent) = (run.town(), run.outsider());
    if run.script.town.makes_restaurants() {
        town.open(run, &mut agent).await?;
    }
    let known = list(run, &mut agent, RESTAURANTS_MAX).await?;
    anyhow::ensure!(!known.is_empty(), "there is no restaurant");
    let count = u32::try_from(known.len()).context("too many restaurants")?;
    let document = |document: Document| {
        run.endpoint(Service::Menu, "GET", &format!("/restaurants/{{id}}{}", document.suffix()))
    };
    Ok(Menus(Rc::new(Shared {
        settings: settings.clone(),
        restaurants: known.iter().map(|one| one.restaurant_id).collect(),
        popularity: Zipf::new(count, settings.zipf),
        queries: queries(&known, QUERIES, run.script.seed),
        list: run.endpoint(Service::Menu, "GET", "/restaurants"),
        documents: Document::ALL.map(document),
        answers: run.name("status is 200 or 304"),
        asked: run.name("it is the restaurant that was asked for"),
        forward: run.name("version does not go back"),
    })))
}

impl Flow for Menus {
    fn user(&self, agent: Agent) -> Box<dyn User> {
        Box::new(Reader { agent, shared: Rc::clone(&self.0), seen: FxHashMap::default() })
    }
}

/// What a customer has seen of a document.
struct Seen {
    etag: String,
    version: i64,
}

struct Reader {
    agent: Agent,
    shared: Rc<Shared>,
    seen: FxHashMap<(i64, Document), Seen>,
}

impl User for Reader {
    fn agent(&mut self) -> &mut Agent {
        &mut self.agent
    }

    fn iterate(&mut self, _turn: Turn) -> LocalBoxFuture<'_, ()> {
        Box::pin(async move {
            let shared = Rc::clone(&self.shared);
            let settings = &shared.settings;
            let documents = settings.what.documents();
            let reads = if documents.is_empty() { 0 } else { settings.documents };
            for n in 0..settings.lists.saturating_add(reads) {
                if n > 0 && !settings.think.0.is_zero() && !self.agent.pause(settings.think.0).await
                {
                    return;
                }
                if n < settings.lists {
                    self.search().await;
                } else if let Some(document) = documents.choose(&mut self.agent.random) {
                    self.read(*document).await;
                }
            }
        })
    }
}

impl Reader {
    async fn search(&mut self) {
        let at = self.agent.random.random_range(0..self.shared.queries.len());
        let path = format!("/api/v1/restaurants{}", self.shared.queries[at]);
        let answer = self.agent.send(&Call::new(self.shared.list, &path), |_, _| {}).await;
        self.agent.check(self.shared.answers, answer.status == 200);
    }

    async fn read(&mut self, document: Document) {
        let rank = self.shared.popularity.pick(&mut self.agent.random);
        let id = self.shared.restaurants[rank as usize];
        let asks_again = self.agent.random.random_bool(self.shared.settings.revalidate.0);
        let known = self.seen.get(&(id, document));
        let tag = known.filter(|seen| asks_again && !seen.etag.is_empty());
        let tag = tag.map(|seen| seen.etag.clone());
        let headers = tag.as_deref().map(|tag| ("if-none-match", tag));
        let path = format!("/api/v1/restaurants/{id}{}", document.suffix());
        let call = Call {
            headers: headers.as_slice(),
            ..Call::new(self.shared.documents[document as usize], &path)
        };
        let mut etag = String::new();
        let answer = self
            .agent
            .send(&call, |name, value| {
                if name.eq_ignore_ascii_case("etag") {
                    etag = String::from_utf8_lossy(value).into_owned();
                }
            })
            .await;
        let is_answer = answer.status == 200 || (answer.status == 304 && tag.is_some());
        self.agent.check(self.shared.answers, is_answer);
        if answer.status == 200 {
            self.judge(id, document, etag);
        }
    }

    fn judge(&mut self, id: i64, document: Document, etag: String) {
        let Some(Prefix { restaurant_id, version }) = prefix(self.agent.body()) else {
            self.agent.check(self.shared.asked, false);
            return;
        };
        self.agent.check(self.shared.asked, restaurant_id == id);
        let seen = self.seen.get(&(id, document)).map_or(0, |seen| seen.version);
        self.agent.check(self.shared.forward, version >= seen);
        if self.seen.len() >= REMEMBERED_MAX {
            self.seen.clear();
        }
        self.seen.insert((id, document), Seen { etag, version: version.max(seen) });
    }
}

/// Of any service: ours writes both at the front and without spaces, others need not.
fn prefix(body: &[u8]) -> Option<Prefix> {
    #[derive(Deserialize)]
    struct Slow {
        restaurant_id: i64,
        #[serde(default)]
        version: i64,
    }
    let slow = || serde_json::from_slice(body).ok();
    let whole = |Slow { restaurant_id, version }| Prefix { restaurant_id, version };
    body::prefix(body).or_else(|| slow().map(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_of_others_are_read_too() {
        let of = |restaurant_id, version| Some(Prefix { restaurant_id, version });
        assert_eq!(prefix(br#"{"restaurant_id":7,"version":3,"name":"x"}"#), of(7, 3));
        assert_eq!(prefix(br#"{ "name": "x", "version": 3, "restaurant_id": 7 }"#), of(7, 3));
        assert_eq!(prefix(br#"{"name":"x", "restaurant_id": 7}"#), of(7, 0));
        assert_eq!(prefix(b"[]"), None);
    }
}
