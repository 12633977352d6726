//! What restaurants offer, from menu-api.
//!
//! Every order asks menu-api, with the ETag of the copy that is here; so an order never goes by an
//! older menu than one that an operator was told is gone. Orders of one restaurant that come while
//! a question is under way share the next one, which begins after they came; and the questions
//! about many restaurants go together (see [`rounds`]). When menu-api does not answer, a copy that
//! was confirmed up to ten minutes ago is used.

mod rounds;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use contracts::{
    ids::{ItemId, RestaurantId},
    money::{Currency, Money},
};
use parking_lot::Mutex;
use platform::breaker::{Breaker, Settings};
use reqwest::{StatusCode, header};
use rustc_hash::FxHashMap;
use serde::Deserialize;
use tokio::sync::watch;

use rounds::{Rounds, Unanswered};

/// A restaurant's menu with what a price needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Whose.
    pub restaurant_id: RestaurantId,
    /// Its name.
    pub name: String,
    /// Of the menu document.
    pub version: i64,
    /// It takes orders now.
    pub is_open: bool,
    /// Of all amounts.
    pub currency: Currency,
    /// For each order.
    pub delivery_fee: i64,
    /// Below this it does not deliver.
    pub minimum_order: i64,
    /// Hundredths of a percent on the items.
    pub tax_basis_points: i64,
    /// All that there is.
    pub items: FxHashMap<ItemId, Item>,
}

/// Something on the menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// As the customer sees it.
    pub name: String,
    /// Without choices.
    pub price: i64,
    /// It can be had now.
    pub is_offered: bool,
    /// What there is to choose.
    pub options: Vec<Options>,
}

/// A choice to make.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)]
pub struct Options {
    pub name: String,
    pub min: u16,
    pub max: u16,
    pub choices: Vec<Choice>,
}

/// One of the things to choose from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)]
pub struct Choice {
    pub name: String,
    pub price: i64,
}

/// Why there is no offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MenuError {
    /// No such restaurant.
    #[error("there is no such restaurant")]
    NotFound,
    /// menu-api does not answer and there is no copy that could stand in.
    #[error("menus cannot be read")]
    Unavailable,
}

/// menu-api is well, and this answer of it is of no use.
#[derive(Debug, thiserror::Error)]
#[error("menu-api sent {0}")]
struct Odd(&'static str);

/// Asks menu-api; clones share everything.
#[derive(Clone)]
pub struct Menus(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    url: reqwest::Url,
    stale_max: Duration,
    breaker: Breaker,
    kept: quick_cache::sync::Cache<RestaurantId, Arc<Kept>>,
    /// Restaurants that are being asked about; and who tells those who came since, when there are
    /// some.
    flights: Mutex<FxHashMap<RestaurantId, Option<watch::Sender<Option<Answer>>>>>,
    rounds: Mutex<Rounds>,
}

/// A copy, and until when it was confirmed.
struct Kept {
    etag: Option<header::HeaderValue>,
    offer: Arc<Offer>,
    confirmed_at: Mutex<Instant>,
}

type Answer = Result<Arc<Offer>, MenuError>;

impl Menus {
    /// Asks at `url` (`http://127.0.0.1:8001`); gives up a question after `timeout`.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub fn new(
        url: &str,
        timeout: Duration,
        stale_max: Duration,
        kept_max: usize,
    ) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(timeout)
            .connect_timeout(Duration::from_millis(500))
            .pool_idle_timeout(Duration::from_secs(20))
            .build()?;
        let settings = Settings {
            window: Duration::from_secs(5),
            failures_min: 5,
            failure_share: 0.5,
            open_for: Duration::from_secs(1),
            open_max: Duration::from_secs(2),
        };
        Ok(Self(Arc::new(Inner {
            http,
            url: url.parse().context("the URL of menu-api is not one")?,
            stale_max,
            breaker: Breaker::new(settings, rand::random(), Instant::now()),
            kept: quick_cache::sync::Cache::new(kept_max),
            flights: Mutex::default(),
            rounds: Mutex::default(),
        })))
    }

    /// What the restaurant offers, not older than this call, or else up to ten minutes old.
    ///
    /// # Errors
    /// See [`MenuError`].
    pub async fn offer(&self, restaurant: RestaurantId) -> Answer {
        let mut answer = self.board(restaurant);
        match answer.wait_for(Option::is_some).await {
            Ok(answer) => answer.clone().unwrap_or(Err(MenuError::Unavailable)),
            Err(_) => Err(MenuError::Unavailable),
        }
    }

    /// Joins the next question about the restaurant, or begins one.
    fn board(&self, restaurant: RestaurantId) -> watch::Receiver<Option<Answer>> {
        let mut flights = self.0.flights.lock();
        if let Some(next) = flights.get_mut(&restaurant) {
            return next.get_or_insert_with(|| watch::channel(None).0).subscribe();
        }
        let (sender, receiver) = watch::channel(None);
        flights.insert(restaurant, None);
        drop(flights);
        // In a task of its own: whoever began it may go away, and the others still wait.
        tokio::spawn(self.clone().fly(restaurant, sender));
        receiver
    }

    async fn fly(self, restaurant: RestaurantId, mut sender: watch::Sender<Option<Answer>>) {
        loop {
            let answer = self.ask(restaurant).await;
            sender.send_replace(Some(answer));
            let mut flights = self.0.flights.lock();
            let Some(next) = flights.get_mut(&restaurant).and_then(Option::take) else {
                flights.remove(&restaurant);
                return;
            };
            sender = next;
        }
    }

    async fn ask(&self, restaurant: RestaurantId) -> Answer {
        let kept = self.0.kept.get(&restaurant);
        let answer = match self.confirm(restaurant, kept.as_ref()).await {
            Ok(true) => kept.as_ref().map(|kept| Ok(Arc::clone(&kept.offer))),
            Ok(false) => {
                self.calling(self.fetch(restaurant, kept.as_deref())).await.and_then(Result::ok)
            }
            Err(Unanswered) => None,
        };
        if let Some(answer) = answer {
            return answer;
        }
        let kept = kept.filter(|kept| kept.confirmed_at.lock().elapsed() <= self.0.stale_max);
        let Some(kept) = kept else { return Err(MenuError::Unavailable) };
        metrics::counter!("menu_reads_stale_total").increment(1);
        Ok(Arc::clone(&kept.offer))
    }

    /// Makes a call, and counts and logs its failure; `None` when the breaker is open.
    async fn calling<T>(
        &self,
        call: impl Future<Output = anyhow::Result<T>>,
    ) -> Option<anyhow::Result<T>> {
        let permit = self.0.breaker.try_acquire(Instant::now()).ok()?;
        let result = call.await;
        match &result {
            // One odd answer says nothing about the others.
            Err(error) if !error.is::<Odd>() => permit.failure(Instant::now()),
            _ => permit.success(Instant::now()),
        }
        if let Err(error) = &result {
            metrics::counter!("menu_reads_failed_total").increment(1);
            tracing::debug!(%error, "menu-api could not be asked");
        }
        Some(result)
    }

    async fn fetch(&self, restaurant: RestaurantId, kept: Option<&Kept>) -> anyhow::Result<Answer> {
        let asked_at = Instant::now();
        let mut url = self.0.url.clone();
        url.set_path(&format!("/api/v1/restaurants/{restaurant}/menu-with-status"));
        let mut request = self.0.http.get(url);
        if let Some(etag) = kept.and_then(|kept| kept.etag.clone()) {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        let response = request.send().await?;
        match (response.status(), kept) {
            (StatusCode::NOT_MODIFIED, Some(kept)) => {
                *kept.confirmed_at.lock() = asked_at;
                Ok(Ok(Arc::clone(&kept.offer)))
            }
            (StatusCode::NOT_FOUND, _) => {
                self.0.kept.remove(&restaurant);
                Ok(Err(MenuError::NotFound))
            }
            (StatusCode::OK, _) => {
                let etag = response.headers().get(header::ETAG).cloned();
                let body = response.bytes().await?;
                let offer = Arc::new(read(&body).map_err(|_| Odd("a menu that cannot be read"))?);
                let confirmed_at = Mutex::new(asked_at);
                let kept = Kept { etag, offer: Arc::clone(&offer), confirmed_at };
                self.0.kept.insert(restaurant, Arc::new(kept));
                Ok(Ok(offer))
            }
            (status, _) if status.is_server_error() => {
                anyhow::bail!("menu-api answered {status}")
            }
            _ => Err(Odd("an answer that is no menu").into()),
        }
    }
}

/// Reads `…/menu-with-status`.
///
/// # Errors
/// Fields that a price needs are missing or of another type.
pub fn read(body: &[u8]) -> serde_json::Result<Offer> {
    #[derive(Deserialize)]
    struct Document {
        restaurant_id: RestaurantId,
        name: String,
        delivery_fee: Money,
        minimum_order: Money,
        tax_basis_points: u16,
        status: Status,
        menu: Menu,
    }
    #[derive(Deserialize)]
    struct Status {
        is_open: bool,
    }
    #[derive(Deserialize)]
    struct Menu {
        version: i64,
        currency: Currency,
        categories: Vec<Category>,
    }
    #[derive(Deserialize)]
    struct Category {
        items: Vec<ItemDocument>,
    }
    #[derive(Deserialize)]
    struct ItemDocument {
        item_id: ItemId,
        name: String,
        price: Money,
        options: Vec<Options>,
        available: bool,
        in_stock: bool,
    }
    let document: Document = serde_json::from_slice(body)?;
    let items = document.menu.categories.into_iter().flat_map(|category| category.items);
    let items = items.map(|item| {
        let is_offered = item.available && item.in_stock;
        let options = item.options;
        (item.item_id, Item { name: item.name, price: item.price.amount, is_offered, options })
    });
    Ok(Offer {
        restaurant_id: document.restaurant_id,
        name: document.name,
        version: document.menu.version,
        is_open: document.status.is_open,
        currency: document.menu.currency,
        delivery_fee: document.delivery_fee.amount,
        minimum_order: document.minimum_order.amount,
        tax_basis_points: i64::from(document.tax_basis_points),
        items: items.collect(),
    })
}
