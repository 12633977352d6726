//! What was written to a restaurant, by version.

use crate::menu::{
    Document,
    body::{self, Availability, Status},
};

/// What a restaurant is before anybody writes to it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Start {
    /// Version of the restaurant document.
    pub restaurant: i64,
    /// Version of the menu.
    pub menu: i64,
    /// Version of the status.
    pub status: i64,
    /// Version of the menu with status.
    pub menu_with_status: i64,
    /// Items that may be written to, by id.
    pub items: Vec<(i64, Availability)>,
    /// What the operator says.
    pub now: Option<Status>,
}

impl Start {
    /// Version of a document.
    pub fn of(&self, document: Document) -> i64 {
        match document {
            Document::Restaurant => self.restaurant,
            Document::Menu => self.menu,
            Document::Status => self.status,
            Document::MenuWithStatus => self.menu_with_status,
        }
    }
}

/// What a write sets.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Items by their place in [`Start::items`].
    Items(Vec<(usize, Availability)>),
    /// The operator's status.
    Status(Status),
}

impl Change {
    /// The documents that get the write's version.
    pub fn documents(&self) -> &'static [Document] {
        match self {
            Self::Items(_) => &[Document::Menu, Document::MenuWithStatus],
            Self::Status(_) => &[Document::Restaurant, Document::Status, Document::MenuWithStatus],
        }
    }

    /// Whether this document gets the write's version.
    pub fn changes(&self, document: Document) -> bool {
        self.documents().contains(&document)
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Items(items) if items.len() == 1 => "an item",
            Self::Items(_) => "items",
            Self::Status(_) => "the status",
        }
    }

    fn item(&self, place: usize) -> Option<Availability> {
        let Self::Items(items) = self else { return None };
        items.iter().find(|(at, _)| *at == place).map(|(_, value)| *value)
    }
}

/// A write that has begun and is not known to have ended.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) serial: u64,
    /// The greatest version known when it began.
    pub(super) known: i64,
    pub(super) change: Change,
}

/// Values by the versions that they came with, in the order of versions.
#[derive(Debug)]
struct Values<T>(Vec<(i64, T)>);

impl<T: Copy> Values<T> {
    fn set(&mut self, version: i64, value: T) {
        // Answers come nearly in order, so this is nearly always the end.
        let at = self.0.partition_point(|(other, _)| *other <= version);
        self.0.insert(at, (version, value));
    }

    /// `None` before the first.
    fn at(&self, version: i64) -> Option<T> {
        let next = self.0.partition_point(|(other, _)| *other <= version);
        Some(self.0.get(next.checked_sub(1)?)?.1)
    }
}

#[derive(Debug)]
struct Item {
    id: i64,
    values: Values<Availability>,
    /// Where it was found last in the menu and in the menu with status.
    places: [usize; 2],
}

/// A restaurant that is written to.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) restaurant: u32,
    /// The counter at the start.
    base: i64,
    /// Writes begun since and not refused.
    pub(super) begun: i64,
    /// The greatest version that anything has shown.
    pub(super) known: i64,
    /// When a write last began or ended, µs.
    pub(super) touched_us: Option<u64>,
    /// Writes without an answer, those that will never have one included.
    pub(super) open: Vec<Write>,
    items: Vec<Item>,
    status: Values<Status>,
    /// Answered writes, in the order of versions.
    writes: Vec<(i64, Change)>,
}

impl Written {
    pub(super) fn new(restaurant: u32, start: &Start) -> Self {
        let base = Document::ALL.into_iter().map(|document| start.of(document)).max().unwrap_or(0);
        let item = |(id, value): &(i64, Availability)| Item {
            id: *id,
            values: Values(vec![(start.menu, *value)]),
            places: [0; 2],
        };
        Self {
            restaurant,
            base,
            begun: 0,
            known: base,
            touched_us: None,
            open: Vec::new(),
            items: start.items.iter().map(item).collect(),
            status: Values(start.now.map(|now| (start.status, now)).into_iter().collect()),
            writes: Vec::new(),
        }
    }

    pub(super) fn ceiling(&self) -> i64 {
        self.base + self.begun
    }

    /// Which write made this version, as far as that is known.
    pub(super) fn maker(&self, version: i64) -> Option<&Change> {
        let at = self.writes.binary_search_by_key(&version, |(made, _)| *made).ok()?;
        Some(&self.writes[at].1)
    }

    /// A write has made `version`; answers what else did.
    pub(super) fn made(&mut self, version: i64, change: &Change) -> Option<&'static str> {
        match change {
            Change::Items(items) => {
                for (place, value) in items {
                    self.items[*place].values.set(version, *value);
                }
            }
            Change::Status(status) => self.status.set(version, *status),
        }
        match self.writes.binary_search_by_key(&version, |(made, _)| *made) {
            Ok(at) => Some(self.writes[at].1.name()),
            Err(at) => {
                self.writes.insert(at, (version, change.clone()));
                None
            }
        }
    }

    pub(super) fn check_items(
        &mut self,
        document: Document,
        version: i64,
        body: &[u8],
        mut wrong: impl FnMut(String),
    ) {
        for (place, item) in self.items.iter_mut().enumerate() {
            let at = &mut item.places[usize::from(document == Document::MenuWithStatus)];
            let Some(shown) = body::availability(body, item.id, at) else {
                wrong(format!("item {} is not in it", item.id));
                continue;
            };
            let Some(expected) = item.values.at(version).filter(|expected| *expected != shown)
            else {
                continue;
            };
            if !self.open.iter().any(|write| write.change.item(place) == Some(shown)) {
                wrong(format!("item {} is {shown:?}, expected {expected:?}", item.id));
            }
        }
    }

    pub(super) fn check_status(
        &self,
        version: i64,
        shown: Option<Status>,
        mut wrong: impl FnMut(String),
    ) {
        let Some(shown) = shown else {
            return wrong("its status cannot be read".into());
        };
        let Some(expected) = self.status.at(version).filter(|expected| *expected != shown) else {
            return;
        };
        if !self.open.iter().any(|write| write.change == Change::Status(shown)) {
            wrong(format!("it is {shown:?}, expected {expected:?}"));
        }
    }
}
