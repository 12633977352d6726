//! What there is: asked of the service before a run.

use std::collections::{HashMap, HashSet};

use anyhow::Context as _;
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    Document,
    body::{self, Availability, Name, Status},
    check::Start,
};
use crate::client::Caller;

/// As many as a page has at most.
const PAGE_SIZE: usize = 100;
/// How much of an answer is shown when it is not what was expected.
const SHOWN_BYTES: usize = 300;

/// A restaurant as a list shows it.
#[derive(Debug, Clone, Deserialize)]
pub struct Listed {
    /// Its id.
    pub restaurant_id: i64,
    /// Its name, whose words are searched for.
    pub name: String,
    /// What it is known for.
    pub cuisine_type: String,
    /// Where it is.
    pub city: String,
    /// Degrees.
    pub latitude: f64,
    /// Degrees.
    pub longitude: f64,
}

/// One page of a list.
#[derive(Debug, Deserialize)]
pub(crate) struct Page {
    restaurants: Vec<Listed>,
}

/// A way through the pages of a list of restaurants, whoever asks for them.
#[derive(Debug)]
pub(crate) struct Paging {
    query: &'static str,
    count: usize,
    page: u32,
    listed: Vec<Listed>,
    known: HashSet<i64>,
}

impl Paging {
    /// Through all restaurants until `count` of them are known.
    pub(crate) fn all(count: usize) -> Self {
        Self { query: "", count, page: 1, listed: Vec::new(), known: HashSet::new() }
    }

    /// Through every one that a search finds; `words` as a URL has them.
    pub(crate) fn found(words: &'static str) -> Self {
        Self { query: words, ..Self::all(usize::MAX) }
    }

    /// Of the page that comes next, under `/api/v1`.
    pub(crate) fn path(&self) -> String {
        let Self { query, page, .. } = self;
        let words = if query.is_empty() { String::new() } else { format!("q={query}&") };
        format!("/restaurants?{words}page_size={PAGE_SIZE}&page={page}")
    }

    /// Takes that page; answers whether another one is wanted.
    pub(crate) fn take(&mut self, Page { restaurants }: Page) -> bool {
        let is_last = restaurants.len() < PAGE_SIZE;
        // A restaurant that moved in the order meanwhile comes twice.
        let known = &mut self.known;
        self.listed.extend(restaurants.into_iter().filter(|one| known.insert(one.restaurant_id)));
        self.page += 1;
        !is_last && self.listed.len() < self.count
    }

    /// What was found; fewer than were wanted when there are no more.
    pub(crate) fn listed(mut self) -> Vec<Listed> {
        self.listed.truncate(self.count);
        self.listed
    }
}

/// Asks for page after page.
///
/// # Errors
/// The service does not answer with a list.
pub(crate) async fn list(
    caller: &mut Caller,
    token: &str,
    mut paging: Paging,
) -> anyhow::Result<Vec<Listed>> {
    while paging.take(get(caller, token, &paging.path()).await?) {}
    Ok(paging.listed())
}

/// Pages through the restaurants until `count` of them are known; fewer when there are no more.
pub async fn restaurants(
    caller: &mut Caller,
    token: &str,
    count: usize,
) -> anyhow::Result<Vec<Listed>> {
    list(caller, token, Paging::all(count)).await
}

#[derive(Deserialize)]
struct MenuWithStatus {
    version: i64,
    status: StatusNow,
    menu: Menu,
}

#[derive(Deserialize)]
struct StatusNow {
    version: i64,
    status: String,
    current_capacity: Option<i32>,
}

/// A menu as far as its items can be ordered.
#[derive(Debug, Deserialize)]
pub struct Menu {
    version: i64,
    categories: Vec<Category>,
}

impl Menu {
    /// All items, category by category.
    pub fn items(&self) -> impl Iterator<Item = &Item> {
        self.categories.iter().flat_map(|category| &category.items)
    }
}

#[derive(Debug, Deserialize)]
struct Category {
    items: Vec<Item>,
}

/// An item of a menu.
#[derive(Debug, Deserialize)]
pub struct Item {
    /// Its id.
    pub item_id: i64,
    /// The operator sells it.
    pub available: bool,
    /// There is some left.
    pub in_stock: bool,
}

#[derive(Deserialize)]
struct Restaurant {
    version: i64,
}

/// What a restaurant is before it is written to, with up to `items` of its items, spread over its
/// menu. What [`body`] reads from the same answers must agree.
pub async fn start(
    caller: &mut Caller,
    token: &str,
    id: i64,
    items: usize,
) -> anyhow::Result<Start> {
    let path = |document: Document| format!("/restaurants/{id}{}", document.suffix());
    let restaurant: Restaurant = get(caller, token, &path(Document::Restaurant)).await?;
    let (status, bytes) = caller.call("GET", &path(Document::MenuWithStatus), token, b"").await?;
    let whole: MenuWithStatus = parse(status, bytes)?;
    let all: Vec<&Item> = whole.menu.items().collect();
    let step = all.len().div_ceil(items.max(1)).max(1);
    let items: Vec<_> = all
        .into_iter()
        .step_by(step)
        .map(|&Item { item_id, available, in_stock }| {
            (item_id, Availability { available, in_stock })
        })
        .collect();
    let StatusNow { version, status, current_capacity } = whole.status;
    let name = Name::ALL
        .into_iter()
        .find(|name| name.as_str() == status)
        .with_context(|| format!("unknown status {status:?}"))?;
    let now = Status { name, capacity: current_capacity };

    let mut place = 0;
    let agree = body::prefix(bytes)
        .is_some_and(|prefix| prefix.restaurant_id == id && prefix.version == whole.version)
        && body::status(bytes) == Some(now)
        && items
            .iter()
            .all(|(id, value)| body::availability(bytes, *id, &mut place) == Some(*value));
    anyhow::ensure!(agree, "the menu with status of restaurant {id} has an unknown form");
    Ok(Start {
        restaurant: restaurant.version,
        menu: whole.menu.version,
        status: version,
        menu_with_status: whole.version,
        items,
        now: Some(now),
    })
}

/// Drops what the caches hold of `what`, such as `{"all":true}`, on every node.
pub async fn invalidate(caller: &mut Caller, admin: &str, what: &str) -> anyhow::Result<()> {
    let (status, body) =
        caller.call("POST", "/operator/cache/invalidate", admin, what.as_bytes()).await?;
    let shown = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES)]);
    anyhow::ensure!((200..300).contains(&status), "the caches keep {what}: {status}: {shown}");
    Ok(())
}

#[derive(Deserialize)]
struct CacheStats {
    node: String,
    nodes: HashMap<String, NodeStats>,
}

#[derive(Deserialize)]
struct NodeStats {
    misses: u64,
}

/// How often the caller's node has read from the database since it was started.
pub async fn database_reads(caller: &mut Caller, admin: &str) -> anyhow::Result<u64> {
    let CacheStats { node, nodes } = get(caller, admin, "/operator/cache/stats").await?;
    Ok(nodes.get(&node).context("the node does not know itself")?.misses)
}

pub(crate) async fn get<T: DeserializeOwned>(
    caller: &mut Caller,
    token: &str,
    path: &str,
) -> anyhow::Result<T> {
    let (status, body) = caller.call("GET", path, token, b"").await?;
    parse(status, body).with_context(|| format!("GET {path}"))
}

pub(crate) fn parse<T: DeserializeOwned>(status: u16, body: &[u8]) -> anyhow::Result<T> {
    let shown = || String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES)]);
    anyhow::ensure!(status == 200, "status {status}: {}", shown());
    serde_json::from_slice(body).with_context(|| format!("not what was expected: {}", shown()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(ids: std::ops::Range<i64>) -> Page {
        let one = |restaurant_id| Listed {
            restaurant_id,
            name: String::new(),
            cuisine_type: String::new(),
            city: String::new(),
            latitude: 0.0,
            longitude: 0.0,
        };
        Page { restaurants: ids.map(one).collect() }
    }

    #[test]
    fn pages_are_asked_for_until_there_are_enough_or_no_more() {
        let mut paging = Paging::all(150);
        assert_eq!(paging.path(), "/restaurants?page_size=100&page=1");
        assert!(paging.take(page(0..100)));
        assert_eq!(paging.path(), "/restaurants?page_size=100&page=2");
        assert!(!paging.take(page(100..200)), "enough");
        assert_eq!(paging.listed().len(), 150);

        let mut paging = Paging::found("a%20b");
        assert_eq!(paging.path(), "/restaurants?q=a%20b&page_size=100&page=1");
        assert!(paging.take(page(0..100)));
        assert!(!paging.take(page(90..120)), "a page with room is the last");
        let ids: Vec<_> = paging.listed().iter().map(|one| one.restaurant_id).collect();
        assert_eq!(ids, (0..120).collect::<Vec<_>>(), "each once");
    }
}
